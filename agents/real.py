"""Real environments with the spaces, target, reward and time limit of a learned world: reach a target.

RealTennis-v0 is ALE Tennis (agents/real_tennis.py), RealArm-v0 is FetchReach in MuJoCo (agents/real_arm.py). A policy
of the learned world acts in them through the map of agents/ground.py, without any change.
"""

from __future__ import annotations

import importlib
from abc import abstractmethod
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from agents.ground import Ground, GroundedActions, ground_file
from glass_gym.tasks import ReachTask, Scene
from glass_gym.tensors.convert import to_numpy
from glass_gym.tensors.observe import observed_frames
from glass_gym.worlds.pictures import stretch

REAL = {"RealTennis-v0": "agents.real_tennis:RealTennis", "RealArm-v0": "agents.real_arm:RealArm"}
"""The class of each id."""
LIMITS = {"RealTennis-v0": 100, "RealArm-v0": 32}  # Time limits of episodes, steps.
EVALUATION_STARTS = 1  # `starts_seed` of evaluations. Policies train with 0, from other starts.


class RealReach(gym.Env):
    """Reach a target in a real environment, under its own controls.

    Args:
        obs_type, frame_size, channels_first, reward, target_radius, render_mode: as in the learned world.
        starts_seed: episodes of different seeds start elsewhere.

    Raises:
        ValueError: no such `obs_type`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}  # noqa: RUF012
    size: tuple[int, int]  # (H, W) px of frames
    step_px: tuple[float, float]  # usual steps of the agent along x and y, px
    area: tuple[float, float, float, float]  # left, top, right, bottom px of the targets
    pixel_aspect = 1.0

    def __init__(
        self,
        obs_type: str = "frame",
        frame_size: tuple[int, int] | None = None,
        reward: str = "dense",
        target_radius: float = 6.0,
        starts_seed: int = 0,
        channels_first: bool = True,
        render_mode: str | None = "rgb_array",
    ):
        height, width = self.size
        shifts = np.array([self.step_px], np.float32)
        scene = Scene(height, width, 0.0, shifts, self.area)
        self.task = ReachTask(scene, reward=reward, target_radius=target_radius, target_margin=0.0)
        self.obs_type = obs_type
        self.frame_size = frame_size
        self.channels_first = channels_first
        self.starts_seed = starts_seed
        self.render_mode = render_mode
        h, w = frame_size or self.size
        frame = gym.spaces.Box(0, 255, (3, h, w) if channels_first else (h, w, 3), np.uint8)
        limits = np.array([width, height] * 2, np.float32)
        position = gym.spaces.Box(-limits, 2 * limits, dtype=np.float32)
        spaces = {"frame": frame, "position": position, "dict": gym.spaces.Dict(frame=frame, position=position)}
        if obs_type not in spaces:
            raise ValueError(f"obs_type must be one of {', '.join(spaces)}, got {obs_type!r}")
        self.observation_space = spaces[obs_type]

    @abstractmethod
    def start(self) -> None:
        """Begin an episode, with random numbers of `self.np_random`."""

    @abstractmethod
    def act(self, control: Any) -> None:
        """A step under a control of the action space."""

    @property
    @abstractmethod
    def position(self) -> np.ndarray:
        """The agent's true position, (2,) float32 px."""

    @abstractmethod
    def picture(self) -> np.ndarray:
        """The frame without the target, (H, W, 3) uint8."""

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Start an episode. Options: `target`, (x, y) px; without it the target is random."""
        super().reset(seed=seed)
        self.start()
        numbers = torch.from_numpy(self.np_random.random((1, self.task.draws)))
        drawn = self.task.sample(numbers, torch.from_numpy(self.position)[None], {})["target"][0].numpy()
        self.target = np.asarray((options or {}).get("target", drawn), np.float32)
        return self._observation(), self._info()

    def step(self, action):
        """One step under a control."""
        before = torch.from_numpy(self.position)[None]
        self.act(action)
        outcome = self.task.step(before, torch.from_numpy(self.position)[None], self._goal)
        return self._observation(), outcome.reward.item(), outcome.terminated.item(), False, self._info()

    @property
    def _goal(self) -> dict[str, torch.Tensor]:
        """The task's state, a batch of one."""
        return {"target": torch.from_numpy(self.target)[None]}

    def _info(self) -> dict:
        position = self.position
        distance = float(np.linalg.norm(position - self.target))
        return {
            "agent_position": position,
            "target": self.target.copy(),
            "distance": distance,
            "is_success": distance < self.task.radius,
        }

    def frame(self) -> torch.Tensor:
        """The frame with the target, (1, 3, H, W) uint8."""
        return self.task.draw(torch.from_numpy(self.picture()).permute(2, 0, 1)[None], self._goal)

    def observe(self, obs_type: str, frame_size=None, channels_first: bool = False):
        """As :meth:`glass_gym.env.core.GlassCore.observe`, a batch of one."""
        position = np.concatenate([self.position, self.target])[None]
        if obs_type == "position":
            return position
        frame = to_numpy(observed_frames(self.frame(), frame_size, channels_first))
        return frame if obs_type == "frame" else {"frame": frame, "position": position}

    def _observation(self):
        seen = self.observe(self.obs_type, self.frame_size, self.channels_first)
        return {key: value[0] for key, value in seen.items()} if isinstance(seen, dict) else seen[0]

    def render(self) -> np.ndarray:
        """The frame with the target, stretched to square pixels, (H, W', 3) uint8."""
        return stretch(to_numpy(self.frame())[0].transpose(1, 2, 0), self.pixel_aspect)


