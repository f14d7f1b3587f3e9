"""Environments: the rules of an episode, for single and for vector environments."""
