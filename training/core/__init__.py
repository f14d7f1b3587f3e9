"""The training loop, its stages' protocol, losses and options."""
