"""The agent's windows: tracked, cut and aligned."""
