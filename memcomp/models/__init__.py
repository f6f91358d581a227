"""Language models in Flax linen, one file a family; none imports another."""
