"""How targets are drawn: a ring and a dot, batched, on the device."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from glass_gym.tensors.convert import can_read_values

TARGET_COLOUR = (255, 230, 0)  # RGB; play/web/player.js draws its ring in the same colour


def draw_rings(frames: Tensor, target: Tensor, radius: float, shown: Tensor | None = None) -> Tensor:
    """New frames (B, 3, H, W) uint8 with a ring and a dot at targets (B, 2) px, in the rows `shown`, (B,) bool."""
    _, _, height, width = frames.shape
    reach = min(math.ceil(radius) + 2, max(height, width))  # only the square around the target changes
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
        out.permute(0, 2, 3, 1).numpy()[row, y.numpy()[row, i], x.numpy()[row, j]] = TARGET_COLOUR
        return out
    places = (y[..., None] * width + x[:, None]).flatten(1)[:, None].expand(-1, 3, -1)
    yellow = torch.stack([frames.new_full((), v) for v in TARGET_COLOUR])[:, None]
    pixels = out.flatten(2)
    drawn = torch.where(ring.flatten(1)[:, None], yellow, pixels.gather(2, places))
    return pixels.scatter(2, places, drawn).view(frames.shape)


def _around(centre: Tensor, reach: int, size: int) -> Tensor:
    """The pixels (B, n) int64 within `reach` of centres (B,) along an axis of `size`, or all if there are fewer."""
    count = min(2 * reach + 1, size)
    first = (centre.round().long() - reach).clamp(0, size - count)
    return first[:, None] + torch.arange(count, device=centre.device)
