"""What LMA sees of a frame: a window that follows the agent, or the whole frame."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from glass_gym.model.config import GlassConfig
from glass_gym.model.shift import translate
from glass_gym.tensors.convert import can_read_values, to_bytes, to_images
from glass_gym.tensors.geometry import blend_windows, compose, crop_windows, densest_point, dilate, keep_agent, reduced


class View(ABC):
    """Cuts layers (B, 4, h, w), colour * mask and mask, out of frames, and draws them back.

    Attributes:
        follows: the layer is a window that moves with the agent; the global action moves the window, not its content.
        size: (h, w) of a layer, px.
        scale: a layer's pixel covers this many px of a frame along each axis.
    """

    follows: bool

    def __init__(self, config: GlassConfig):
        self.window = config.window
        self.scale = config.window_scale
        self.radius = config.agent_radius
        self.solid = 0.5 if config.gma_scale == 1 else 0.1  # alphas of shadows are low
        self.size = (config.window, config.window) if self.follows else (config.height, config.width)

    @abstractmethod
    def cut(self, images: Tensor, masks: Tensor, position: Tensor, margin: int = 0) -> Tensor:
        """Layers of images (B, 3, H, W) and masks (B, 1, H, W) at positions (B, 2) px.

        Windows have `margin` px (of the layer) more on each side.
        """

    @abstractmethod
    def anchor(self, centre: Tensor) -> Tensor:
        """The position (B, 2) px of the layer of an agent whose centre is at (B, 2) px."""

    @abstractmethod
    def locate(self, layer: Tensor, expected: Tensor) -> Tensor:
        """The position (B, 2) px of a drawn layer (B, 4, h, w) after a step; `expected`: before, plus the shift."""

    @abstractmethod
    def place(self, layer: Tensor, by: Tensor) -> Tensor:
        """The layer (B, 4, h, w) after its agent was moved `by` (B, 2) px without a step."""

    @abstractmethod
    def draw(self, layer: Tensor, background: Tensor, position: Tensor, out: Tensor | None = None) -> Tensor:
        """Layers over backgrounds (B, 3, H, W) uint8 -> frames, in `out` or new; positions (B, 2) px."""


class ConnectedWindow(View):
    """A window that follows the agent. The global action moves it exactly; no network runs on whole frames.

    Parts of the mask that are not connected to the agent, such as a ball, are left out.
    """

    follows = True
    GAP = 7  # Parts at most (GAP - 1) / 2 px apart are connected.

    def cut(self, images: Tensor, masks: Tensor, position: Tensor, margin: int = 0) -> Tensor:
        """Windows centred on the positions, without parts that are not connected to the middle."""
        side = (self.window + 2 * margin) * self.scale
        colour, mask = crop_windows(torch.cat([images, masks], 1), position.long() - side // 2, side).split((3, 1), 1)
        layer = reduced(torch.cat([colour * mask, mask], 1), self.scale)
        return self._connected(layer)

    def cut_windows(self, layer: Tensor, corner: Tensor, position: Tensor, margin: int = 0) -> Tensor:
        """As :meth:`cut`, from larger layers (B, 4, s, s) whose corners in reduced frames are (B, 2) int64, (x, y)."""
        side = self.window + 2 * margin
        return self._connected(crop_windows(layer, (position / self.scale).round().long() - side // 2 - corner, side))

    def _connected(self, layer: Tensor) -> Tensor:
        """Layers without parts that are not connected to the middle."""
        solid = (layer[:, 3:] > self.solid).float()
        middle = torch.zeros_like(solid)
        at = layer.shape[-1] // 2
        reach = max(2, self.radius // (2 * self.scale))
        middle[..., at - reach : at + reach, at - reach : at + reach] = 1.0
        kept = solid * middle
        for _ in range(layer.shape[-1] // 2):
            more = dilate(kept, self.GAP // 2) * solid
            if can_read_values(more) and torch.equal(more, kept):
                break
            kept = more
        kept = dilate(kept, 1)  # include the soft edge
        empty = kept.sum((1, 2, 3), keepdim=True) == 0
        return layer * torch.where(empty, torch.ones_like(kept), kept)

    def anchor(self, centre: Tensor) -> Tensor:
        """The nearest whole pixel."""
        return centre.round()

    def locate(self, layer: Tensor, expected: Tensor) -> Tensor:
        """The expected position: windows move by the shift."""
        return expected

    def place(self, layer: Tensor, by: Tensor) -> Tensor:
        """The same layer: only its position changes."""
        return layer

    def draw(self, layer: Tensor, background: Tensor, position: Tensor, out: Tensor | None = None) -> Tensor:
        """Draw the window into the background; other pixels stay."""
        return blend_windows(layer, background, position, out, self.scale)


class WholeFrame(View):
    """The whole frame, as published: the network moves the agent, and its position is measured on the drawing."""

    follows = False

    def cut(self, images: Tensor, masks: Tensor, position: Tensor, margin: int = 0) -> Tensor:
        """The frames, with the mask kept only in the window around each position."""
        kept = keep_agent(masks, position, self.window)
        return torch.cat([images * kept, kept], 1)

    def anchor(self, centre: Tensor) -> Tensor:
        """The centre itself."""
        return centre

    def locate(self, layer: Tensor, expected: Tensor) -> Tensor:
        """The densest point of the drawn mask; the expected position where nothing was drawn."""
        mask = layer[:, 3:]
        return torch.where(mask.sum((1, 2, 3))[:, None] > 1, densest_point(mask, self.radius), expected)

    def place(self, layer: Tensor, by: Tensor) -> Tensor:
        """The layer, shifted."""
        return translate(layer, by)

    def draw(self, layer: Tensor, background: Tensor, position: Tensor, out: Tensor | None = None) -> Tensor:
        """Compose the whole frame."""
        return to_bytes(compose(layer.float(), to_images(background)))
