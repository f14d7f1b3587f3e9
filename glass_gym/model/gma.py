"""GMA, the global motion analysis (Sec. 3.1): M segments, N inpaints, P_f and P_b measure the shift of each layer.

The networks here are those of the default architecture; :mod:`glass_gym.model.paper` has the published ones. They see
frames reduced by `gma_scale`, and what they find is enlarged; the matting network then makes
the mask's outline sharp, by comparing the frame with its background (Lin et al., Background Matting V2, 2021).
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
from glass_gym.tensors.geometry import (
    box_mean,
    compose,
    crop_windows,
    densest_point,
    dilate,
    enlarged,
    reduced,
    sample_windows,
    unmixed,
)

EXPOSURE = 0.4  # Pixels that differ from the plate by more than this (of 2) do not tell a frame's exposure.
HOLE = -1.1  # Value of masked pixels in the input of N; it lies outside the image range [-1, 1] (App. B).
NEIGHBOURHOOD = 15  # Half size, px, of the neighbourhood in which a frame is compared with the background plate.
PLATE_DIFFERENCE, PLATE_SLOPE = 0.15, 40.0
"""The plate is copied where the mean absolute difference of the neighbourhood (0 to 2) is below PLATE_DIFFERENCE; the
sigmoid that decides has slope PLATE_SLOPE.
"""


FAINT = 0.05  # Pixels whose mask is below this are background.
NOISE = 8 / 127.5  # Pixels that differ from the background by less than this show nothing of the agent.
SURE = 0.02  # The share of pixels that look sure is moved by this from 0 and 1.
MATTING_MARGIN = 16  # Px, of the layer, by which the matting network sees more than the agent's window on each side.


def factor_of(frames: Tensor, width: int | None) -> int:
    """By which whole factor frames (..., W) are wider than `width` px; None: 1."""
    return 1 if width is None else frames.shape[-1] // width


class MaskNet(nn.Module):
    """M: frames -> soft masks.

    Args:
        net: (B, 3, H, W) in [-1, 1] -> logits (B, 1, H, W); its last convolution is `net.head`.
        bias: initial bias of that convolution; -2 starts with nearly everything background.
        width: of the frames that the network sees, px; wider ones are reduced. None: any.
    """

    def __init__(self, net: nn.Module, bias: float = 0.0, width: int | None = None):
        super().__init__()
        self.net = net
        self.width = width
        nn.init.constant_(net.head.bias, bias)  # type: ignore[arg-type, union-attr]

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (B, 3, H, W) in [-1, 1] -> masks (B, 1, H, W) in [0, 1], float32."""
        factor = factor_of(frames, self.width)
        return torch.sigmoid(enlarged(self.net(reduced(frames, factor)).float(), factor))


class InpaintNet(nn.Module):
    """N: b^ = b + N * m with b = I * (1 - m) (Sec. 3.1). N sees -1.1 in the masked pixels.

    Args:
        net: (B, 3, H, W) -> (B, 3, H, W), before its tanh.
        width: as of :class:`MaskNet`.
    """

    def __init__(self, net: nn.Module, width: int | None = None):
        super().__init__()
        self.net = net
        self.width = width

    def forward(self, frames: Tensor, masks: Tensor) -> Tensor:
        """Frames (B, 3, H, W) in [-1, 1], masks (B, 1, H, W) in [0, 1] -> backgrounds (B, 3, H, W), float32."""
        factor = factor_of(frames, self.width)
        visible = frames * (1 - masks)
        seen = reduced(visible + HOLE * masks, factor)
        filled = enlarged(torch.tanh(self.net(seen).float()), factor)
        return visible.float() + filled * masks.float()

    def plate_at(self, frames: Tensor, visible: Tensor) -> tuple[Tensor, Tensor] | None:
        """The background plate, and how certainly frames (B, 3, h, w) show its place, if there is a plate.

        Args:
            frames: of the size that N sees.
            visible: (B, 1, h, w), the pixels to compare.

        Returns:
            (B, 4, H, W), the plate, exposed as the frames, and where it is known; and (B, 1, h, w) in [0, 1]. None if
            there is no plate.
        """
        return None


