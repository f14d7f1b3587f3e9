"""The token architecture (ours): an agent is a picture of itself and one of P poses; LMA predicts the next pose.

Squared error answers two possible poses with their mean, a blur. Here the generator never has to: a window's pose is
one token of a vocabulary, the next one is predicted with cross-entropy, and the decoder draws the one that was chosen.
What the agent looks like comes from the window that an episode began with, so nothing drawn is fed back and nothing
drifts. docs/how-it-works.md draws it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glass_gym.config import GlassConfig
from glass_gym.networks import lean
from glass_gym.networks.blocks import SLOPE, AdaptiveNorm, BilinearChain, ConvBlock, ModulatedConv, ResBlock, code_mlp
from glass_gym.networks.lean import NORM, shape_only
from glass_gym.networks.parts import Drawn, drawn_from, masked
from glass_gym.networks.quantise import CosineQuantiser, make_quantiser
from glass_gym.networks.shift import warp
from glass_gym.networks.view import ConnectedWindow

POSE_CHANNELS = 32
"""Size of a pose's vector."""
OCTAVES = 6
"""A place is told by waves along each axis, from twice the frame's size to a sixteenth of it."""
DRAWN_OCTAVES = 4
"""D is told the longest ones: what it draws changes smoothly from place to place."""
SCALE = 4
"""Px to a place of the coarsest maps."""
FLOW = 4.0
"""Px that one unit of D's flow means."""
LEAST = 0.2
"""Where the first window's mask is fainter, its colours fade to grey."""
DROPPED = 0.3
"""Share of the prior's channels that training leaves out: what real agents do next is easily learned by heart."""


def make_waves(config: GlassConfig, octaves: int) -> Tensor:
    """Waves along each axis of a frame: (2, octaves), radians a px."""
    return torch.tensor([[math.pi * 2.0**i / side for i in range(octaves)] for side in (config.width, config.height)])


def phases(place: Tensor, waves: Tensor) -> Tensor:
    """Places (B, 2) px, nan where nobody knows, as waves see them: (B, 4 octaves)."""
    phase = (place[:, :, None] * waves).flatten(1)
    return torch.cat([phase.sin(), phase.cos()], 1).nan_to_num(0.0)


class PoseEncoder(nn.Module):
    """Q: a window without its own colours -> a vector that says the pose, before its quantiser."""

    def __init__(self, config: GlassConfig):
        super().__init__()
        width = config.feature_channels
        self.net = nn.Sequential(
            ConvBlock(4 * SCALE**2, width, norm=NORM),
            ResBlock(width, 2 * width, down=True, norm=NORM),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(32 * width, 128),
            nn.LeakyReLU(SLOPE),
            nn.Linear(128, POSE_CHANNELS),
        )
        # vectors that differ by little collapse to one direction; batch statistics keep their spread
        self.spread = nn.BatchNorm1d(POSE_CHANNELS, affine=False)

    def forward(self, layers: Tensor) -> Tensor:
        """Layers (B, 4, h, w) -> (B, POSE_CHANNELS), float32."""
        seen = shape_only(layers[:, None])[:, 0].contiguous(memory_format=torch.channels_last)
        return self.spread(self.net(F.pixel_unshuffle(seen, SCALE)).float()).float()


class LooksEncoder(nn.Module):
    """E: a window -> what the agent looks like, at 1/4; strokes of one px become channels.

    Where the config `copies`, the window itself comes after E's features, for D to copy from.
    """

    def __init__(self, config: GlassConfig):
        super().__init__()
        width = config.feature_channels
        self.net = nn.Sequential(
            ConvBlock(4 * SCALE**2, width, norm=NORM),
            ResBlock(width, width, norm=NORM),
            nn.Conv2d(width, width, 3, padding=1),
        )
        self.copies = config.copies

    def forward(self, layer: Tensor) -> Tensor:
        """Layers (B, 4, h, w) -> (B, F or F + 64, h/4, w/4)."""
        cells = F.pixel_unshuffle(layer, SCALE).contiguous(memory_format=torch.channels_last)
        features = self.net(cells)
        return torch.cat([features.float(), cells.float()], 1) if self.copies else features


class TokenAction(nn.Module):
    """A without its quantiser: the poses of two neighbouring frames -> a vector (Sec. 3.2)."""

    def __init__(self, config: GlassConfig):
        super().__init__()
        size = config.psi_channels
        self.psi = nn.Sequential(nn.Linear(POSE_CHANNELS, size), nn.LeakyReLU(SLOPE), nn.Linear(size, size))
        self.norm = nn.LayerNorm(size)
        self.chain = BilinearChain(size, config.bilinear_channels, "layer")
        self.mlp = code_mlp(size, config.code_channels)
        self.spread = nn.BatchNorm1d(config.code_channels, affine=False)

    def forward(self, poses: Tensor) -> Tensor:
        """Poses' vectors (B, T + 1, POSE_CHANNELS) -> directions (B, T, code_channels), float32."""
        psi = self.norm(self.psi(poses)).float()
        before = psi[:, :-1].flatten(0, 1)
        after = psi[:, 1:].flatten(0, 1)
        return self.spread(self.mlp(self.chain(before, after)).float()).float().unflatten(0, (len(poses), -1))


