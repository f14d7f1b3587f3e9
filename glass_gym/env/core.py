"""GlassCore: rows of a world with a task, and nothing about anybody's calling conventions.

Single, vector and Stable-Baselines3 environments and the player drive this. All of it is tensors on one device;
randomness is two integers a row (:mod:`glass_gym.env.randomness`), so a whole step, resets included, need not look at a
value.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from glass_gym.env.randomness import uniform
from glass_gym.env.starts import StartStates
from glass_gym.simulator.simulator import PRESENT, Simulator, WorldState
from glass_gym.tasks import Scene, Task, TaskState, make_task
from glass_gym.tensors.convert import outside_inference_mode, to_numpy
from glass_gym.tensors.drawing import observed_frames
from glass_gym.tensors.geometry import densest_point, neighbourhood
from glass_gym.tensors.rows import RowState, write_rows
from glass_gym.worlds.checkpoint import World, load_world
from glass_gym.worlds.pictures import stretch

OBS_TYPES = ("frame", "position", "dict")
POSITION_SOURCES = ("state", "frame")
CODE_STREAM = 0x636F646573
"""Sets the random stream of local actions apart from that of starts and targets."""
MANY_FRAMES = 4
"""No agent of an episode is farther away than so many frames' sides."""
MANY_STEPS = 1 << 20
"""More than an episode has."""


@dataclass
class EnvState(RowState):
    """Everything about some rows: (B, ...) tensors. Copy rows out with `state()`, in with `set_state()`.

    Attributes:
        world: the simulator's state.
        position: (B, 2) px, where the task sees the agent.
        previous: (B, 2) px, where it saw it one step before.
        present: (B,) bool.
        task: the task's state; for ``"reach"`` `target` (B, 2) px.
        steps: (B,) int64, since the last reset.
        done: (B,) bool, the last step ended the episode.
        key, episode: (B,) int64, the row's random stream.
        origin: (B,) int64, the world that the row is of (:attr:`World.identity`).
    """

    world: WorldState
    position: Tensor
    previous: Tensor
    present: Tensor
    task: TaskState
    steps: Tensor
    done: Tensor
    key: Tensor
    episode: Tensor
    origin: Tensor


@dataclass
class StepOutcome:
    """What a step of all rows came to: reward (B,) float32, terminated (B,) bool, commanded_shift (B, 2) px."""

    reward: Tensor
    terminated: Tensor
    commanded_shift: Tensor


