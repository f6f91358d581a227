"""ICAE: a context becomes memory slots by the LM itself, with adapters of low rank."""
