"""Reach a target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from glass_gym.tasks.base import (
    PROGRESS,
    TRIES,
    GoalTask,
    Outcome,
    Scene,
    TaskState,
    check_options,
    check_places,
    steps_between,
)
from glass_gym.tensors.drawing import draw_rings


@dataclass(frozen=True)
class ReachTask(GoalTask):
    """Walk the agent to a target; state: `target` (B, 2) px.

    Attributes:
        scene: where.
        radius: arrival within this distance, px.
        reward: ``"dense"`` (0.1 x progress toward the target in units of the longest shift, plus 1 on arrival) or
            ``"sparse"`` (1 on arrival).
        margin: targets are drawn at least this far from the frame's edge, px.
        terminates: arrival ends the episode. If not, every step within the radius counts as arrival.
        fixed: the target of every episode, (2,) px; None draws one.
    """

    scene: Scene
    radius: float = 6.0
    reward: str = "dense"
    margin: float = 16.0
    terminates: bool = True
    fixed: Tensor | None = None

    options = ("target",)
    draws = 2 * TRIES

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: out of range.
        """
        check_options(self.reward, self.radius, self.margin)

    @classmethod
    def make(
        cls,
        scene: Scene,
        reward: str = "dense",
        target_radius: float = 6.0,
        target_margin: float | None = None,
        target: Any = None,
        terminate_on_arrival: bool = True,
    ) -> ReachTask:
        """From an environment's keyword arguments.

        The margin is by default the agent's half size + 4 px, so that every target can be reached.

        Returns:
            the task.

        Raises:
            ValueError: out of range.
        """
        margin = scene.agent_radius + 4.0 if target_margin is None else target_margin
        fixed = None if target is None else check_places(target, (2,), 1, scene.height, scene.width)[0]
        return cls(scene, target_radius, reward, margin, terminate_on_arrival, fixed)

    @property
    def dense(self) -> bool:  # type: ignore[override]
        """Whether rewards depend on where the agent was before."""
        return self.reward == "dense"

    def distance(self, position: Tensor, target: Tensor) -> Tensor:
        """(B,) px."""
        return (position - target).norm(dim=-1)

    def reached(self, position: Tensor, target: Tensor) -> Tensor:
        """(B,) bool."""
        return self.distance(position, target) < self.radius

    def goal(self, state: TaskState) -> Tensor:
        """The target."""
        return state["target"]

    def rewards(self, before: Tensor, after: Tensor, goal: Tensor) -> Tensor:
        """(B,) rewards of going from `before` to `after` (B, 2) px."""
        arrived = self.reached(after, goal).to(after.dtype)
        if self.reward == "sparse":
            return arrived
        progress = self.distance(before, goal) - self.distance(after, goal)
        return progress / self.scene.unit * PROGRESS + arrived

    def parse(self, options: dict[str, Any], rows: int) -> TaskState:
        """`target`: (x, y) px for all rows, or (rows, 2).

        Returns:
            `target` (rows, 2) px, or nothing.

        Raises:
            ValueError: another shape, or outside the frame.
        """
        if "target" not in options:
            return {}
        return {"target": check_places(options["target"], (2,), rows, self.scene.height, self.scene.width)}

    def sample(self, numbers: Tensor, position: Tensor, given: TaskState) -> TaskState:
        """A target away from the agent, unless one is given or fixed."""
        if "target" in given:
            return {"target": given["target"]}
        if self.fixed is not None:
            return {"target": self.fixed.to(position.device).expand(len(position), 2).clone()}
        scene = self.scene
        away = [(position, scene.min_distance)]
        return {"target": scene.places(numbers, self.margin, away)}

    def step(self, before: Tensor, after: Tensor, state: TaskState) -> Outcome:
        """Progress and arrival."""
        arrived = self.reached(after, state["target"])
        reward = self.rewards(before, after, state["target"])
        return Outcome(reward, arrived if self.terminates else arrived & False, state)

    def infos(self, position: Tensor, state: TaskState) -> dict[str, Tensor]:
        """`target` (x, y) px, `distance` px, `is_success`."""
        distance = self.distance(position, state["target"])
        return {"target": state["target"].clone(), "distance": distance, "is_success": distance < self.radius}

    def heading(self, position: Tensor, state: TaskState) -> Tensor:
        """The target."""
        return state["target"]

    def fewest_steps(self, position: np.ndarray, state: dict[str, np.ndarray]) -> np.ndarray:
        """Straight there."""
        return steps_between(position, state["target"], self.radius, self.scene.reach)

    def aim(self, state: TaskState, place: Tensor) -> TaskState:
        """The target moves to the click."""
        return {"target": place.to(state["target"]).expand_as(state["target"]).clone()}

    def observe(self, state: TaskState) -> Tensor:
        """The target's (x, y) px."""
        return state["target"]

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The space of places: the frame, and as much again on each side."""
        limits = np.array([self.scene.width, self.scene.height], np.float32)
        return -limits, 2 * limits

    def draw(self, frames: Tensor, state: TaskState) -> Tensor:
        """A ring."""
        return draw_rings(frames, state["target"], self.radius)
