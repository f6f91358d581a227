"""Studies of memories and digests: where they lie, and how the LM uses them."""
