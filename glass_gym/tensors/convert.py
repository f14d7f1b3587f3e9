"""Between bytes, images and arrays: what frames are inside the networks, in a state, and on the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

Function = TypeVar("Function", bound=Callable[..., Any])


def outside_inference_mode(function: Function) -> Function:
    """A decorator: no gradients, and tensors that can be written into later, even under `torch.inference_mode`."""
    return torch.inference_mode(False)(torch.no_grad()(function))


def values_at_hand(tensor: Tensor) -> bool:
    """Whether a tensor's values can be looked at for nothing: on the CPU, outside of a graph that is being traced."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def to_images(frames: Tensor) -> Tensor:
    """uint8 -> [-1, 1] float32, any shape."""
    return frames.float() / 127.5 - 1


def to_bytes(images: Tensor) -> Tensor:
    """[-1, 1] -> uint8, any shape; values outside are clipped."""
    return ((images + 1) * 127.5).round().clamp(0, 255).byte()


def to_numpy(value: Any, copy: bool = False) -> Any:
    """The one numpy boundary: tensors (or dicts of them) -> arrays on the host; what is numpy stays.

    Args:
        value: a tensor on any device, an array, or a dict of them.
        copy: the arrays share no memory with the tensors. Without it they may, on the CPU: for fresh tensors that
            nobody else keeps.

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
    """Rows of tensors or arrays (B, ...), or of dicts of them."""
    return {key: index_rows(part, index) for key, part in value.items()} if isinstance(value, dict) else value[index]
