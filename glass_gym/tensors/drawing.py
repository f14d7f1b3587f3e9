"""Draw targets into frames, and turn frames into observations: batched, on the device."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from glass_gym.tensors.convert import can_read_values

YELLOW = (255, 230, 0)  # RGB colour of targets.


def draw_rings(frames: Tensor, target: Tensor, radius: float, shown: Tensor | None = None) -> Tensor:
    """New frames (B, 3, H, W) uint8 with a ring and a dot at targets (B, 2) px, in the rows `shown`, (B,) bool."""
    _, _, height, width = frames.shape
    reach = math.ceil(radius) + 2  # only the square around the target changes
    x, y = (_around(target[:, i], reach, size) for i, size in enumerate((width, height)))  # (B, w), (B, h)
    across = (x - target[:, :1]).square()[:, None]
    down = (y - target[:, 1:]).square()[..., None]
    distance = (across + down).sqrt_()
    ring = ((distance - radius).abs_() < 0.8) | (distance < 1.2)  # (B, h, w)
    if shown is not None:
        ring = ring & shown[:, None, None]
    out = frames.clone()
    if can_read_values(frames):
        row, i, j = np.nonzero(ring.numpy())
        out.permute(0, 2, 3, 1).numpy()[row, y.numpy()[row, i], x.numpy()[row, j]] = YELLOW
        return out
    places = (y[..., None] * width + x[:, None]).flatten(1)[:, None].expand(-1, 3, -1)
    yellow = torch.stack([frames.new_full((), v) for v in YELLOW])[:, None]
    pixels = out.flatten(2)
    drawn = torch.where(ring.flatten(1)[:, None], yellow, pixels.gather(2, places))
    return pixels.scatter(2, places, drawn).view(frames.shape)


def _around(centre: Tensor, reach: int, size: int) -> Tensor:
    """The pixels (B, n) int64 within `reach` of centres (B,) along an axis of `size`, or all if there are fewer."""
    count = min(2 * reach + 1, size)
    first = (centre.round().long() - reach).clamp(0, size - count)
    return first[:, None] + torch.arange(count, device=centre.device)


def observed_frames(
    frames: Tensor, size: tuple[int, int] | None = None, channels_first: bool = False, fresh: bool = False
) -> Tensor:
    """Turn frames into observations: reduce their size by area averaging, and make them contiguous.

    Args:
        frames: (B, 3, H, W) uint8.
        size: (height, width) px; None: unchanged.
        channels_first: return planes (3, height, width) instead of (height, width, 3).
        fresh: nothing else refers to the frames, so that they need not be copied.

    Returns:
        uint8, which share no memory with other frames.
    """
    if size is not None and tuple(size) != tuple(frames.shape[2:]):
        frames = _reduce(frames, *size)
        fresh = True
    if not channels_first:
        frames = frames.permute(0, 2, 3, 1)
    if frames.is_contiguous() and not fresh:
        return frames.clone(memory_format=torch.contiguous_format)
    return frames.contiguous()


def _reduce(frames: Tensor, height: int, width: int) -> Tensor:
    """Area means, rounded. For integer factors slices are added, which is six times as fast as pooling on a CPU."""
    down, across = frames.shape[2] / height, frames.shape[3] / width
    if not (down.is_integer() and across.is_integer() and down * across <= 128):  # 128 * 255 fits into 16 bits
        return F.interpolate(frames.float(), (height, width), mode="area").round().byte()
    down, across = int(down), int(across)
    wide = frames.int() if torch.compiler.is_compiling() else frames.short()  # no 16 bits in exported graphs
    rows = sum((wide[:, :, i::down] for i in range(1, down)), start=wide[:, :, ::down])
    sums = sum((rows[..., i::across] for i in range(1, across)), start=rows[..., ::across])
    return ((sums + down * across // 2) // (down * across)).byte()
