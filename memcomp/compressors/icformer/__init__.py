"""IC-Former: cross-attention compresses a context to a few digest vectors in one pass."""
