"""What LMA looks at: a window that follows the agent, or the whole frame. The one place that knows the difference."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from glass_gym.model.config import GlassConfig
from glass_gym.model.shift import translate
from glass_gym.tensors.convert import to_bytes, to_images
from glass_gym.tensors.geometry import blend_windows, compose, crop_windows, densest_point, dilate, keep_agent


class View(ABC):
    """Layers (B, 4, h, w), colour * mask and mask, as LMA animates them.

    Attributes:
        follows: layers follow the agent, so that a shift moves the layer and not what is drawn in it.
        size: (h, w) of a layer, px.
    """

    follows: bool
    size: tuple[int, int]

    def __init__(self, config: GlassConfig):
        self.window = config.window
        self.radius = config.agent_radius

    @abstractmethod
    def cut(self, images: Tensor, masks: Tensor, position: Tensor, margin: int = 0) -> Tensor:
        """Layers of frames.

        Args:
            images: (B, 3, H, W) in [-1, 1].
            masks: (B, 1, H, W) in [0, 1].
            position: (B, 2) px, the agents' places.
            margin: px to spare on each side, where layers are windows.

        Returns:
            (B, 4, h + 2 margin, w + 2 margin).
        """

    @abstractmethod
    def anchor(self, centre: Tensor) -> Tensor:
        """Where the layer of an agent at (B, 2) px is put: (B, 2) px."""

    @abstractmethod
    def locate(self, layer: Tensor, expected: Tensor) -> Tensor:
        """Where the layer is after a step that should have brought it to `expected` (B, 2) px: (B, 2) px."""

    @abstractmethod
    def place(self, layer: Tensor, by: Tensor) -> Tensor:
        """The layer (B, 4, h, w) after its agent was carried `by` (B, 2) px, without a step."""

    @abstractmethod
    def draw(self, layer: Tensor, background: Tensor, position: Tensor, out: Tensor | None = None) -> Tensor:
        """Layers at positions (B, 2) px over backgrounds (B, 3, H, W) uint8 -> frames (B, 3, H, W) uint8.

        `out`: frames that are not needed any more, which may be written into.
        """


class AgentWindow(View):
    """A window that follows the agent: the global action moves it exactly, and nothing costs a whole frame."""

    follows = True

    def __init__(self, config: GlassConfig):
        super().__init__(config)
        self.size = (config.window, config.window)

    def cut(self, images: Tensor, masks: Tensor, position: Tensor, margin: int = 0) -> Tensor:
        """Windows about the positions."""
        corner = position.long() - self.window // 2 - margin
        return crop_windows(torch.cat([images * masks, masks], 1), corner, self.window + 2 * margin)

    def anchor(self, centre: Tensor) -> Tensor:
        """The nearest whole pixel."""
        return centre.round()

    def locate(self, layer: Tensor, expected: Tensor) -> Tensor:
        """As expected: the window goes where it is told."""
        return expected

    def place(self, layer: Tensor, by: Tensor) -> Tensor:
        """As it is: its position says where it is drawn."""
        return layer

    def draw(self, layer: Tensor, background: Tensor, position: Tensor, out: Tensor | None = None) -> Tensor:
        """Only the window's pixels are touched."""
        return blend_windows(layer, background, position, out)


class ConnectedWindow(AgentWindow):
    """A window with the agent only: what lies apart from it, a ball say, is no pose of the agent and is left out."""

    GAP = 7
    """Parts belong together if they are at most (GAP - 1) / 2 px apart."""

    def cut(self, images: Tensor, masks: Tensor, position: Tensor, margin: int = 0) -> Tensor:
        """Windows about the positions, without what lies apart from the agent."""
        layer = super().cut(images, masks, position, margin)
        solid = (layer[:, 3:] > 0.5).float()
        middle = torch.zeros_like(solid)
        at = layer.shape[-1] // 2
        reach = max(2, self.radius // 2)
        middle[..., at - reach : at + reach, at - reach : at + reach] = 1.0
        kept = solid * middle
        for _ in range(layer.shape[-1] // 2):
            kept = dilate(kept, self.GAP // 2) * solid
        kept = dilate(kept, 1)  # and the soft edge
        empty = kept.sum((1, 2, 3), keepdim=True) == 0
        return layer * torch.where(empty, torch.ones_like(kept), kept)


class WholeFrame(View):
    """The whole frame, as published: the network moves the agent, and where it is, is read off what was drawn."""

    follows = False

    def __init__(self, config: GlassConfig):
        super().__init__(config)
        self.size = (config.height, config.width)

    def cut(self, images: Tensor, masks: Tensor, position: Tensor, margin: int = 0) -> Tensor:
        """The frames, with the mask kept around the positions only."""
        kept = keep_agent(masks, position, self.window)
        return torch.cat([images * kept, kept], 1)

    def anchor(self, centre: Tensor) -> Tensor:
        """There."""
        return centre

    def locate(self, layer: Tensor, expected: Tensor) -> Tensor:
        """The densest point of the drawn mask; as expected where nothing was drawn."""
        mask = layer[:, 3:]
        return torch.where(mask.sum((1, 2, 3))[:, None] > 1, densest_point(mask, self.radius), expected)

    def place(self, layer: Tensor, by: Tensor) -> Tensor:
        """Moved by so many px."""
        return translate(layer, by)

    def draw(self, layer: Tensor, background: Tensor, position: Tensor, out: Tensor | None = None) -> Tensor:
        """The whole frame is composed."""
        return to_bytes(compose(layer.float(), to_images(background)))
