"""DownscaleFrame: smaller observed frames, reduced on the device."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium.vector import VectorEnv, VectorWrapper

from glass_gym.wrappers.core_of import TellsAutoresetMode, core_of


def downscale(env: Any, frame_size: tuple[int, int]) -> None:
    """Set an environment's frame size, (height, width) px, and its spaces; errors as of :class:`DownscaleFrame`."""
    core = core_of(env)
    if core.obs_type == "position":
        raise ValueError("obs_type='position' has no frame to downscale")
    if env.observation_space is not env.unwrapped.observation_space:
        raise ValueError("put DownscaleFrame directly on the environment, below wrappers that change observations")
    core.resize(frame_size)
    env.unwrapped.set_spaces()


class DownscaleFrame(gym.Wrapper, gym.utils.RecordConstructorArgs):
    """Observe frames of (height, width) px, reduced by area averaging on the device before they reach the host.

    It sets the environment's `frame_size`; rendered frames keep the world's size.

    Args:
        env: the environment.
        frame_size: (height, width) px.

    Raises:
        ValueError: observations have no frame, the size is out of range, or a wrapper below changes observations.
    """

    def __init__(self, env: gym.Env, frame_size: tuple[int, int]):
        gym.utils.RecordConstructorArgs.__init__(self, frame_size=frame_size)
        super().__init__(env)
        downscale(env, frame_size)


class VectorDownscaleFrame(TellsAutoresetMode, VectorWrapper):
    """:class:`DownscaleFrame` for vector environments."""

    def __init__(self, env: VectorEnv, frame_size: tuple[int, int]):
        super().__init__(env)
        downscale(env, frame_size)
