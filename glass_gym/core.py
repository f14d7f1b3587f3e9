"""GlassCore: rows of a world with a task, and nothing about anybody's calling conventions.

Every face (single, vector, Stable-Baselines3, player) drives this. All of it is tensors on one device; randomness is
two integers a row (:mod:`glass_gym.randomness`), so a whole step, resets included, need not look at a value.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from glass_gym.action_space import ActionTable
from glass_gym.checkpoint import World, load_world
from glass_gym.networks.mask import densest_point
from glass_gym.pictures import fit_picture, stretch
from glass_gym.randomness import uniform
from glass_gym.simulator import PRESENT, NoAgentError, RowState, Simulator, WorldState, to_host, write_rows
from glass_gym.task import TRIES, ReachTask, draw_rings, observed_frames

OBS_TYPES = ("frame", "position", "dict")
POSITION_SOURCES = ("state", "frame")
OPTIONS = ("start_frame", "target")
STEPS_AWAY = 4
"""targets are drawn at least so many steps along an axis away (and ReachTask.min_distance px)"""


@dataclass
class EnvState(RowState):
    """Everything about some rows: (B, ...) tensors. Copy rows out with `state()`, in with `set_state()`.

    Attributes:
        world: the simulator's state.
        position: (B, 2) px, where the task sees the agent.
        previous: (B, 2) px, where it saw it one step before.
        present: (B,) bool.
        target: (B, 2) px.
        steps: (B,) int64, since the last reset.
        done: (B,) bool, the last step ended the episode.
        key, episode: (B,) int64, the row's random stream.
    """

    world: WorldState
    position: Tensor
    previous: Tensor
    present: Tensor
    target: Tensor
    steps: Tensor
    done: Tensor
    key: Tensor
    episode: Tensor

    def tensors(self) -> list[Tensor]:
        """All tensors, in a fixed order; the world's last."""
        return [getattr(self, f.name) for f in fields(self) if f.name != "world"] + self.world.tensors()

    @classmethod
    def from_tensors(cls, tensors: list[Tensor]) -> EnvState:
        """The inverse of :meth:`tensors`."""
        own = len(fields(cls)) - 1
        return cls(WorldState.from_tensors(tensors[own:]), *tensors[:own])


class Face:
    """What Gymnasium's single and vector faces of a core share; a face has `core` and `closed`."""

    core: GlassCore
    closed: bool

    @property
    def shifts(self) -> np.ndarray:
        """(S, 2) px; row 0 is stay, then right and on counter-clockwise."""
        return self.core.table.shifts

    @property
    def code_names(self) -> tuple[str, ...]:
        """K names of the local actions; 0 is neutral."""
        return self.core.table.code_names

    def set_target(self, target) -> None:
        """Move the targets: (x, y) px for all rows, or one a row."""
        self._must_be_ready()
        self.core.set_target(target)

    def _must_be_open(self) -> None:
        if self.closed:
            raise gym.error.ClosedEnvironmentError("this environment is closed; make a new one")

    def _must_be_ready(self) -> None:
        self._must_be_open()
        if not self.core.begun:
            raise gym.error.ResetNeeded("call reset() first")


