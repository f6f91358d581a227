"""The frozen language model: its protocol, loading, scoring and decoding."""