class TokenDynamics(nn.Module):
    """The RNN: pose, global and local action -> the next pose, one of P.

    Args:
        config: sizes; `hidden` is the width of its state.
    """

    waves: Tensor

    def __init__(self, config: GlassConfig):
        super().__init__()
        width = 2 * config.hidden
        self.pose = nn.Linear(POSE_CHANNELS, width)
        self.cell = nn.GRUCell(width, width)
        self.move = nn.Linear(2, width)
        self.place = nn.Linear(4 * OCTAVES, width)
        self.context = nn.Linear(4 * width, 2 * width)
        self.code = nn.Linear(config.code_channels, 2 * width)
        self.logits = nn.Linear(2 * width, config.poses)
        self.width = width
        self.register_buffer("waves", make_waves(config, OCTAVES), persistent=False)

    def start(self, batch: int, like: Tensor) -> Tensor:
        """The first hidden state (B, 2 hidden)."""
        return like.new_zeros(batch, self.width, dtype=torch.float32)

    def remember(self, pose: Tensor, hidden: Tensor) -> Tensor:
        """The hidden state that has seen a pose's vector (B, POSE_CHANNELS)."""
        return self.cell(F.leaky_relu(self.pose(pose).float(), SLOPE), hidden.float())

    def forward(self, pose: Tensor, hidden: Tensor, shift: Tensor, code: Tensor, place: Tensor) -> Tensor:
        """What the next pose is. What of an agent is seen depends on where it is: a line may cut it off, or the edge.

        Args:
            pose: (B, POSE_CHANNELS), the present one.
            hidden: (B, 2 hidden), which has seen it.
            shift: (B, 2) in units of 4 px.
            code: (B, code_channels).
            place: (B, 2) px, where the agent's window will be; nan where nobody knows.

        Returns:
            (B, P) logits, float32.
        """
        return self._pose_of(self._context(pose, hidden, shift, place) + self.code(code))

    def of_each(self, pose: Tensor, hidden: Tensor, shift: Tensor, codes: Tensor, place: Tensor) -> Tensor:
        """As :meth:`forward`, under each of K codes (K, code_channels): (B, K, P) logits."""
        return self._pose_of(self._context(pose, hidden, shift, place)[:, None] + self.code(codes))

    def _context(self, pose: Tensor, hidden: Tensor, shift: Tensor, place: Tensor) -> Tensor:
        where = phases(place, self.waves).to(pose.dtype)
        known = [self.pose(pose), hidden.to(pose.dtype), self.move(shift), self.place(where)]
        return self.context(torch.cat([k.float() for k in known], 1))

    def _pose_of(self, context: Tensor) -> Tensor:
        return self.logits(F.leaky_relu(context, SLOPE)).float()


