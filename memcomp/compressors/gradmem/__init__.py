"""GradMem: a few gradient steps from a learnt start write a context into its digests."""
