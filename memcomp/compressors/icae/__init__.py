"""ICAE: the LM itself compresses a context to memory slots, with low-rank adapters."""
