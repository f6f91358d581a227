"""Language models in Flax linen, with one file per family; none imports another."""
