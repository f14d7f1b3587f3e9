"""Worlds in other formats: as ONNX graphs, and as a web page that runs them. The command is ``glass-export``."""

from glass_gym.export.graphs import ExportError
from glass_gym.export.onnx import OnnxWorld, compare, export_onnx, export_policy
from glass_gym.export.page import write_page

__all__ = ["ExportError", "OnnxWorld", "compare", "export_onnx", "export_policy", "write_page"]
