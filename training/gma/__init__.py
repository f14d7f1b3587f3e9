"""The GMA and refine stages, pseudo-labels, and background plates."""
