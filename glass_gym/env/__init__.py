"""Environments: the rules of an episode, single and vectorised."""
