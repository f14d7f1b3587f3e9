"""What single and vector GoalObservation share: pure functions of a core, observations and positions."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import torch

from glass_gym.core import GlassCore


def goal_space(core: GlassCore, observation: gym.Space) -> gym.spaces.Dict:
    """Dict(observation, achieved_goal, desired_goal) of one row.

    Raises:
        ValueError: no task, or the observation shows the target.
    """
    if core.task is None:
        raise ValueError("GoalObservation needs a goal: make the environment with task='reach'")
    if core.obs_type == "dict" or (core.obs_type == "frame" and core.draw_target):
        raise ValueError("the observation must not show the goal: use obs_type='position', or obs_type='frame' with "
                         "draw_target=False")  # fmt: skip
    limits = np.array([core.width, core.height], np.float32)
    place = gym.spaces.Box(-limits, 2 * limits, dtype=np.float32)
    if core.obs_type == "position":
        observation = place
    return gym.spaces.Dict({"observation": observation, "achieved_goal": place, "desired_goal": place})


def goals_of(core: GlassCore, observation, position, target) -> dict:
    """Observation, position and target (..., 2) px -> the goal observation."""
    if core.obs_type == "position":
        observation = observation[..., :2]
    copy = torch.Tensor.clone if isinstance(position, torch.Tensor) else np.copy
    return {"observation": copy(observation), "achieved_goal": copy(position), "desired_goal": copy(target)}


def reward_of(core: GlassCore, achieved_goal, desired_goal, info):
    """The step's reward of arriving at `achieved_goal` when `desired_goal` was wanted; arrays (..., 2) px broadcast.

    Raises:
        ValueError: a dense reward without `previous_position` in the infos.
    """
    achieved = torch.as_tensor(np.asarray(achieved_goal, np.float32))
    desired = torch.as_tensor(np.asarray(desired_goal, np.float32))
    before = achieved
    if core.task.reward == "dense":
        try:
            previous = info["previous_position"] if isinstance(info, dict) else [i["previous_position"] for i in info]
        except (KeyError, TypeError):
            raise ValueError(
                "a dense reward needs info['previous_position']: use HerReplayBuffer(copy_info_dict=True), "
                "or make the environment with reward='sparse'"
            ) from None
        before = torch.as_tensor(np.asarray(previous, np.float32))
    before, achieved, desired = torch.broadcast_tensors(before, achieved, desired)
    reward = core.task.rewards(before, achieved, desired, core.unit).numpy()
    return float(reward) if reward.ndim == 0 else reward
