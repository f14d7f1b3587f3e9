"""Metrics of a world, one family a file; :mod:`.registry` has them by name. None of them draws or writes."""
