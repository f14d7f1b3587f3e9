"""The paper's architecture (Figs. 9 and 10, App. B), layer by layer, on whole frames.

It deviates twice. Initial states of the RNN are spatially constant (the authors learn them for one frame size). Image
outputs go through tanh, as the appendix says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glass_gym.model.blocks import (
    SLOPE,
    BilinearChain,
    ConvBlock,
    ConvLSTM,
    ModulatedConv,
    ResBlock,
    code_mlp,
    normaliser,
)
from glass_gym.model.config import GlassConfig
from glass_gym.model.gma import InpaintNet, MaskNet
from glass_gym.model.lma import LMA, Drawn, State, masked
from glass_gym.model.quantise import make_quantiser
from glass_gym.model.shift import RegressorShift, translate
from glass_gym.model.view import WholeFrame


class PaperMask(nn.Module):
    """M of Fig. 9: 3->64; Res 64->256 /2; Res 256 /2; 9 x Res 256 at 1/4; Up 64, Res; Up 64, Res; 3x3 -> 1 logit."""

    def __init__(self, width: int = 64):
        super().__init__()
        wide = 4 * width
        self.body = nn.Sequential(
            ConvBlock(3, width),
            ResBlock(width, wide, down=True),
            ResBlock(wide, wide, down=True),
            *[ResBlock(wide, wide) for _ in range(9)],
            ConvBlock(wide, width, up=True),
            ResBlock(width, width),
            ConvBlock(width, width, up=True),
            ResBlock(width, width),
        )
        self.head = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, frames: Tensor) -> Tensor:
        """(B, 3, H, W) -> logits (B, 1, H, W)."""
        return self.head(self.body(frames))


class PaperInpaint(nn.Module):
    """N of Fig. 9: 3->16 /2, ->32 /2, 32, ->64 /2, 64, 64; Up 32, 32, 16; -> 3."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            ConvBlock(3, 16, down=True),
            ConvBlock(16, 32, down=True),
            ConvBlock(32, 32),
            ConvBlock(32, 64, down=True),
            ConvBlock(64, 64),
            ConvBlock(64, 64),
            ConvBlock(64, 32, up=True),
            ConvBlock(32, 32, up=True),
            ConvBlock(32, 16, up=True),
        )
        self.head = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 3, H, W)."""
        return self.head(self.body(x))


class PaperEncoder(nn.Module):
    """E: colour only; 3->16 /2, Res 16; 16->32 /2; 32; 32->64 /2; 64; 64->65, at 1/8 (App. B)."""

    def __init__(self, config: GlassConfig):
        super().__init__()
        self.body = nn.Sequential(
            ConvBlock(3, 16, down=True),
            ResBlock(16, 16),
            ResBlock(16, 32, down=True),
            ResBlock(32, 32),
            ResBlock(32, 64, down=True),
            ResBlock(64, 64),
        )
        self.head = ResBlock(64, config.feature_channels + 1)

    def forward(self, layer: Tensor) -> tuple[Tensor, Tensor]:
        """A foreground (B, 4, h, w) -> features (B, F, h/8, w/8) and attention (B, 1, h/8, w/8)."""
        features = self.head(self.body(layer[:, :3]))
        return features[:, :-1], torch.sigmoid(features[:, -1:])


class Compressor(nn.Module):
    """C (Sec. 3.2): a 1x1 convolution to fewer channels, so that the RNN cannot copy what A should describe."""

    def __init__(self, config: GlassConfig):
        super().__init__()
        self.conv = nn.Conv2d(config.feature_channels, config.compressed_channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """(B, F, h, w) -> (B, C, h, w)."""
        return self.conv(features)


class PaperAction(nn.Module):
    """A without its quantiser (App. B): Res 64->128 /2, Res ->64, average, four bilinear maps, and the MLP U."""

    def __init__(self, config: GlassConfig):
        super().__init__()
        size = config.psi_channels
        self.psi = nn.Sequential(ResBlock(config.feature_channels, 128, down=True), ResBlock(128, size))
        self.chain = BilinearChain(size, config.bilinear_channels, "batch")
        self.mlp = code_mlp(size, config.code_channels)

    def forward(self, encoder: nn.Module, layers: Tensor, shifts: Tensor) -> Tensor:
        """Directions (B, T, code_channels) of T steps: layer t, moved by shifts (B, T, 2) px, against layer t + 1."""
        moved = translate(layers[:, :-1].flatten(0, 1), shifts.flatten(0, 1))
        both = torch.cat([moved, layers[:, 1:].flatten(0, 1)])
        features, attention = encoder(both.contiguous(memory_format=torch.channels_last))
        psi = [self.psi(x).float().mean((2, 3)) for x in (features * attention).chunk(2)]
        return self.mlp(self.chain(*psi)).float().unflatten(0, shifts.shape[:2])


class PaperDynamics(nn.Module):
    """The RNN of Fig. 10: six blocks. The first two get the global action, the others the local action.

    They are a ConvLSTM at 1/8, a modulated convolution to 1/16, a ConvLSTM at 1/16, a convolution with upsampling, a
    ConvLSTM at 1/8, and a modulated convolution. ConvLSTMs and the convolution get the embeddings as constant channels.
    """

    def __init__(self, config: GlassConfig):
        super().__init__()
        width = config.hidden
        embedding = config.action_channels
        self.global_embedding = nn.Linear(2, embedding)
        self.local_embedding = nn.Linear(config.code_channels, embedding)
        self.block1 = ConvLSTM(config.compressed_channels + embedding, width)
        self.block2 = ModulatedConv(width, 2 * width, embedding, down=True)
        self.norm2 = normaliser("batch", 2 * width)
        self.block3 = ConvLSTM(2 * width + embedding, 2 * width)
        self.block4 = ConvBlock(2 * width + embedding, width, up=True)
        self.block5 = ConvLSTM(width + embedding, width)
        self.block6 = ModulatedConv(width, width, embedding)
        self.norm6 = normaliser("batch", width)

    def start(self, batch: int, height: int, width: int) -> State:
        """The initial state for layers of (height, width) px."""
        cells = (self.block1, 8), (self.block3, 16), (self.block5, 8)
        return tuple(cell.start(batch, height // scale, width // scale) for cell, scale in cells)

    def forward(self, features: Tensor, state: State, shift: Tensor, code: Tensor) -> tuple[Tensor, State]:
        """One step: features (B, C, h, w), state, shift (B, 2) in SHIFT_UNIT px, code -> (B, hidden, h, w), state."""
        move = self.global_embedding(shift)
        local = self.local_embedding(code)
        h1, state1 = self.block1(_joined(features, move), state[0])
        y = F.leaky_relu(self.norm2(self.block2(h1, move)), SLOPE)
        h3, state3 = self.block3(_joined(y, local), state[1])
        y = self.block4(_joined(h3, local))
        h5, state5 = self.block5(_joined(y, local), state[2])
        y = F.leaky_relu(self.norm6(self.block6(h5, local)), SLOPE)
        return y, (state1, state3, state5)


def _joined(x: Tensor, embedding: Tensor) -> Tensor:
    """Append an embedding (B, S) to x (B, C, h, w) as S constant channels."""
    constant = embedding[:, :, None, None].expand(-1, -1, *x.shape[2:])
    return torch.cat([x, constant.to(x.dtype)], 1)


class PaperDecoder(nn.Module):
    """D (App. B): Up 128 + Res, Up 64 + Res, Up 32; 3x3, 3x3 and 7x7 heads at 1/4, 1/2 and full size.

    Only the last head draws a mask; the others run in training only.
    """

    def __init__(self, config: GlassConfig):
        super().__init__()
        width = config.decoder_channels
        half = width // 2
        self.up1 = ConvBlock(config.hidden, width, up=True)
        self.res1 = ResBlock(width, width)
        self.up2 = ConvBlock(width, half, up=True)
        self.res2 = ResBlock(half, half)
        self.up3 = ConvBlock(half, half // 2, up=True)
        self.head_quarter = nn.Conv2d(width, 3, 3, padding=1)
        self.head_half = nn.Conv2d(half, 3, 3, padding=1)
        self.head_full = nn.Conv2d(half // 2, 4, 7, padding=3)

    def forward(self, x: Tensor) -> Drawn:
        """The RNN's output (B, hidden, h/8, w/8) -> the next foreground."""
        y = self.res1(self.up1(x))
        z = self.res2(self.up2(y))
        coarse = [self.head_quarter(y).float(), self.head_half(z).float()] if self.training else []
        full = self.head_full(self.up3(z)).float()
        return masked(torch.tanh(full[:, :3]), full[:, 3:], coarse)


