"""Conversions between uint8 frames, images in [-1, 1], tensors and numpy arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

Function = TypeVar("Function", bound=Callable[..., Any])


def outside_inference_mode(function: Function) -> Function:
    """Run a function without gradients and outside of `torch.inference_mode`: its tensors can be written to later."""
    return torch.inference_mode(False)(torch.no_grad()(function))


def can_read_values(tensor: Tensor) -> bool:
    """Whether values of a tensor can be read at once: it is on the CPU, and no graph is being traced."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def to_images(frames: Tensor) -> Tensor:
    """Frames, uint8 0 to 255 of any shape -> float32 in [-1, 1]."""
    return frames.float() / 127.5 - 1


def to_bytes(images: Tensor) -> Tensor:
    """Images in [-1, 1] of any shape -> uint8 0 to 255; values outside are clipped."""
    return ((images + 1) * 127.5).round().clamp(0, 255).byte()


def to_numpy(value: Any, copy: bool = False) -> Any:
    """Tensors on any device -> numpy arrays on the host, also in (nested) dicts. The package converts only here.

    Args:
        value: a tensor, an array, or a dict of them.
        copy: the arrays share no memory with the tensors. Without it they may, on the CPU: for new tensors that nothing
            else refers to.

    Returns:
        arrays of the same shapes and types.
    """
    if isinstance(value, dict):
        return {key: to_numpy(part, copy) for key, part in value.items()}
    if isinstance(value, Tensor):
        array = value.detach().cpu().numpy()
        return array.copy() if copy else array
    return value.copy() if copy and isinstance(value, np.ndarray) else value


def index_rows(value: Any, index: Any) -> Any:
    """Index the first axis of a tensor or array (B, ...), or of each one in a dict."""
    return {key: index_rows(part, index) for key, part in value.items()} if isinstance(value, dict) else value[index]


def pack_layers(layers: Tensor) -> Tensor:
    """Layers (..., 4, h, w), colour times mask in [-1, 1] and mask in [0, 1] -> uint8; colour 0 becomes exactly 128."""
    packed = torch.cat([layers[..., :3, :, :] * 127 + 128, layers[..., 3:, :, :] * 255], -3)
    return packed.round().clamp(0, 255).byte()


def unpack_layers(packed: Tensor) -> Tensor:
    """The inverse of :func:`pack_layers`, as float32 on the same device."""
    return torch.cat([(packed[..., :3, :, :].float() - 128) / 127, packed[..., 3:, :, :].float() / 255], -3)
