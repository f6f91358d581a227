"""Costs of programs: FLOPs, bytes, collectives, and the chips that run them."""
