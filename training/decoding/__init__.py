"""Decode videos: read positions and actions off footage with a trained world, and play them from other pictures."""
