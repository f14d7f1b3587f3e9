"""What the footage shows, and which options follow from it."""