class TokenDecoder(nn.Module):
    """D: the agent's looks and a pose's vector -> the foreground.

    Where the config `copies`, D paints what the first window does not show and fetches the rest from it, pixel by
    pixel: stripes, faces and letters come through as they were.
    """

    waves: Tensor

    def __init__(self, config: GlassConfig):
        super().__init__()
        width = config.decoder_channels
        self.grid = config.window // SCALE
        self.maps = 16
        self.placed = config.placed
        self.register_buffer("waves", make_waves(config, DRAWN_OCTAVES), persistent=False)
        told = 2 * POSE_CHANNELS + 4 * DRAWN_OCTAVES * config.placed
        self.embed = nn.Sequential(nn.Linear(told, 128), nn.LeakyReLU(SLOPE), nn.Linear(128, 128))
        self.style = nn.Linear(config.feature_channels, 128)
        self.map = nn.Linear(128, self.maps * self.grid**2)
        self.stem = nn.Conv2d(config.feature_channels + self.maps, 2 * width, 3, padding=1)
        self.convs = nn.ModuleList(ModulatedConv(2 * width, 2 * width, 128) for _ in range(3))
        self.norms = nn.ModuleList(AdaptiveNorm(2 * width, 128) for _ in range(3))
        fine = 3 * width // 4  # half-resolution maps cost four times as much a channel
        self.up = ConvBlock(2 * width, fine, up=True, norm=NORM)
        self.res = ResBlock(fine, fine, norm=NORM)
        self.features = config.feature_channels
        self.copies = config.copies
        self.head = nn.Conv2d(fine, 4 * (7 if self.copies else 4), 3, padding=1)  # colours, mask; flow, share copied
        if self.copies:  # at first every pixel comes from where it is: from a wild flow, texture shows no way back
            for parameter in self.head.parameters():
                nn.init.zeros_(parameter[16:24])

    def forward(self, looks: Tensor, first: Tensor, pose: Tensor, place: Tensor) -> Drawn:
        """Draw a pose.

        Args:
            looks: (B, F or F + 64, h/4, w/4), what E says of the window that the episode began with.
            first: (B, POSE_CHANNELS), the pose in it.
            pose: (B, POSE_CHANNELS), the pose to draw.
            place: (B, 2) px, where its window is.

        Returns:
            the foreground.
        """
        looks, window = looks[:, : self.features], looks[:, self.features :]
        told = [pose, first, phases(place, self.waves).to(pose.dtype)] if self.placed else [pose, first]
        said = self.embed(torch.cat(told, 1))
        where = self.map(said).unflatten(1, (self.maps, self.grid, self.grid)).to(looks.dtype)
        x = self.stem(torch.cat([looks, where], 1))
        said = said + self.style(looks.mean((2, 3)))  # what it looks like, wherever that was seen
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = x + norm(conv(x, said), said).to(x.dtype)
        y = self.res(self.up(x))
        full = F.pixel_shuffle(self.head(y), 2).float()
        return self._with_copies(full, window) if self.copies else drawn_from(full, [])

    @torch.no_grad()
    def sharpen(self, by: float) -> None:
        """Multiply the mask's logits: trained by squared error, D answers a doubtful pixel with its chance."""
        for parameter in self.head.parameters():
            parameter[12:16] *= by

    def _with_copies(self, full: Tensor, window: Tensor) -> Drawn:
        """D's full-size output (B, 7, h, w) and the first window at 1/4 (B, 64, h/4, w/4) -> the foreground."""
        fetched = warp(F.pixel_shuffle(window, SCALE), FLOW * full[:, 4:6])
        colour = (fetched[:, :3] / fetched[:, 3:].clamp_min(LEAST)).clamp(-1, 1)
        copied = torch.sigmoid(full[:, 6:])
        colour = copied * colour + (1 - copied) * torch.tanh(full[:, :3])
        return masked(colour, full[:, 3:4], [])


class TokenPrior(nn.Module):
    """p(code | state, shift): a head on the pose and the RNN's state."""

    def __init__(self, config: GlassConfig):
        super().__init__()
        width = config.prior_channels
        self.known = nn.Linear(POSE_CHANNELS + 2 * config.hidden, width)
        self.shift = nn.Linear(2, width)
        self.hidden = nn.Linear(width, width)
        self.logits = nn.Linear(width, config.codes)

    def keep(self, index: Sequence[int]) -> None:
        """Make `index` (codes of now) the codes, in this order."""
        kept = nn.Linear(self.logits.in_features, len(index))
        kept.load_state_dict({"weight": self.logits.weight[list(index)], "bias": self.logits.bias[list(index)]})
        self.logits = kept

    def forward(self, pose: Tensor, hidden: Tensor, shifts: Tensor) -> Tensor:
        """Pose (B, POSE_CHANNELS), hidden state, shifts (B, N, 2) in units of 4 px -> (B, N, K) log probabilities."""
        x = self.known(torch.cat([pose.float(), hidden.float()], 1))[:, None] + self.shift(shifts.float())
        x = F.dropout(F.leaky_relu(x, SLOPE), DROPPED, self.training)
        x = F.leaky_relu(self.hidden(x), SLOPE)
        return self.logits(x).float().log_softmax(-1)


def make_poses(config: GlassConfig) -> CosineQuantiser:
    """The vocabulary: P poses on a sphere; rare poses get words of their own."""
    sizes = config.replace(codes=config.poses, code_channels=POSE_CHANNELS)
    return CosineQuantiser(sizes, dead=0.005 / config.poses, split="biggest_inertia")


PARTS: dict[str, Callable[[GlassConfig], Any]] = {
    **{name: lean.PARTS[name] for name in ("mask", "inpaint", "shift_foreground", "shift_background")},
    "encoder": LooksEncoder,
    "pose_encoder": PoseEncoder,
    "poses": make_poses,
    "action": TokenAction,
    "quantiser": make_quantiser,
    "dynamics": TokenDynamics,
    "decoder": TokenDecoder,
    "view": ConnectedWindow,
    "prior": lambda config: TokenPrior(config) if config.prior_channels else None,
}
"""A maker for each part of a model, by the name that :class:`glass_gym.token_glass.TokenGlass` has for it."""
