"""Worlds as files: checkpoints, their headers, actions and start pictures."""
