"""Functions on tensors that do not depend on the model."""
