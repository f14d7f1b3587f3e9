"""The losses of the paper, one function each, named as in the paper (Secs. 3.1 and 3.2, App. B).

All take frames and layers in [-1, 1], masks in [0, 1], and return a scalar. They are computed in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def rec_f(moved: Tensor, target: Tensor) -> Tensor:
    """L_RECF (Sec. 3.1): L1 between the moved foreground of frame t and the foreground of frame t + 1."""
    return (moved - target).abs().mean()


def rec_b(moved: Tensor, target: Tensor) -> Tensor:
    """L_RECB (Sec. 3.1): L1 between the moved inpainted background of frame t and that of frame t + 1."""
    return (moved - target).abs().mean()


def rec_j(composed: Tensor, target: Tensor, previous: Tensor, weighted: bool = True) -> Tensor:
    """L_RECJ (Sec. 3.1, eq. (5)): L1 between the frame composed of both moved layers and the real frame t + 1.

    `weighted` (the authors' code) multiplies each pixel by how much it moves,
    w = |I_{t+1} - I_t| + |I^_{t+1} - I_t| + 0.001, detached; False is eq. (5) as printed.
    """
    error = (composed - target).abs()
    if weighted:
        motion = (target - previous).abs() + (composed.detach() - previous).abs() + 1e-3
        error = error * motion
    return error.mean()


def binary(mask: Tensor) -> Tensor:
    """L_BIN (Sec. 3.1): min(m, 1 - m), pushes the mask to 0 or 1."""
    return torch.minimum(mask, 1 - mask).mean()


def idle(mask: Tensor, image: Tensor, background: Tensor, threshold: float = 0.06) -> Tensor:
    """Ours: the mean mask where it changes nothing, since the inpainted background looks like the image.

    Masks (..., 1, H, W), images and backgrounds (..., 3, H, W); no gradient reaches N. Pixels whose largest difference
    is `threshold` or more cost nothing.
    """
    difference = (image - background.detach()).abs().amax(-3, keepdim=True)
    return (mask * (1 - difference / threshold).clamp_min(0)).mean()


def size(mask: Tensor, theta: float) -> Tensor:
    """L_SIZE (Sec. 3.1): what the mean of each frame's mask (B, 1, H, W) exceeds `theta` by."""
    return F.relu(mask.mean((1, 2, 3)) - theta).mean()


def dice(mask: Tensor, silhouette: Tensor) -> Tensor:
    """Ours: one minus the Dice overlap of masks (B, 1, H, W) with silhouettes, over the batch."""
    mask = mask.float()
    silhouette = silhouette.float()
    return 1 - (2 * (mask * silhouette).sum() + 1) / (mask.sum() + silhouette.sum() + 1)


def weighted_squared(predicted: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """L_RECU (Sec. 3.2): squared error (B, C, H, W) under a weight (B, 1, H, W), normalised by the weight."""
    return ((predicted - target).square() * weight).mean() / weight.mean().clamp_min(1e-6)


def mask_entropy(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """L_MSK (Sec. 3.2): binary cross-entropy of mask logits (B, 1, H, W) under a weight of that shape, normalised."""
    entropy = F.binary_cross_entropy_with_logits(logits, target.clamp(0, 1), reduction="none")
    return (entropy * weight).mean() / weight.mean()


def rec_s(coarse: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """L_RECS (Sec. 3.2): one of D's coarser heads against the layer, reduced by area.

    Args:
        coarse: (B, 3 or 4, h, w), colour before its tanh and, where there is one, mask logits.
        target: (B, 4, H, W).
        weight: (B, 1, H, W).
    """
    scale = target.shape[-1] // coarse.shape[-1]
    drawn = torch.cat([torch.tanh(coarse[:, :3]), torch.sigmoid(coarse[:, 3:])], 1)
    wanted = F.avg_pool2d(target[:, : drawn.shape[1]], scale)
    return weighted_squared(drawn, wanted, F.avg_pool2d(weight, scale))


def perceptual(features, predicted: Tensor, target: Tensor) -> Tensor:
    """L_VGG (Secs. 3.1 and 3.2): mean L1 between feature maps; `features`: images (B, 3, H, W) -> a list of maps."""
    wanted = features(target.detach())
    return sum((a - b.detach()).abs().mean() for a, b in zip(features(predicted), wanted, strict=True)) / len(wanted)


def cycle(first: Tensor, again: Tensor) -> Tensor:
    """L_CYC (Sec. 3.2): the direction inferred from the generated foreground equals the one it was generated with."""
    return (first.detach() - again).square().mean()
