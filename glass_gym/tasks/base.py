"""What a task is: pure, batched functions of positions in px and of a state of tensors; and the table of tasks."""

from __future__ import annotations

import importlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glass_gym.worlds.checks import is_number, to_floats

TaskState = dict[str, Tensor]
"""What a task keeps about each row: named (B, ...) tensors, on the core's device."""
NEVER = 1 << 20
"""More steps than an episode has."""
TRIES = 16
"""Places drawn at once for each row; the first that is far enough from what it should avoid is taken."""
STEPS_AWAY = 4
"""Targets are drawn at least so many steps along an axis away (and MIN_DISTANCE px)."""
MIN_DISTANCE = 16.0
PROGRESS = 0.1
"""Dense reward of one outside_inference_mode step straight toward a target."""


@dataclass(frozen=True)
class Scene:
    """The world that a task takes place in.

    Attributes:
        height, width: of the frame, px.
        agent_radius: half size of the agent, px.
        shifts: (S, 2) px, the global actions.
        ground: left, top, right, bottom px that the agent stays in; None: the frame.
    """

    height: int
    width: int
    agent_radius: float
    shifts: np.ndarray
    ground: tuple[float, float, float, float] | None = None

    @property
    def unit(self) -> float:
        """The longest shift, px."""
        return float(np.linalg.norm(self.shifts, axis=1).max()) or 1.0

    @property
    def reach(self) -> tuple[float, float]:
        """How far a step goes along x and y at most, px."""
        x, y = np.abs(self.shifts).max(0).tolist()
        return x, y

    @property
    def min_distance(self) -> float:
        """How far from the agent targets are drawn at least, px."""
        return max(MIN_DISTANCE, STEPS_AWAY * max(self.reach))

    def places(self, numbers: Tensor, margin: float, avoid: Sequence[tuple[Tensor, float]]) -> Tensor:
        """Random places (B, 2) px on the ground, or in the frame but for `margin` px; see :func:`sample_places`."""
        if self.ground is None:
            return sample_places(numbers, self.height, self.width, margin, avoid)
        left, top, right, bottom = self.ground
        there = [(_moved(place, -left, -top), distance) for place, distance in avoid]
        return _moved(sample_places(numbers, bottom - top, right - left, 0.0, there), left, top)


def _moved(places: Tensor, x: float, y: float) -> Tensor:
    """Places (B, 2) px moved by as many px; for a graph without a copy from the host."""
    return torch.stack([places[:, 0] + x, places[:, 1] + y], 1)


@dataclass
class Outcome:
    """What a step came to.

    Attributes:
        reward: (B,) float32.
        terminated: (B,) bool.
        state: the task's state after it.
    """

    reward: Tensor
    terminated: Tensor
    state: TaskState


