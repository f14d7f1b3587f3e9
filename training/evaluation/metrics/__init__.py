"""Figures of a world, one family a file; none of them draws or writes. :mod:`training.evaluation.evaluate` runs them by name."""
