"""The lean architecture (ours, the default): half-resolution U-Nets, correlation shifts, and an LMA that sees a window.

It keeps the paper's parts and what they do; docs/how-it-works.md says where it differs and what that gained.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glass_gym.config import GlassConfig
from glass_gym.networks.blocks import (
    AdaptiveNorm,
    BilinearChain,
    ConvBlock,
    ConvLSTM,
    Embedding,
    HalfResolutionUNet,
    ModulatedConv,
    ResBlock,
    code_mlp,
)
from glass_gym.networks.parts import Compressor, Drawn, InpaintNet, MaskNet, SceneInpaintNet, State, drawn_from
from glass_gym.networks.prior import lean_prior
from glass_gym.networks.quantise import make_quantiser
from glass_gym.networks.shift import CorrelationShift
from glass_gym.networks.view import AgentWindow

NORM = "group"
"""Nothing may run between rows or batches: running statistics would mix teacher-forced and free-running steps."""


def make_mask(config: GlassConfig) -> MaskNet:
    """M (Sec. 3.1): a U-Net at half resolution that starts from "almost all background"."""
    return MaskNet(HalfResolutionUNet(3, 1, config.mask_channels), bias=-2.0)


def make_inpaint(config: GlassConfig) -> InpaintNet:
    """N (Sec. 3.1): a U-Net at half resolution."""
    net = HalfResolutionUNet(3, 3, 16)
    return SceneInpaintNet(net, config.height, config.width) if config.scene else InpaintNet(net)


class LeanEncoder(nn.Module):
    """E (Sec. 3.2): colour and mask, pixel-unshuffled -> features at 1/4."""

    def __init__(self, config: GlassConfig):
        super().__init__()
        width = config.feature_channels
        self.stem = ConvBlock(16, width, norm=NORM)
        self.body = nn.Sequential(ResBlock(width, width, down=True, norm=NORM), ResBlock(width, width, norm=NORM))
        self.head = nn.Conv2d(width, width + 1, 3, padding=1)

    def forward(self, layer: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A foreground (B, 4, h, w), colour * mask and mask.

        Returns:
            features (B, F, h/4, w/4), attention (B, 1, h/4, w/4) in [0, 1], half-resolution features (B, F, h/2, w/2).
        """
        half = self.stem(F.pixel_unshuffle(layer, 2))
        features = self.head(self.body(half))
        return features[:, :-1], torch.sigmoid(features[:, -1:]), half


def shape_only(layers: Tensor) -> Tensor:
    """Layers (B, T, 4, h, w) without the agent's own colours: luminance, its mean over the clip's agent taken out.

    The contrast that is left is scaled by its spread; an agent of one colour keeps its mask only. So a code cannot say
    who the agent is.

    Returns:
        (B, T, 4, h, w): the scaled contrast three times, and the mask.
    """
    mask = layers[:, :, 3:]
    mass = mask.sum((1, 2, 3, 4), keepdim=True).clamp_min(1.0)
    light = layers[:, :, :3].mean(2, keepdim=True)  # already times the mask
    light = light - mask * (light.sum((1, 2, 3, 4), keepdim=True) / mass)
    spread = (light.square().sum((1, 2, 3, 4), keepdim=True) / mass).sqrt()
    light = light / (spread + 0.25)
    return torch.cat([light.expand(-1, -1, 3, -1, -1), mask], 2)


