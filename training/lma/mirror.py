"""Which poses of a vocabulary are each other's mirror image: an agent that turns round does the same, the other way."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..windows.windows import MARGIN, WindowSet

REACH = 4
"""A mirror image may lie so many px off."""
ALIKE = 0.7
"""Silhouettes are alike from this Tanimoto coefficient on: a.b / (a.a + b.b - a.b)."""


def mirror_images(tokens: Tensor, windows: WindowSet, poses: int) -> Tensor:
    """For each pose the one whose silhouette is most like its own, left to right.

    Args:
        tokens: (N,) int64 on the CPU, the poses in all windows.
        windows: of the training videos.
        poses: P.

    Returns:
        (P,) int64; a pose that has no mirror image, or was never seen, is its own.
    """
    masks = windows.layers[:, 3, MARGIN:-MARGIN, MARGIN:-MARGIN]
    side = masks.shape[-1]
    mean = torch.zeros(poses, side * side)
    for part in np.array_split(np.arange(len(masks)), max(1, len(masks) // 4096)):
        mean.index_add_(0, tokens[part], torch.from_numpy(masks[part]).flatten(1).float() / 255)
    mean /= torch.bincount(tokens, minlength=poses).clamp_min(1)[:, None]
    energy = mean.square().sum(1)
    mirrored = F.pad(mean.unflatten(1, (side, side)).flip(2), (REACH,) * 4)
    alike = torch.zeros(poses, poses)
    for y in range(2 * REACH + 1):
        for x in range(2 * REACH + 1):
            moved = mirrored[:, y : y + side, x : x + side].flatten(1)
            both = moved @ mean.T
            either = moved.square().sum(1)[:, None] + energy - both
            alike = torch.maximum(alike, both / either.clamp_min(1e-3))
    best, which = alike.max(1)
    return torch.where(best >= ALIKE, which, torch.arange(poses))