class PlateInpaintNet(InpaintNet):
    """N for a static camera (ours): it copies the background plate where the plate is known, and inpaints the rest.

    It compares the pixels around the hole with the plate. Frames of another place are inpainted as usual.
    """

    plate: Tensor
    known: Tensor

    def __init__(self, net: nn.Module, height: int, width: int, scale: int = 1):
        super().__init__(net, width // scale)
        self.register_buffer("plate", torch.zeros(3, height, width))
        self.register_buffer("known", torch.zeros(1, height, width))

    def set_plate(self, plate: Tensor, known: Tensor) -> None:
        """Store a plate (3, h, w) in [-1, 1], and to which share each pixel is known, (1, h, w) in [0, 1].

        It may be as large as the frames that N sees, or as the whole ones.
        """
        factor = self.plate.shape[-1] // plate.shape[-1]
        self.plate.copy_(enlarged(plate[None], factor)[0])
        self.known.copy_(enlarged(known[None], factor)[0])

    def forward(self, frames: Tensor, masks: Tensor) -> Tensor:
        """As :meth:`InpaintNet.forward`."""
        filled = super().forward(frames, masks)
        visible = 1 - masks.float()
        plate, known = self.plate_of(frames.shape[-1])
        share = self.similarity(frames.float(), visible, plate) * known * masks.float()
        if factor_of(self.plate, self.width) > 1:
            plate = self.exposed(plate, frames.float(), visible)
        return filled + share * (plate - filled)

    def plate_of(self, width: int | None) -> tuple[Tensor, Tensor]:
        """The plate (3, H, W) and where it is known, (1, H, W), reduced to `width` px; None: as it is stored."""
        plate, known = (reduced(x[None], factor_of(self.plate, width))[0] for x in (self.plate, self.known))
        return plate, known

    def plate_at(self, frames: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`InpaintNet.plate_at`."""
        plate = self.exposed(self.plate, frames, visible)
        known = self.known.expand(frames.shape[0], -1, -1, -1)
        return torch.cat([plate, known], 1), self.similarity(frames, visible, self.plate_of(self.width)[0])

    def exposed(self, plate: Tensor, frames: Tensor, visible: Tensor) -> Tensor:
        """The plate (3, H, W) as bright as frames (B, 3, h, w), by a gain and an offset for each channel.

        Returns:
            (B, 3, H, W): least squares over the visible pixels (B, 1, h, w).
        """
        factor = factor_of(frames, self.width)
        frames, weight = reduced(frames, factor), reduced(visible, factor)
        small, known = self.plate_of(self.width)
        weight = weight * known * ((frames - small).abs().amax(1, keepdim=True) < EXPOSURE)
        weight = weight / weight.sum((2, 3), keepdim=True).clamp_min(1)
        mean, wanted = ((x * weight).sum((2, 3), keepdim=True) for x in (small.expand_as(frames), frames))
        spread = ((small - mean).square() * weight).sum((2, 3), keepdim=True)
        slope = ((small - mean) * (frames - wanted) * weight).sum((2, 3), keepdim=True)
        gain = torch.where(spread > 1e-3, slope / spread.clamp_min(1e-3), 1.0).clamp(0.5, 2.0)
        return ((plate - mean) * gain + wanted).clamp(-1, 1)

    @torch.no_grad()
    def similarity(self, frames: Tensor, visible: Tensor, plate: Tensor) -> Tensor:
        """How certainly frames show the plate's place, (B, 1, H, W) in [0, 1]; visible pixels are compared."""
        factor = factor_of(frames, self.width)
        frames, visible, plate = reduced(frames, factor), reduced(visible, factor), reduced(plate[None], factor)[0]
        error = (frames - plate).abs().mean(1, keepdim=True)
        # 0.05 of the whole frame's mean: it decides for pixels with nothing visible around them
        difference, weight = (
            box_mean(x, NEIGHBOURHOOD) + 0.05 * x.mean((2, 3), keepdim=True) for x in (error * visible, visible)
        )
        found = torch.sigmoid((PLATE_DIFFERENCE - difference / weight.clamp_min(1e-6)) * PLATE_SLOPE)
        return enlarged(found, factor)


class MattingNet(nn.Module):
    """Makes masks sharp, in windows around agents.

    The network corrects :func:`least_alpha`: it learns which differences are the agent's, and what hides all behind it.

    Args:
        net: (B, 5, h, w) -> logits (B, 1, h, w); it sees frame, share and mask. Its last convolution, `net.head`,
            starts at zero.
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net
        for parameter in net.head.parameters():  # type: ignore[union-attr]
            nn.init.zeros_(parameter)

    def forward(self, frames: Tensor, backgrounds: Tensor, masks: Tensor) -> Tensor:
        """Frames and backgrounds (B, 3, h, w) in [-1, 1], masks (B, 1, h, w) -> masks (B, 1, h, w), float32."""
        share = least_alpha(frames, backgrounds)
        seen = torch.cat([frames, share, masks], 1)
        change = self.net(seen.contiguous(memory_format=torch.channels_last)).float()
        return torch.sigmoid(change + torch.logit(share, SURE))


def least_alpha(frames: Tensor, backgrounds: Tensor) -> Tensor:
    """How much of the background is hidden at least, whatever the colour of what hides it, a shadow or motion blur.

    Args:
        frames: (B, 3, h, w) in [-1, 1].
        backgrounds: (B, 3, h, w) in [-1, 1].

    Returns:
        (B, 1, h, w) in [0, 1]; 0 where they differ by less than NOISE.
    """
    off = frames - backgrounds
    room = torch.where(off < 0, backgrounds + 1, 1 - backgrounds).clamp_min(NOISE)
    return ((off.abs() - NOISE).clamp_min(0) / room).amax(1, keepdim=True).clamp(0, 1)


@dataclass
class Matte:
    """Agents with sharp outlines, in windows of s px around them, reduced by `window_scale`."""

    corner: Tensor  # (B, 2) int64, (x, y) of the windows' first pixels in the reduced frames
    layer: Tensor  # (B, 4, s, s), colour * mask and mask


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
    """Global motion analysis: splits frames into agent and background, and measures the shift of each.

    Frames are as large as the config says, or reduced by its `gma_scale`; lengths are in px of the frames given.
    """

    stages = {  # noqa: RUF012
        "gma": ("mask", "inpaint", "shift_foreground", "shift_background"),
        "refine": ("mask", "inpaint", "shift_foreground", "shift_background"),
        "matting": ("matting",),
    }
    mask: nn.Module  # M, frames (B, 3, H, W) in [-1, 1] -> masks (B, 1, H, W) in [0, 1]
    inpaint: nn.Module  # N, frames and masks -> backgrounds (B, 3, H, W)
    shift_foreground: nn.Module  # P_f, frames (B, 2, 3, H, W) and masks (B, 2, 1, H, W) -> shifts (B, 2) px
    shift_background: nn.Module  # P_b, the same with one minus the masks
    matting: MattingNet | None  # sharpens outlines; None where GMA sees frames as they are

    def segment(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Split whole frames (B, 3, H, W) in [-1, 1] into two layers.

        Returns:
            masks (B, 1, H, W); the agents' colours, and the backgrounds, (B, 3, H, W) each; all float32.
        """
        masks = self.sharp_mask(images)
        if self.matting is None:
            return masks, images, self.inpaint_background(images, masks).float()
        backgrounds = self.inpaint_background(images, (masks > FAINT).float()).float()  # of a shadow nothing may stay
        return masks, unmixed(images.float(), masks, backgrounds), backgrounds

    def sharp_mask(self, images: Tensor) -> Tensor:
        """Whole frames (B, 3, H, W) in [-1, 1] -> masks (B, 1, H, W), float32: M's, with sharp outlines."""
        return self.mask(images).float() if self.matting is None else self.whole_masks(self.matte(images))

    def whole_masks(self, found: Matte) -> Tensor:
        """The masks of whole frames, (B, 1, H, W); they are zero outside the windows."""
        size = self.config.height, self.config.width
        sharp = enlarged(found.layer[:, 3:], self.config.window_scale)
        whole = crop_windows(sharp, -found.corner * self.config.window_scale, max(size))
        return whole[..., : size[0], : size[1]].contiguous()

    def matte(self, images: Tensor) -> Matte:
        """The agents in whole frames (B, 3, H, W) in [-1, 1], with sharp outlines; only with a matting network."""
        corner, frames, backgrounds, masks = self.matting_input(images)
        alpha = self.matting(frames, backgrounds, masks)  # type: ignore[misc]
        return Matte(corner, torch.cat([unmixed(frames, alpha, backgrounds) * alpha, alpha], 1))

    def matting_input(self, images: Tensor) -> tuple[Tensor, ...]:
        """Windows around the agents in whole frames (B, 3, H, W), reduced by `window_scale`.

        Returns:
            corners (B, 2) int64, (x, y), of the windows in the reduced frames; frames and backgrounds (B, 3, s, s); and
            M's masks (B, 1, s, s).
        """
        scale, factor = self.config.window_scale, self.config.gma_scale
        side = self.config.window + 2 * MATTING_MARGIN
        small = reduced(images.float(), factor)
        masks = self.mask(small).float()
        centre = factor * self.locate(masks) + (factor - 1) / 2
        corner = (centre / scale).round().long() - side // 2
        frames = reduced(crop_windows(images.float(), corner * scale, side * scale), scale)
        hole = dilate(masks, 1)  # M's outline is as coarse as its pixels
        filled = self.inpaint(small, hole).float()
        plate = self.inpaint.plate_at(small, 1 - hole)  # type: ignore[operator]
        maps = torch.cat([masks, hole, filled, *([] if plate is None else plate[1:])], 1)
        inside = reduced(crop_windows(torch.ones_like(images[:, :1]), corner * scale, side * scale), scale)
        masks, hole, filled, share = (sample_windows(maps, corner, side, scale / factor) * inside).tensor_split(
            (1, 2, 5), 1
        )
        backgrounds = frames + hole * (filled - frames)
        if plate is not None:
            colour, known = reduced(crop_windows(plate[0], corner * scale, side * scale), scale).split((3, 1), 1)
            backgrounds = backgrounds + share * known * (colour - backgrounds)
        return corner, frames, backgrounds, masks

    def locate(self, masks: Tensor) -> Tensor:
        """The agent's centre in masks (B, 1, H, W): (B, 2) px (:func:`glass_gym.tensors.geometry.densest_point`)."""
        factor = masks.shape[-1] * self.config.gma_scale // self.config.width
        radius = self.config.agent_radius * masks.shape[-1] // self.config.width
        centre = densest_point(reduced(masks, factor), max(1, radius // factor))
        return centre * factor + (factor - 1) / 2

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
        factor = frames.shape[-1] * self.config.gma_scale // self.config.width
        flat = frames.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        masks = self.mask(flat)
        backgrounds = self.inpaint_background(flat, masks, margin).unflatten(0, frames.shape[:2])
        masks = masks.unflatten(0, frames.shape[:2])  # (B, 2, 1, H, W)
        small, seen = (reduced(x.flatten(0, 1), factor).unflatten(0, frames.shape[:2]) for x in (frames, masks))
        foreground_shift = factor * self.shift_foreground(small, seen)
        background_shift = factor * self.shift_background(small, 1 - seen)
        layer = torch.cat([frames[:, 0] * masks[:, 0], masks[:, 0]], 1)
        moved_layer = translate(layer, foreground_shift)
        moved_background = translate(backgrounds[:, 0], background_shift, "border")
        composed = compose(moved_layer, moved_background)
        return Motion(masks, backgrounds, foreground_shift, background_shift, moved_layer, moved_background, composed)


def _make_inpaint(config: GlassConfig) -> InpaintNet:
    net = HalfResolutionUNet(3, 3, 16)
    if config.background_plate:
        return PlateInpaintNet(net, config.height, config.width, config.gma_scale)
    return InpaintNet(net, config.width // config.gma_scale)


PARTS: dict[str, Callable[[GlassConfig], Any]] = {
    "mask": lambda c: MaskNet(HalfResolutionUNet(3, 1, c.mask_channels), -2.0, c.width // c.gma_scale),
    "inpaint": _make_inpaint,
    "shift_foreground": lambda c: CorrelationShift(c.foreground_range, True, 60.0),
    "shift_background": lambda c: CorrelationShift(c.background_range, False, 200.0),
    "matting": lambda c: MattingNet(HalfResolutionUNet(5, 1, 16)) if c.gma_scale > 1 else None,
}
"""A function that makes each part of the default GMA, by its name in :class:`GMA`."""