class LeanAction(nn.Module):
    """A without its quantiser (Sec. 3.2): a clip of windows that follow the agent -> a vector a step.

    Args:
        config: sizes.
        chain: compares psi_t and psi_{t+1}, both (N, psi_channels); default: the paper's bilinear chain.
    """

    def __init__(self, config: GlassConfig, chain: nn.Module | None = None):
        super().__init__()
        size = config.psi_channels
        self.psi = nn.Sequential(  # a pose is spatial: flatten a 4x4 grid instead of averaging it away
            ResBlock(config.feature_channels, size, down=True, norm=NORM),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(16 * size, size),
            nn.LayerNorm(size),
        )
        self.chain = chain or BilinearChain(size, config.bilinear_channels, "layer")
        self.mlp = code_mlp(size, config.code_channels)
        # vectors that differ by little collapse to one direction; batch statistics keep their spread
        self.spread = nn.BatchNorm1d(config.code_channels, affine=False)

    def seen(self, layers: Tensor) -> Tensor:
        """What A sees of layers (B, T, 4, h, w)."""
        return shape_only(layers)

    def forward(self, encoder: nn.Module, layers: Tensor, shifts: Tensor) -> Tensor:
        """Directions of all steps of a clip.

        Args:
            encoder: E.
            layers: (B, T + 1, 4, s, s), windows that follow the agent.
            shifts: (B, T, 2) px; the windows have moved with the agent already.

        Returns:
            (B, T, code_channels), float32.
        """
        batch, steps = shifts.shape[:2]
        frames = self.seen(layers).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        features, attention, _ = encoder(frames)
        psi = self.psi(features * attention).float().unflatten(0, (batch, steps + 1))
        direction = self.chain(psi[:, :-1].flatten(0, 1), psi[:, 1:].flatten(0, 1))
        return self.spread(self.mlp(direction).float()).float().unflatten(0, (batch, steps))


