"""What makes this repository's own tables; not in the wheel."""
