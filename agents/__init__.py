"""Policies for learned worlds: train, watch, transfer to the real game. Run the modules with ``python -m``."""