class LeanDynamics(nn.Module):
    """The RNN (Sec. 3.2, Fig. 10): the paper's six blocks round a residual path; all get both actions.

    An action enters three ways: as a style (modulated convolutions), as scale and shift after every normalisation,
    and as a learned map over the window, which says *where* (a style alone can only say *what*). State and output
    live at E's resolution; the third and fourth blocks at half of it.

    Args:
        config: sizes.
        conv: what convolves under an action.
        norm: what normalises under an action.
    """

    MAP = 16
    SCALE = 4

    def __init__(
        self,
        config: GlassConfig,
        conv: Callable[..., nn.Module] = ModulatedConv,
        norm: Callable[..., nn.Module] = AdaptiveNorm,
    ):
        super().__init__()
        width = config.hidden
        embedding = config.action_channels
        half = width // 2
        self.grid = config.window // self.SCALE
        both = 2 * embedding
        self.global_embedding = Embedding(2, embedding)
        self.local_embedding = Embedding(config.code_channels, embedding)
        self.map = nn.Linear(both, self.MAP * self.grid**2)
        self.stem = nn.Conv2d(config.compressed_channels + self.MAP, width, 3, padding=1)
        self.base = ResBlock(width, width, norm=NORM)
        self.block1 = conv(width, width, both)
        self.norm1 = norm(width, both)
        self.block2 = ConvLSTM(width, half)
        self.block3 = conv(half + width, width, both, down=True)
        self.norm3 = norm(width, both)
        self.block4 = ConvLSTM(width, half)
        self.block5 = conv(half, width, both)
        self.norm5 = norm(width, both)
        self.block6 = conv(2 * width, width, both)
        self.norm6 = norm(width, both)
        self.head = ResBlock(width, width, norm=NORM)

    def start(self, batch: int, height: int, width: int) -> State:
        """Initial state for layers of (height, width) px."""
        height = height // self.SCALE
        width = width // self.SCALE
        return self.block2.start(batch, height, width), self.block4.start(batch, height // 2, width // 2)

    def action_inputs(self, move: Tensor, local: Tensor) -> tuple[Tensor, Tensor]:
        """What block 1 and what the later blocks get of both embeddings (B, S) each: (B, 2 S) each."""
        both = torch.cat([move, local], 1)
        return both, both

    def forward(self, features: Tensor, state: State, shift: Tensor, code: Tensor) -> tuple[Tensor, State, Tensor]:
        """Features (B, C, h, w), shift (B, 2) in units of 4 px, code vectors (B, code_channels).

        Returns:
            (B, hidden, h, w), next state, both embeddings side by side (B, 2 action_channels).
        """
        move = self.global_embedding(shift)
        local = self.local_embedding(code)
        actions = torch.cat([move, local], 1)
        first, later = self.action_inputs(move, local)
        where = self.map(actions).unflatten(1, (self.MAP, self.grid, self.grid)).to(features.dtype)
        base = self.base(self.stem(torch.cat([features, where], 1)))
        x = self.norm1(self.block1(base, first), first)
        h2, state2 = self.block2(x, state[0])
        y = self.norm3(self.block3(torch.cat([h2.to(x.dtype), x], 1), later), later)
        h4, state4 = self.block4(y, state[1])
        y = F.interpolate(h4, scale_factor=2.0, mode="nearest")
        y = self.norm5(self.block5(y.to(x.dtype), later), later)
        y = self.norm6(self.block6(torch.cat([y, x], 1), later), later)
        return self.head(base + y), (state2, state4), actions


class LeanDecoder(nn.Module):
    """D (Sec. 3.2): heads at 1/4, 1/2 and 1 (pixel-shuffled), each with a colour and a mask.

    A skip brings E's half-resolution features of the foreground it starts from, under both actions (ours).

    Args:
        config: sizes.
        conv: what joins the skip, under both actions.
        norm: what normalises it, under both actions.
        outputs: channels of the last head, a pixel.
    """

    def __init__(
        self,
        config: GlassConfig,
        conv: Callable[..., nn.Module] = ModulatedConv,
        norm: Callable[..., nn.Module] = AdaptiveNorm,
        outputs: int = 4,
    ):
        super().__init__()
        width = config.decoder_channels
        both = 2 * config.action_channels
        self.head_quarter = nn.Conv2d(config.hidden, 4, 3, padding=1)
        self.up = ConvBlock(config.hidden, width, up=True, norm=NORM)
        self.res = ResBlock(width, width, norm=NORM)
        self.skip = conv(width + config.feature_channels, width, both)
        self.norm = norm(width, both)
        self.head_half = nn.Conv2d(width, 4, 3, padding=1)
        self.head_full = nn.Conv2d(width, 4 * outputs, 3, padding=1)

    def join(self, y: Tensor, half: Tensor, actions: Tensor) -> Tensor:
        """D's features and E's, both at half resolution, under both actions (B, 2 S)."""
        return self.norm(self.skip(torch.cat([y, half], 1), actions), actions)

    def finish(self, full: Tensor, layer: Tensor, coarse: list[Tensor]) -> Drawn:
        """The last head's output (B, outputs, h, w), float32, and the foreground before -> :class:`Drawn`."""
        return drawn_from(full, coarse)

    def forward(self, x: Tensor, layer: Tensor, half: Tensor, actions: Tensor, scales: bool = True) -> Drawn:
        """Draw the next foreground.

        Args:
            x: (B, hidden, h/4, w/4), what the RNN says.
            layer: (B, 4, h, w), the foreground before.
            half: (B, F, h/2, w/2), E's features of it.
            actions: (B, 2 action_channels), both embeddings.
            scales: also run the coarser heads (training).

        Returns:
            layer, colour, logits and, with `scales`, the coarser heads.
        """
        y = self.res(self.join(self.up(x), half, actions))
        coarse = [self.head_quarter(x), self.head_half(y)] if scales else []
        return self.finish(F.pixel_shuffle(self.head_full(y), 2).float(), layer, coarse)


PARTS: dict[str, Callable[[GlassConfig], Any]] = {
    "mask": make_mask,
    "inpaint": make_inpaint,
    "shift_foreground": lambda c: CorrelationShift(c.foreground_range, True, 60.0),
    "shift_background": lambda c: CorrelationShift(c.background_range, False, 200.0),
    "encoder": LeanEncoder,
    "compressor": Compressor,
    "action": LeanAction,
    "quantiser": make_quantiser,
    "dynamics": LeanDynamics,
    "decoder": LeanDecoder,
    "prior": lean_prior,
    "view": AgentWindow,
}
"""A maker for each part of a model, by the name that :class:`glass_gym.glass.Glass` has for it."""
