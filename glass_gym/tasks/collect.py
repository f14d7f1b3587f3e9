"""Collect several targets, in any order."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, permutations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glass_gym.tasks.base import (
    PROGRESS,
    TRIES,
    Outcome,
    Scene,
    Task,
    TaskState,
    check_options,
    check_places,
    steps_between,
)
from glass_gym.tensors.drawing import draw_rings

MOST = 5


@dataclass(frozen=True)
class CollectTask(Task):
    """Walk the agent over all targets; state: `targets` (B, N, 2) px and `collected` (B, N) bool.

    Attributes:
        scene: where.
        count: N, 1 to 5.
        radius: a target is collected within this distance, px.
        reward: ``"dense"`` (0.1 x progress toward the nearest target that is left, in units of the longest shift, plus
            1 for each collected) or ``"sparse"`` (1 for each collected).
        margin: targets are drawn at least this far from the frame's edge, px.
        terminates: the last one ends the episode.
    """

    scene: Scene
    count: int = 3
    radius: float = 6.0
    reward: str = "dense"
    margin: float = 16.0
    terminates: bool = True

    options = ("target",)

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: out of range.
        """
        check_options(self.reward, self.radius, self.margin)
        if isinstance(self.count, bool) or not isinstance(self.count, int) or not 1 <= self.count <= MOST:
            raise ValueError(f"count must be an integer in 1..{MOST}, got {self.count!r}")

    @classmethod
    def make(
        cls,
        scene: Scene,
        count: int = 3,
        reward: str = "dense",
        target_radius: float = 6.0,
        target_margin: float | None = None,
        terminate_on_arrival: bool = True,
    ) -> CollectTask:
        """From an environment's keyword arguments.

        Returns:
            the task.

        Raises:
            ValueError: out of range.
        """
        margin = scene.agent_radius + 4.0 if target_margin is None else target_margin
        return cls(scene, count, target_radius, reward, margin, terminate_on_arrival)

    @property
    def draws(self) -> int:  # type: ignore[override]
        """Numbers of all targets."""
        return 2 * TRIES * self.count

    def parse(self, options: dict[str, Any], rows: int) -> TaskState:
        """`target`: (count, 2) px for all rows, or (rows, count, 2).

        Returns:
            `targets` (rows, count, 2) px, or nothing.

        Raises:
            ValueError: another shape, or outside the frame.
        """
        if "target" not in options:
            return {}
        size = self.scene.height, self.scene.width
        return {"targets": check_places(options["target"], (self.count, 2), rows, *size)}

    def sample(self, numbers: Tensor, position: Tensor, given: TaskState) -> TaskState:
        """Targets away from the agent, and from one another where there is room."""
        targets = given.get("targets")
        if targets is None:
            scene = self.scene
            found = []
            for part in numbers.chunk(self.count, 1):
                apart = [(place, 2 * self.radius) for place in found]
                away = [(position, scene.min_distance), *apart]
                found.append(scene.places(part, self.margin, away))
            targets = torch.stack(found, 1)
        return {
            "targets": targets,
            "collected": torch.zeros(targets.shape[:2], dtype=torch.bool, device=position.device),
        }

    def distances(self, position: Tensor, state: TaskState) -> Tensor:
        """From (B, 2) px to each target, (B, N) px; infinite to those that are collected."""
        distance = (position[:, None] - state["targets"]).norm(dim=-1)
        return distance.masked_fill(state["collected"], float("inf"))

    def heading(self, position: Tensor, state: TaskState) -> Tensor:
        """The nearest target that is left; the agent's own place where none is."""
        nearest = self.distances(position, state).argmin(1)
        place = state["targets"][torch.arange(len(nearest), device=nearest.device), nearest]
        return torch.where(state["collected"].all(1)[:, None], position, place)

    def step(self, before: Tensor, after: Tensor, state: TaskState) -> Outcome:
        """Progress toward the nearest, and what was collected."""
        found = self.distances(after, state) < self.radius
        collected = state["collected"] | found
        reward = found.sum(1).to(after.dtype)
        if self.reward == "dense":
            goal = self.heading(before, state)
            progress = (before - goal).norm(dim=-1) - (after - goal).norm(dim=-1)
            reward = reward + (progress / self.scene.unit * PROGRESS).masked_fill(state["collected"].all(1), 0)
        done = collected.all(1)
        after_state = {"targets": state["targets"], "collected": collected}
        return Outcome(reward, done if self.terminates else done & False, after_state)

    def infos(self, position: Tensor, state: TaskState) -> dict[str, Tensor]:
        """`targets` (N, 2) px, `collected` (N,); of the nearest left `target` px, `distance` px; `is_success`."""
        target = self.heading(position, state)
        return {
            "targets": state["targets"].clone(),
            "collected": state["collected"].clone(),
            "target": target.clone(),
            "distance": (position - target).norm(dim=-1),
            "is_success": state["collected"].all(1),
        }

    def fewest_steps(self, position: np.ndarray, state: dict[str, np.ndarray]) -> np.ndarray:
        """The best order, each leg at its shortest: from anywhere in one target's circle into the next."""
        targets = state["targets"]
        reach = self.scene.reach
        first = steps_between(position[:, None], targets, self.radius, reach)  # (B, N)
        legs = steps_between(targets[:, :, None], targets[:, None], 2 * self.radius, reach)  # (B, N, N)
        tours = [
            first[:, order[0]] + sum(legs[:, a, b] for a, b in pairwise(order))
            for order in permutations(range(self.count))
        ]
        return np.min(tours, 0)

    def aim(self, state: TaskState, place: Tensor) -> TaskState:
        """The nearest target that is left moves to the click."""
        targets = state["targets"].clone()
        left = ~state["collected"]
        place = place.to(targets).expand(len(targets), 2)
        rows = torch.arange(len(targets), device=targets.device)
        nearest = self.distances(place, state).argmin(1)
        targets[rows, nearest] = torch.where(left.any(1)[:, None], place, targets[rows, nearest])
        return state | {"targets": targets}

    def observe(self, state: TaskState) -> Tensor:
        """(x, y) px of each target, and 1 while it is left: (B, 3 N)."""
        left = (~state["collected"]).to(state["targets"].dtype)
        return torch.cat([state["targets"], left[..., None]], -1).flatten(1)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Places as in :class:`ReachTask`; 0 to 1."""
        width = self.scene.width
        height = self.scene.height
        low = [-width, -height, 0]
        high = [2 * width, 2 * height, 1]
        return np.tile(low, self.count).astype(np.float32), np.tile(high, self.count).astype(np.float32)

    def draw(self, frames: Tensor, state: TaskState) -> Tensor:
        """A ring round each target that is left."""
        for n in range(self.count):
            frames = draw_rings(frames, state["targets"][:, n], self.radius, ~state["collected"][:, n])
        return frames
