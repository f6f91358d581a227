"""What all context compressors share: chunks, rows, objectives, training, decoding."""
