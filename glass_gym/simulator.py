"""The simulator: a batched, gradient-free world. start(frames) -> WorldState; step(state, shift, code) -> WorldState.

Everything is tensors on one device; the state is an explicit value with one row per environment.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from glass_gym.glass import Glass, compose, crop_windows, paste_windows
from glass_gym.networks.mask import densest_point
from glass_gym.tracking import keep_agent

PRESENT = 0.25
"""An agent is present while its mask keeps this share of the mass it started with."""


@dataclass
class WorldState:
    """One row per environment.

    Attributes:
        layer: (B, 4, s, s) the agent: colour * mask and mask, in its window.
        background: (B, 3, H, W) the inpainted first background; never re-smeared.
        position: (B, 2) px, (x, y), the window's centre.
        origin: (B, 2) px, the agent's centre of mass in its first window, from the window's centre.
        mass: (B,) sum of the mask at the start.
        memory: the RNN's state, one tensor per ConvLSTM.
    """

    layer: Tensor
    background: Tensor
    position: Tensor
    origin: Tensor
    mass: Tensor
    memory: tuple[Tensor, ...]

    def tensors(self) -> list[Tensor]:
        """All tensors, in a fixed order."""
        return [self.layer, self.background, self.position, self.origin, self.mass, *self.memory]

    @classmethod
    def from_tensors(cls, tensors: list[Tensor]) -> WorldState:
        """The inverse of :meth:`tensors`."""
        return cls(*tensors[:5], tuple(tensors[5:]))

    def __len__(self) -> int:
        return len(self.position)

    def clone(self) -> WorldState:
        """A copy that shares nothing."""
        return WorldState.from_tensors([x.clone() for x in self.tensors()])

    def rows(self, index) -> WorldState:
        """Some rows (int64 or bool index)."""
        return WorldState.from_tensors([x[index] for x in self.tensors()])

    def write(self, index, other: WorldState) -> WorldState:
        """A state with rows `index` taken from `other` (as many rows as the index selects)."""
        out = []
        for mine, theirs in zip(self.tensors(), other.tensors(), strict=True):
            mine = mine.clone()
            mine[index] = theirs.to(mine.dtype)
            out.append(mine)
        return WorldState.from_tensors(out)


class Simulator:
    """A trained Glass as a world.

    Args:
        model: trained; put into evaluation mode and moved to `device`.
        device: torch device.
    """

    def __init__(self, model: Glass, device: str | torch.device = "cpu"):
        if model.config.view != "agent":
            raise NotImplementedError("the simulator needs an agent-centred model (GlassConfig.view='agent')")
        self.device = torch.device(device)
        self.model = model.to(self.device).eval().requires_grad_(False)
        self.config = model.config
        self.height, self.width = model.config.height, model.config.width

    @torch.inference_mode()
    def start(self, frames: Tensor) -> WorldState:
        """Segment, inpaint, place.

        Args:
            frames: (B, H, W, 3) uint8.
        """
        if frames.ndim != 4 or tuple(frames.shape[1:]) != (self.height, self.width, 3) or frames.dtype != torch.uint8:
            raise ValueError(
                f"start frames must be uint8 (B, {self.height}, {self.width}, 3), "
                f"got {frames.dtype} {tuple(frames.shape)}; crop and resize them"
            )
        images = frames.to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        masks = self.model.mask(images)
        background = self.model.inpaint(images, masks)
        side = self.config.window
        centre = densest_point(masks, self.config.agent_radius)
        position = centre.round()
        corner = position.long() - side // 2
        kept = keep_agent(masks, position, side)
        layer = crop_windows(torch.cat([images * kept, kept], 1), corner, side)
        mass = layer[:, 3].sum((1, 2))
        memory = tuple(m.clone() for m in self.model.start_state(len(frames), side, side))
        return WorldState(layer, background, position, centre - position, mass, memory)

    @torch.inference_mode()
    def step(self, state: WorldState, shift: Tensor, code: Tensor) -> WorldState:
        """Animate and move.

        The agent stays in the frame: a shift is cut short where its centre would leave the frame.

        Args:
            shift: (B, 2) px, positive right and down.
            code: (B,) int64, local actions.
        """
        position = self.clamp(state.position + shift)
        moved = position - state.position
        vectors = self.model.quantiser.embed(code)
        drawn, memory = self.model.animate(state.layer, state.memory, moved, vectors)
        return WorldState(drawn.layer, state.background, position, state.origin, state.mass, memory)

    def clamp(self, position: Tensor) -> Tensor:
        """Positions (B, 2) px held inside the frame by the agent's half size."""
        low = torch.full((2,), float(self.config.agent_radius), device=position.device)
        high = torch.tensor([self.width, self.height], device=position.device) - low
        return torch.minimum(torch.maximum(position, low), high)

    @torch.inference_mode()
    def frames(self, state: WorldState) -> Tensor:
        """Composed frames (B, H, W, 3) uint8."""
        layer = paste_windows(state.layer, state.position, self.height, self.width)
        images = compose(layer, state.background)
        return ((images + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous()

    def agent_position(self, state: WorldState) -> Tensor:
        """Where the agent is: (B, 2) px, its first centre of mass moved by all shifts."""
        return state.position + state.origin

    def agent_present(self, state: WorldState) -> Tensor:
        """(B,) bool: the mask keeps at least PRESENT of its first mass."""
        return state.layer[:, 3].sum((1, 2)) >= PRESENT * state.mass.clamp_min(1.0)


def to_host(x: Tensor) -> np.ndarray:
    """The one numpy boundary: a fresh array on the host."""
    return x.detach().cpu().numpy().copy()
