"""Metrics: capacity from records, classical compression, overlap of texts, rounding."""
