"""The GMA stage, and what it learns from the background."""
