"""A trained model becomes a world."""
