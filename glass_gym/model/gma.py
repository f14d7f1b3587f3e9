"""GMA, the global motion analysis (Sec. 3.1): M segments, N inpaints, P_f and P_b measure the shift of each layer.

The networks here are those of the default architecture; :mod:`glass_gym.model.paper` has the published ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from glass_gym.model.blocks import HalfResolutionUNet, StagedModel
from glass_gym.model.config import GlassConfig
from glass_gym.model.shift import CorrelationShift, translate
from glass_gym.tensors.geometry import box_mean, compose, dilate

HOLE = -1.1  # Value of masked pixels in the input of N; it lies outside the image range [-1, 1] (App. B).
NEIGHBOURHOOD = 15  # Half size, px, of the neighbourhood in which a frame is compared with the background plate.
PLATE_DIFFERENCE, PLATE_SLOPE = 0.15, 40.0
"""The plate is copied where the mean absolute difference of the neighbourhood (0 to 2) is below PLATE_DIFFERENCE; the
sigmoid that decides has slope PLATE_SLOPE.
"""


class MaskNet(nn.Module):
    """M: frames -> soft masks.

    Args:
        net: (B, 3, H, W) in [-1, 1] -> logits (B, 1, H, W); its last convolution is `net.head`.
        bias: initial bias of that convolution; -2 starts with nearly everything background.
    """

    def __init__(self, net: nn.Module, bias: float = 0.0):
        super().__init__()
        self.net = net
        nn.init.constant_(net.head.bias, bias)  # type: ignore[arg-type, union-attr]

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (B, 3, H, W) in [-1, 1] -> masks (B, 1, H, W) in [0, 1], float32."""
        return torch.sigmoid(self.net(frames).float())


class InpaintNet(nn.Module):
    """N: b^ = b + N * m with b = I * (1 - m) (Sec. 3.1). N sees -1.1 in the masked pixels.

    Args:
        net: (B, 3, H, W) -> (B, 3, H, W), before its tanh.
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, frames: Tensor, masks: Tensor) -> Tensor:
        """Frames (B, 3, H, W) in [-1, 1], masks (B, 1, H, W) in [0, 1] -> backgrounds (B, 3, H, W), float32."""
        visible = frames * (1 - masks)
        filled = torch.tanh(self.net(visible + HOLE * masks).float())
        return visible.float() + filled * masks.float()


class PlateInpaintNet(InpaintNet):
    """N for a static camera (ours): it copies the background plate where the plate is known, and inpaints the rest.

    It compares the pixels around the hole with the plate. Frames of another place are inpainted as usual.
    """

    plate: Tensor
    known: Tensor

    def __init__(self, net: nn.Module, height: int, width: int):
        super().__init__(net)
        self.register_buffer("plate", torch.zeros(3, height, width))
        self.register_buffer("known", torch.zeros(1, height, width))

    def set_plate(self, plate: Tensor, known: Tensor) -> None:
        """Store the plate (3, H, W) in [-1, 1], and to which share each pixel is known, (1, H, W) in [0, 1]."""
        self.plate.copy_(plate)
        self.known.copy_(known)

    def forward(self, frames: Tensor, masks: Tensor) -> Tensor:
        """As :meth:`InpaintNet.forward`."""
        filled = super().forward(frames, masks)
        share = self.similarity(frames.float(), 1 - masks.float()) * self.known * masks.float()
        return filled + share * (self.plate - filled)

    @torch.no_grad()
    def similarity(self, frames: Tensor, visible: Tensor) -> Tensor:
        """How certainly frames show the plate's place, (B, 1, H, W) in [0, 1]; visible pixels are compared."""
        error = (frames - self.plate).abs().mean(1, keepdim=True)
        # 0.05 of the whole frame's mean: it decides for pixels with nothing visible around them
        difference, weight = (
            box_mean(x, NEIGHBOURHOOD) + 0.05 * x.mean((2, 3), keepdim=True) for x in (error * visible, visible)
        )
        return torch.sigmoid((PLATE_DIFFERENCE - difference / weight.clamp_min(1e-6)) * PLATE_SLOPE)


