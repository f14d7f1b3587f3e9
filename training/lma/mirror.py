"""Find pairs of poses that are mirror images of each other, left to right."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..windows.windows import MARGIN, WindowSet

MATCH_PX = 4  # Largest offset of a mirror image along each axis, px.
SIMILAR = 0.7  # Mean silhouettes a, b count as mirror images if a.b / (a.a + b.b - a.b) (Tanimoto) is at least this.


def mirror_images(indices: Tensor, windows: WindowSet, poses: int) -> Tensor:
    """For each pose, find the pose whose mean silhouette is most similar to its mirrored one.

    Args:
        indices: (N,) int64 on the CPU, the pose indices of all windows.
        windows: the windows of the training videos.
        poses: P, the size of the pose codebook.

    Returns:
        (P,) int64, the mirror image of each pose; itself, if there is none or the pose never occurs.
    """
    masks = windows.layers[:, 3, MARGIN:-MARGIN, MARGIN:-MARGIN]
    side = masks.shape[-1]
    mean = torch.zeros(poses, side * side)
    for part in np.array_split(np.arange(len(masks)), max(1, len(masks) // 4096)):
        mean.index_add_(0, indices[part], torch.from_numpy(masks[part]).flatten(1).float() / 255)
    mean /= torch.bincount(indices, minlength=poses).clamp_min(1)[:, None]
    energy = mean.square().sum(1)
    mirrored = F.pad(mean.unflatten(1, (side, side)).flip(2), (MATCH_PX,) * 4)
    similarity = torch.zeros(poses, poses)
    for y in range(2 * MATCH_PX + 1):
        for x in range(2 * MATCH_PX + 1):
            moved = mirrored[:, y : y + side, x : x + side].flatten(1)
            both = moved @ mean.T
            either = moved.square().sum(1)[:, None] + energy - both
            similarity = torch.maximum(similarity, both / either.clamp_min(1e-3))
    best, which = similarity.max(1)
    return torch.where(best >= SIMILAR, which, torch.arange(poses))
