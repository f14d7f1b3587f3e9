"""World files: weights, actions, start frames; read, checked, written."""
