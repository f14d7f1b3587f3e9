"""glass_gym: worlds learned by GLASS (Davtyan & Favaro, ECCV 2022) as Gymnasium environments.

Importing the package registers the ids::

    import gymnasium as gym, glass_gym
    env = gym.make("GlassTennis-v0")
    envs = gym.make_vec("GlassTennis-v0", num_envs=16)
"""

import multiprocessing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gymnasium.envs.registration import register, registry

from glass_gym.model.config import GlassConfig

if TYPE_CHECKING:
    from glass_gym.env.env import GlassEnv
    from glass_gym.env.state import EnvState
    from glass_gym.env.vector_env import GlassVectorEnv
    from glass_gym.hub import from_hub, push_to_hub
    from glass_gym.model.glass import Glass, build_glass
    from glass_gym.model.quantise import register_quantiser
    from glass_gym.play.notebook import show
    from glass_gym.simulator.simulator import NoAgentError, Simulator, WorldState
    from glass_gym.tasks import Task, register_task
    from glass_gym.worlds.checkpoint import World, load_world, save_world

__version__ = "0.1.0"


def _register(id: str, max_episode_steps: int, **kwargs: Any) -> None:
    if id not in registry:
        register(
            id=id,
            entry_point="glass_gym.env.env:GlassEnv",
            vector_entry_point="glass_gym.env.vector_env:GlassVectorEnv",
            max_episode_steps=max_episode_steps,
            kwargs=kwargs,
        )


def register_world(id: str, checkpoint: str | Path, max_episode_steps: int = 100, **kwargs: Any) -> None:
    """Give a world of your own an id for ``gymnasium.make`` and ``gymnasium.make_vec``.

    The id is known in this process only. For other processes, put the call into a module `mine` and use the id
    ``"mine:MyGame-v0"``.

    Args:
        id: a name and a version, "MyGame-v0".
        checkpoint: a world's .safetensors file, or the name of a bundled world.
        max_episode_steps: the time limit, steps.
        kwargs: default arguments of :class:`glass_gym.GlassEnv` for this id, such as `task`.

    Raises:
        ValueError: another world has this id.
        CheckpointError: there is no such file.
    """
    from glass_gym.worlds.checkpoint import resolve

    kwargs["checkpoint"] = str(resolve(checkpoint).resolve())
    known = registry.get(id)
    if known is not None and (known.kwargs, known.max_episode_steps) != (kwargs, max_episode_steps):
        raise ValueError(f"{id} is registered already, as another environment: choose another name or version")
    _register(id, max_episode_steps, **kwargs)


# time limits: two or three times the steps across the ground where targets are, so that random agents seldom arrive
_register("GlassTennis-v0", 70, checkpoint="tennis")
_register("GlassSprites-v0", 24, checkpoint="sprites")
_register("GlassArm-v0", 32, checkpoint="arm")
_register("GlassMouse-v0", 200, checkpoint="mouse")
_register("Glass-v0", 100)


def _preload() -> None:
    """Let the processes of a fork server (Python 3.14's default) know the ids: the server imports this package."""
    if "forkserver" in multiprocessing.get_all_start_methods():
        from multiprocessing import forkserver

        known = getattr(forkserver._forkserver, "_preload_modules", ["__main__"])  # type: ignore[attr-defined]
        forkserver.set_forkserver_preload(list(dict.fromkeys([*known, "glass_gym"])))


_preload()


def __getattr__(name: str) -> Any:
    """Load public names that need torch, and the modules `wrappers` and `sb3`, on first use."""
    import importlib

    homes = {
        "EnvState": "env.state",
        "Glass": "model.glass",
        "GlassEnv": "env.env",
        "GlassVectorEnv": "env.vector_env",
        "NoAgentError": "simulator.simulator",
        "Simulator": "simulator.simulator",
        "Task": "tasks",
        "World": "worlds.checkpoint",
        "WorldState": "simulator.simulator",
        "build_glass": "model.glass",
        "from_hub": "hub",
        "load_world": "worlds.checkpoint",
        "push_to_hub": "hub",
        "register_quantiser": "model.quantise",
        "register_task": "tasks",
        "save_world": "worlds.checkpoint",
        "show": "play.notebook",
    }
    if name in homes:
        return getattr(importlib.import_module(f"glass_gym.{homes[name]}"), name)
    if name in ("wrappers", "sb3"):
        return importlib.import_module(f"glass_gym.{name}")
    raise AttributeError(f"module 'glass_gym' has no attribute {name!r}")


__all__ = [
    "EnvState", "Glass", "GlassConfig", "GlassEnv", "GlassVectorEnv", "NoAgentError", "Simulator", "Task", "World",
    "WorldState", "build_glass", "from_hub", "load_world", "push_to_hub", "register_quantiser", "register_task",
    "register_world", "save_world", "show",
]  # fmt: skip