class PaperLMA(LMA):
    """The paper's LMA: E, C, A, the RNN and D, on whole frames."""

    stages = {"lma": ("encoder", "compressor", "action", "quantiser", "dynamics", "decoder")}  # noqa: RUF012
    encoder: PaperEncoder  # E
    compressor: Compressor  # C
    action: PaperAction  # A without its quantiser
    dynamics: PaperDynamics  # the RNN
    decoder: PaperDecoder  # D

    def directions(self, layers: Tensor, shifts: Tensor) -> Tensor:
        """As :meth:`LMA.directions`."""
        return self.action(self.encoder, layers, shifts)

    def start_state(self, layer: Tensor) -> State:
        """As :meth:`LMA.start_state`."""
        return self.dynamics.start(layer.shape[0], *self.view.size)

    def animate(
        self, layer: Tensor, state: State, shift: Tensor, code_vector: Tensor, position: Tensor | None = None
    ) -> tuple[Drawn, State]:
        """As :meth:`LMA.animate`."""
        features, _ = self.encoder(layer.contiguous(memory_format=torch.channels_last))
        hidden, state = self.dynamics(self.compressor(features), state, shift / self.shift_unit, code_vector)
        return self.decoder(hidden), state


GMA_PARTS: dict[str, Callable[[GlassConfig], Any]] = {
    "mask": lambda c: MaskNet(PaperMask(c.mask_channels)),
    "inpaint": lambda c: InpaintNet(PaperInpaint()),
    "shift_foreground": lambda c: RegressorShift(c.foreground_range),
    "shift_background": lambda c: RegressorShift(c.background_range),
    "matting": lambda c: None,
}
"""A function that makes each part of the paper's GMA, by its name in :class:`glass_gym.model.gma.GMA`."""

PARTS: dict[str, Callable[[GlassConfig], Any]] = {
    "encoder": PaperEncoder,
    "compressor": Compressor,
    "action": PaperAction,
    "quantiser": make_quantiser,
    "dynamics": PaperDynamics,
    "decoder": PaperDecoder,
    "view": WholeFrame,
    "prior": lambda config: None,
}
"""A function that makes each part of :class:`PaperLMA`, by its name."""