class GlassCore:
    """Rows of a world with a task.

    Args:
        checkpoint: a bundled name, a path, or a loaded :class:`World`.
        rows: number of environments.
        obs_type: ``"frame"``, ``"position"`` or ``"dict"``.
        task: ``"reach"`` (walk to a target), ``"collect"`` (several of them), another registered name,
            "package.module:name", a :class:`glass_gym.tasks.Task`, or None (roam freely: reward 0, no end).
        draw_target: draw what the task shows into observed frames.
        position_from: where the task takes the agent's position from: ``"state"`` (the simulator's own) or ``"frame"``
            (the model's mask of the generated frame; one more network call a step).
        shifts: the global part of the action table, see :meth:`ActionTable.build`.
        shift_scale: multiplies its step.
        frame_size: (height, width) px of observed frames, reduced on the device; None: the world's.
        channels_first: observed frames are (3, H, W).
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:i"``.
        precision: ``"auto"``, ``"float32"`` or ``"bfloat16"`` for the networks.
        task_options: of the task, see :meth:`ReachTask.make` and :meth:`CollectTask.make`.

    Raises:
        ValueError: a value that no environment can have; the message says which there are.
        TypeError: an option that the task does not take.
        CheckpointError: a checkpoint that cannot be used.
    """

    started = False
    """All rows have been reset once."""
    sync_free = False
    """Never look at a value on the host in a step or a masked reset: all rows are computed, the mask picks."""

    @outside_inference_mode
    def __init__(
        self,
        checkpoint: str | World = "tennis-v1",
        rows: int = 1,
        obs_type: str = "frame",
        task: str | Task | None = "reach",
        draw_target: bool = True,
        position_from: str = "state",
        shifts: Any = "compass",
        shift_scale: float = 1.0,
        frame_size: tuple[int, int] | None = None,
        channels_first: bool = False,
        device: str = "auto",
        precision: str = "auto",
        **task_options: Any,
    ):
        if isinstance(rows, bool) or not isinstance(rows, (int, np.integer)) or rows < 1:
            raise ValueError(f"num_envs must be an integer of at least 1, got {rows!r}")
        _one_of("obs_type", obs_type, OBS_TYPES)
        _one_of("position_from", position_from, POSITION_SOURCES)
        self.world = checkpoint if isinstance(checkpoint, World) else load_world(checkpoint)
        self.simulator = Simulator(self.world.model, device, precision, self.world.ground)
        self.rows = int(rows)
        self.obs_type = obs_type
        self.position_from = position_from
        self.height = self.simulator.height
        self.width = self.simulator.width
        self.table = self.world.action_table(shifts, shift_scale)
        scene = Scene(self.height, self.width, self.world.config.agent_radius, self.table.shifts, self.world.ground)
        self.task = make_task(task, scene, **task_options)
        self.draw_target = draw_target and self.task is not None
        self.channels_first = channels_first
        self.frame_size = (self.height, self.width)
        if frame_size is not None:
            self.resize(frame_size)
        self._shifts = torch.from_numpy(self.table.shifts).to(self.simulator.device)
        self.starts = StartStates(self.world, self.simulator)
        self._check_memory()
        self._picture: Tensor | None = None
        self._pixels: Tensor | None = None  # memory for it
        self._state: EnvState | None = None

    def _check_memory(self) -> None:
        """Before memory is taken: a row keeps its background and two pictures, uint8, at least."""
        needed = self.rows * 9 * self.height * self.width
        if self.device.type == "cuda":
            there = torch.cuda.get_device_properties(self.device).total_memory
        elif hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
            there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        else:
            return
        if needed > there:
            each = needed / self.rows / 1e6
            raise ValueError(
                f"num_envs is {self.rows}: a row of this world takes {each:.1f} MB at least, all of them "
                f"{needed / 1e9:.0f} GB; {self.device} has {there / 1e9:.0f} GB"
            )

    @property
    def state(self) -> EnvState:
        """All rows.

        Raises:
            RuntimeError: no row has a random stream yet.
        """
        if self._state is None:
            raise RuntimeError("seed() and reset() the core first")
        return self._state

    @state.setter
    def state(self, state: EnvState) -> None:
        self._state = state

    @property
    def device(self) -> torch.device:
        """Where everything lives."""
        return self.simulator.device

    # --- spaces ------------------------------------------------------------------------------------------------

    @outside_inference_mode
    def resize(self, frame_size: tuple[int, int]) -> None:
        """Observe frames reduced to (height, width) px from now on; rendering keeps the full size.

        Raises:
            ValueError: not two whole numbers between 8 px and the world's size.
        """
        size = tuple(frame_size) if isinstance(frame_size, (tuple, list, np.ndarray)) else ()
        if len(size) != 2 or not all(isinstance(v, (int, np.integer)) for v in size):
            raise ValueError(f"frame_size must be (height, width) in whole px, such as (48, 80), got {frame_size!r}")
        if not (8 <= size[0] <= self.height and 8 <= size[1] <= self.width):
            raise ValueError(f"frame_size must lie between 8x8 and the world's {self.height}x{self.width}, got {size}")
        self.frame_size = (int(size[0]), int(size[1]))

    @property
    def action_space(self) -> gym.Space:
        """MultiDiscrete([S, K])."""
        return gym.spaces.MultiDiscrete(list(self.table.nvec))

    @property
    def frame_space(self) -> gym.spaces.Box:
        """Frames of one row, uint8."""
        shape = (3, *self.frame_size) if self.channels_first else (*self.frame_size, 3)
        return gym.spaces.Box(0, 255, shape, np.uint8)

    @property
    def position_space(self) -> gym.spaces.Box:
        """(x, y) px, and what the task tells beside it (:meth:`Task.observe`)."""
        limits = np.array([self.width, self.height], np.float32)
        low, high = (np.zeros(0, np.float32),) * 2 if self.task is None else self.task.bounds()
        return gym.spaces.Box(np.concatenate([-limits, low]), np.concatenate([2 * limits, high]), dtype=np.float32)

    @property
    def observation_space(self) -> gym.Space:
        """Of one row: frames, positions, or both in a Dict."""
        if self.obs_type == "dict":
            return gym.spaces.Dict({"frame": self.frame_space, "position": self.position_space})
        return self.frame_space if self.obs_type == "frame" else self.position_space

    # --- starting ----------------------------------------------------------------------------------------------

    @outside_inference_mode
    def seed(self, keys: dict[int, int]) -> None:
        """Give rows (the dict's keys) new random streams; every row needs one before the first reset."""
        if self._state is None:
            self._state = self._blank()
        index = torch.tensor(list(keys), device=self.device)
        state = self.state = replace(self.state, key=self.state.key.clone(), episode=self.state.episode.clone())
        state.key[index] = torch.tensor(list(keys.values()), device=self.device)
        state.episode[index] = 0

    def _blank(self) -> EnvState:
        """Rows before their first reset."""
        zero = torch.zeros(self.rows, dtype=torch.long, device=self.device)
        no = torch.zeros(self.rows, dtype=torch.bool, device=self.device)
        world = self.starts.at(zero)
        place = self.simulator.agent_position(world)
        task = self._sample(torch.zeros(self.rows, self._draws, device=self.device), place, {})
        origin = torch.full_like(zero, self.world.identity)
        return EnvState(world, place, place.clone(), ~no, task, zero, no, zero.clone(), zero.clone(), origin)

    @outside_inference_mode
    def reset(self, mask: Tensor | None = None, options: dict[str, Any] | None = None) -> None:
        """Start rows anew: those of a (rows,) bool mask on the device, or all.

        Args:
            mask: which rows.
            options: `start_frame`: an index into the start frames, a picture, or one of either a row; and the task's
                own: for ``"reach"`` `target`, (x, y) px or (rows, 2).

        Raises:
            ValueError: an unknown option, or a value that cannot be used.
            NoAgentError: the model finds no agent in a start picture.
        """
        options = dict(options or {})
        known = ("start_frame", *(self.task.options if self.task else ()))
        if "target" in options and self.task is None:
            raise ValueError("task=None has no target; make the environment with task='reach'")
        if unknown := set(options) - set(known):
            raise ValueError(f"unknown reset options {sorted(unknown)}; known: {', '.join(known)}, reset_mask")
        start = options.pop("start_frame", None)
        given = self.task.parse(options, self.rows) if self.task else {}
        everyone = torch.arange(self.rows, device=self.device)
        if mask is None or self.sync_free:
            fresh = self._fresh(everyone, start, given)
            self.state = fresh if mask is None else self.state.where(mask, fresh)
            self.started = True
            self._picture = None
            return
        chosen = everyone[mask]
        if not len(chosen):
            return
        fresh = self._fresh(chosen, start, given)
        self.state = self.state.write(chosen, fresh)
        if self._picture is not None:  # the other rows' pictures stay
            self._picture = write_rows(self._picture, chosen, self.simulator.pictures(fresh.world))

    @property
    def _draws(self) -> int:
        """How many uniform numbers the task takes to start an episode."""
        return self.task.draws if self.task else 0

    def _fresh(self, rows: Tensor, start: Any, given: TaskState) -> EnvState:
        """New episodes of rows (B,) int64; `given` holds the task's options for all rows."""
        key = self.state.key[rows]
        episode = self.state.episode[rows]
        numbers = uniform(key, episode, 1 + self._draws)
        drawn = (numbers[:, 0] * self.starts.count).long()
        world = self.starts.at(drawn) if start is None else self.starts.given(start, rows, self.rows)
        position, present = self._locate_agents(world)
        chosen = {name: value[rows.cpu()].to(self.device) for name, value in given.items()}
        task = self._sample(numbers[:, 1:], position, chosen)
        steps = torch.zeros_like(key)
        origin = self.state.origin[rows]
        return EnvState(world, position, position.clone(), present, task, steps, steps > 0, key, episode + 1, origin)

    def _sample(self, numbers: Tensor, position: Tensor, given: TaskState) -> TaskState:
        return self.task.sample(numbers, position, given) if self.task else {}

    @outside_inference_mode
    def set_target(self, target: Any) -> None:
        """Move the targets: as the task's reset option `target`; for ``"reach"`` (x, y) px for all rows, or (rows, 2).

        Raises:
            ValueError: not a target of this task, or no task.
        """
        if self.task is None:
            raise ValueError("task=None has no target; make the environment with task='reach'")
        if "target" not in self.task.options:
            raise ValueError(f"{type(self.task).__name__} has no target to move")
        given = {name: value.to(self.device) for name, value in self.task.parse({"target": target}, self.rows).items()}
        numbers = torch.zeros(self.rows, self._draws, device=self.device)
        self.state = replace(self.state, task=self.task.sample(numbers, self.state.position, given))

    @outside_inference_mode
    def aim(self, place: tuple[float, float]) -> None:
        """Tell the task of a click at (x, y) px, in all rows."""
        if self.task is not None:
            where = torch.tensor(place, dtype=torch.float32, device=self.device)
            self.state = replace(self.state, task=self.task.aim(self.state.task, where))

    @outside_inference_mode
    def forget(self) -> None:
        """Let go of all states and pictures; the next reset needs seeds again."""
        self._state = self._picture = self._pixels = None
        self.starts.forget()
        self.started = False

    @outside_inference_mode
    def write(self, index: Any, other: EnvState) -> None:
        """Overwrite rows (B,) int64 with those of another state of this world.

        The state has been checked (:meth:`check_state`).
        """
        self.state = self.state.write(index, other)
        self._picture = None

    def check_state(self, other: EnvState) -> None:
        """Whether rows of a state could be rows of this core.

        Raises:
            ValueError: a state of another world or task, or one that no episode comes to.
        """
        if not isinstance(other, EnvState):
            raise ValueError(f"a state is what state() gives, got {type(other).__name__}")
        sizes = [[(tuple(x.shape[1:]), x.dtype) for x in state.tensors()] for state in (self.state, other)]
        if sizes[0] != sizes[1]:
            raise ValueError("the state is of another world or task: its sizes or types differ")
        if len({len(x) for x in other.tensors()}) != 1:
            raise ValueError(f"parts of the state have {sorted({len(x) for x in other.tensors()})} rows")
        if (other.origin != self.world.identity).any():
            raise ValueError(f"the state is of another world than {self.world.name or 'this one'!r}")
        if not all(x.isfinite().all() for x in other.tensors() if x.is_floating_point()):
            raise ValueError("the state holds numbers that are not finite")
        far = MANY_FRAMES * max(self.height, self.width)
        places = (other.position, other.previous, other.world.position, other.world.origin)
        if any((x.abs() > far).any() for x in places) or (other.steps < 0).any() or (other.episode < 0).any():
            raise ValueError("the state holds positions far outside the frame, or negative counts")

    # --- stepping ----------------------------------------------------------------------------------------------

    @outside_inference_mode
    def advance(self, actions: Any) -> StepOutcome:
        """One step of all rows under (rows, 2) integer actions (global shift, local action).

        Returns:
            rewards, ends and commanded shifts.

        Raises:
            ValueError: other shapes or types, or (on the host) values out of range.
        """
        index = self._checked_actions(actions)
        commanded = self._shifts[index[:, 0]]
        before = self.state.position
        state = self.state
        world = self.simulator.step(state.world, commanded, index[:, 1])
        self._picture = None
        position, present = self._locate_agents(world)
        if self.task is None:
            reward = torch.zeros(self.rows, device=self.device)
            terminated = reward > 0
            task = state.task
        else:
            outcome = self.task.step(before, position, state.task)
            reward = outcome.reward
            terminated = outcome.terminated
            task = outcome.state
        self.state = replace(
            state, world=world, position=position, previous=before, present=present, task=task, steps=state.steps + 1
        )
        return StepOutcome(reward, terminated, commanded)

    def code_prior(self) -> Tensor:
        """p(code | state, shift) of the next step, for every row and every shift of the table.

        Returns:
            (rows, S, K) probabilities, on the device.

        Raises:
            ValueError: the world has no prior.
        """
        return self.simulator.code_prior(self.state.world, self._shifts.expand(self.rows, -1, -1))

    def sample_codes(self, shift_index: Tensor) -> Tensor:
        """Local actions drawn from the prior, for global actions (rows,) int64 on the device.

        The draw follows from the row's random stream and step: the same states and shifts give the same codes.

        Returns:
            (rows,) int64.

        Raises:
            ValueError: the world has no prior.
        """
        state = self.state
        shift = self._shifts[shift_index][:, None]
        chances = self.simulator.code_prior(state.world, shift)[:, 0].double()  # (rows, K)
        number = uniform(state.key ^ CODE_STREAM, state.episode * MANY_STEPS + state.steps, 1)
        return (chances.cumsum(1) < number).sum(1).clamp(max=chances.shape[1] - 1)

    def choose_code(self, shift_index: int, row: int = 0) -> int:
        """The local action of a row for a shift of the table, where nobody says one.

        It is drawn from the prior; in a world without one it is the code that usually went with the shift.

        Returns:
            0..K - 1.
        """
        if not self.simulator.has_prior:
            return self.table.usual_codes[shift_index]
        shifts = torch.full((self.rows,), shift_index, device=self.device)
        return int(self.sample_codes(shifts)[row])

    def _locate_agents(self, world: WorldState) -> tuple[Tensor, Tensor]:
        """Where the task sees the agents, (B, 2) px, and whether it sees them, (B,) bool."""
        position = self.simulator.agent_position(world)
        present = self.simulator.agent_present(world)
        if self.position_from == "state":
            return position, present
        masks = self.simulator.masks(self.simulator.pictures(world))
        radius = self.world.config.agent_radius
        found = densest_point(masks, radius)
        near = neighbourhood(found, radius, self.height, self.width)
        present = (masks[:, 0] * near).sum((1, 2)) >= PRESENT * world.mass.clamp_min(1.0)
        return torch.where(present[:, None], found, position), present

    def _checked_actions(self, actions: Any) -> Tensor:
        """(rows, 2) int64 on the device. Values are checked on the host only: a tensor on a GPU is taken as it is."""
        if isinstance(actions, Tensor):
            whole = not (actions.is_floating_point() or actions.is_complex() or actions.dtype == torch.bool)
        else:
            actions = np.asarray(actions)
            whole = np.issubdtype(actions.dtype, np.integer)
        if tuple(actions.shape) != (self.rows, 2) or not whole:
            raise ValueError(
                f"actions must be integers of shape {(self.rows, 2)}, got {actions.dtype} {tuple(actions.shape)}"
            )
        if isinstance(actions, Tensor) and actions.device.type != "cpu":
            return actions.to(self.device, torch.long)
        actions = np.asarray(actions).astype(np.int64)
        wrong = ((actions < 0) | (actions >= np.array(self.table.nvec))).any(1)
        if wrong.any():
            raise ValueError(
                f"actions must lie in 0..{[n - 1 for n in self.table.nvec]}, got {actions[wrong][0].tolist()}"
            )
        return torch.from_numpy(actions).to(self.device, non_blocking=True)

    # --- looking -----------------------------------------------------------------------------------------------

    def infos(self, commanded: Tensor | None = None) -> dict[str, Tensor]:
        """What `info` tells about each row: fresh tensors; `commanded` (rows, 2) px is the last step's shift."""
        state = self.state
        out = {"agent_position": state.position.clone(), "previous_position": state.previous.clone()}
        out["agent_present"] = state.present.clone()
        out["commanded_shift"] = torch.zeros_like(state.position) if commanded is None else commanded.clone()
        return out | (self.task.infos(state.position, state.task) if self.task else {})

    def pictures(self, shown: bool) -> Tensor:
        """Full-size frames (rows, 3, H, W) uint8; with what the task shows, or without.

        Returns:
            new tensors; those without are the core's own: a step writes over them.
        """
        if self._picture is None:
            # large memory that is new in every step is slow: the system clears it first
            self._picture = self._pixels = self.simulator.pictures(self.state.world, self._pixels)
        return self.task.draw(self._picture, self.state.task) if shown and self.task else self._picture

    def observations(self) -> Tensor | dict[str, Tensor]:
        """Observations of all rows: fresh tensors on the device."""
        return self.observe(self.obs_type, self.frame_size, self.channels_first, self.draw_target)

    @outside_inference_mode
    def observe(
        self,
        obs_type: str,
        frame_size: tuple[int, int] | None = None,
        channels_first: bool = False,
        shown: bool = True,
    ) -> Any:
        """What the rows look like: positions (rows, n) px, frames (rows, ...) uint8, or both; fresh tensors.

        Args:
            obs_type: ``"frame"``, ``"position"`` or ``"dict"``.
            frame_size: (height, width) px; None: the world's.
            channels_first: frames are (3, H, W).
            shown: frames show the task.

        Returns:
            tensors on the device, or a dict of them.
        """
        parts = [self.state.position] + ([self.task.observe(self.state.task)] if self.task else [])
        position = torch.cat(parts, 1)
        if obs_type == "position":
            return position
        pictures = self.pictures(shown)
        frames = observed_frames(pictures, frame_size, channels_first, fresh=pictures is not self._picture)
        return frames if obs_type == "frame" else {"frame": frames, "position": position}

    def render(self) -> np.ndarray:
        """Frames (rows, H, W', 3) uint8 as they should be seen: W' applies the pixel aspect."""
        return stretch(to_numpy(self.pictures(True).permute(0, 2, 3, 1), copy=True), self.world.pixel_aspect)


def _one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