class GlassCore:
    """Rows of a world with a task.

    Args:
        checkpoint: a bundled name, a path, or a loaded :class:`World`.
        rows: number of environments.
        obs_type: ``"frame"``, ``"position"`` or ``"dict"``.
        task: ``"reach"`` (walk to a target), or None (roam freely: reward 0, no end, no target).
        reward, target_radius, target_margin, terminate_on_arrival: see :class:`ReachTask`; the margin (px) is
            by default the agent's half size + 4, so that every target can be reached.
        target: a fixed target (x, y) px for every episode; None draws one.
        draw_target: draw the target into observed frames.
        position_from: where the task takes the agent's position from: ``"state"`` (the simulator's own) or ``"frame"``
            (the model's mask of the generated frame; one more network call a step).
        shifts, shift_scale: the global part of the action table, see :class:`ActionTable`.
        frame_size: (height, width) px of observed frames, reduced on the device; None: the world's.
        channels_first: observed frames are (3, H, W).
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:i"``.
        precision: ``"auto"``, ``"float32"`` or ``"bfloat16"`` for the networks.
    """

    begun = False
    """All rows have been started."""
    blind = False
    """Never look at a value on the host in a step or a masked reset: all rows are computed, the mask picks."""

    def __init__(
        self, checkpoint: str | World = "tennis", rows: int = 1, obs_type: str = "frame", task: str | None = "reach",
        reward: str = "dense", target_radius: float = 6.0, target_margin: float | None = None, target=None,
        terminate_on_arrival: bool = True, draw_target: bool = True, position_from: str = "state", shifts="compass",
        shift_scale: float = 1.0, frame_size: tuple[int, int] | None = None, channels_first: bool = False,
        device: str = "auto", precision: str = "auto",
    ):  # fmt: skip
        if isinstance(rows, bool) or not isinstance(rows, (int, np.integer)) or rows < 1:
            raise ValueError(f"num_envs must be an integer of at least 1, got {rows!r}")
        _one_of("obs_type", obs_type, OBS_TYPES)
        _one_of("task", task, ("reach", None))
        _one_of("position_from", position_from, POSITION_SOURCES)
        self.world = checkpoint if isinstance(checkpoint, World) else load_world(checkpoint)
        self.simulator = Simulator(self.world.model, device, precision)
        self.rows, self.obs_type, self.position_from = int(rows), obs_type, position_from
        self.height, self.width = self.simulator.height, self.simulator.width
        self.table = ActionTable.build(
            self.world.step, self.world.code_names, shifts, shift_scale, self.world.statistics.get("usual_codes")
        )
        margin = self.world.config.agent_radius + 4.0 if target_margin is None else target_margin
        far = max(ReachTask.min_distance, STEPS_AWAY * float(np.abs(self.table.shifts).max()))
        reach = ReachTask(target_radius, reward, margin, far, terminates=terminate_on_arrival)
        self.task = reach if task else None
        self.fixed_target = None if target is None else self._checked_targets(target, 1).to(self.device)
        self.draw_target, self.channels_first = draw_target and task is not None, channels_first
        self.frame_size = (self.height, self.width)
        if frame_size is not None:
            self.resize(frame_size)
        self.unit = float(np.linalg.norm(self.table.shifts, axis=1).max()) or 1.0
        self._shifts = torch.from_numpy(self.table.shifts).to(self.simulator.device)
        self._pool: WorldState | None = None
        self._picture: Tensor | None = None
        self.state: EnvState | None = None

    @property
    def device(self) -> torch.device:
        """Where everything lives."""
        return self.simulator.device

    # --- spaces ------------------------------------------------------------------------------------------------

    def resize(self, frame_size: tuple[int, int]) -> None:
        """Observe frames reduced to (height, width) px from now on; rendering keeps the full size."""
        size = tuple(frame_size)
        if len(size) != 2 or not all(isinstance(v, (int, np.integer)) for v in size):
            raise ValueError(f"frame_size must be (height, width) in whole px, got {frame_size!r}")
        if not (8 <= size[0] <= self.height and 8 <= size[1] <= self.width):
            raise ValueError(f"frame_size must lie between 8x8 and the world's {self.height}x{self.width}, got {size}")
        self.frame_size = (int(size[0]), int(size[1]))

    @property
    def action_space(self) -> gym.Space:
        """MultiDiscrete([S, K])."""
        return gym.spaces.MultiDiscrete(self.table.nvec)

    @property
    def observation_space(self) -> gym.Space:
        """Box of frames uint8, Box of (x, y, target x, target y) px (without a task: (x, y)), or both in a Dict."""
        shape = (3, *self.frame_size) if self.channels_first else (*self.frame_size, 3)
        frame = gym.spaces.Box(0, 255, shape, np.uint8)
        limits = np.array([self.width, self.height] * (2 if self.task else 1), np.float32)
        position = gym.spaces.Box(-limits, 2 * limits, dtype=np.float32)
        if self.obs_type == "dict":
            return gym.spaces.Dict({"frame": frame, "position": position})
        return frame if self.obs_type == "frame" else position

    # --- starting ----------------------------------------------------------------------------------------------

    @property
    def pool(self) -> WorldState:
        """Start states of all start frames, computed once, so that a reset is a gather."""
        if self._pool is None:
            self._pool = self.simulator.start(torch.from_numpy(self.world.start_frames))
        return self._pool

    def seed(self, keys: dict[int, int]) -> None:
        """Give rows (the dict's keys) new random streams; every row needs one before the first reset."""
        if self.state is None:
            blank = torch.zeros(self.rows, dtype=torch.long, device=self.device)
            first = self.pool.rows(blank)
            where = self.simulator.agent_position(first)
            no = torch.zeros(self.rows, dtype=torch.bool, device=self.device)
            self.state = EnvState(
                first, where, where.clone(), ~no, where.clone(), blank, no, blank.clone(), blank.clone()
            )
        index = torch.tensor(list(keys), device=self.device)
        state = self.state = replace(self.state, key=self.state.key.clone(), episode=self.state.episode.clone())
        state.key[index] = torch.tensor(list(keys.values()), device=self.device)
        state.episode[index] = 0

    def reset(self, mask: Tensor | None = None, options: dict | None = None) -> None:
        """Start rows anew: those of a (rows,) bool mask on the device, or all.

        Args:
            options: `start_frame`: an index into the pool, a picture, or one of either a row; `target`: (x, y) px,
                or (rows, 2).
        """
        options = options or {}
        if unknown := set(options) - set(OPTIONS):
            raise ValueError(f"unknown reset options {sorted(unknown)}; known: {', '.join(OPTIONS)}, reset_mask")
        everyone = torch.arange(self.rows, device=self.device)
        if mask is None or self.blind:
            fresh = self._fresh(everyone, options)
            self.state = fresh if mask is None else self.state.where(mask, fresh)
            self.begun = True
        else:
            chosen = everyone[mask]
            if not len(chosen):
                return
            fresh = self._fresh(chosen, options)
            self.state = self.state.write(chosen, fresh)
            if self._picture is not None:  # the other rows' pictures stay
                self._picture = write_rows([self._picture], chosen, [self.simulator.pictures(fresh.world)])[0]
            return
        self._picture = None

    def _fresh(self, rows: Tensor, options: dict) -> EnvState:
        """New episodes of rows (B,) int64."""
        key, episode = self.state.key[rows], self.state.episode[rows]
        numbers = uniform(key, episode, 1 + 2 * TRIES)
        drawn = (numbers[:, 0] * len(self.pool)).long()
        world = self._start(options.get("start_frame"), drawn, rows)
        position, present = self._look(world)
        target = options.get("target")
        if target is not None:
            target = self._checked_targets(target, self.rows)[rows.cpu()].to(self.device)
        elif self.fixed_target is not None:
            target = self.fixed_target.expand(len(rows), 2).clone()
        elif self.task is None:
            target = position.clone()
        else:
            target = self.task.targets(numbers[:, 1:], position, self.height, self.width)
        steps = torch.zeros_like(key)
        return EnvState(world, position, position.clone(), present, target, steps, steps > 0, key, episode + 1)

    def _start(self, start, drawn: Tensor, rows: Tensor) -> WorldState:
        if start is None:
            return self.pool.rows(drawn)
        start = np.asarray(start)
        if start.ndim in (0, 1):
            if not np.issubdtype(start.dtype, np.integer) or start.shape not in ((), (self.rows,)):
                raise ValueError(
                    f"start_frame must be an index, {self.rows} indices, or pictures, got {start.dtype} {start.shape}"
                )
            if start.size and (start.min() < 0 or start.max() >= len(self.pool)):
                raise ValueError(f"start_frame {start.tolist()} is not in 0..{len(self.pool) - 1}")
            index = torch.from_numpy(np.broadcast_to(start, self.rows).astype(np.int64)).to(self.device)
            return self.pool.rows(index[rows])
        if start.ndim == 4 and len(start) != self.rows:
            raise ValueError(
                f"start_frame holds {len(start)} pictures for {self.rows} environments; pass one or one each"
            )
        if start.ndim == 4:
            return self.start_from(start[rows.cpu().numpy()])
        return self.start_from(start[None]).rows(torch.zeros_like(rows))

    def start_from(self, pictures: np.ndarray) -> WorldState:
        """Start states of pictures of any size (see :func:`fit_picture`).

        Raises:
            ValueError: not pictures. NoAgentError: the model finds no agent in one of them.
        """
        aspect = self.world.pixel_aspect
        fitted = np.stack([fit_picture(picture, self.height, self.width, aspect) for picture in pictures])
        world = self.simulator.start(torch.from_numpy(fitted))
        usual, found = float(self.pool.mass.median()), to_host(world.mass)
        for index in np.flatnonzero(found < PRESENT * usual):
            raise NoAgentError(
                f"no agent found in start picture {index}: the model's mask covers {found[index]:.0f} px, the agents "
                f"of world {self.world.name or 'given'!r} about {usual:.0f}. Use a picture like those that the world "
                f"learned from (a frame is {self.height}x{self.width} px, see env.unwrapped.core.world.start_frames)"
            )
        return world

    def _checked_targets(self, target, count: int) -> Tensor:
        """(x, y) or (count, 2) px -> (count, 2) on the host."""
        if self.task is None:
            raise ValueError("task=None has no target; make the environment with task='reach'")
        target = np.asarray(target, np.float32)
        if target.shape not in ((2,), (count, 2)):
            raise ValueError(f"target must be (x, y) in px, or one a row, got shape {target.shape}")
        if not np.isfinite(target).all() or (target < 0).any() or (target > [self.width, self.height]).any():
            raise ValueError(
                f"target must be (x, y) inside the {self.width}x{self.height} frame, got {target.tolist()}"
            )
        return torch.from_numpy(np.broadcast_to(target, (count, 2)).copy())

    def set_target(self, target) -> None:
        """Move the targets: (x, y) px for all rows, or (rows, 2)."""
        self.state = replace(self.state, target=self._checked_targets(target, self.rows).to(self.device))

    def forget(self) -> None:
        """Let go of all states and pictures; the next reset needs seeds again."""
        self.state = self._pool = self._picture = None
        self.begun = False

    def write(self, index: Tensor, other: EnvState) -> None:
        """Overwrite rows (B,) int64 with those of another state of this world.

        Raises:
            ValueError: a state of another world.
        """
        sizes = [[tuple(x.shape[1:]) for x in state.tensors()] for state in (self.state, other)]
        if sizes[0] != sizes[1]:
            raise ValueError("the state is of another world: its sizes differ")
        self.state, self._picture = self.state.write(index, other), None

    # --- stepping ----------------------------------------------------------------------------------------------

    def advance(self, actions) -> dict[str, Tensor]:
        """One step of all rows under (rows, 2) integer actions -> rewards, terminated, commanded shifts (px)."""
        index = self._checked_actions(actions)
        commanded = self._shifts[index[:, 0]]
        before, state = self.state.position, self.state
        world = self.simulator.step(state.world, commanded, index[:, 1])
        self._picture = None
        position, present = self._look(world)
        self.state = replace(
            state, world=world, position=position, previous=before, present=present, steps=state.steps + 1
        )
        nothing = torch.zeros(self.rows, device=self.device)
        reward, terminated = nothing, nothing > 0
        if self.task is not None:
            reward = self.task.rewards(before, position, state.target, self.unit)
            if self.task.terminates:
                terminated = self.task.reached(position, state.target)
        return {"reward": reward, "terminated": terminated, "commanded_shift": commanded}

    def _look(self, world: WorldState) -> tuple[Tensor, Tensor]:
        """Where the task sees the agents, px, and whether it sees them."""
        position, present = self.simulator.agent_position(world), self.simulator.agent_present(world)
        if self.position_from == "state":
            return position, present
        masks = self.simulator.masks(self.simulator.pictures(world))
        radius = self.world.config.agent_radius
        found = densest_point(masks, radius)
        x = torch.arange(self.width, device=self.device) - found[:, :1]
        y = torch.arange(self.height, device=self.device) - found[:, 1:]
        near = (y.abs() <= radius)[:, :, None] & (x.abs() <= radius)[:, None]
        present = (masks[:, 0] * near).sum((1, 2)) >= PRESENT * world.mass.clamp_min(1.0)
        return torch.where(present[:, None], found, position), present

    def _checked_actions(self, actions) -> Tensor:
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
        """What `info` tells about each row: fresh tensors."""
        state = self.state
        out = {"agent_position": state.position.clone(), "previous_position": state.previous.clone()}
        out["agent_present"] = state.present.clone()
        out["commanded_shift"] = torch.zeros_like(state.position) if commanded is None else commanded.clone()
        if self.task is not None:
            distance = self.task.distance(state.position, state.target)
            success = distance < self.task.radius
            out |= {"target": state.target.clone(), "distance": distance, "is_success": success}
        return out

    def pictures(self, ring: bool) -> Tensor:
        """Full-size frames (rows, 3, H, W) uint8; with the target or without."""
        if self._picture is None:
            self._picture = self.simulator.pictures(self.state.world)
        if ring:
            return draw_rings(self._picture, self.state.target, self.task.radius)
        return self._picture

    def observations(self) -> Tensor | dict[str, Tensor]:
        """Observations of all rows: fresh tensors on the device."""
        return self.observe(self.obs_type, self.frame_size, self.channels_first, self.draw_target)

    def observe(
        self, obs_type: str, frame_size: tuple[int, int] | None = None, channels_first: bool = False, ring: bool = True
    ) -> Tensor | dict[str, Tensor]:
        """What the rows look like: positions (rows, 2 or 4) px, frames (rows, ...) uint8, or both; fresh tensors."""
        both = [self.state.position, self.state.target] if self.task else [self.state.position]
        position = torch.cat(both, 1)
        if obs_type == "position":
            return position
        frames = observed_frames(self.pictures(ring), frame_size, channels_first)
        return frames if obs_type == "frame" else {"frame": frames, "position": position}

    def render(self) -> np.ndarray:
        """Frames (rows, H, W', 3) uint8 as they should be seen: W' applies the pixel aspect."""
        return stretch(to_host(self.pictures(self.task is not None).permute(0, 2, 3, 1)), self.world.pixel_aspect)


def emit(value):
    """Fresh tensors (or dicts of them), which nobody else keeps -> numpy arrays; what is numpy stays."""
    if isinstance(value, dict):
        return {key: emit(part) for key, part in value.items()}
    return value.cpu().numpy() if isinstance(value, Tensor) else value


def take(value, index):
    """Rows of tensors, arrays or dicts of them."""
    return {key: take(part, index) for key, part in value.items()} if isinstance(value, dict) else value[index]


def _one_of(name: str, value, allowed: tuple) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
