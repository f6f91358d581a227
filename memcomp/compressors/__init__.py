"""Code of all context compressors: chunks, sequences, objectives, training, decoding."""
