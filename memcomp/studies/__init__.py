"""Questions asked of memories and digests that exist: where they lie, how they are used."""
