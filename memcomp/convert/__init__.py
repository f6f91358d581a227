"""Conversion of checkpoints from and to Hugging Face layout, with a table per family."""
