"""The pose stage: codebook, appearance and decoder."""