class Task(ABC):
    """Rules of an episode.

    A task keeps nothing itself: its state is passed in and handed back, so that rows can be copied, cut and written.
    Every function is batched over rows and must not look at values on the host. Randomness comes as numbers.

    Attributes:
        options: names of the reset options that :meth:`parse` understands.
        draws: how many uniform numbers a row's :meth:`sample` takes.
    """

    options: tuple[str, ...] = ()
    draws: int = 0

    @abstractmethod
    def sample(self, numbers: Tensor, position: Tensor, given: TaskState) -> TaskState:
        """The state of new episodes.

        Args:
            numbers: (B, draws) float64, uniform in [0, 1).
            position: (B, 2) px, where the agents are.
            given: what :meth:`parse` made of the reset options, (B, ...).
        """

    @abstractmethod
    def step(self, before: Tensor, after: Tensor, state: TaskState) -> Outcome:
        """The outcome of agents having gone from `before` to `after`, (B, 2) px each."""

    @abstractmethod
    def infos(self, position: Tensor, state: TaskState) -> dict[str, Tensor]:
        """What `info` tells of agents at (B, 2) px: fresh (B, ...) tensors; `is_success` (B,) bool is among them."""

    @abstractmethod
    def heading(self, position: Tensor, state: TaskState) -> Tensor:
        """Where somebody who knows everything would walk to from (B, 2) px: (B, 2) px."""

    @abstractmethod
    def fewest_steps(self, position: np.ndarray, state: dict[str, np.ndarray]) -> np.ndarray:
        """A lower bound of the steps to success from (B, 2) px, exact on open ground where that is easy: (B,) int64."""

    def parse(self, options: dict[str, Any], rows: int) -> TaskState:
        """Reset options, all named in `options` of the class -> (rows, ...) tensors on the host.

        Returns:
            named tensors, empty where nothing is given.

        Raises:
            ValueError: a value that the task cannot take.
        """
        return {}

    def aim(self, state: TaskState, place: Tensor) -> TaskState:
        """The state after a click at (2,) px; by default nothing changes."""
        return state

    def observe(self, state: TaskState) -> Tensor:
        """What a policy is told beside the agent's position: (B, n) float32."""
        first = next(iter(state.values()))
        return torch.zeros(len(first), 0, device=first.device)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper bounds of :meth:`observe`, (n,) float32 each."""
        return np.zeros(0, np.float32), np.zeros(0, np.float32)

    def draw(self, frames: Tensor, state: TaskState) -> Tensor:
        """What is shown of the task, drawn into frames (B, 3, H, W) uint8; new frames, or the same."""
        return frames


class GoalTask(Task):
    """A task with one goal a row, (x, y) px, for goal-conditioned learners (HER).

    Attributes:
        dense: rewards depend on where the agent was before, too.
    """

    dense: bool

    @abstractmethod
    def goal(self, state: TaskState) -> Tensor:
        """(B, 2) px."""

    @abstractmethod
    def rewards(self, before: Tensor, after: Tensor, goal: Tensor) -> Tensor:
        """(B,) rewards of going from `before` to `after`, (B, 2) px, had `goal` (B, 2) px been wanted."""


TASKS: dict[str, Callable[..., Task] | str] = {}
"""Makers by name: `make(scene, **options)`, or where to import one from ("package.module:name")."""


def register_task(name: str, make: Callable[..., Task] | str) -> None:
    """Let environments be made with ``task=name``.

    Args:
        name: of the task.
        make: called with a :class:`Scene` and the keyword arguments that the environment itself does not know. Or
            "package.module:name", which worker processes can import.

    Raises:
        ValueError: the name is taken.
    """
    if TASKS.get(name, make) != make:
        raise ValueError(f"a task called {name!r} is registered already; choose another name")
    TASKS[name] = make


def make_task(task: str | Task | None, scene: Scene, **options: Any) -> Task | None:
    """A task by name (registered, or "package.module:name"), or as it is; None: no task.

    Options of a task that is not wanted (None) are left aside, so that an id's defaults need not be undone.

    Returns:
        the task, or None.

    Raises:
        ValueError: no such task, or a value out of range.
        TypeError: options that it does not take.
    """
    if task is None:
        make_task("reach", scene, **options)  # names and values are checked all the same
        return None
    if isinstance(task, Task):
        if options:
            raise TypeError(f"a task that is made already takes no options, got {', '.join(options)}")
        return task
    name = task if isinstance(task, str) else ""
    make = TASKS.get(name, name if ":" in name else None)
    if make is None:
        raise ValueError(f"task must be one of {', '.join(map(repr, TASKS))}, 'module:name' or None, got {task!r}")
    if isinstance(make, str):
        module, _, name = make.partition(":")
        try:
            make = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"task {task!r} cannot be imported ({error})") from None
    known = [name for name in inspect.signature(make).parameters][1:]
    if unknown := set(options) - set(known):
        raise TypeError(f"task {task!r} takes no option {', '.join(sorted(unknown))}; it takes {', '.join(known)}")
    return make(scene, **options)


def check_places(target: Any, shape: tuple[int, ...], rows: int, height: int, width: int) -> Tensor:
    """Places given by a user -> (rows, *shape) float32 on the host.

    Args:
        target: `shape` for all rows, or one a row; the last axis is (x, y) px.
        shape: of one row's.
        rows: how many rows there are.
        height: of the frame, px.
        width: of the frame, px.

    Returns:
        (rows, *shape) float32 px.

    Raises:
        ValueError: another shape, or a place outside the frame.
    """
    given, target = target, to_floats(target)
    if target.shape not in (shape, (rows, *shape)):
        one = "(x, y)" if shape == (2,) else f"{shape[0]} of (x, y)"
        raise ValueError(f"target must be {one} in px, or one a row, got {str(given)[:80]!r}")
    if not np.isfinite(target).all() or (target < 0).any() or (target > [width, height]).any():
        raise ValueError(f"target must be (x, y) inside the {width}x{height} frame, got {target.tolist()}")
    return torch.from_numpy(np.broadcast_to(target, (rows, *shape)).copy())


def sample_places(
    numbers: Tensor, height: float, width: float, margin: float, avoid: Sequence[tuple[Tensor, float]]
) -> Tensor:
    """Random places that keep away from the frame's edge and from other places.

    Args:
        numbers: (B, 2 TRIES) uniform in [0, 1).
        height: of the ground, px.
        width: of the ground, px.
        margin: places are at least this far from its edge, px.
        avoid: places (B, 2) px, and the distance to each, px.

    Returns:
        (B, 2) float32 px; where no try is far enough, the one that is farthest from the first of `avoid`.
    """
    left = min(margin, width / 2)
    top = min(margin, height / 2)
    x, y = numbers.unflatten(1, (TRIES, 2)).unbind(-1)  # (B, TRIES)
    tries = torch.stack([left + x * (width - 2 * left), top + y * (height - 2 * top)], -1).float()
    distances = [(tries - place[:, None]).norm(dim=-1) for place, _ in avoid]
    far = torch.stack([d >= least for d, (_, least) in zip(distances, avoid, strict=True)]).all(0)
    first = torch.where(far.any(1), far.float().argmax(1), distances[0].argmax(1))
    return tries[torch.arange(len(tries), device=tries.device), first]


def steps_between(start: np.ndarray, end: np.ndarray, radius: float, reach: tuple[float, float]) -> np.ndarray:
    """The fewest steps in which anybody could come within `radius`: a lower bound, exact on open ground.

    In n steps an agent can be anywhere within n times the longest shifts along x and y.

    Args:
        start: (..., 2) px.
        end: (..., 2) px.
        radius: px.
        reach: how far a step goes along x and y, px.

    Returns:
        (...) int64; NEVER where no number of steps does.
    """
    gap = np.abs(np.asarray(end, float) - start)
    off = np.linalg.norm(np.where(np.asarray(reach) > 0, 0, gap), axis=-1) >= radius
    steps = np.where(off, NEVER, 0)
    left = (np.linalg.norm(gap, axis=-1) >= radius) & ~off
    while left.any():
        steps += left
        left &= np.linalg.norm(np.maximum(gap - steps[..., None] * np.asarray(reach), 0), axis=-1) >= radius
    return steps


def check_options(reward: str, target_radius: float, target_margin: float | None) -> None:
    """Check what tasks with targets have in common.

    Raises:
        ValueError: out of range; the message names the option.
    """
    if reward not in ("dense", "sparse"):
        raise ValueError(f"reward must be 'dense' or 'sparse', got {reward!r}")
    if not is_number(target_radius) or target_radius <= 0:
        raise ValueError(f"target_radius must be a positive number of px, got {target_radius!r}")
    if target_margin is not None and (not is_number(target_margin) or target_margin < 0):
        raise ValueError(f"target_margin must be at least 0 px, got {target_margin!r}")
