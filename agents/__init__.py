"""Policies for learned worlds: train them, watch them, transfer them to the real game. See docs/agents.md."""
