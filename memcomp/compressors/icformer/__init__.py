"""IC-Former: a context becomes a few digest vectors by cross-attention, in one pass."""
