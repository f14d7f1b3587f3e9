"""Wrappers of single environments; :mod:`glass_gym.wrappers.vector` has the same three for vector environments."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from glass_gym.core import GlassCore
from glass_gym.wrappers.goal import goal_space, goals_of, reward_of


class FlattenAction(gym.ActionWrapper, gym.utils.RecordConstructorArgs):
    """MultiDiscrete([S, K]) -> Discrete(S * K): index = shift * K + code. For DQN and other flat-action learners."""

    def __init__(self, env: gym.Env):
        gym.utils.RecordConstructorArgs.__init__(self)
        super().__init__(env)
        core = core_of(env)
        self.action_space = gym.spaces.Discrete(int(np.prod(core.table.nvec)))
        self._table = core.table

    def action(self, action) -> np.ndarray:
        """A flat index -> (shift, code)."""
        if action not in self.action_space:
            raise ValueError(f"the flat action must lie in 0..{self.action_space.n - 1}, got {action!r}")
        return self._table.unflatten(action)

    def get_keys_to_action(self) -> dict[tuple[int, ...], int]:
        """As the environment's, with flat indices."""
        pairs = self.env.get_wrapper_attr("get_keys_to_action")()
        return {keys: int(self._table.flatten(pair)) for keys, pair in pairs.items()}


class GoalObservation(gym.Wrapper, gym.utils.RecordConstructorArgs):
    """Observations for goal-conditioned learners such as HER: `observation`, `achieved_goal`, `desired_goal` (px).

    The observation must not show the goal, or relabelling would lie: ``obs_type="position"`` gives the agent's
    (x, y); ``obs_type="frame"`` needs ``draw_target=False``.

    With ``reward="dense"`` a reward depends on where the agent was before, which `info["previous_position"]` tells
    (SB3: ``HerReplayBuffer(copy_info_dict=True)``).
    """

    def __init__(self, env: gym.Env):
        gym.utils.RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self._core = core_of(env)
        self.observation_space = goal_space(self._core, env.observation_space)

    def reset(self, **kwargs: Any):
        """As the environment's."""
        observation, info = self.env.reset(**kwargs)
        return goals_of(self._core, observation, info["agent_position"], info["target"]), info

    def step(self, action):
        """As the environment's."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        goals = goals_of(self._core, observation, info["agent_position"], info["target"])
        return goals, reward, terminated, truncated, info

    def compute_reward(self, achieved_goal, desired_goal, info):
        """The step's reward for goals (..., 2) px; broadcasts. `info`: a dict, or one a row."""
        return reward_of(self._core, achieved_goal, desired_goal, info)


class DownscaleFrame(gym.Wrapper, gym.utils.RecordConstructorArgs):
    """Observe frames of (height, width) px, reduced by area on the device, before anything crosses to the host.

    It sets the environment's own `frame_size`; rendering keeps the full size.
    """

    def __init__(self, env: gym.Env, frame_size: tuple[int, int]):
        gym.utils.RecordConstructorArgs.__init__(self, frame_size=frame_size)
        super().__init__(env)
        downscale(env, frame_size)


def core_of(env) -> GlassCore:
    """The core under any wrappers.

    Raises:
        TypeError: not a glass_gym environment.
    """
    core = getattr(env.unwrapped, "core", None)
    if not isinstance(core, GlassCore):
        raise TypeError(f"this wrapper needs a glass_gym environment, got {env.unwrapped!r}")
    return core


def downscale(env, frame_size: tuple[int, int]) -> None:
    """Set the core's frame size and its face's spaces; observation spaces above must be the face's own."""
    core = core_of(env)
    if core.obs_type == "position":
        raise ValueError("obs_type='position' has no frame to downscale")
    if env.observation_space is not env.unwrapped.observation_space:
        raise ValueError("put DownscaleFrame directly on the environment, below wrappers that change observations")
    core.resize(frame_size)
    env.unwrapped.set_spaces()
