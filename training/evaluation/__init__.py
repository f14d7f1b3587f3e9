"""Figures, sheets and the report of a world."""
