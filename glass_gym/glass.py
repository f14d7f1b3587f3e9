"""Glass: the boxes joined. GMA splits frames into layers and measures shifts; LMA animates the foreground.

Tensors are (batch, time, channels, height, width); images in [-1, 1]; shifts in px, positive right and down.
A *layer* is four channels: colour * mask (3) and mask (1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glass_gym.config import GlassConfig
from glass_gym.networks.action import ActionNet, Quantised, build_quantiser
from glass_gym.networks.decoder import Decoder
from glass_gym.networks.dynamics import State, build_dynamics
from glass_gym.networks.encoder import Compressor, Encoder
from glass_gym.networks.inpaint import InpaintNet
from glass_gym.networks.mask import MaskNet
from glass_gym.networks.shift import CorrelationShift, RegressorShift, translate

SHIFT_UNIT = 4.0
"""Global actions reach the RNN in units of this many px, so that an ordinary step has size one."""


@dataclass
class Motion:
    """What GMA says about pairs of frames: all (B, 2, ...) but the shifts (B, 2) px and the predictions (B, ...)."""

    masks: Tensor
    backgrounds: Tensor
    foreground_shift: Tensor
    background_shift: Tensor
    moved_layer: Tensor  # (B, 4, H, W): layer of frame t, moved onto frame t + 1
    moved_background: Tensor  # (B, 3, H, W)
    composed: Tensor  # (B, 3, H, W): frame t + 1 from the moved layers of frame t


@dataclass
class Drawn:
    """One generated foreground: layer (B, 4, h, w), colour, mask logits, and D's coarser heads."""

    layer: Tensor
    colour: Tensor
    logits: Tensor
    coarse: list[Tensor]


def compose(layer: Tensor, background: Tensor) -> Tensor:
    """Foreground over background: colour * m + b * (1 - m); (B, 4, H, W), (B, 3, H, W) -> (B, 3, H, W)."""
    return layer[:, :3] + background * (1 - layer[:, 3:])


def shape_only(layers: Tensor) -> Tensor:
    """Layers (B, T, 4, h, w) without the agent's own colours: luminance, its mean over the clip's agent taken out.

    The contrast that is left is scaled by its spread; an agent of one colour keeps its mask only.
    """
    mask = layers[:, :, 3:]
    mass = mask.sum((1, 2, 3, 4), keepdim=True).clamp_min(1.0)
    light = layers[:, :, :3].mean(2, keepdim=True)  # already times the mask
    light = light - mask * (light.sum((1, 2, 3, 4), keepdim=True) / mass)
    spread = (light.square().sum((1, 2, 3, 4), keepdim=True) / mass).sqrt()
    light = light / (spread + 0.25)
    return torch.cat([light.expand(-1, -1, 3, -1, -1), mask], 2)


def _shift_net(kind: str, reach: int, fourth: bool, sharpness: float) -> nn.Module:
    return RegressorShift(reach) if kind == "regressor" else CorrelationShift(reach, fourth, sharpness)


