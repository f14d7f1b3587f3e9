"""Reach a target: pure, batched functions of positions and targets in px."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

TRIES = 16
"""Targets drawn at once for each row; the first that is far enough from the agent is taken."""
PROGRESS = 0.1
"""Dense reward of one ordinary step straight toward the target."""


@dataclass(frozen=True)
class ReachTask:
    """Walk the agent to a target.

    Attributes:
        radius: arrival within this distance, px.
        reward: ``"dense"`` (0.1 x progress toward the target in units of the longest shift, plus 1 on arrival) or
            ``"sparse"`` (1 on arrival).
        margin: targets are drawn at least this far from the frame's edge, px.
        min_distance: and at least this far from the agent, px, where that is possible.
        terminates: arrival ends the episode. If not, every step within the radius counts as arrival.
    """

    radius: float = 6.0
    reward: str = "dense"
    margin: float = 16.0
    min_distance: float = 16.0
    terminates: bool = True

    def __post_init__(self):
        if self.reward not in ("dense", "sparse"):
            raise ValueError(f"reward must be 'dense' or 'sparse', got {self.reward!r}")
        if not 0 < self.radius < float("inf"):
            raise ValueError(f"target_radius must be a positive number of px, got {self.radius}")
        if not 0 <= self.margin < float("inf"):
            raise ValueError(f"target_margin must be at least 0 px, got {self.margin}")

    def distance(self, position: Tensor, target: Tensor) -> Tensor:
        """(B,) px."""
        return (position - target).norm(dim=-1)

    def reached(self, position: Tensor, target: Tensor) -> Tensor:
        """(B,) bool."""
        return self.distance(position, target) < self.radius

    def rewards(self, before: Tensor, after: Tensor, target: Tensor, unit: float) -> Tensor:
        """(B,) rewards of moving from `before` to `after`; `unit` is one step, px."""
        arrived = self.reached(after, target).to(after.dtype)
        if self.reward == "sparse":
            return arrived
        return (self.distance(before, target) - self.distance(after, target)) / unit * PROGRESS + arrived

    def targets(self, numbers: Tensor, position: Tensor, height: int, width: int) -> Tensor:
        """Random targets away from the agents.

        Args:
            numbers: (B, 2 TRIES) uniform in [0, 1).
            position: (B, 2) px.

        Returns:
            (B, 2) float32 px; where no try is far enough, the farthest.
        """
        left, top = min(self.margin, width / 2), min(self.margin, height / 2)
        x, y = numbers.unflatten(1, (TRIES, 2)).unbind(-1)  # (B, TRIES)
        tries = torch.stack([left + x * (width - 2 * left), top + y * (height - 2 * top)], -1).float()
        distance = (tries - position[:, None]).norm(dim=-1)
        far = distance >= self.min_distance
        first = torch.where(far.any(1), far.float().argmax(1), distance.argmax(1))
        return tries[torch.arange(len(tries), device=tries.device), first]


def draw_rings(frames: Tensor, target: Tensor, radius: float) -> Tensor:
    """Draw a ring and a dot at each target (B, 2) px into frames (B, 3, H, W) uint8; returns new frames."""
    _, _, height, width = frames.shape
    reach = math.ceil(radius) + 2  # only the square around the target is touched
    x, y = (_around(target[:, i], reach, size) for i, size in enumerate((width, height)))  # (B, w), (B, h)
    across, down = x[:, None] - target[:, 0, None, None], y[..., None] - target[:, 1, None, None]
    distance = (across.square() + down.square()).sqrt().flatten(1)
    ring = ((distance - radius).abs() < 0.8) | (distance < 1.2)  # (B, h w)
    places = (y[..., None] * width + x[:, None]).flatten(1)[:, None].expand(-1, 3, -1)
    yellow = torch.stack([frames.new_full((), v) for v in (255, 230, 0)])[:, None]
    drawn = frames.clone(memory_format=torch.contiguous_format).flatten(2)
    return drawn.scatter_(2, places, torch.where(ring[:, None], yellow, drawn.gather(2, places))).view(frames.shape)


def _around(centre: Tensor, reach: int, size: int) -> Tensor:
    """The pixels within `reach` of each centre (B,), or all if there are fewer; (B, n) int64 in 0..size - 1."""
    count = min(2 * reach + 1, size)
    first = (centre.round().long() - reach).clamp(0, size - count)
    return first[:, None] + torch.arange(count, device=centre.device)


def observed_frames(frames: Tensor, size: tuple[int, int] | None = None, channels_first: bool = False) -> Tensor:
    """Frames (B, 3, H, W) uint8 as observations: reduced by area to (height, width), in fresh contiguous memory.

    Returns:
        (B, height, width, 3) uint8, or (B, 3, height, width).
    """
    if size is not None and tuple(size) != tuple(frames.shape[2:]):
        frames = _reduce(frames, *size)
    if not channels_first:
        frames = frames.permute(0, 2, 3, 1)
    return frames.clone(memory_format=torch.contiguous_format) if frames.is_contiguous() else frames.contiguous()


def _reduce(frames: Tensor, height: int, width: int) -> Tensor:
    """Means over areas, rounded; whole factors by adding slices, six times as fast as pooling on a CPU."""
    down, across = frames.shape[2] / height, frames.shape[3] / width
    if not (down.is_integer() and across.is_integer() and down * across <= 128):  # 128 x 255 fits into 16 bits
        return F.interpolate(frames.float(), (height, width), mode="area").round().byte()
    down, across, wide = int(down), int(across), frames.short()
    rows = sum((wide[:, :, i::down] for i in range(1, down)), start=wide[:, :, ::down])
    sums = sum((rows[..., i::across] for i in range(1, across)), start=rows[..., ::across])
    return ((sums + down * across // 2) // (down * across)).byte()
