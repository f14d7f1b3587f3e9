"""D: what the RNN says -> the next foreground and mask, at three scales."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glass_gym.config import GlassConfig
from glass_gym.networks.blocks import ConvBlock, ModulatedConv, ResBlock
from glass_gym.networks.dynamics import Adaptive


class Decoder(nn.Module):
    """D. Heads at three scales; each gives a colour (tanh) and a mask.

    ``paper``: Up 128 + Res, Up 64 + Res, Up 32, heads 3x3, 3x3, 7x7 at 1/4, 1/2, 1 (only the last has a mask).
    ``lean``: heads at 1/4, 1/2 and 1 (pixel-shuffled).
    """

    def __init__(self, config: GlassConfig):
        super().__init__()
        self.lean = config.dynamics == "residual"
        width, norm = config.decoder_channels, config.norm
        if self.lean:
            self.head_quarter = nn.Conv2d(config.hidden, 4, 3, padding=1)
            self.up = ConvBlock(config.hidden, width, up=True, norm=norm)
            self.res = ResBlock(width, width, norm=norm)
            self.skip = None
            if config.skip:
                both, on = 2 * config.action_channels, config.modulated
                self.skip = ModulatedConv(width + config.feature_channels, width, both, modulated=on)
                self.hear = Adaptive(width, both, norm, on)
            self.head_half = nn.Conv2d(width, 4, 3, padding=1)
            self.head_full = nn.Conv2d(width, 20 if config.gated_copy else 16, 3, padding=1)
        else:
            self.up1, self.res1 = ConvBlock(config.hidden, width, up=True, norm=norm), ResBlock(width, width, norm=norm)
            half = width // 2
            self.up2, self.res2 = ConvBlock(width, half, up=True, norm=norm), ResBlock(half, half, norm=norm)
            self.up3 = ConvBlock(half, half // 2, up=True, norm=norm)
            self.head_quarter = nn.Conv2d(width, 3, 3, padding=1)
            self.head_half = nn.Conv2d(half, 3, 3, padding=1)
            self.head_full = nn.Conv2d(half // 2, 4, 7, padding=3)

    def forward(self, x: Tensor, scales: bool = True, half: Tensor | None = None, actions: Tensor | None = None):
        """(B, hidden, h, w) -> colour (B, 3, H, W) in [-1, 1], mask logits (B, 1, H, W), coarser heads' outputs, and
        the logits (B, 1, H, W) of a gate that copies the foreground before, or None.

        `half` (B, F, h/2, w/2) are E's features of the foreground before and `actions` (B, 2 S) both embeddings,
        for the skip. The coarser outputs (1/4, 1/2) serve training only; `scales=False` leaves them out.
        """
        coarse = []
        if self.lean:
            y = self.up(x)
            if self.skip is not None:
                y = self.hear(self.skip(torch.cat([y, half], 1), actions), actions)
            y = self.res(y)
            if scales:
                coarse = [self.head_quarter(x), self.head_half(y)]
            full = F.pixel_shuffle(self.head_full(y), 2)
        else:
            y = self.res1(self.up1(x))
            z = self.res2(self.up2(y))
            if scales:
                coarse = [self.head_quarter(y), self.head_half(z)]
            full = self.head_full(self.up3(z))
        full = full.float()
        gate = full[:, 4:] if full.shape[1] > 4 else None
        return torch.tanh(full[:, :3]), full[:, 3:4], [c.float() for c in coarse], gate
