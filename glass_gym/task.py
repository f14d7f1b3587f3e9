"""Reach a target: pure, batched functions of positions and targets in px."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class ReachTask:
    """Walk the agent to a target.

    Attributes:
        radius: arrival within this distance, px.
        reward: ``"dense"`` (progress toward the target in units of one step, plus 1 on arrival) or
            ``"sparse"`` (1 on arrival).
        margin: targets are drawn at least this far from the frame's edge, px.
        min_distance: and at least this far from the agent, px.
    """

    radius: float = 6.0
    reward: str = "dense"
    margin: float = 16.0
    min_distance: float = 16.0

    def __post_init__(self):
        if self.reward not in ("dense", "sparse"):
            raise ValueError(f"reward must be 'dense' or 'sparse', got {self.reward!r}")

    def distance(self, position: Tensor, target: Tensor) -> Tensor:
        """(B,) px."""
        return (position - target).norm(dim=-1)

    def reached(self, position: Tensor, target: Tensor) -> Tensor:
        """(B,) bool."""
        return self.distance(position, target) < self.radius

    def rewards(self, before: Tensor, after: Tensor, target: Tensor, unit: float) -> Tensor:
        """(B,) rewards of moving from `before` to `after`; `unit` is one step, px."""
        arrived = self.reached(after, target).float()
        if self.reward == "sparse":
            return arrived
        return (self.distance(before, target) - self.distance(after, target)) / unit * 0.1 + arrived

    def draw_target(self, rng: np.random.Generator, position: np.ndarray, height: int, width: int) -> np.ndarray:
        """A random target (2,) float32 px, away from the agent at `position`."""
        low = np.array([self.margin, self.margin])
        high = np.array([width - self.margin, height - self.margin])
        for _ in range(100):
            target = rng.uniform(low, high)
            if np.linalg.norm(target - position) >= self.min_distance:
                break
        return target.astype(np.float32)


def draw_targets(frames: Tensor, target: Tensor, radius: float) -> Tensor:
    """Draw a ring around each target into frames (B, H, W, 3) uint8; returns new frames."""
    _, height, width, _ = frames.shape
    x = torch.arange(width, device=frames.device)[None, None] - target[:, 0, None, None]
    y = torch.arange(height, device=frames.device)[None, :, None] - target[:, 1, None, None]
    distance = (x.square() + y.square()).sqrt()
    ring = ((distance - radius).abs() < 0.8) | (distance < 1.2)
    colour = torch.tensor([255, 230, 0], dtype=torch.uint8, device=frames.device)
    return torch.where(ring[..., None], colour, frames)
