"""Blocks that language models share."""
