"""GlassVectorEnv: the batched environment, on top of the simulator. The single environment is its batch of one."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from glass_gym.action_space import ActionTable
from glass_gym.checkpoint import World, load_world
from glass_gym.simulator import Simulator, WorldState, to_host
from glass_gym.task import ReachTask, draw_targets

OBS_TYPES = ("frame", "position", "dict")
RENDER_FPS = 15
KNOWN_OPTIONS = frozenset({"start_frame", "target"})


class GlassCore:
    """Rows of a world with a task, and nothing about Gymnasium's calling conventions.

    Args:
        checkpoint: a bundled name, a path, or a loaded :class:`World`.
        rows: number of environments.
        obs_type: ``"frame"``, ``"position"`` or ``"dict"``.
        shifts, shift_scale: the global part of the action table, see :class:`ActionTable`.
        reward, target_radius: of :class:`ReachTask`.
        device: torch device.
    """

    def __init__(
        self, checkpoint: str | World = "tennis", rows: int = 1, obs_type: str = "frame", shifts="compass",
        shift_scale: float = 1.0, reward: str = "dense", target_radius: float = 6.0, device: str = "cpu",
    ):  # fmt: skip
        if rows < 1:
            raise ValueError(f"num_envs must be at least 1, got {rows}")
        if obs_type not in OBS_TYPES:
            raise ValueError(f"obs_type must be one of {', '.join(OBS_TYPES)}, got {obs_type!r}")
        self.world = checkpoint if isinstance(checkpoint, World) else load_world(checkpoint)
        self.simulator = Simulator(self.world.model, device)
        self.rows, self.obs_type = rows, obs_type
        self.table = ActionTable.build(self.world.step, self.world.code_names, shifts, shift_scale)
        self.task = ReachTask(radius=target_radius, reward=reward)
        self.height, self.width = self.simulator.height, self.simulator.width
        self.unit = float(np.linalg.norm(self.table.shifts, axis=1).max()) or 1.0
        self._shifts = torch.from_numpy(self.table.shifts).to(self.simulator.device)
        self._pool: WorldState | None = None
        self.state: WorldState | None = None
        self.target = torch.zeros(rows, 2, device=self.simulator.device)

    # --- spaces ------------------------------------------------------------------------------------------------

    @property
    def action_space(self) -> gym.Space:
        """MultiDiscrete([S, K])."""
        return gym.spaces.MultiDiscrete(self.table.nvec)

    @property
    def observation_space(self) -> gym.Space:
        """Box of frames (H, W, 3) uint8, Box of (x, y, target x, target y) px, or both in a Dict."""
        frame = gym.spaces.Box(0, 255, (self.height, self.width, 3), np.uint8)
        limits = np.array([self.width, self.height] * 2, np.float32)
        position = gym.spaces.Box(-limits, 2 * limits, dtype=np.float32)
        if self.obs_type == "dict":
            return gym.spaces.Dict({"frame": frame, "position": position})
        return frame if self.obs_type == "frame" else position

    # --- rules -------------------------------------------------------------------------------------------------

    @property
    def pool(self) -> WorldState:
        """Start states of all start frames, computed once, so that a reset is a gather."""
        if self._pool is None:
            self._pool = self.simulator.start(torch.from_numpy(self.world.start_frames))
        return self._pool

    def reset_rows(self, mask: np.ndarray, generators: list[np.random.Generator], options: dict | None = None) -> None:
        """Start the rows of a (rows,) bool mask anew; options: `start_frame` (index or picture), `target` (x, y) px."""
        options = options or {}
        if unknown := set(options) - KNOWN_OPTIONS:
            raise ValueError(f"unknown reset options {sorted(unknown)}; known: {', '.join(sorted(KNOWN_OPTIONS))}")
        rows = np.flatnonzero(mask)
        picked = [int(generators[row].integers(len(self.pool))) for row in rows]
        fresh = self._start(options.get("start_frame"), picked)
        position = to_host(self.simulator.agent_position(fresh))
        targets = self._targets(options.get("target"), [generators[row] for row in rows], position)
        index = torch.from_numpy(rows).to(self.simulator.device)
        self.state = fresh if self.state is None else self.state.write(index, fresh)
        self.target = self.target.clone()
        self.target[index] = torch.from_numpy(targets).to(self.target)

    def _start(self, start, picked: list[int]) -> WorldState:
        if start is None:
            return self.pool.rows(torch.tensor(picked, device=self.simulator.device))
        if np.ndim(start) == 0:
            if not 0 <= int(start) < len(self.pool):
                raise ValueError(f"start_frame {int(start)} is not in 0..{len(self.pool) - 1}")
            return self.pool.rows(torch.full((len(picked),), int(start), device=self.simulator.device))
        picture = np.asarray(start)
        if picture.shape != (self.height, self.width, 3) or picture.dtype != np.uint8:
            raise ValueError(
                f"start_frame must be an index or a uint8 picture {(self.height, self.width, 3)}, "
                f"got {picture.dtype} {picture.shape}"
            )
        one = self.simulator.start(torch.from_numpy(picture.copy())[None])
        return one.rows(torch.zeros(len(picked), dtype=torch.long, device=self.simulator.device))

    def _targets(self, target, generators, position: np.ndarray) -> np.ndarray:
        if target is None:
            drawn = [
                self.task.draw_target(g, p, self.height, self.width) for g, p in zip(generators, position, strict=True)
            ]
            return np.stack(drawn)
        target = np.asarray(target, np.float32)
        if (
            target.shape != (2,)
            or not np.isfinite(target).all()
            or (target < 0).any()
            or (target > [self.width, self.height]).any()
        ):
            raise ValueError(
                f"target must be (x, y) inside the {self.width}x{self.height} frame, got {target.tolist()}"
            )
        return np.repeat(target[None], len(position), 0)

    def advance(self, actions: np.ndarray) -> dict[str, Tensor]:
        """One step of all rows under (rows, 2) actions -> rewards, terminated, commanded shifts, on the device."""
        actions = self._checked(actions)
        before = self.simulator.agent_position(self.state)
        index = torch.from_numpy(actions).to(self.simulator.device)
        commanded = self._shifts[index[:, 0]]
        self.state = self.simulator.step(self.state, commanded, index[:, 1])
        after = self.simulator.agent_position(self.state)
        return {
            "reward": self.task.rewards(before, after, self.target, self.unit),
            "terminated": self.task.reached(after, self.target),
            "commanded_shift": commanded,
        }

    def _checked(self, actions) -> np.ndarray:
        actions = np.asarray(actions)
        if actions.shape != (self.rows, 2) or not np.issubdtype(actions.dtype, np.integer):
            raise ValueError(f"actions must be integers of shape {(self.rows, 2)}, got {actions.dtype} {actions.shape}")
        if (actions < 0).any() or (actions >= np.array(self.table.nvec)).any():
            raise ValueError(f"actions must lie in 0..{[n - 1 for n in self.table.nvec]}, got {actions.tolist()}")
        return actions.astype(np.int64)

    def infos(self, commanded: Tensor | None = None) -> dict[str, np.ndarray]:
        """What `info` tells about each row."""
        position = self.simulator.agent_position(self.state)
        distance = self.task.distance(position, self.target)
        return {
            "agent_position": to_host(position).astype(np.float32),
            "agent_present": to_host(self.simulator.agent_present(self.state)),
            "target": to_host(self.target),
            "distance": to_host(distance),
            "is_success": to_host(distance < self.task.radius),
            "commanded_shift": to_host(commanded if commanded is not None else torch.zeros_like(position)),
        }

    def observations(self):
        """Observations of all rows, fresh numpy arrays."""
        position = torch.cat([self.simulator.agent_position(self.state), self.target], 1)
        if self.obs_type == "position":
            return to_host(position).astype(np.float32)
        frame = to_host(draw_targets(self.simulator.frames(self.state), self.target, self.task.radius))
        return frame if self.obs_type == "frame" else {"frame": frame, "position": to_host(position).astype(np.float32)}

    def render(self) -> np.ndarray:
        """Frames (rows, H, W', 3) uint8 as they should be seen: W' applies the pixel aspect."""
        frames = to_host(draw_targets(self.simulator.frames(self.state), self.target, self.task.radius))
        return stretch(frames, self.world.pixel_aspect)


def stretch(frames: np.ndarray, pixel_aspect: float) -> np.ndarray:
    """Apply a pixel aspect: nearest-neighbour columns, (..., H, W, 3) -> (..., H, round(W * aspect), 3)."""
    width = frames.shape[-2]
    columns = (np.arange(round(width * pixel_aspect)) / pixel_aspect).astype(int).clip(0, width - 1)
    return np.ascontiguousarray(frames[..., columns, :])


class GlassVectorEnv(VectorEnv):
    """Batched GLASS worlds with NEXT_STEP autoreset: the step after a done row ignores its action and resets it.

    Row i draws from its own generator, seeded seed + i, and does not depend on the number of rows.

    Args:
        checkpoint: a bundled name, a path, or a loaded :class:`World`.
        num_envs: rows.
        max_episode_steps: time limit; None for none.
        render_mode: ``"rgb_array"`` or None.
        autoreset_mode: NEXT_STEP.
        kwargs: of :class:`GlassCore`.
    """

    def __init__(
        self, checkpoint: str | World = "tennis", num_envs: int = 1, max_episode_steps: int | None = None,
        render_mode: str | None = None, autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP, **kwargs: Any,
    ):  # fmt: skip
        mode = AutoresetMode(autoreset_mode)
        if mode != AutoresetMode.NEXT_STEP:
            raise ValueError(f"autoreset_mode {mode} is not supported yet; use AutoresetMode.NEXT_STEP")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}")
        self.core = GlassCore(checkpoint, num_envs, **kwargs)
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": RENDER_FPS, "autoreset_mode": mode}
        self.num_envs, self.render_mode, self.max_episode_steps = num_envs, render_mode, max_episode_steps
        self.single_action_space = self.core.action_space
        self.single_observation_space = self.core.observation_space
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._generators: list[np.random.Generator] | None = None
        self._steps = np.zeros(num_envs, int)
        self._done = np.zeros(num_envs, bool)

    @property
    def shifts(self) -> np.ndarray:
        """(S, 2) px."""
        return self.core.table.shifts

    @property
    def code_names(self) -> tuple[str, ...]:
        """K names."""
        return self.core.table.code_names

    def reset(self, *, seed: int | list[int | None] | None = None, options: dict | None = None):
        """All rows anew."""
        self._seed(seed)
        everyone = np.ones(self.num_envs, bool)
        self.core.reset_rows(everyone, self._generators, options)
        self._steps[:], self._done[:] = 0, False
        return self.core.observations(), self._vector_info(self.core.infos())

    def _seed(self, seed) -> None:
        if seed is None and self._generators is not None:
            return
        if seed is None or isinstance(seed, (int, np.integer)):
            base = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else int(seed)
            seed = [base + row for row in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(f"seed must be an int or {self.num_envs} ints, got {len(seed)}")
        old = self._generators or [None] * self.num_envs
        self._generators = [
            before if one is None and before is not None else np.random.default_rng(one)
            for one, before in zip(seed, old, strict=True)
        ]

    def step(self, actions):
        """One step of all rows; rows done in the step before are reset instead."""
        if self.core.state is None:
            raise gym.error.ResetNeeded("call reset() before step()")
        resetting = self._done.copy()
        outcome = self.core.advance(actions)
        reward = to_host(outcome["reward"]).astype(np.float64)
        terminated = to_host(outcome["terminated"])
        commanded = outcome["commanded_shift"]
        self._steps += 1
        if resetting.any():
            self.core.reset_rows(resetting, self._generators)
            self._steps[resetting], reward[resetting], terminated[resetting] = 0, 0.0, False
            commanded = commanded.clone()
            commanded[torch.from_numpy(resetting).to(commanded.device)] = 0
        limit = self.max_episode_steps
        truncated = (self._steps >= limit) & ~resetting if limit else np.zeros(self.num_envs, bool)
        self._done = terminated | truncated
        info = self._vector_info(self.core.infos(commanded))
        return self.core.observations(), reward, terminated, truncated, info

    def _vector_info(self, infos: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        out = dict(infos)
        for key in infos:
            out[f"_{key}"] = np.ones(self.num_envs, bool)
        return out

    def render(self):
        """A tuple of frames (H, W', 3) uint8, pixel aspect applied; None without a render mode."""
        return tuple(self.core.render()) if self.render_mode == "rgb_array" else None
