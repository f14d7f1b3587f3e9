"""A world in other formats: ONNX, and a web page."""
