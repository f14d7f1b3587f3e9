"""The RNN of six blocks: features + state + global action + local action -> what D draws (Sec. 3.2, Fig. 10).

The state is an explicit value, one row per environment; nothing is kept inside the modules.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glass_gym.config import GlassConfig
from glass_gym.networks.blocks import ConvBlock, ConvLSTM, ModulatedConv, ResBlock, normaliser

State = tuple[Tensor, ...]
"""One tensor (B, 2, hidden, h, w) for each ConvLSTM."""


class Embedding(nn.Module):
    """A small vector -> an embedding, through two layers, so that the RNN hears it at full strength."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(inputs, outputs), nn.LeakyReLU(0.2), nn.Linear(outputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Adaptive(nn.Module):
    """Normalise, then scale and shift every channel by what an embedding says: hearing an action at full strength."""

    def __init__(self, channels: int, embedding: int, norm: str, modulated: bool = True):
        super().__init__()
        self.modulated = modulated
        self.norm = normaliser(norm, channels)
        self.says = nn.Linear(embedding, 2 * channels)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        if not self.modulated:
            return F.leaky_relu(self.norm(x).to(x.dtype), 0.2)
        scale, shift = self.says(embedding)[:, :, None, None].to(x.dtype).chunk(2, 1)
        return F.leaky_relu(self.norm(x).to(x.dtype) * (1 + scale) + shift, 0.2)


class ResidualDynamics(nn.Module):
    """Ours: the six blocks on top of a residual path round them; all of them hear both actions.

    An action is heard three ways: as a style (modulated convolutions), as scale and shift after every
    normalisation, and as a learned map over the window, which says *where* (a style alone can only say *what*).
    State and output live at E's resolution; the third and fourth blocks at half of it.
    """

    MAP = 16

    def __init__(self, config: GlassConfig):
        super().__init__()
        width, style, norm = config.hidden, config.action_channels, config.norm
        half, self.grid = width // 2, config.window // 4
        both = 2 * style
        self.joint, on = config.action_input == "joint", config.modulated
        self.global_embedding = Embedding(2, style)
        self.local_embedding = Embedding(config.code_channels, style)
        self.map = nn.Linear(both, self.MAP * self.grid**2)
        self.enter = nn.Conv2d(config.compressed_channels + self.MAP, width, 3, padding=1)
        self.base = ResBlock(width, width, norm=norm)
        self.block1 = ModulatedConv(width, width, both, modulated=on)
        self.hear1 = Adaptive(width, both, norm, on)
        self.block2 = ConvLSTM(width, half)
        self.block3 = ModulatedConv(half + width, width, both, down=True, modulated=on)
        self.hear3 = Adaptive(width, both, norm, on)
        self.block4 = ConvLSTM(width, half)
        self.block5 = ModulatedConv(half, width, both, modulated=on)
        self.hear5 = Adaptive(width, both, norm, on)
        self.block6 = ModulatedConv(2 * width, width, both, modulated=on)
        self.hear6 = Adaptive(width, both, norm, on)
        self.leave = ResBlock(width, width, norm=norm)

    def start(self, batch: int, height: int, width: int) -> State:
        """Initial state for features of size (height, width)."""
        return self.block2.start(batch, height, width), self.block4.start(batch, height // 2, width // 2)

    def forward(self, features: Tensor, state: State, shift: Tensor, code: Tensor) -> tuple[Tensor, State, Tensor]:
        """features (B, C, h, w), shift (B, 2) in units of 4 px, code (B, code_channels).

        Returns:
            (B, hidden, h, w), next state, both embeddings side by side (B, 2 action_channels).
        """
        move, local = self.global_embedding(shift), self.local_embedding(code)
        act = torch.cat([move, local], 1)
        first, then = act, act
        if not self.joint:
            first = torch.cat([move, torch.zeros_like(local)], 1)
            then = torch.cat([torch.zeros_like(move), local], 1)
        where = self.map(act).unflatten(1, (self.MAP, self.grid, self.grid)).to(features.dtype)
        base = self.base(self.enter(torch.cat([features, where], 1)))
        x = self.hear1(self.block1(base, first), first)
        h2, state2 = self.block2(x, state[0])
        y = self.hear3(self.block3(torch.cat([h2.to(x.dtype), x], 1), then), then)
        h4, state4 = self.block4(y, state[1])
        y = F.interpolate(h4, scale_factor=2.0, mode="nearest")
        y = self.hear5(self.block5(y.to(x.dtype), then), then)
        y = self.hear6(self.block6(torch.cat([y, x], 1), then), then)
        return self.leave(base + y), (state2, state4), act


class PaperDynamics(nn.Module):
    """Fig. 10: ConvLSTM at 1/8, modulated conv /2 (both hear Delta_F); ConvLSTM at 1/16, conv + up, ConvLSTM at 1/8,
    modulated conv (all hear the local action). Embeddings join ConvLSTMs and conv as constant channels.

    The authors learn initial states of the feature map's size; ours are spatially constant.
    """

    def __init__(self, config: GlassConfig):
        super().__init__()
        width, style, norm = config.hidden, config.action_channels, config.norm
        self.global_embedding = nn.Linear(2, style)
        self.local_embedding = nn.Linear(config.code_channels, style)
        self.block1 = ConvLSTM(config.compressed_channels + style, width)
        self.block2 = ModulatedConv(width, 2 * width, style, down=True, modulated=config.modulated)
        self.norm2 = normaliser(norm, 2 * width)
        self.block3 = ConvLSTM(2 * width + style, 2 * width)
        self.block4 = ConvBlock(2 * width + style, width, up=True, norm=norm)
        self.block5 = ConvLSTM(width + style, width)
        self.block6 = ModulatedConv(width, width, style, modulated=config.modulated)
        self.norm6 = normaliser(norm, width)

    def start(self, batch: int, height: int, width: int) -> State:
        """Initial state for features of size (height, width)."""
        half = height // 2, width // 2
        return (
            self.block1.start(batch, height, width),
            self.block3.start(batch, *half),
            self.block5.start(batch, half[0] * 2, half[1] * 2),
        )

    def forward(self, features: Tensor, state: State, shift: Tensor, code: Tensor) -> tuple[Tensor, State, Tensor]:
        """As :meth:`ResidualDynamics.forward`."""
        move, act = self.global_embedding(shift), self.local_embedding(code)
        h1, state1 = self.block1(_joined(features, move), state[0])
        y = F.leaky_relu(self.norm2(self.block2(h1, move)), 0.2)
        h3, state3 = self.block3(_joined(y, act), state[1])
        y = self.block4(_joined(h3, act))
        h5, state5 = self.block5(_joined(y, act), state[2])
        return F.leaky_relu(self.norm6(self.block6(h5, act)), 0.2), (state1, state3, state5), torch.cat([move, act], 1)


def _joined(x: Tensor, embedding: Tensor) -> Tensor:
    """Append an embedding (B, S) to x (B, C, h, w) as S constant channels."""
    spread = embedding[:, :, None, None].expand(-1, -1, *x.shape[2:])
    return torch.cat([x, spread.to(x.dtype)], 1)


def build_dynamics(config: GlassConfig) -> nn.Module:
    """The RNN that the config names."""
    return ResidualDynamics(config) if config.dynamics == "residual" else PaperDynamics(config)
