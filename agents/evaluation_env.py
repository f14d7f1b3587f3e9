"""Rows of a game with a task that a policy is measured in: a learned world here, the real game in real_tennis.py."""

from __future__ import annotations

from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

import glass_gym  # noqa: F401  (registers the ids)
from glass_gym.tensors.convert import to_numpy
from glass_gym.worlds.action_space import ActionTable


class EvaluationEnv(Protocol):
    """What :func:`agents.evaluation.evaluate` needs. A row that is done stays so until it is reset."""

    rows: int
    table: ActionTable
    limit: int
    """Steps of an episode."""

    def reset(self, mask: np.ndarray | None = None) -> None:
        """Start the rows of a bool mask anew, or all."""

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One step under (rows, 2) -> rewards (rows,), succeeded (rows,) bool."""

    def observe(self, obs_type: str, frame_size=None, channels_first: bool = False, shown: bool = True) -> Any:
        """As :meth:`glass_gym.env.core.GlassCore.observe`."""

    def position(self) -> np.ndarray:
        """Where the agents are, (rows, 2) px."""

    def heading(self) -> np.ndarray:
        """Where somebody who knows everything would walk to, (rows, 2) px."""

    def fewest_steps(self) -> np.ndarray:
        """A lower bound of the steps to success from here, (rows,) int64."""

    def pictures(self) -> np.ndarray:
        """The rows as people see them, (rows, H, W', 3) uint8."""


class WorldEvaluationEnv:
    """Rows of a glass_gym id.

    Args:
        id: a registered id with a task.
        rows: number of rows.
        seed: of row 0; row i gets seed + i.
        kwargs: of the id.
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

    @property
    def position_space(self) -> gym.spaces.Box:
        """The core's."""
        return self.core.position_space

    def reset(self, mask=None) -> None:
        """Start rows anew."""
        self.env.reset(seed=self._seed, options=None if mask is None else {"reset_mask": mask})
        self._seed = None

    def step(self, actions):
        """One step."""
        _, reward, _, _, infos = self.env.step(actions)
        return reward, infos["is_success"]

    def observe(self, *args, **kwargs):
        """The core's."""
        return self.core.observe(*args, **kwargs)

    def position(self) -> np.ndarray:
        """The core's."""
        return to_numpy(self.core.state.position)

    def heading(self) -> np.ndarray:
        """The task's."""
        return to_numpy(self.core.task.heading(self.core.state.position, self.core.state.task))

    def fewest_steps(self) -> np.ndarray:
        """The task's."""
        return self.core.task.fewest_steps(self.position(), to_numpy(self.core.state.task))

    def pictures(self) -> np.ndarray:
        """The rendered frames."""
        return self.core.render()


def make_evaluation_env(id: str, rows: int, seed: int = 0, **kwargs) -> EvaluationEnv:
    """Rows of an id to judge policies in; arguments that only change observations are left out.

    Raises:
        ValueError: an environment without a task.
    """
    if id == "RealTennis-v0":
        from agents.real_tennis import RealEvaluationEnv

        return RealEvaluationEnv(min(rows, 8), seed, **{k: kwargs[k] for k in ("codes", "fire_codes") if k in kwargs})
    return WorldEvaluationEnv(id, rows, seed, **kwargs)
