"""Weights in Hugging Face layout to ours and back: one engine, one table a family."""
