"""DownscaleFrame: smaller frames, reduced on the device."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium.vector import VectorEnv, VectorWrapper

from glass_gym.wrappers.core_of import TellsAutoresetMode, core_of


def downscale(env: Any, frame_size: tuple[int, int]) -> None:
    """Set the core's frame size and its environment's spaces; observation spaces above must be the environment's own.

    Raises:
        ValueError: positions have no frame, a size that does not fit, or wrappers in between.
    """
    core = core_of(env)
    if core.obs_type == "position":
        raise ValueError("obs_type='position' has no frame to downscale")
    if env.observation_space is not env.unwrapped.observation_space:
        raise ValueError("put DownscaleFrame directly on the environment, below wrappers that change observations")
    core.resize(frame_size)
    env.unwrapped.set_spaces()


class DownscaleFrame(gym.Wrapper, gym.utils.RecordConstructorArgs):
    """Observe frames of (height, width) px, reduced by area on the device, before anything crosses to the host.

    It sets the environment's own `frame_size`; rendering keeps the full size.
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
