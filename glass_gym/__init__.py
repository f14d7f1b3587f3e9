"""glass_gym: worlds learned by GLASS (Davtyan & Favaro, ECCV 2022) as Gymnasium environments.

Importing registers the ids::

    import gymnasium as gym, glass_gym
    env = gym.make("GlassTennis-v0")
    envs = gym.make_vec("GlassTennis-v0", num_envs=16)
"""

from typing import Any

from gymnasium.envs.registration import register, registry

from glass_gym.config import GlassConfig

__version__ = "0.1.0"

_ENTRY_POINTS = {
    "entry_point": "glass_gym.env:GlassEnv",
    "vector_entry_point": "glass_gym.vector_env:GlassVectorEnv",
}

if "GlassTennis-v0" not in registry:
    # about three times as long as the way across the ground where targets are
    register(id="GlassTennis-v0", kwargs={"checkpoint": "tennis"}, max_episode_steps=100, **_ENTRY_POINTS)
    register(id="GlassSprites-v0", kwargs={"checkpoint": "sprites"}, max_episode_steps=30, **_ENTRY_POINTS)
    register(id="Glass-v0", max_episode_steps=100, **_ENTRY_POINTS)


def __getattr__(name: str) -> Any:
    """The public names that need torch load on first use.

    Raises:
        AttributeError: no such name.
    """
    import importlib

    homes = {
        "EnvState": "core",
        "Glass": "glass",
        "GlassEnv": "env",
        "GlassVectorEnv": "vector_env",
        "NoAgentError": "simulator",
        "Simulator": "simulator",
        "Task": "tasks",
        "World": "checkpoint",
        "WorldState": "simulator",
        "build_glass": "build",
        "load_world": "checkpoint",
        "register_quantiser": "networks.quantise",
        "register_task": "tasks",
        "save_world": "checkpoint",
    }
    if name in homes:
        return getattr(importlib.import_module(f"glass_gym.{homes[name]}"), name)
    raise AttributeError(f"module 'glass_gym' has no attribute {name!r}")


__all__ = [
    "EnvState",
    "Glass",
    "GlassConfig",
    "GlassEnv",
    "GlassVectorEnv",
    "NoAgentError",
    "Simulator",
    "Task",
    "World",
    "WorldState",
    "build_glass",
    "load_world",
    "register_quantiser",
    "register_task",
    "save_world",
]
