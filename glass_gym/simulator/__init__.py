"""A trained model as a batched simulator without gradients."""
