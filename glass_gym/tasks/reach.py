"""TargetTask, what tasks with one target share; and ReachTask: walk to it."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from glass_gym.tasks.base import (
    PROGRESS,
    TRIES,
    GoalTask,
    Outcome,
    Scene,
    Task,
    TaskState,
    check_flags,
    check_options,
    check_places,
    steps_between,
)
from glass_gym.tasks.targets import draw_rings


class TargetTask(Task):
    """A task at a target. State: `target` (B, 2) px.

    Args:
        scene: the world.
        reward: ``"dense"`` or ``"sparse"``.
        target_radius: the agent is at the target within this distance, px.
        target_margin: smallest distance of targets from the frame's edge, px; None: the agent's radius + 4, so that
            every target can be reached.
        target: (x, y) px, the target of every episode; None: random targets.

    Raises:
        ValueError: a value is out of range.
    """

    options = ("target",)
    draws = 2 * TRIES

    def __init__(
        self,
        scene: Scene,
        reward: str = "dense",
        target_radius: float = 6.0,
        target_margin: float | None = None,
        target: Any = None,
    ):
        check_options(reward, target_radius, target_margin)
        self.scene = scene
        self.dense = reward == "dense"
        self.radius = float(target_radius)
        self.margin = scene.agent_radius + 4.0 if target_margin is None else float(target_margin)
        self.fixed = None if target is None else check_places(target, (2,), 1, scene.height, scene.width)[0]

    def distance(self, position: Tensor, target: Tensor) -> Tensor:
        """Distances (B,) px."""
        return (position - target).norm(dim=-1)

    def way(self, position: Tensor, target: Tensor) -> Tensor:
        """Lengths (B,) px of the shortest ways; without walls they are the distances."""
        return self.distance(position, target)

    def reached(self, position: Tensor, target: Tensor) -> Tensor:
        """Whether positions are within the radius of targets, (B,) bool."""
        return self.distance(position, target) < self.radius

    def progress(self, before: Tensor, after: Tensor, target: Tensor) -> Tensor:
        """The dense reward (B,) of coming nearer to targets."""
        nearer = self.way(before, target) - self.way(after, target)
        return nearer / self.scene.unit * PROGRESS

    def parse(self, options: dict[str, Any], rows: int) -> TaskState:
        """Read `target`, (x, y) px for all rows or (B, 2); ValueError: another shape, or outside the frame."""
        if "target" not in options:
            return {}
        return {"target": check_places(options["target"], (2,), rows, self.scene.height, self.scene.width)}

    def sample(self, numbers: Tensor, position: Tensor, given: TaskState) -> TaskState:
        """Draw a target away from the agent, unless one is given or fixed."""
        if "target" in given:
            return {"target": given["target"]}
        if self.fixed is not None:
            return {"target": self.fixed.to(position.device).expand(len(position), 2).clone()}
        numbers = numbers[:, : 2 * TRIES]
        return {"target": self.scene.places(numbers, self.margin, [(position, self.scene.min_distance)])}

    def infos(self, position: Tensor, state: TaskState) -> dict[str, Tensor]:
        """The entries `target` (x, y) px, `distance` px and `is_success`."""
        distance = self.distance(position, state["target"])
        return {"target": state["target"].clone(), "distance": distance, "is_success": distance < self.radius}

    def heading(self, position: Tensor, state: TaskState) -> Tensor:
        """The target."""
        return state["target"]

    def fewest_steps(self, position: np.ndarray, state: dict[str, np.ndarray]) -> np.ndarray:
        """The straight way."""
        return steps_between(position, state["target"], self.radius, self.scene.reach)

    def aim(self, state: TaskState, place: Tensor) -> TaskState:
        """The target moves to the click."""
        return state | {"target": place.to(state["target"]).expand_as(state["target"]).clone()}

    def observe(self, state: TaskState) -> Tensor:
        """The target's (x, y) px."""
        return state["target"]

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of positions: the frame, and as much again on each side."""
        limits = np.array([self.scene.width, self.scene.height], np.float32)
        return -limits, 2 * limits

    def draw(self, frames: Tensor, state: TaskState) -> Tensor:
        """Draw a ring around the target."""
        return draw_rings(frames, state["target"], self.radius)


class ReachTask(TargetTask, GoalTask):
    """Walk to a target. State: `target` (B, 2) px.

    Args:
        scene: the world.
        terminate_on_arrival: arrival ends the episode. If not, every step within the radius counts as arrival.
        options: of :class:`TargetTask`. The dense reward is 0.1 * progress toward the target, in units of the longest
            shift, plus 1 on arrival; the sparse one is 1 on arrival.

    Raises:
        ValueError: a value is out of range.
    """

    def __init__(self, scene: Scene, terminate_on_arrival: bool = True, **options: Any):
        super().__init__(scene, **options)
        check_flags(terminate_on_arrival=terminate_on_arrival)
        self.terminates = terminate_on_arrival

    def rewards(self, before: Tensor, after: Tensor, goal: Tensor) -> Tensor:
        """As :meth:`GoalTask.rewards`."""
        arrived = self.reached(after, goal).to(after.dtype)
        return self.progress(before, after, goal) + arrived if self.dense else arrived

    def step(self, before: Tensor, after: Tensor, state: TaskState) -> Outcome:
        """Rewards for progress and arrival."""
        arrived = self.reached(after, state["target"])
        reward = self.rewards(before, after, state["target"])
        return Outcome(reward, arrived if self.terminates else arrived & False, state)
