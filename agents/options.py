"""From names to objects: hyperparameters, environments and models for Stable-Baselines3."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import gymnasium as gym

from glass_gym.policy import CLASSES, model_class

HYPERPARAMETERS = Path(__file__).with_name("hyperparams.yml")
NOT_FOR_THE_MODEL = ("n_timesteps", "n_envs", "env_wrapper", "env_kwargs")


class AgentError(ValueError):
    """What was asked for cannot be done; the message names the value and the fix."""


def hyperparameters(
    id: str, algorithm: str, obs_type: str, changes: dict[str, Any] | None = None, file: Path = HYPERPARAMETERS
) -> dict[str, Any]:
    """The entry of an id, an algorithm and an observation, with changes.

    Raises:
        AgentError: no such file or entry; the message lists what there is.
    """
    import yaml

    try:
        entries = yaml.safe_load(Path(file).read_text())
    except (OSError, yaml.YAMLError) as error:
        raise AgentError(f"{file}: cannot be read ({error})") from None
    entries = {key: value for key, value in entries.items() if not key.startswith(".")}
    for kind, name in (("id", id), ("algorithm", algorithm), ("observation", obs_type)):
        if not isinstance(entries, dict) or name not in entries:
            raise AgentError(f"{file}: no {kind} {name!r}; there are: {', '.join(map(str, entries))}")
        entries = entries[name]
    return entries | (changes or {})


def changes_of(pairs: list[str]) -> dict[str, Any]:
    """``["n_steps:64", "policy_kwargs:{net_arch: [32]}"]`` -> a dict; values are YAML.

    Raises:
        AgentError: a pair without a colon, or a value that is not YAML.
    """
    import yaml

    changes = {}
    for pair in pairs:
        key, colon, value = pair.partition(":")
        if not colon or not key:
            raise AgentError(f"expected key:value, got {pair!r} (example: n_steps:64)")
        try:
            changes[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise AgentError(f"the value of {key} is not YAML: {value!r} ({error})") from None
    return changes


def schedule(value):
    """``lin_0.001`` -> a learning rate that falls linearly to 0; numbers stay."""
    if not isinstance(value, str):
        return value
    kind, _, first = value.partition("_")
    try:
        first = float(first)
    except ValueError:
        kind = ""
    if kind != "lin":
        raise AgentError(f"a schedule is a number or lin_NUMBER, got {value!r}")
    return lambda left: left * first


def make_env(id: str, n_envs: int, seed: int | None = None, wrappers: list[str] | None = None, **kwargs: Any):
    """A VecEnv for SB3 with episode statistics: one batched world, or rows of any other environment.

    Args:
        wrappers: names from :mod:`glass_gym.wrappers.vector`.
        kwargs: of the id.

    Raises:
        AgentError: an unknown id or wrapper.
    """
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecMonitor

    import agents.real_tennis  # noqa: F401  (registers RealTennis-v0)
    from glass_gym.sb3 import GlassVecEnv
    from glass_gym.wrappers import vector

    if id not in gym.registry:
        known = sorted(key for key in gym.registry if "Glass" in key or key == "RealTennis-v0")
        raise AgentError(f"no environment called {id!r}; there are: {', '.join(known)}")
    if "frame_size" in kwargs:
        kwargs["frame_size"] = tuple(kwargs["frame_size"])
    if gym.spec(id).vector_entry_point is None:
        statistics = {"info_keywords": ("is_success",)}
        return make_vec_env(id, n_envs, seed=seed, env_kwargs=kwargs, monitor_kwargs=statistics)
    for name in wrappers or ():
        if not hasattr(vector, name):
            raise AgentError(f"env_wrapper: no {name!r} in glass_gym.wrappers.vector")
    chosen = [getattr(vector, name) for name in wrappers or ()]
    return VecMonitor(GlassVecEnv(id, n_envs, wrappers=chosen, seed=seed, **kwargs), info_keywords=("is_success",))


def make_model(algorithm: str, settings: dict[str, Any], env, **kwargs: Any):
    """An SB3 model of an entry of hyperparameters.

    Raises:
        AgentError: an entry that the algorithm does not take.
    """
    kind = model_class(algorithm)
    settings = {key: value for key, value in settings.items() if key not in NOT_FOR_THE_MODEL} | kwargs
    for key in ("learning_rate", "clip_range"):
        if key in settings:
            settings[key] = schedule(settings[key])
    policy_kwargs = dict(settings.get("policy_kwargs", {}))
    for key, value in policy_kwargs.items():
        if isinstance(value, str):
            if value not in CLASSES:
                raise AgentError(f"policy_kwargs: {key} may be one of {', '.join(CLASSES)}, got {value!r}")
            policy_kwargs[key] = getattr(importlib.import_module(CLASSES[value]), value)
    settings["policy_kwargs"] = policy_kwargs
    if settings.get("replay_buffer_class") == "HerReplayBuffer":
        from stable_baselines3 import HerReplayBuffer

        settings["replay_buffer_class"] = HerReplayBuffer
    try:
        return kind(env=env, **settings)
    except TypeError as error:
        raise AgentError(f"{algorithm} does not take these hyperparameters: {error}") from None


def runs_of(log_folder: Path, algorithm: str, id: str) -> dict[int, Path]:
    """The runs LOG_FOLDER/ALGO/ID_N, by N, oldest first."""
    found = (Path(log_folder) / algorithm).glob(f"{id}_*")
    numbered = {path.name.rpartition("_")[2]: path for path in found}
    return dict(sorted((int(number), path) for number, path in numbered.items() if number.isdigit()))
