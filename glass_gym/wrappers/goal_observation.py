"""GoalObservation: observations for goal-conditioned algorithms such as HER."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from glass_gym.tasks import GoalTask
from glass_gym.wrappers.core_of import TellsAutoresetMode, core_of


class Goals:
    """What both wrappers share."""

    env: Any

    def goal_space(self, observation: gym.Space) -> gym.spaces.Dict:
        """The space of a row, Dict(observation, achieved_goal, desired_goal); ValueError: see the wrapper."""
        core = self._core = core_of(self.env)
        if core.task is None:
            raise ValueError("GoalObservation needs a goal: make the environment with task='reach'")
        if not isinstance(core.task, GoalTask):
            raise ValueError(
                f"GoalObservation needs a task with one goal a row, which {type(core.task).__name__} has not; "
                "use task='reach' or 'match'"
            )
        if core.obs_type == "dict" or (core.obs_type == "frame" and core.draw_target):
            raise ValueError(
                "the observation must not show the goal: use obs_type='position', or obs_type='frame' with "
                "draw_target=False"
            )
        self._task: GoalTask = core.task
        whole = core.position_space
        size = whole.shape[0] // 2
        place = gym.spaces.Box(whole.low[:size], whole.high[:size], dtype=np.float32)
        if core.obs_type == "position":
            observation = place
        return gym.spaces.Dict({"observation": observation, "achieved_goal": place, "desired_goal": place})

    def _observe(self, observation: Any, info: dict[str, Any], row: Any = slice(None)) -> dict[str, Any]:
        """The goal observation of an observation and its info, of one row of the info or of all, copied."""
        task, tensor = self._task, isinstance(observation, torch.Tensor)
        join = torch.cat if tensor else np.concatenate
        achieved, desired = (join([info[name][row] for name in names], -1) for names in (task.achieved, task.desired))
        if self._core.obs_type == "position":
            observation = achieved
        copied = observation.clone() if tensor else np.copy(observation)
        return {"observation": copied, "achieved_goal": achieved, "desired_goal": desired}

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """As of the environment, with goal observations."""
        observation, info = self.env.reset(**kwargs)
        return self._observe(observation, info), info

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """As of the environment, with goal observations; `final_obs` (SAME_STEP), too, becomes one."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if "final_obs" in info:
            last, ended = info["final_info"], info["_final_obs"]
            if isinstance(ended, torch.Tensor):
                info["final_obs"] = self._observe(info["final_obs"], last)
            else:
                for row in np.flatnonzero(ended):
                    info["final_obs"][row] = self._observe(info["final_obs"][row], last, row)
        return self._observe(observation, info), reward, terminated, truncated, info

    def compute_reward(self, achieved_goal: Any, desired_goal: Any, info: Any) -> Any:
        """The rewards of arriving at `achieved_goal` when `desired_goal` was the goal.

        Args:
            achieved_goal: (..., G), G as of :class:`GoalTask`: (x, y) px, for ``"match"`` then the pose vector.
            desired_goal: (..., G); both broadcast.
            info: a dict, or one per row, with `previous_position` (for dense rewards).

        Returns:
            a float, or an array (...).

        Raises:
            ValueError: rewards are dense and `previous_position` is missing.
        """
        achieved = torch.as_tensor(np.asarray(achieved_goal, np.float32))
        desired = torch.as_tensor(np.asarray(desired_goal, np.float32))
        before = achieved[..., :2]
        if self._task.dense:
            try:
                name = "previous_position"
                previous = info[name] if isinstance(info, dict) else [one[name] for one in info]
                before = torch.as_tensor(np.asarray(previous, np.float32))
            except (KeyError, TypeError):
                raise ValueError(
                    "a dense reward needs info['previous_position']: use HerReplayBuffer(copy_info_dict=True), "
                    "or make the environment with reward='sparse'"
                ) from None
        achieved, desired = torch.broadcast_tensors(achieved, desired)
        reward = self._task.rewards(before, achieved, desired).numpy()
        return float(reward) if reward.ndim == 0 else reward


class GoalObservation(Goals, gym.Wrapper, gym.utils.RecordConstructorArgs):
    """Observations for goal-conditioned algorithms such as HER: `observation`, `achieved_goal`, `desired_goal`.

    Goals are (x, y) px; of the task ``"match"`` they are (x, y) and a pose vector. The observation must not show the
    goal, since HER exchanges goals afterwards: use ``obs_type="position"`` (the observation is what is achieved, such
    as the agent's (x, y)), or ``obs_type="frame"`` with ``draw_target=False``.

    With ``reward="dense"`` a reward depends on the position before the step, which is `info["previous_position"]`
    (SB3: ``HerReplayBuffer(copy_info_dict=True)``).

    Raises:
        ValueError: the task has no single goal, or the observation shows it.
    """

    def __init__(self, env: gym.Env):
        gym.utils.RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self.observation_space = self.goal_space(env.observation_space)


class VectorGoalObservation(Goals, TellsAutoresetMode, VectorWrapper):
    """:class:`GoalObservation` for vector environments."""

    def __init__(self, env: VectorEnv):
        super().__init__(env)
        self.single_observation_space = self.goal_space(env.single_observation_space)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
