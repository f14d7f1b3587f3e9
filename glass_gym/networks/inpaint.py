"""N: a background with a hole -> the whole background."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from glass_gym.config import HOLE, GlassConfig
from glass_gym.networks.blocks import ConvBlock, HalfResolutionUNet


class PaperInpaint(nn.Module):
    """N of Fig. 9: 3->16 /2, ->32 /2, 32, ->64 /2, 64, 64; Up 32, 32, 16; -> 3."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            ConvBlock(3, 16, down=True), ConvBlock(16, 32, down=True), ConvBlock(32, 32),
            ConvBlock(32, 64, down=True), ConvBlock(64, 64), ConvBlock(64, 64),
            ConvBlock(64, 32, up=True), ConvBlock(32, 32, up=True), ConvBlock(32, 16, up=True),
        )  # fmt: skip
        self.head = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class InpaintNet(nn.Module):
    """Fills the hole: b^ = b + N * m with b = I * (1 - m), the hole set to -1.1 before N sees it (Sec. 3.1)."""

    def __init__(self, config: GlassConfig):
        super().__init__()
        self.net = PaperInpaint() if config.inpaint_net == "paper" else HalfResolutionUNet(3, 3, 16)

    def forward(self, frames: Tensor, masks: Tensor) -> Tensor:
        """frames (B, 3, H, W) in [-1, 1], masks (B, 1, H, W) in [0, 1] -> backgrounds (B, 3, H, W), float32."""
        visible = frames * (1 - masks)
        filled = torch.tanh(self.net(visible + HOLE * masks).float())
        return visible.float() + filled * masks.float()
