"""Commands that measure and show, and small helpers."""
