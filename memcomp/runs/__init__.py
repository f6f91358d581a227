"""Runs: the files that they write, how they resume, and how processes share them."""