@dataclass
class Motion:
    """The output of GMA for pairs of frames (Fig. 2)."""

    masks: Tensor  # (B, 2, 1, H, W) in [0, 1]
    backgrounds: Tensor  # (B, 2, 3, H, W), inpainted
    foreground_shift: Tensor  # (B, 2) px, from P_f
    background_shift: Tensor  # (B, 2) px, from P_b
    moved_layer: Tensor  # (B, 4, H, W), the foreground of frame t, shifted onto frame t + 1
    moved_background: Tensor  # (B, 3, H, W), the background of frame t, shifted onto frame t + 1
    composed: Tensor  # (B, 3, H, W), frame t + 1 as the shifted layers of frame t predict it


class GMA(StagedModel):
    """Global motion analysis: splits frames into agent and background, and measures the shift of each."""

    stages = dict.fromkeys(("gma", "refine"), ("mask", "inpaint", "shift_foreground", "shift_background"))
    mask: nn.Module  # M, frames (B, 3, H, W) in [-1, 1] -> masks (B, 1, H, W) in [0, 1]
    inpaint: nn.Module  # N, frames and masks -> backgrounds (B, 3, H, W)
    shift_foreground: nn.Module  # P_f, frames (B, 2, 3, H, W) and masks (B, 2, 1, H, W) -> shifts (B, 2) px
    shift_background: nn.Module  # P_b, the same with one minus the masks

    def inpaint_background(self, images: Tensor, masks: Tensor, margin: int | None = None) -> Tensor:
        """N: images, masks dilated by `margin` px (None: the config's `hole_margin`) -> backgrounds (B, 3, H, W)."""
        margin = self.config.hole_margin if margin is None else margin
        return self.inpaint(images, dilate(masks, margin) if margin else masks)

    def set_foreground_range(self, px: int) -> None:
        """Set the largest shift along an axis that P_f can report, px."""
        self.config = self.config.replace(foreground_range=px)
        self.shift_foreground.reach = px  # type: ignore[assignment]

    def analyse_pairs(self, frames: Tensor, margin: int = 0) -> Motion:
        """GMA on frames t, t + 1, (B, 2, 3, H, W) in [-1, 1] (Sec. 3.1); masks are dilated by `margin` px for N."""
        flat = frames.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        masks = self.mask(flat)
        backgrounds = self.inpaint_background(flat, masks, margin).unflatten(0, frames.shape[:2])
        masks = masks.unflatten(0, frames.shape[:2])  # (B, 2, 1, H, W)
        foreground_shift = self.shift_foreground(frames, masks)
        background_shift = self.shift_background(frames, 1 - masks)
        layer = torch.cat([frames[:, 0] * masks[:, 0], masks[:, 0]], 1)
        moved_layer = translate(layer, foreground_shift)
        moved_background = translate(backgrounds[:, 0], background_shift, "border")
        composed = compose(moved_layer, moved_background)
        return Motion(masks, backgrounds, foreground_shift, background_shift, moved_layer, moved_background, composed)


def _make_inpaint(config: GlassConfig) -> InpaintNet:
    net = HalfResolutionUNet(3, 3, 16)
    return PlateInpaintNet(net, config.height, config.width) if config.background_plate else InpaintNet(net)


PARTS: dict[str, Callable[[GlassConfig], Any]] = {
    "mask": lambda c: MaskNet(HalfResolutionUNet(3, 1, c.mask_channels), bias=-2.0),
    "inpaint": _make_inpaint,
    "shift_foreground": lambda c: CorrelationShift(c.foreground_range, True, 60.0),
    "shift_background": lambda c: CorrelationShift(c.background_range, False, 200.0),
}
"""A function that makes each part of the default GMA, by its name in :class:`GMA`."""