class Glass(nn.Module):
    """The whole model of one :class:`GlassConfig`."""

    GMA = ("mask", "inpaint", "shift_foreground", "shift_background")
    LMA = ("encoder", "compressor", "action", "quantiser", "dynamics", "decoder")
    LONG = ("compressor", "dynamics", "decoder")

    def __init__(self, config: GlassConfig):
        super().__init__()
        self.config = config
        self.mask = MaskNet(config)
        self.inpaint = InpaintNet(config)
        self.shift_foreground = _shift_net(config.foreground_shift, config.foreground_range, True, 60.0)
        self.shift_background = _shift_net(config.background_shift, config.background_range, False, 200.0)
        self.encoder = Encoder(config)
        self.compressor = Compressor(config)
        self.action = ActionNet(config)
        self.quantiser = build_quantiser(config)
        self.dynamics = build_dynamics(config)
        self.decoder = Decoder(config)

    def boxes(self, stage: str) -> list[nn.Module]:
        """The boxes that a stage ("gma", "lma" or "long") trains."""
        return [getattr(self, name) for name in {"gma": self.GMA, "lma": self.LMA, "long": self.LONG}[stage]]

    # --- GMA ---------------------------------------------------------------------------------------------------

    def analyse_pairs(self, frames: Tensor) -> Motion:
        """GMA's forward pass on pairs (B, 2, 3, H, W)."""
        flat = frames.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        masks = self.mask(flat)
        backgrounds = self.inpaint(flat, masks).unflatten(0, frames.shape[:2])
        masks = masks.unflatten(0, frames.shape[:2])  # (B, 2, 1, H, W)
        forward = self.shift_foreground(frames, masks)
        behind = self.shift_background(frames, 1 - masks)
        layer = torch.cat([frames[:, 0] * masks[:, 0], masks[:, 0]], 1)
        moved_layer = translate(layer, forward)
        moved_background = translate(backgrounds[:, 0], behind, "border")
        composed = compose(moved_layer, moved_background)
        return Motion(masks, backgrounds, forward, behind, moved_layer, moved_background, composed)

    # --- LMA ---------------------------------------------------------------------------------------------------

    def encode(self, layers: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """E on layers (N, 4, h, w) -> features, attention, half-resolution features."""
        layers = layers.contiguous(memory_format=torch.channels_last)
        return self.encoder(layers[:, :3], layers[:, 3:])

    def directions(self, layers: Tensor, shifts: Tensor) -> Tensor:
        """A's vectors before quantisation, for every step of a clip.

        Args:
            layers: (B, T + 1, 4, h, w), windows that follow the agent, or whole frames (``view="whole"``).
            shifts: (B, T, 2) px.

        Returns:
            (B, T, code_channels), float32.
        """
        batch, steps = shifts.shape[:2]
        if self.config.action_view == "shape":
            layers = shape_only(layers)
        if self.config.view == "whole":
            moved = translate(layers[:, :-1].flatten(0, 1), shifts.flatten(0, 1))
            features, attention, _ = self.encode(torch.cat([moved, layers[:, 1:].flatten(0, 1)]))
            half = batch * steps
            before, after = (features[:half], attention[:half]), (features[half:], attention[half:])
        else:
            both = [y.unflatten(0, (batch, steps + 1)) for y in self.encode(layers.flatten(0, 1))[:2]]
            before = tuple(y[:, :-1].flatten(0, 1) for y in both)
            after = tuple(y[:, 1:].flatten(0, 1) for y in both)
        return self.action(before, after).float().unflatten(0, (batch, steps))

    def infer_codes(self, layers: Tensor, shifts: Tensor) -> Tensor:
        """Local actions (B, T) int64 that explain a clip; arguments as in :meth:`directions`."""
        z = self.directions(layers, shifts)
        return self.quantise(z).index.unflatten(0, z.shape[:2])

    def quantise(self, z: Tensor) -> Quantised:
        """Quantise (..., code_channels); the result is flat over the leading axes."""
        return self.quantiser(z.flatten(0, -2))

    def start_state(self, batch: int, height: int, width: int) -> State:
        """The RNN's initial state for layers of (height, width) px."""
        scale = 4 if self.config.dynamics == "residual" else 8
        return self.dynamics.start(batch, height // scale, width // scale)

    def animate(self, layer: Tensor, state: State, shift: Tensor, code: Tensor, scales: bool = False):
        """One step of LMA: the next foreground under a global and a local action.

        Args:
            layer: (B, 4, h, w).
            state: the RNN's state.
            shift: (B, 2) px.
            code: (B, code_channels) code vectors.
            scales: also run D's coarser heads (training).

        Returns:
            :class:`Drawn`, next state.
        """
        features, _, half = self.encode(layer)
        hidden, state, actions = self.dynamics(self.compressor(features), state, shift / SHIFT_UNIT, code)
        colour, logits, coarse, gate = self.decoder(hidden, scales, half, actions)
        mask = torch.sigmoid(logits)
        drawn = torch.cat([colour * mask, mask], 1)
        if gate is not None:
            drawn = torch.lerp(drawn, layer.float(), torch.sigmoid(gate))
        return Drawn(drawn, colour, logits, coarse), state

    def rollout(self, layers: Tensor, shifts: Tensor, codes: Tensor, teacher: Tensor | None = None, scales=False):
        """Generate T foregrounds from frame 0, feeding back what was drawn.

        Args:
            layers: (B, T + 1, 4, h, w); only frame 0 is used, and frames where `teacher` says so.
            shifts: (B, T, 2) px.
            codes: (B, T, code_channels) code vectors.
            teacher: (B, T) bool, True: step t starts from the real frame t (teacher forcing). None: free running.

        Returns:
            list of T :class:`Drawn`.
        """
        batch, steps = shifts.shape[:2]
        state = self.start_state(batch, *layers.shape[-2:])
        layer, drawn = layers[:, 0], []
        for t in range(steps):
            if teacher is not None and t > 0:
                layer = torch.where(teacher[:, t, None, None, None], layers[:, t], layer)
            out, state = self.animate(layer, state, shifts[:, t], codes[:, t], scales)
            drawn.append(out)
            layer = out.layer
        return drawn


def crop_windows(images: Tensor, corners: Tensor, side: int) -> Tensor:
    """Cut windows at whole-pixel places; outside the image is zero.

    Args:
        images: (N, C, H, W).
        corners: (N, 2) int64, (x, y) of the window's top-left pixel; may lie outside.
        side: px.

    Returns:
        (N, C, side, side).
    """
    count, channels, height, width = images.shape
    index, inside = _places(corners, side, height, width)
    flat = images.reshape(count, channels, -1).gather(2, index.flatten(1)[:, None].expand(-1, channels, -1))
    return flat.unflatten(2, (side, side)) * inside[:, None].to(images.dtype)


def inside_windows(corners: Tensor, side: int, height: int, width: int) -> Tensor:
    """Which pixels of the windows lie inside the frame: (N, 1, side, side) float."""
    return _places(corners, side, height, width)[1][:, None].float()


def _places(corners: Tensor, side: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Pixels of windows (N, side, side): flat places int64, held inside the frame; and which lie inside, bool."""
    ruler = torch.arange(side, device=corners.device)
    x, y = corners[:, :1] + ruler, corners[:, 1:] + ruler  # (N, side)
    inside = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None]
    return y.clamp(0, height - 1)[:, :, None] * width + x.clamp(0, width - 1)[:, None], inside


def to_images(frames: Tensor) -> Tensor:
    """uint8 -> [-1, 1] float32."""
    return frames.float() / 127.5 - 1


def to_bytes(images: Tensor) -> Tensor:
    """[-1, 1] -> uint8."""
    return ((images + 1) * 127.5).round().clamp(0, 255).byte()


def blend_windows(windows: Tensor, background: Tensor, position: Tensor) -> Tensor:
    """Compose layers over backgrounds, centred on sub-pixel positions; only the window's pixels are touched.

    A window pixel i lands on frame pixel position - s / 2 + i; fractions are bilinear; what lies outside is lost.

    Args:
        windows: (N, 4, s, s), colour * mask in [-1, 1] and mask.
        background: (N, 3, H, W) uint8.
        position: (N, 2) px.

    Returns:
        (N, 3, H, W) uint8, contiguous.
    """
    height, width = background.shape[2:]
    side = windows.shape[-1]
    corner = position - side / 2
    whole = corner.floor()
    fraction = (corner - whole).to(windows.dtype)
    fx, fy = fraction[:, 0].view(-1, 1, 1, 1), fraction[:, 1].view(-1, 1, 1, 1)
    padded = F.pad(windows, (1, 1, 1, 1))
    across = padded[..., 1:] * (1 - fx) + padded[..., :-1] * fx
    moved = across[:, :, 1:] * (1 - fy) + across[:, :, :-1] * fy  # (N, 4, s + 1, s + 1)
    index, inside = _places(whole.long(), side + 1, height, width)
    flat = background.flatten(2)
    behind = to_images(flat.gather(2, index.flatten(1)[:, None].expand(-1, 3, -1)))
    moved = moved.float().flatten(2)
    drawn = to_bytes(compose(moved, behind))
    spare = height * width  # pixels outside the frame are written to one spare place behind it
    index = torch.where(inside, index, spare).flatten(1)[:, None].expand(-1, 3, -1)
    out = torch.cat([flat, flat[..., :1]], 2).scatter(2, index, drawn)
    return out[..., :spare].unflatten(2, (height, width)).contiguous()
