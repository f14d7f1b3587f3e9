"""A trained model as a batched, gradient-free world."""
