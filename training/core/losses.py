"""The losses of the paper (Secs. 3.1 and 3.2, App. B), one function each, and ours.

Unless stated otherwise, images are (B, 3, H, W) in [-1, 1], masks (B, 1, H, W) in [0, 1], layers (B, 4, H, W) colour
times mask and mask. All losses are scalars, means over the batch, and computed in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def rec_f(moved: Tensor, target: Tensor) -> Tensor:
    """L_RECF (Sec. 3.1): L1 between `moved`, frame t's foreground moved by P_f's shift, and that of frame t + 1."""
    return (moved - target).abs().mean()


def rec_b(moved: Tensor, target: Tensor) -> Tensor:
    """L_RECB (Sec. 3.1): L1 between `moved`, frame t's background moved by P_b's shift, and that of frame t + 1."""
    return (moved - target).abs().mean()


def rec_j(composed: Tensor, target: Tensor, previous: Tensor, weighted: bool = True) -> Tensor:
    """L_RECJ (Sec. 3.1, eq. (5)): L1 between the frame composed of both moved layers and the real frame t + 1.

    Args:
        composed: I^_{t+1}, the composed frame.
        target: I_{t+1}, the real one.
        previous: I_t.
        weighted: multiply each pixel, as the authors' code does, by w = |I_{t+1} - I_t| + |I^_{t+1} - I_t| + 0.001,
            detached; False: eq. (5) as printed.
    """
    error = (composed - target).abs()
    if weighted:
        motion = (target - previous).abs() + (composed.detach() - previous).abs() + 1e-3
        error = error * motion
    return error.mean()


def binary(mask: Tensor) -> Tensor:
    """L_BIN (Sec. 3.1): the mean of min(m, 1 - m), which pushes masks to 0 or 1."""
    return torch.minimum(mask, 1 - mask).mean()


def idle(mask: Tensor, image: Tensor, background: Tensor, threshold: float = 0.06) -> Tensor:
    """Ours (idle mask): the mean mask over pixels where the inpainted background equals the image.

    Args:
        mask: (..., 1, H, W).
        image: (..., 3, H, W).
        background: (..., 3, H, W), inpainted; it gets no gradient.
        threshold: pixels cost less the larger the difference is, and nothing from this one on.
    """
    difference = (image - background.detach()).abs().amax(-3, keepdim=True)
    return (mask * (1 - difference / threshold).clamp_min(0)).mean()


def size(mask: Tensor, theta: float) -> Tensor:
    """L_SIZE (Sec. 3.1): max(0, mean of a frame's mask - `theta`)."""
    return F.relu(mask.mean((1, 2, 3)) - theta).mean()


def dice(mask: Tensor, silhouette: Tensor) -> Tensor:
    """Ours: one minus the Dice overlap of masks and silhouettes (B, 1, H, W), over all pixels of the batch."""
    mask = mask.float()
    silhouette = silhouette.float()
    return 1 - (2 * (mask * silhouette).sum() + 1) / (mask.sum() + silhouette.sum() + 1)


def weighted_squared(predicted: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """L_RECU (Sec. 3.2): squared error of `predicted` (B, C, H, W), weighted by (B, 1, H, W), over the mean weight."""
    return ((predicted - target).square() * weight).mean() / weight.mean().clamp_min(1e-6)


def mask_entropy(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """L_MSK (Sec. 3.2): binary cross-entropy of mask logits, weighted by (B, 1, H, W), over the mean weight."""
    entropy = F.binary_cross_entropy_with_logits(logits, target.clamp(0, 1), reduction="none")
    return (entropy * weight).mean() / weight.mean()


def rec_s(coarse: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """L_RECS (Sec. 3.2): weighted squared error of one of D's coarser heads, against the layer averaged to its size.

    Args:
        coarse: (B, 3 or 4, h, w), colour before its tanh and, if there is a fourth channel, mask logits.
        target: layers (B, 4, H, W).
        weight: (B, 1, H, W).
    """
    scale = target.shape[-1] // coarse.shape[-1]
    drawn = torch.cat([torch.tanh(coarse[:, :3]), torch.sigmoid(coarse[:, 3:])], 1)
    wanted = F.avg_pool2d(target[:, : drawn.shape[1]], scale)
    return weighted_squared(drawn, wanted, F.avg_pool2d(weight, scale))


def perceptual(features, predicted: Tensor, target: Tensor) -> Tensor:
    """L_VGG (Secs. 3.1 and 3.2): mean L1 between feature maps; `features` maps images to a list of feature maps."""
    wanted = features(target.detach())
    return sum((a - b.detach()).abs().mean() for a, b in zip(features(predicted), wanted, strict=True)) / len(wanted)


def cycle(first: Tensor, again: Tensor) -> Tensor:
    """L_CYC (Sec. 3.2): squared error between `first`, the direction with which a foreground was generated, and
    `again`, the direction inferred from that foreground; `first` gets no gradient."""
    return (first.detach() - again).square().mean()
