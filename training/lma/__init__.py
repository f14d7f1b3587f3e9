"""The LMA stage: local actions and dynamics."""
