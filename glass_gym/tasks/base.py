"""Task, the rules of an episode as pure, batched functions of positions and states; and the table of tasks."""

from __future__ import annotations

import importlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from glass_gym.worlds.checks import check_choice, check_flags, is_number, to_floats

if TYPE_CHECKING:
    from glass_gym.simulator.simulator import Simulator, WorldState

TaskState = dict[str, Tensor]  # A task's state: named (B, ...) tensors on the core's device.
NEVER = 1 << 20  # More steps than an episode has.
TRIES = 16  # Positions drawn at once for each row; the first that is far enough from what it should avoid is used.
STEPS_AWAY = 4  # Targets are drawn at least this many steps away from the agent, and at least MIN_DISTANCE px.
MIN_DISTANCE = 16.0
PROGRESS = 0.1  # Dense reward of progress by the longest shift toward a target.


@dataclass(frozen=True)
class Scene:
    """The world that a task takes place in.

    Attributes:
        height, width: of the frame, px.
        agent_radius: half the agent's size, px.
        shifts: (S, 2) px, the global actions.
        ground: left, top, right, bottom px of the box that agents stay in; None: the frame.
        codes: K, the number of local actions.
        simulator: of the world, for tasks with poses; None: outside of a learned world, where these cannot be.
        pixel_aspect: displayed width of a pixel over its height.
    """

    height: int
    width: int
    agent_radius: float
    shifts: np.ndarray
    ground: tuple[float, float, float, float] | None = None
    codes: int = 1
    simulator: Simulator | None = None
    pixel_aspect: float = 1.0

    @property
    def unit(self) -> float:
        """The length of the longest shift, px."""
        return float(np.linalg.norm(self.shifts, axis=1).max()) or 1.0

    @property
    def reach(self) -> tuple[float, float]:
        """The longest shift along x and along y, px."""
        x, y = np.abs(self.shifts).max(0).tolist()
        return x, y

    @property
    def min_distance(self) -> float:
        """The smallest distance between the agent and a new target, px."""
        return max(MIN_DISTANCE, STEPS_AWAY * max(self.reach))

    def places(self, numbers: Tensor, margin: float, avoid: Sequence[tuple[Tensor, float]]) -> Tensor:
        """As :func:`sample_places`, on the ground; without one in the frame, of which `margin` px are kept free."""
        if self.ground is None:
            return sample_places(numbers, self.height, self.width, margin, avoid)
        left, top, right, bottom = self.ground
        there = [(_moved(place, -left, -top), distance) for place, distance in avoid]
        return _moved(sample_places(numbers, bottom - top, right - left, 0.0, there), left, top)


def _moved(places: Tensor, x: float, y: float) -> Tensor:
    """Positions (B, 2) px plus (x, y) px. A traced graph copies nothing from the host."""
    return torch.stack([places[:, 0] + x, places[:, 1] + y], 1)


@dataclass
class Outcome:
    """The result of a step for a task.

    Attributes:
        reward: (B,) float32.
        terminated: (B,) bool.
        state: the task's next state.
    """

    reward: Tensor
    terminated: Tensor
    state: TaskState


