"""M: a frame -> the soft mask of the agent."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glass_gym.config import GlassConfig
from glass_gym.networks.blocks import ConvBlock, HalfResolutionUNet, ResBlock


class PaperMask(nn.Module):
    """M of Fig. 9: 3->64; Res 64->256 /2; Res 256 /2; 9 x Res 256 at 1/4; Up 64, Res; Up 64, Res; 3x3 -> 1 logit."""

    def __init__(self, width: int = 64):
        super().__init__()
        wide = 4 * width
        self.body = nn.Sequential(
            ConvBlock(3, width), ResBlock(width, wide, down=True), ResBlock(wide, wide, down=True),
            *[ResBlock(wide, wide) for _ in range(9)],
            ConvBlock(wide, width, up=True), ResBlock(width, width),
            ConvBlock(width, width, up=True), ResBlock(width, width),
        )  # fmt: skip
        self.head = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, frames: Tensor) -> Tensor:
        return self.head(self.body(frames))


class MaskNet(nn.Module):
    """frames (B, 3, H, W) in [-1, 1] -> mask (B, 1, H, W) in [0, 1], float32."""

    def __init__(self, config: GlassConfig):
        super().__init__()
        if config.mask_net == "paper":
            self.net = PaperMask(config.mask_channels)
        else:
            self.net = HalfResolutionUNet(3, 1, config.mask_channels)
        nn.init.constant_(self.net.head.bias, config.mask_bias)

    def forward(self, frames: Tensor) -> Tensor:
        return torch.sigmoid(self.net(frames).float())


def densest_point(mask: Tensor, radius: int) -> Tensor:
    """Where the agent is: the centre of mass of the densest (2 radius + 1)-px neighbourhood of the mask.

    The mask's mean would be pulled by whatever else moves (a ball).

    Args:
        mask: (B, 1, H, W) in [0, 1].
        radius: half size of the neighbourhood, px.

    Returns:
        (B, 2) px, (x, y); the frame's centre where the mask is empty.
    """
    _, _, height, width = mask.shape
    side = 2 * radius + 1
    mass = F.avg_pool2d(mask.float(), (1, side), 1, (0, radius))  # separable: 2 passes of `side` instead of side^2
    mass = F.avg_pool2d(mass, (side, 1), 1, (radius, 0)) * side**2
    best = mass.flatten(1).argmax(1)
    peak = torch.stack([best % width, best // width], 1).float()
    x = torch.arange(width, device=mask.device).view(1, 1, width)
    y = torch.arange(height, device=mask.device).view(1, height, 1)
    for _ in range(3):  # mean shift: re-centre the neighbourhood on its own mass
        near = ((x - peak[:, 0, None, None]).abs() <= radius) & ((y - peak[:, 1, None, None]).abs() <= radius)
        inside = mask[:, 0].float() * near
        total = inside.sum((1, 2)).clamp_min(1e-6)
        mean = torch.stack([(inside * x).sum((1, 2)), (inside * y).sum((1, 2))], 1) / total[:, None]
        peak = torch.where(total[:, None] > 1e-3, mean, peak)
    centre = torch.tensor([(width - 1) / 2, (height - 1) / 2], device=mask.device)
    return torch.where(mass.flatten(1).amax(1, keepdim=True) > 1e-3, peak, centre)
