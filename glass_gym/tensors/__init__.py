"""Functions on tensors that know nothing of the model."""
