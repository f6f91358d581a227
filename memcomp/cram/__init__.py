"""Cramming: free input vectors, optimised until a frozen LM reproduces a text."""