def make_real(id: str, grounded: bool = True, ground: Path | None = None, **kwargs: Any) -> gym.Env:
    """Make a real environment.

    Args:
        id: of it.
        grounded: it takes the actions of the learned world; False: its own controls.
        ground: the map between them; None: the bundled one.
        kwargs: see :class:`RealReach`.

    Raises:
        ImportError: the package that simulates it is not installed.
        ValueError: there is no such map, or a value is out of range.
    """
    module, _, name = REAL[id].partition(":")
    env = getattr(importlib.import_module(module), name)(**kwargs)
    return GroundedActions(env, Ground.read(ground or ground_file(id))) if grounded else env


class RealEvaluationEnv:
    """B real environments for :func:`agents.evaluation.evaluate`, number i with seed + i.

    They start from other places than those of training. `kwargs` are those of :func:`make_real`. Their observations are
    positions: a policy asks for its own.
    """

    action = "discrete"

    def __init__(self, id: str, rows: int, seed: int = 0, **kwargs):
        made = {"starts_seed": EVALUATION_STARTS, "obs_type": "position", **kwargs}
        self.games: list[Any] = [make_real(id, **made) for _ in range(rows)]
        self.reals: list[RealReach] = [game.unwrapped for game in self.games]
        self.rows = rows
        self.limit = LIMITS[id]
        self.table = self.games[0].ground.table
        self.action_space = self.games[0].action_space
        self.position_space = gym.spaces.Box(-np.inf, np.inf, (4,), np.float32)  # of the agent and of the target
        self._seed: int | None = seed

    def reset(self, mask=None) -> None:
        for row, game in enumerate(self.games):
            if mask is None or mask[row]:
                game.reset(seed=None if self._seed is None else self._seed + row)
        self._seed = None

    def step(self, actions):
        played = [game.step(action) for game, action in zip(self.games, actions, strict=True)]
        reward, reached = (np.array([step[i] for step in played]) for i in (1, 2))
        return reward, reached, reached

    def observe(self, obs_type: str, frame_size=None, channels_first: bool = False, shown: bool = True):
        return np.concatenate([real.observe(obs_type, frame_size, channels_first) for real in self.reals])

    def position(self) -> np.ndarray:
        return np.stack([real.position for real in self.reals])

    def heading(self) -> np.ndarray:
        return np.stack([real.target for real in self.reals])

    def wanted_codes(self) -> None:
        return None

    def fewest_steps(self) -> np.ndarray:
        return self.reals[0].task.fewest_steps(self.position(), {"target": self.heading()})

    def pictures(self) -> np.ndarray:
        return np.stack([real.render() for real in self.reals])


for _id, _limit in LIMITS.items():
    if _id not in gym.registry:
        gym.register(_id, entry_point="agents.real:make_real", max_episode_steps=_limit, kwargs={"id": _id})
