"""FollowTask: imitate a clip step by step."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glass_gym.simulator.simulator import WorldState
from glass_gym.tasks.base import PROGRESS, Outcome, Scene, Task, TaskState, check_options
from glass_gym.tasks.perform import check_codes
from glass_gym.tasks.poses import (
    draw_cards,
    make_cards,
    play_ahead,
    pose_bounds,
    pose_distance,
    simulator_of,
)
from glass_gym.tasks.targets import draw_rings
from glass_gym.worlds.checks import is_number, to_floats

HOLD = 4  # In a random clip each action holds for so many steps.


class FollowTask(Task):
    """Imitate a clip: be in each step where its agent is, in its pose.

    The clip's moves and local actions are played from the episode's own start frame, so that the agent of the clip may
    look otherwise and be elsewhere. A ring shows where to be after the next step, and a picture in the corner in which
    pose. Success: at least `share` of the steps were kept, within the radius and the tolerance.

    State: `path` (B, T, 2) px, `poses` (B, T, C), `codes` (B, T) int64 and `cards` (B, T, 3, s, s) uint8 of the clip;
    `pose` (B, C) of the agent; `time` (B,) int64, steps so far; `kept` (B,) int64, steps that were kept.

    Args:
        scene: the world.
        clip: what to imitate: arrays by name, or a .csv file, such as of glass-decode, with the columns `code` and `x`
            and `y` px, or `shift` (indices of the world's shifts) instead of x and y. One row a frame; the code and the
            shift of a row lead to the next one, so that those of the last row are not used. Each episode imitates a
            random part. None: random actions, each for a few steps.
        length: T, steps of an episode; a clip that is shorter sets its own.
        reward: ``"dense"`` (each step 0.1 * exp(-distance / radius - pose distance / tolerance), plus 1 on success) or
            ``"sparse"`` (1 on success).
        target_radius: a step is kept within this distance, px.
        tolerance: and within this distance of poses; 1 is that of two random poses.
        share: of the steps that must be kept.

    Raises:
        ValueError: a value is out of range, the clip cannot be used, or agents of this world have no poses.
    """

    def __init__(
        self,
        scene: Scene,
        clip: Any = None,
        length: int = 20,
        reward: str = "dense",
        target_radius: float = 6.0,
        tolerance: float = 0.25,
        share: float = 0.8,
    ):
        check_options(reward, target_radius, None)
        if isinstance(length, bool) or not isinstance(length, int) or length < 1:
            raise ValueError(f"length must be an integer of at least 1, got {length!r}")
        if not is_number(tolerance) or tolerance <= 0:
            raise ValueError(f"tolerance must be a positive number, got {tolerance!r}")
        if not is_number(share) or not 0 < share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {share!r}")
        self.scene = scene
        self.simulator = simulator_of(scene)
        self.dense = reward == "dense"
        self.radius = target_radius
        self.tolerance = tolerance
        device = self.simulator.device
        self.shifts = torch.from_numpy(np.asarray(scene.shifts, np.float32)).to(device)
        self.clip = None
        if clip is not None:
            moves, codes = read_clip(clip, scene)
            length = min(length, len(codes))
            self.clip = torch.from_numpy(moves).to(device), torch.from_numpy(codes).to(device)
        self.length = length
        self.least = int(np.ceil(share * length))
        self.draws = 2 * -(-length // HOLD) if self.clip is None else 1

    def sample(self, numbers: Tensor, position: Tensor, given: TaskState) -> TaskState:
        """Draw a part of the clip, or random actions: `moves` (B, T, 2) px and `codes` (B, T)."""
        if self.clip is None:
            shift, codes = (
                (part * count).long().clamp(max=count - 1).repeat_interleave(HOLD, 1)[:, : self.length]
                for part, count in zip(numbers.chunk(2, 1), (len(self.shifts), self.scene.codes), strict=True)
            )
            moves = self.shifts[shift]
        else:
            parts = len(self.clip[1]) - self.length + 1
            first = (numbers[:, :1] * parts).long().clamp(max=parts - 1)
            moves, codes = (part[first + torch.arange(self.length, device=first.device)] for part in self.clip)
        none = torch.zeros(len(codes), dtype=torch.long, device=codes.device)
        return {"path": moves, "codes": codes, "time": none, "kept": none.clone()}

    def begin(self, world: WorldState, state: TaskState) -> TaskState:
        """Play the clip ahead, as the episode's own agent would."""
        path, poses, cards = [], [], []
        for after in play_ahead(self.scene, world, state["path"], state["codes"]):
            path.append(self.simulator.agent_position(after))
            poses.append(self.simulator.agent_pose(after))
            cards.append(make_cards(self.scene, after.layer))
        played = {"path": torch.stack(path, 1), "poses": torch.stack(poses, 1), "cards": torch.stack(cards, 1)}
        return state | played | {"pose": self.simulator.agent_pose(world)}

    def watch(self, world: WorldState, code: Tensor, state: TaskState) -> TaskState:
        """Keep the pose."""
        return state | {"pose": self.simulator.agent_pose(world)}

    def now(self, state: TaskState, name: str) -> Tensor:
        """What `name` of the clip holds for the next step, (B, ...); at the end for the last one."""
        part = state[name]
        time = state["time"].clamp(max=self.length - 1)
        return part[torch.arange(len(part), device=part.device), time]

    def step(self, before: Tensor, after: Tensor, state: TaskState) -> Outcome:
        """Rewards for being where the clip is."""
        distance = (after - self.now(state, "path")).norm(dim=-1)
        apart = pose_distance(state["pose"], self.now(state, "poses"))
        kept = state["kept"] + ((distance < self.radius) & (apart < self.tolerance))
        state = state | {"kept": kept, "time": state["time"] + 1}
        reward = self.succeeded(state).to(after.dtype)
        if self.dense:
            reward = reward + PROGRESS * (-distance / self.radius - apart / self.tolerance).exp()
        return Outcome(reward, state["time"] >= self.length, state)

    def succeeded(self, state: TaskState) -> Tensor:
        """Whether clips were followed to their end, (B,) bool."""
        return (state["time"] >= self.length) & (state["kept"] >= self.least)

    def infos(self, position: Tensor, state: TaskState) -> dict[str, Tensor]:
        """`target` (x, y) px, where to be after the next step; `distance` px to it; `kept` and `is_success`."""
        target = self.now(state, "path")
        distance = (position - target).norm(dim=-1)
        return {
            "target": target,
            "distance": distance,
            "kept": state["kept"].clone(),
            "is_success": self.succeeded(state),
        }

    def heading(self, position: Tensor, state: TaskState) -> Tensor:
        """Where to be after the next step."""
        return self.now(state, "path")

    def wanted_codes(self, state: TaskState) -> Tensor:
        """The clip's next local action."""
        return self.now(state, "codes")

    def fewest_steps(self, position: np.ndarray, state: dict[str, np.ndarray]) -> np.ndarray:
        """The rest of the clip."""
        return self.length - state["time"]

    def observe(self, state: TaskState) -> Tensor:
        """The agent's pose vector, the next (x, y) px and pose vector of the clip."""
        return torch.cat([state["pose"], self.now(state, "path"), self.now(state, "poses")], 1)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """As of positions and of pose vectors."""
        limits = np.array([self.scene.width, self.scene.height], np.float32)
        low, high = pose_bounds(self.simulator)
        return np.concatenate([low, -limits, low]), np.concatenate([high, 2 * limits, high])

    def draw(self, frames: Tensor, state: TaskState) -> Tensor:
        """Draw a ring where to be after the next step, and the pose in the upper left corner."""
        return draw_cards(draw_rings(frames, self.now(state, "path"), self.radius), self.now(state, "cards"))


def read_clip(clip: Any, scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """A clip's moves (N, 2) float32 px and local actions (N,) int64 of N + 1 frames; ValueError: see FollowTask."""
    told = "clip"
    if isinstance(clip, (str, Path)):
        told = f"clip {clip}"
        try:
            with Path(clip).open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{told}: cannot be read ({error}); give the CSV file of glass-decode") from None
        names = [name for name in ("x", "y", "shift", "code") if rows and name in rows[0]]
        try:
            clip = {name: np.array([float(row[name] or "nan") for row in rows]) for name in names}
        except (TypeError, ValueError) as error:
            raise ValueError(f"{told}: not a table of numbers ({error})") from None
    if not isinstance(clip, Mapping):
        raise ValueError(f"clip must be a .csv file or arrays by name, got {type(clip).__name__}")
    wanted = ("x", "y", "code") if "x" in clip and "y" in clip else ("shift", "code")
    if missing := [name for name in wanted if name not in clip]:
        raise ValueError(f"{told} has no column {', '.join(missing)}; it needs code, and x and y or shift")
    columns = [to_floats(clip[name]) for name in wanted]
    count = len(columns[0])
    if count < 2 or any(column.shape != (count,) for column in columns):
        raise ValueError(f"{told} must have columns of two rows or more, all as long, got {[c.shape for c in columns]}")
    used = columns if wanted[0] == "x" else [column[:-1] for column in columns]
    used[-1] = columns[-1][:-1]  # the last frame has no action
    for name, column in zip(wanted, used, strict=True):
        if (odd := np.flatnonzero(~np.isfinite(column))).size:
            raise ValueError(f"{told}: {name} of row {odd[0]} is not a number; leave out frames without the agent")
    whole = [np.rint(column).astype(np.int64) for column in used]
    codes = check_codes(f"{told}: code", whole[-1], scene.codes)
    if wanted[0] == "x":
        return np.diff(np.stack(used[:2], 1), axis=0).astype(np.float32), codes
    rows = check_codes(f"{told}: shift", whole[0], len(scene.shifts), "rows of `env.unwrapped.shifts`")
    return np.asarray(scene.shifts, np.float32)[rows], codes
