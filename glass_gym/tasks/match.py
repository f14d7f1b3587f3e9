"""MatchTask: reach a goal frame, its position and its pose."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from glass_gym.simulator.simulator import WorldState
from glass_gym.tasks.base import TRIES, GoalTask, Outcome, Scene, TaskState
from glass_gym.tasks.poses import draw_cards, make_cards, pose_bounds, pose_distance, simulator_of
from glass_gym.tasks.reach import TargetTask
from glass_gym.worlds.checks import is_number
from glass_gym.worlds.pictures import fit_picture

WALK = 8  # A random goal is so many steps away at most.


class MatchTask(TargetTask, GoalTask):
    """Be at the position and in the pose of a goal frame, both at once.

    A random goal is where the agent gets, and in which pose, when it walks WALK steps straight toward a random place
    under one random local action: so every goal can be reached. (A pose depends on those before it. One that follows
    other actions may be out of reach.) The reset option `goal` takes a picture of the agent instead. A ring in the
    frame shows the goal's place, and a picture in the corner its pose.

    State: `target` (B, 2) px; `code` (B,) int64, the local action that led to the goal pose (-1: a picture);
    `goal_pose` and `pose`, (B, C), the goal's and the agent's pose vectors (:meth:`Simulator.agent_pose`); `card`
    (B, 3, s, s) uint8.

    Args:
        scene: the world.
        tolerance: poses match within this distance; 1 is that of two random poses.
        options: of :class:`TargetTask`. The dense reward is 0.1 * progress toward the position, plus 1 at the goal; the
            sparse one is 1 at the goal.

    Raises:
        ValueError: a value is out of range, or agents of this world have no poses.
    """

    options = ("target", "goal")
    draws = 2 * TRIES + 1
    achieved = ("agent_position", "pose")
    desired = ("target", "goal_pose")

    def __init__(self, scene: Scene, tolerance: float = 0.25, **options: Any):
        super().__init__(scene, **options)
        if not is_number(tolerance) or tolerance <= 0:
            raise ValueError(f"tolerance must be a positive number, got {tolerance!r}")
        self.simulator = simulator_of(scene)
        self.tolerance = tolerance

    def parse(self, options: dict[str, Any], rows: int) -> TaskState:
        """Read `goal`, a picture for all rows or one each, and `target`, another place than the picture's."""
        given = {}
        if "goal" in options:
            pictures = np.asarray(options["goal"])
            pictures = pictures if pictures.ndim == 4 else pictures[None]
            if len(pictures) not in (1, rows):
                raise ValueError(f"goal holds {len(pictures)} pictures for {rows} environments; pass one or one each")
            size = self.scene.height, self.scene.width, self.scene.pixel_aspect
            world = self.simulator.start(torch.from_numpy(np.stack([fit_picture(p, *size) for p in pictures])))
            goal = {"target": self.simulator.agent_position(world), "goal_pose": self.simulator.agent_pose(world)}
            goal |= {"card": make_cards(self.scene, world.layer), "code": torch.full((len(pictures),), -1)}
            given = {name: part.expand(rows, *part.shape[1:]) for name, part in goal.items()}
        return given | super().parse(options, rows)

    def sample(self, numbers: Tensor, position: Tensor, given: TaskState) -> TaskState:
        """Draw a place away from the agent, and a local action that leads to the goal's pose, unless they are given."""
        drawn = (numbers[:, -1] * self.scene.codes).long().clamp(max=self.scene.codes - 1)
        known = {name: given[name] for name in ("code", "goal_pose", "card") if name in given}
        place = super().sample(numbers, position, given)["target"]
        if "target" not in given and self.fixed is None:
            axes = zip((place - position).unbind(1), self.scene.reach, strict=True)
            place = position + torch.stack([way.clamp(-WALK * step, WALK * step) for way, step in axes], 1)
        return {"code": drawn} | known | {"target": place}

    def begin(self, world: WorldState, state: TaskState) -> TaskState:
        """Walk ahead to the goal."""
        state = state | {"pose": self.simulator.agent_pose(world)}
        if "goal_pose" in state:
            return state
        shifts = torch.from_numpy(self.scene.shifts).to(world.position)
        for _ in range(WALK):
            after = self.simulator.agent_position(world)[:, None] + shifts
            nearest = (after - state["target"][:, None]).norm(dim=-1).argmin(1)
            world = self.simulator.step(world, shifts[nearest], state["code"])
        return state | {"goal_pose": self.simulator.agent_pose(world), "card": make_cards(self.scene, world.layer)}

    def watch(self, world: WorldState, code: Tensor, state: TaskState) -> TaskState:
        """Keep the pose."""
        return state | {"pose": self.simulator.agent_pose(world)}

    def matched(self, achieved: Tensor, goal: Tensor) -> Tensor:
        """Whether (x, y, *pose) is at the goal, both (B, 2 + C): (B,) bool."""
        same = pose_distance(achieved[..., 2:], goal[..., 2:]) < self.tolerance
        return same & self.reached(achieved[..., :2], goal[..., :2])

    def rewards(self, before: Tensor, after: Tensor, goal: Tensor) -> Tensor:
        """As :meth:`GoalTask.rewards`."""
        matched = self.matched(after, goal).to(after.dtype)
        return self.progress(before, after[..., :2], goal[..., :2]) + matched if self.dense else matched

    def step(self, before: Tensor, after: Tensor, state: TaskState) -> Outcome:
        """Rewards for progress and for the goal, which ends the episode."""
        achieved = torch.cat([after, state["pose"]], 1)
        goal = torch.cat([state["target"], state["goal_pose"]], 1)
        return Outcome(self.rewards(before, achieved, goal), self.matched(achieved, goal), state)

    def infos(self, position: Tensor, state: TaskState) -> dict[str, Tensor]:
        """As of :class:`TargetTask`, with `pose`, `goal_pose` and their distance `pose_distance`."""
        apart = pose_distance(state["pose"], state["goal_pose"])
        out = super().infos(position, state)
        more = {name: state[name].clone() for name in ("pose", "goal_pose")}
        return out | more | {"pose_distance": apart, "is_success": out["is_success"] & (apart < self.tolerance)}

    def wanted_codes(self, state: TaskState) -> Tensor:
        """The local action that led to the goal pose; 0 where a picture was given."""
        return state["code"].clamp(min=0)

    def observe(self, state: TaskState) -> Tensor:
        """The agent's pose vector, the goal's (x, y) px and its pose vector."""
        return torch.cat([state["pose"], state["target"], state["goal_pose"]], 1)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """As of positions and of pose vectors."""
        sides = zip(super().bounds(), pose_bounds(self.simulator), strict=True)
        low, high = (np.concatenate([pose, place, pose]) for place, pose in sides)
        return low, high

    def draw(self, frames: Tensor, state: TaskState) -> Tensor:
        """Draw a ring around the goal's place, and the goal's pose in the upper left corner."""
        return draw_cards(super().draw(frames, state), state["card"])
