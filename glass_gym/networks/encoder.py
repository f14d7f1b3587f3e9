"""E and C: a foreground -> features (and an attention map) -> compressed features."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glass_gym.config import GlassConfig
from glass_gym.networks.blocks import ConvBlock, ResBlock


class Encoder(nn.Module):
    """E: foreground -> (features, attention).

    ``paper``: colour only, 3->16 /2, then residual 16; 16->32 /2; 32; 32->64 /2; 64; 64->65, at 1/8.
    ``lean``: colour and mask, pixel-unshuffled, at 1/4.
    """

    def __init__(self, config: GlassConfig):
        super().__init__()
        self.lean = config.dynamics == "residual"
        width, norm = config.feature_channels, config.norm
        if self.lean:
            self.stem = ConvBlock(16, width, norm=norm)
            self.body = nn.Sequential(ResBlock(width, width, down=True, norm=norm), ResBlock(width, width, norm=norm))
            self.head = nn.Conv2d(width, width + 1, 3, padding=1)
        else:
            self.body = nn.Sequential(
                ConvBlock(3, 16, down=True, norm=norm), ResBlock(16, 16, norm=norm),
                ResBlock(16, 32, down=True, norm=norm), ResBlock(32, 32, norm=norm),
                ResBlock(32, 64, down=True, norm=norm), ResBlock(64, 64, norm=norm),
            )  # fmt: skip
            self.head = ResBlock(64, width + 1, norm=norm)

    def forward(self, foreground: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """foreground (B, 3, h, w) = colour * mask, mask (B, 1, h, w).

        Returns:
            features (B, F, h', w'), attention (B, 1, h', w'), and half-resolution features (``lean``) or None.
        """
        half = None
        if self.lean:
            half = self.stem(F.pixel_unshuffle(torch.cat([foreground, mask], 1), 2))  # (B, F, h/2, w/2)
        features = self.head(self.body(foreground if half is None else half))
        return features[:, :-1], torch.sigmoid(features[:, -1:]), half


class Compressor(nn.Module):
    """C: 1x1 convolution, F -> C channels: the RNN cannot copy what A should describe."""

    def __init__(self, config: GlassConfig):
        super().__init__()
        self.conv = nn.Conv2d(config.feature_channels, config.compressed_channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        return self.conv(features)
