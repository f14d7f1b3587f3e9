"""GoalObservation: observations for goal-conditioned learners such as HER."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from glass_gym.env.core import GlassCore
from glass_gym.tasks import GoalTask
from glass_gym.wrappers.core_of import TellsAutoresetMode, core_of


class Goals:
    """The goal observations of a core: shared by the single and the vector wrapper.

    Args:
        core: with a :class:`GoalTask`.

    Raises:
        ValueError: no task, one without a single goal, or an observation that shows the target.
    """

    def __init__(self, core: GlassCore):
        self.core = core
        if core.task is None:
            raise ValueError("GoalObservation needs a goal: make the environment with task='reach'")
        if not isinstance(core.task, GoalTask):
            raise ValueError(
                f"GoalObservation needs a task with one goal a row, which {type(core.task).__name__} has not; "
                "use task='reach'"
            )
        if core.obs_type == "dict" or (core.obs_type == "frame" and core.draw_target):
            raise ValueError(
                "the observation must not show the goal: use obs_type='position', or obs_type='frame' with "
                "draw_target=False"
            )
        self.task: GoalTask = core.task

    def space(self, observation: gym.Space) -> gym.spaces.Dict:
        """Dict(observation, achieved_goal, desired_goal) of one row, places in px."""
        limits = np.array([self.core.width, self.core.height], np.float32)
        place = gym.spaces.Box(-limits, 2 * limits, dtype=np.float32)
        if self.core.obs_type == "position":
            observation = place
        return gym.spaces.Dict({"observation": observation, "achieved_goal": place, "desired_goal": place})

    def observe(self, observation: Any, info: dict[str, Any], row: Any = slice(None)) -> dict[str, Any]:
        """Observations and infos (numpy or tensors) -> goal observations; `row`: of `info`."""
        if self.core.obs_type == "position":
            observation = observation[..., :2]
        parts = {
            "observation": observation,
            "achieved_goal": info["agent_position"][row],
            "desired_goal": info["target"][row],
        }
        return {key: part.clone() if isinstance(part, torch.Tensor) else np.copy(part) for key, part in parts.items()}

    def reward(self, achieved_goal: Any, desired_goal: Any, info: Any) -> Any:
        """The step's reward of arriving at `achieved_goal` when `desired_goal` was wanted; (..., 2) px broadcast.

        Returns:
            a float, or an array (...).

        Raises:
            ValueError: a dense reward without `previous_position` in the infos.
        """
        achieved = torch.as_tensor(np.asarray(achieved_goal, np.float32))
        desired = torch.as_tensor(np.asarray(desired_goal, np.float32))
        before = achieved
        if self.task.dense:
            try:
                previous = (
                    info["previous_position"] if isinstance(info, dict) else [i["previous_position"] for i in info]
                )
            except (KeyError, TypeError):
                raise ValueError(
                    "a dense reward needs info['previous_position']: use HerReplayBuffer(copy_info_dict=True), "
                    "or make the environment with reward='sparse'"
                ) from None
            before = torch.as_tensor(np.asarray(previous, np.float32))
        before, achieved, desired = torch.broadcast_tensors(before, achieved, desired)
        reward = self.task.rewards(before, achieved, desired).numpy()
        return float(reward) if reward.ndim == 0 else reward


class GoalObservation(gym.Wrapper, gym.utils.RecordConstructorArgs):
    """Observations for goal-conditioned learners such as HER: `observation`, `achieved_goal`, `desired_goal` (px).

    The observation must not show the goal, or relabelling would lie: ``obs_type="position"`` gives the agent's
    (x, y); ``obs_type="frame"`` needs ``draw_target=False``.

    With ``reward="dense"`` a reward depends on where the agent was before, which `info["previous_position"]` tells
    (SB3: ``HerReplayBuffer(copy_info_dict=True)``).

    Raises:
        ValueError: no goal, or an observation that shows it.
    """

    def __init__(self, env: gym.Env):
        gym.utils.RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self._goals = Goals(core_of(env))
        self.observation_space = self._goals.space(env.observation_space)

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """As the environment's."""
        observation, info = self.env.reset(**kwargs)
        return self._goals.observe(observation, info), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """As the environment's."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._goals.observe(observation, info), reward, terminated, truncated, info

    def compute_reward(self, achieved_goal: Any, desired_goal: Any, info: Any) -> Any:
        """The step's reward for goals (..., 2) px; broadcasts. `info`: a dict, or one a row."""
        return self._goals.reward(achieved_goal, desired_goal, info)


class VectorGoalObservation(TellsAutoresetMode, VectorWrapper):
    """:class:`GoalObservation` for vector environments.

    Raises:
        ValueError: no goal, or an observation that shows it.
    """

    def __init__(self, env: VectorEnv):
        super().__init__(env)
        self._goals = Goals(core_of(env))
        self.single_observation_space = self._goals.space(env.single_observation_space)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """As the environment's."""
        observation, info = self.env.reset(**kwargs)
        return self._goals.observe(observation, info), info

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """As the environment's."""
        observation, reward, terminated, truncated, info = self.env.step(actions)
        if "final_obs" in info:
            self._finish(info)
        return self._goals.observe(observation, info), reward, terminated, truncated, info

    def _finish(self, info: dict[str, Any]) -> None:
        """SAME_STEP: the last observation of a done row is a goal observation too."""
        last = info["final_info"]
        if isinstance(info["_final_obs"], torch.Tensor):
            info["final_obs"] = self._goals.observe(info["final_obs"], last)
            return
        for row in np.flatnonzero(info["_final_obs"]):
            info["final_obs"][row] = self._goals.observe(info["final_obs"][row], last, row)

    def compute_reward(self, achieved_goal: Any, desired_goal: Any, info: Any) -> Any:
        """The step's reward for goals (..., 2) px; broadcasts."""
        return self._goals.reward(achieved_goal, desired_goal, info)