class Task(ABC):
    """The rules of an episode.

    A task object has no state of its own: states are passed in and returned, so that rows can be copied and replaced.
    All methods are batched over B rows and must not read values on the host. Random numbers are passed in. A state is
    named (B, ...) tensors; positions, the agents' places, are (B, 2) px.

    Attributes:
        options: names of the reset options that :meth:`parse` reads.
        draws: how many uniform numbers :meth:`sample` needs per row.
    """

    options: tuple[str, ...] = ()
    draws: int = 0

    @abstractmethod
    def sample(self, numbers: Tensor, position: Tensor, given: TaskState) -> TaskState:
        """The states of new episodes; `numbers` (B, draws) are uniform in [0, 1), `given` is of :meth:`parse`."""

    @abstractmethod
    def step(self, before: Tensor, after: Tensor, state: TaskState) -> Outcome:
        """The outcome of a step from positions `before` to positions `after`, both (B, 2) px."""

    def begin(self, world: WorldState, state: TaskState) -> TaskState:
        """Complete the states of new episodes by what depends on the agents' pictures; by default nothing."""
        return state

    def watch(self, world: WorldState, code: Tensor, state: TaskState) -> TaskState:
        """Keep what :meth:`step` needs of the agents and of the local actions (B,) just played; by default nothing."""
        return state

    def allowed(self, position: Tensor, move: Tensor) -> Tensor:
        """The part of moves (B, 2) px from positions (B, 2) px that the task allows, such as up to a wall."""
        return move

    @abstractmethod
    def infos(self, position: Tensor, state: TaskState) -> dict[str, Tensor]:
        """Entries of `info`: new (B, ...) tensors by name; `is_success` (B,) bool must be one of them."""

    @abstractmethod
    def heading(self, position: Tensor, state: TaskState) -> Tensor:
        """Where a player who knows the state walks to from positions (B, 2) px: (B, 2) px."""

    def wanted_codes(self, state: TaskState) -> Tensor | None:
        """The local actions (B,) int64 that such a player plays; None: they do not matter (the default)."""
        return None

    @abstractmethod
    def fewest_steps(self, position: np.ndarray, state: dict[str, np.ndarray]) -> np.ndarray:
        """A lower bound of the number of steps to success, (B,) int64, of positions and a state as arrays."""

    def parse(self, options: dict[str, Any], rows: int) -> TaskState:
        """Reset options -> (B, ...) tensors by name, on the host, for :meth:`sample`; ValueError: unusable value."""
        return {}

    def aim(self, state: TaskState, place: Tensor) -> TaskState:
        """The state after a click at (2,) px; by default unchanged."""
        return state

    def observe(self, state: TaskState) -> Tensor:
        """What ``"position"`` observations hold beside the position: (B, n) float32; by default nothing."""
        first = next(iter(state.values()))
        return torch.zeros(len(first), 0, device=first.device)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The lower and upper bounds of :meth:`observe`, (n,) float32 each."""
        return np.zeros(0, np.float32), np.zeros(0, np.float32)

    def draw(self, frames: Tensor, state: TaskState) -> Tensor:
        """Draw the task into frames (B, 3, H, W) uint8: new frames, or the given ones unchanged (the default)."""
        return frames


class GoalTask(Task):
    """A task with one goal per row, for goal-conditioned algorithms such as HER.

    A goal has G numbers: (x, y) px, then what else is to be achieved. Position, :meth:`Task.observe` and the bounds
    hold first what is achieved and then the goal, G numbers each.

    Attributes:
        dense: rewards also depend on the position before the step.
        achieved: names of the entries of `info` that make up what is achieved.
        desired: names of those that make up the goal.
    """

    dense: bool
    achieved: tuple[str, ...] = ("agent_position",)
    desired: tuple[str, ...] = ("target",)

    @abstractmethod
    def rewards(self, before: Tensor, after: Tensor, goal: Tensor) -> Tensor:
        """Rewards (B,) float32 of a step from positions `before`, (B, 2) px, to `after`, for any goals, (B, G)."""


TASKS: dict[str, Callable[..., Task] | str] = {}
"""Task -> a function `make(scene, **options)`, or where to import one from ("package.module:name")."""


def register_task(name: str, make: Callable[..., Task] | str) -> None:
    """Let environments be made with ``task=name``.

    Args:
        name: of the task.
        make: makes the task of a :class:`Scene` and of the keyword arguments that the environment does not know, such
            as a class. Or "package.module:name", which other processes can import.

    Raises:
        ValueError: the name is taken.
    """
    if TASKS.get(name, make) != make:
        raise ValueError(f"a task called {name!r} is registered already; choose another name")
    TASKS[name] = make


def make_task(task: str | Task | None, scene: Scene, **options: Any) -> Task | None:
    """Make a task.

    Args:
        task: a registered name, "package.module:name", a task, or None.
        scene: the world.
        options: of the task. For None they are checked as those of ``"reach"`` and then ignored, so that ``task=None``
            works with ids that set options.

    Returns:
        the task, or None.

    Raises:
        ValueError: there is no such task, or a value is out of range.
        TypeError: the task does not take an option.
    """
    if task is None:
        make_task("reach", scene, **options)  # checks names and values
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
    known = option_names(make)
    if unknown := set(options) - set(known):
        # Python's own words: TorchRL looks for them, to try again without `frameskip`
        raise TypeError(f"got an unexpected keyword argument {min(unknown)!r}; task {task!r} takes {', '.join(known)}")
    return make(scene, **options)


def option_names(make: Callable[..., Task]) -> list[str]:
    """Names of a task's options. A class whose constructor takes ``**options`` has those of its base class, too."""
    names: list[str] = []
    for kind in make.__mro__ if isinstance(make, type) else (make,):
        found = [*inspect.signature(kind).parameters.values()][1:]  # the first one is the scene
        names += [one.name for one in found if one.kind != one.VAR_KEYWORD and one.name not in names]
        if not any(one.kind == one.VAR_KEYWORD for one in found):
            break
    return names


def check_places(target: Any, shape: tuple[int, ...], rows: int, height: int, width: int) -> Tensor:
    """Positions of `shape`, or one such per row -> (B, *shape) float32 px; ValueError: another shape, or outside."""
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
    """Draw random positions that keep a distance from the edge and from other positions.

    Args:
        numbers: (B, 2 TRIES), uniform in [0, 1).
        height: of the ground, px.
        width: of the ground, px.
        margin: smallest distance from its edge, px.
        avoid: positions (B, 2) px, and the smallest distance to each, px.

    Returns:
        (B, 2) float32 px. If no try is far enough, it is the one that is farthest from the first of `avoid`.
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
    """A lower bound (...) of the steps from `start` to within `radius` of `end` (..., 2) px; NEVER: no way there."""
    # in n steps an agent moves along each axis by at most n times the longest shift: exact on open ground
    gap = np.abs(np.asarray(end, float) - start)
    off = np.linalg.norm(np.where(np.asarray(reach) > 0, 0, gap), axis=-1) >= radius
    steps = np.where(off, NEVER, 0)
    left = (np.linalg.norm(gap, axis=-1) >= radius) & ~off
    while left.any():
        steps += left
        left &= np.linalg.norm(np.maximum(gap - steps[..., None] * np.asarray(reach), 0), axis=-1) >= radius
    return steps


def check_options(reward: str, target_radius: float, target_margin: float | None, **flags: Any) -> None:
    """Check the options that tasks share, and that `flags` are booleans; ValueError names what is out of range."""
    check_choice("reward", reward, ("dense", "sparse"))
    check_flags(**flags)
    if not is_number(target_radius) or target_radius <= 0:
        raise ValueError(f"target_radius must be a positive number of px, got {target_radius!r}")
    if target_margin is not None and (not is_number(target_margin) or target_margin < 0):
        raise ValueError(f"target_margin must be at least 0 px, got {target_margin!r}")
