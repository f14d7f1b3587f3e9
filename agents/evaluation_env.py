"""Batches of environments with a task, to measure policies in: learned worlds here, real environments in real.py."""

from __future__ import annotations

from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

import glass_gym  # noqa: F401  (registers the ids)
from agents.real import REAL, RealEvaluationEnv
from glass_gym.tensors.convert import to_numpy
from glass_gym.worlds.action_space import ActionTable


class EvaluationEnv(Protocol):
    """What :func:`agents.evaluation.evaluate` needs: B environments, the rows of a batch. None is reset by itself."""

    rows: int  # B
    table: ActionTable
    limit: int  # of an episode, steps

    def reset(self, mask: np.ndarray | None = None) -> None:
        """Reset the environments of a (B,) bool mask, or all."""

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One step under actions (B, 2) -> rewards (B,), success (B,) bool, whether an episode ended (B,) bool."""

    def observe(self, obs_type: str, frame_size=None, channels_first: bool = False, shown: bool = True) -> Any:
        """As :meth:`glass_gym.env.core.GlassCore.observe`."""

    def position(self) -> np.ndarray:
        """Positions of the agents, (B, 2) px."""

    def heading(self) -> np.ndarray:
        """Where a player who knows all positions walks to, (B, 2) px."""

    def wanted_codes(self) -> np.ndarray | None:
        """Local actions (B,) that such a player plays; None: those most frequent for the shift."""

    def fewest_steps(self) -> np.ndarray:
        """A lower bound of the number of steps to success from here, (B,) int64."""

    def pictures(self) -> np.ndarray:
        """Rendered frames, (B, H, W', 3) uint8."""


class WorldEvaluationEnv:
    """B environments of a registered id; environment i gets seed + i. `kwargs` are the id's; ValueError: no task.

    Those that only change observations are ignored: a policy asks for its own.
    """

    def __init__(self, id: str, rows: int, seed: int = 0, **kwargs):
        for taken in ("obs_type", "frame_size", "channels_first", "stagger"):
            kwargs.pop(taken, None)
        self.env = gym.make_vec(id, num_envs=rows, obs_type="position", autoreset_mode=AutoresetMode.DISABLED, **kwargs)
        self.core = self.env.unwrapped.core
        if self.core.task is None:
            raise ValueError("this needs a task: task='reach'")
        self.rows = rows
        self.table = self.core.table
        self.limit = self.env.unwrapped.max_episode_steps or 100
        self._seed: int | None = seed

        self.position_space = self.core.position_space

    def reset(self, mask=None) -> None:
        self.env.reset(seed=self._seed, options=None if mask is None else {"reset_mask": mask})
        self._seed = None

    def step(self, actions):
        _, reward, terminated, _, infos = self.env.step(self.core.encode_actions(actions))
        return reward, infos["is_success"], terminated

    def observe(self, *args, **kwargs):
        return self.core.observe(*args, **kwargs)

    def position(self) -> np.ndarray:
        return to_numpy(self.core.state.position)

    def heading(self) -> np.ndarray:
        return to_numpy(self.core.task.heading(self.core.state.position, self.core.state.task))

    def wanted_codes(self) -> np.ndarray | None:
        return to_numpy(self.core.task.wanted_codes(self.core.state.task))

    def fewest_steps(self) -> np.ndarray:
        return self.core.task.fewest_steps(self.position(), to_numpy(self.core.state.task))

    def pictures(self) -> np.ndarray:
        return self.core.render()


def make_evaluation_env(id: str, rows: int, seed: int = 0, **kwargs) -> EvaluationEnv:
    """Environments of an id to measure policies in, see :class:`WorldEvaluationEnv`; of real ones at most eight."""
    if id in REAL:
        return RealEvaluationEnv(id, min(rows, 8), seed, **{k: kwargs[k] for k in ("ground",) if k in kwargs})
    return WorldEvaluationEnv(id, rows, seed, **kwargs)
