"""Numbers from records: capacity, classical coding, overlap of texts."""
