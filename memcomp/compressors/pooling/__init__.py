"""Mean pooling: groups of neighbouring tokens become linear maps of their means."""
