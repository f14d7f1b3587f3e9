"""The wrappers of :mod:`glass_gym.wrappers` for vector environments; numpy and torch output alike."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorActionWrapper, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from glass_gym.wrappers import core_of, downscale
from glass_gym.wrappers.goal import goal_space, goals_of, reward_of


class FlattenAction(VectorActionWrapper):
    """MultiDiscrete([S, K]) -> Discrete(S * K) a row: index = shift * K + code."""

    def __init__(self, env: VectorEnv):
        super().__init__(env)
        self._table = core_of(env).table
        self.single_action_space = gym.spaces.Discrete(int(np.prod(self._table.nvec)))
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def actions(self, actions):
        """Flat indices (n,) -> (n, 2)."""
        if isinstance(actions, torch.Tensor):
            codes = len(self._table.code_names)
            return torch.stack([actions.div(codes, rounding_mode="floor"), actions % codes], -1)
        return self._table.unflatten(actions)


class GoalObservation(VectorWrapper):
    """`observation`, `achieved_goal`, `desired_goal` a row; see :class:`glass_gym.wrappers.GoalObservation`."""

    def __init__(self, env: VectorEnv):
        super().__init__(env)
        self._core = core_of(env)
        self.single_observation_space = goal_space(self._core, env.single_observation_space)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)

    def reset(self, **kwargs: Any):
        """As the environment's."""
        observation, info = self.env.reset(**kwargs)
        return goals_of(self._core, observation, info["agent_position"], info["target"]), info

    def step(self, actions):
        """As the environment's."""
        observation, reward, terminated, truncated, info = self.env.step(actions)
        if "final_obs" in info:
            self._finish(info)
        goals = goals_of(self._core, observation, info["agent_position"], info["target"])
        return goals, reward, terminated, truncated, info

    def _finish(self, info) -> None:
        """SAME_STEP: the last observation of a done row is a goal observation too."""
        last = info["final_info"]
        if isinstance(info["_final_obs"], torch.Tensor):
            info["final_obs"] = goals_of(self._core, info["final_obs"], last["agent_position"], last["target"])
            return
        for row in np.flatnonzero(info["_final_obs"]):
            info["final_obs"][row] = goals_of(
                self._core, info["final_obs"][row], last["agent_position"][row], last["target"][row]
            )

    def compute_reward(self, achieved_goal, desired_goal, info):
        """The step's reward for goals (..., 2) px; broadcasts."""
        return reward_of(self._core, achieved_goal, desired_goal, info)


class DownscaleFrame(VectorWrapper):
    """Observe frames of (height, width) px, reduced by area on the device."""

    def __init__(self, env: VectorEnv, frame_size: tuple[int, int]):
        super().__init__(env)
        downscale(env, frame_size)
