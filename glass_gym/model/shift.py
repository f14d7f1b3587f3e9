"""P_f and P_b: the 2-D shift of a layer between two frames; and `translate`, the one resampler.

Shifts are (x, y) in px. Positive values move content right and down.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glass_gym.model.blocks import ConvBlock

FAST = 16  # Sizes of FFTs are rounded up to multiples of this; a transform of prime length takes three times as long.


def translate(x: Tensor, shift: Tensor, padding: str = "zeros") -> Tensor:
    """Shift images by fractions of pixels, bilinearly; differentiable in images and shifts.

    Args:
        x: (B, C, H, W).
        shift: (B, 2) px, (right, down).
        padding: what comes in from outside: ``"zeros"`` (foregrounds), or ``"border"``, edge pixels (backgrounds).

    Returns:
        (B, C, H, W), float32.
    """
    height, width = x.shape[2:]
    to = -shift.float() * torch.tensor([2.0 / width, 2.0 / height], device=x.device)
    theta = torch.cat([torch.eye(2, device=x.device).expand(len(x), 2, 2), to[:, :, None]], 2)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x.float(), grid, padding_mode=padding, align_corners=False)


def cross_correlation(a: Tensor, b: Tensor, reach: int) -> Tensor:
    """The sum over pixels of a(x) b(x + d), for images (B, C, H, W) and all |d| <= reach px, per channel, by FFT.

    Returns:
        (B, C, 2 reach + 1, 2 reach + 1), indexed [dy + reach, dx + reach].
    """
    height, width = (math.ceil((side + reach) / FAST) * FAST for side in a.shape[-2:])
    fa = torch.fft.rfft2(a.float(), (height, width))
    fb = torch.fft.rfft2(b.float(), (height, width))
    full = torch.fft.irfft2(fa.conj() * fb, (height, width))
    rows = torch.arange(-reach, reach + 1, device=a.device)
    return full[..., rows, :][..., rows]  # negative ones count from the end


def soft_argmax(score: Tensor, reach: int) -> Tensor:
    """The expected shift (B, 2) px under softmax(score), for scores (B, 2 reach + 1, 2 reach + 1) of shifts."""
    weight = score.flatten(1).softmax(1).view_as(score)
    ruler = torch.arange(-reach, reach + 1, device=score.device, dtype=score.dtype)
    return torch.stack([(weight.sum(1) * ruler).sum(1), (weight.sum(2) * ruler).sum(1)], 1)


class CorrelationShift(nn.Module):
    """P_f and P_b by matching (ours): soft-argmax over negative normalised squared differences, for all |d| <= reach.

    Its only parameter is the temperature. The weights (soft masks) say which pixels belong to the layer.

    Args:
        reach: largest shift along an axis, px.
        fourth: for foregrounds: compare layers that are zero outside the mask, with the mask as fourth channel. Else,
            for backgrounds: compare pixels that belong to the layer in both frames.
        sharpness: initial inverse temperature.
    """

    def __init__(self, reach: int, fourth: bool, sharpness: float):
        super().__init__()
        self.reach = reach
        self.fourth = fourth
        self.log_sharpness = nn.Parameter(torch.tensor(math.log(sharpness)))

    def forward(self, frames: Tensor, weights: Tensor) -> Tensor:
        """Frames (B, 2, 3, H, W) in [-1, 1] and weights (B, 2, 1, H, W) in [0, 1] -> shifts (B, 2) px."""
        return soft_argmax(self.score(frames, weights), self.reach)

    def score(self, frames: Tensor, weights: Tensor) -> Tensor:
        """Frames and weights, as of :meth:`forward` -> scores (B, 2 reach + 1, 2 reach + 1), indexed [dy, dx]."""
        frames = frames.float()
        weights = weights.float()
        if self.fourth:  # layers are zero outside the mask: squared difference of the shifted layers
            layers = torch.cat([frames * weights, weights], 2)
            energy = layers.square().sum((1, 2, 3, 4)) + 1e-3  # (B,)
            match = cross_correlation(layers[:, 0], layers[:, 1], self.reach).sum(1)
            difference = 1 - 2 * match / energy[:, None, None]
        else:  # squared difference over the pixels that belong to the layer in both frames
            a, b = frames.unbind(1)
            wa, wb = weights.unbind(1)
            stacked_a = torch.cat([wa * a, wa * a.square().sum(1, keepdim=True), wa], 1)
            stacked_b = torch.cat([wb * b, wb, wb * b.square().sum(1, keepdim=True)], 1)
            tables = cross_correlation(stacked_a, stacked_b, self.reach)
            overlap = cross_correlation(wa, wb, self.reach)[:, 0] + 1e-3
            difference = (tables[:, 3] + tables[:, 4] - 2 * tables[:, :3].sum(1)) / overlap
        return -difference * self.log_sharpness.exp()


class RegressorShift(nn.Module):
    """P_f and P_b as published (Sec. 3.1, Fig. 9); a tanh limits shifts to `reach` px.

    Convolutions 6->16 /2, 16->32 /2, 32, 32->64 /2, 64->128, average, linear 128->64->32->2, which starts at zero.
    """

    def __init__(self, reach: int):
        super().__init__()
        self.reach = reach
        self.features = nn.Sequential(
            ConvBlock(6, 16, down=True),
            ConvBlock(16, 32, down=True),
            ConvBlock(32, 32),
            ConvBlock(32, 64, down=True),
            ConvBlock(64, 128),
        )
        self.head = nn.Sequential(
            nn.Linear(128, 64), nn.LeakyReLU(0.2), nn.Linear(64, 32), nn.LeakyReLU(0.2), nn.Linear(32, 2)
        )
        for parameter in self.head[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, frames: Tensor, weights: Tensor) -> Tensor:
        """Frames (B, 2, 3, H, W) in [-1, 1] and weights (B, 2, 1, H, W) in [0, 1] -> shifts (B, 2) px."""
        layers = (frames * weights).flatten(1, 2)  # (B, 6, H, W)
        pooled = self.features(layers).mean((2, 3))
        return torch.tanh(self.head(pooled).float()) * self.reach
