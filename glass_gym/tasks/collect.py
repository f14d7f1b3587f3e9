"""CollectTask: collect several targets, in any order."""

from __future__ import annotations

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
from glass_gym.tasks.targets import draw_rings

MOST = 5  # Most targets.


class CollectTask(Task):
    """Walk to all targets, in any order. State: `targets` (B, N, 2) px and `collected` (B, N) bool.

    Args:
        scene: the world.
        count: N, the number of targets, 1 to 5.
        reward: ``"dense"`` (0.1 * progress toward the nearest target left, in units of the longest shift, plus 1 per
            collected target) or ``"sparse"`` (1 per collected target).
        target_radius: a target is collected within this distance, px.
        target_margin: smallest distance of targets from the frame's edge, px; None: the agent's radius + 4.
        terminate_on_arrival: the last target ends the episode.

    Raises:
        ValueError: a value is out of range.
    """

    options = ("target",)

    def __init__(
        self,
        scene: Scene,
        count: int = 3,
        reward: str = "dense",
        target_radius: float = 6.0,
        target_margin: float | None = None,
        terminate_on_arrival: bool = True,
    ):
        check_options(reward, target_radius, target_margin, terminate_on_arrival=terminate_on_arrival)
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MOST:
            raise ValueError(f"count must be an integer in 1..{MOST}, got {count!r}")
        self.scene = scene
        self.count = count
        self.draws = 2 * TRIES * count
        self.dense = reward == "dense"
        self.radius = float(target_radius)
        self.margin = scene.agent_radius + 4.0 if target_margin is None else float(target_margin)
        self.terminates = terminate_on_arrival

    def parse(self, options: dict[str, Any], rows: int) -> TaskState:
        """Read `target`, (N, 2) px for all rows or (B, N, 2); ValueError: another shape, or outside the frame."""
        if "target" not in options:
            return {}
        size = self.scene.height, self.scene.width
        return {"targets": check_places(options["target"], (self.count, 2), rows, *size)}

    def sample(self, numbers: Tensor, position: Tensor, given: TaskState) -> TaskState:
        """Draw targets away from the agent, and from each other where there is room."""
        targets = given.get("targets")
        if targets is None:
            found = []
            for part in numbers.chunk(self.count, 1):
                apart = [(place, 2 * self.radius) for place in found]
                found.append(self.scene.places(part, self.margin, [(position, self.scene.min_distance), *apart]))
            targets = torch.stack(found, 1)
        collected = torch.zeros(targets.shape[:2], dtype=torch.bool, device=position.device)
        return {"targets": targets, "collected": collected}

    def distances(self, position: Tensor, state: TaskState) -> Tensor:
        """Distances from (B, 2) px to all targets, (B, N) px; infinite for collected ones."""
        distance = (position[:, None] - state["targets"]).norm(dim=-1)
        return distance.masked_fill(state["collected"], float("inf"))

    def heading(self, position: Tensor, state: TaskState) -> Tensor:
        """The nearest target left; the agent's position if there is none."""
        nearest = self.distances(position, state).argmin(1)
        place = state["targets"][torch.arange(len(nearest), device=nearest.device), nearest]
        return torch.where(state["collected"].all(1)[:, None], position, place)

    def step(self, before: Tensor, after: Tensor, state: TaskState) -> Outcome:
        """Rewards for progress and for collected targets."""
        found = self.distances(after, state) < self.radius
        collected = state["collected"] | found
        reward = found.sum(1).to(after.dtype)
        if self.dense:
            goal = self.heading(before, state)
            progress = (before - goal).norm(dim=-1) - (after - goal).norm(dim=-1)
            reward = reward + (progress / self.scene.unit * PROGRESS).masked_fill(state["collected"].all(1), 0)
        done = collected.all(1)
        after_state = {"targets": state["targets"], "collected": collected}
        return Outcome(reward, done if self.terminates else done & False, after_state)

    def infos(self, position: Tensor, state: TaskState) -> dict[str, Tensor]:
        """`targets` px, `collected` and `is_success`, and of the nearest target left `target` and `distance`, px."""
        target = self.heading(position, state)
        return {
            "targets": state["targets"].clone(),
            "collected": state["collected"].clone(),
            "target": target.clone(),
            "distance": (position - target).norm(dim=-1),
            "is_success": state["collected"].all(1),
        }

    def fewest_steps(self, position: np.ndarray, state: dict[str, np.ndarray]) -> np.ndarray:
        """The best order; each leg leads from anywhere in one target's circle into the next."""
        targets = state["targets"]
        reach = self.scene.reach
        first = steps_between(position[:, None], targets, self.radius, reach)  # (B, N)
        legs = steps_between(targets[:, :, None], targets[:, None], 2 * self.radius, reach)  # (B, N, N)
        tours = permutations(range(self.count))
        return np.min([first[:, tour[0]] + sum(legs[:, a, b] for a, b in pairwise(tour)) for tour in tours], 0)

    def aim(self, state: TaskState, place: Tensor) -> TaskState:
        """The nearest target left moves to the click."""
        targets = state["targets"].clone()
        left = ~state["collected"]
        place = place.to(targets).expand(len(targets), 2)
        rows = torch.arange(len(targets), device=targets.device)
        nearest = self.distances(place, state).argmin(1)
        targets[rows, nearest] = torch.where(left.any(1)[:, None], place, targets[rows, nearest])
        return state | {"targets": targets}

    def observe(self, state: TaskState) -> Tensor:
        """(x, y) px of each target, and 1 if it is left, else 0: (B, 3 N)."""
        left = (~state["collected"]).to(state["targets"].dtype)
        return torch.cat([state["targets"], left[..., None]], -1).flatten(1)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions as in :class:`ReachTask`; 0 to 1."""
        width, height = self.scene.width, self.scene.height
        low, high = [-width, -height, 0], [2 * width, 2 * height, 1]
        return np.tile(np.array(low, np.float32), self.count), np.tile(np.array(high, np.float32), self.count)

    def draw(self, frames: Tensor, state: TaskState) -> Tensor:
        """Draw a ring around each target left."""
        for n in range(self.count):
            frames = draw_rings(frames, state["targets"][:, n], self.radius, ~state["collected"][:, n])
        return frames
