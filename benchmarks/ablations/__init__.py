"""The paper's experiments, one change at a time. Parts that a row needs replace the product's."""
