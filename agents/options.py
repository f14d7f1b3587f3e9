"""Hyperparameter files and command lines -> environments and models of Stable-Baselines3 (SB3)."""

from __future__ import annotations

import ast
import importlib
import json
import re
import shlex
from pathlib import Path
from typing import Any

import gymnasium as gym

from agents.real import REAL
from glass_gym.policy import CLASSES, model_class
from glass_gym.wrappers import vector

HYPERPARAMETERS = Path(__file__).with_name("hyperparams")
"""Folder of a file ALGO.yml for each algorithm, in RL Zoo's format."""
DEFAULT_OBSERVATION = {"ppo": "frame", "dqn": "position", "sac": "position"}
"""The observation that an entry ID is for. Entries for others are called ID/OBSERVATION."""
NOT_FOR_THE_MODEL = ("n_timesteps", "n_envs", "env_wrapper", "env_kwargs")
"""Hyperparameters that the SB3 model does not take."""
WRAPPERS = "glass_gym.wrappers."


class AgentError(ValueError):
    """An option cannot be used; the message names its value and what to do."""


def hyperparameters(
    id: str, algorithm: str, obs_type: str, changes: dict[str, Any] | None = None, file: Path | None = None
) -> dict[str, Any]:
    """The hyperparameters of an id and an observation, with `changes`, from a file in RL Zoo's format.

    `file` is agents/hyperparams/ALGO.yml by default. AgentError: no such file or entry; the message lists the entries.
    """
    import yaml

    file = file or HYPERPARAMETERS / f"{algorithm}.yml"
    try:
        entries = yaml.safe_load(file.read_bytes())
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise AgentError(f"{file}: cannot be read ({str(error)[:200]})") from None
    known = [str(key) for key in entries if not str(key).startswith(".")] if isinstance(entries, dict) else []
    wanted = id if obs_type == DEFAULT_OBSERVATION[algorithm] else f"{id}/{obs_type}"
    if wanted not in known:
        raise AgentError(f"{file}: no entry {wanted!r}; there are: {', '.join(known)[:400] or 'none'}")
    settings = entries[wanted]
    if not isinstance(settings, dict):
        raise AgentError(f"{file}: {wanted} is {str(settings)[:80]!r}, expected hyperparameters")
    return checked(settings | (changes or {}))


def checked(settings: dict[str, Any]) -> dict[str, Any]:
    """Check the hyperparameters that are not the model's; AgentError names a wrong one. SB3 checks the model's own."""
    if odd := [key for key in settings if not isinstance(key, str)]:
        raise AgentError(f"names of hyperparameters must be text, got {odd[0]!r}")
    for name in ("n_timesteps", "n_envs"):
        value = settings.get(name, 1)
        if isinstance(value, float) and value == value // 1:  # 1e5 in YAML
            settings[name] = value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise AgentError(f"{name} must be an integer of at least 1, got {value!r}")
    if "n_timesteps" not in settings:
        raise AgentError("n_timesteps is missing: how many steps to train")
    wrappers = settings.get("env_wrapper") or []
    names = [str(name).removeprefix(WRAPPERS) for name in wrappers] if isinstance(wrappers, list) else [""]
    if not set(names) <= set(vector.__all__):
        known = ", ".join(vector.__all__)
        raise AgentError(f"env_wrapper must be a list of wrappers in {WRAPPERS}vector ({known}), got {wrappers!r}")
    if names:
        settings["env_wrapper"] = names
    if isinstance(settings.get("policy_kwargs"), str):
        settings["policy_kwargs"] = arguments_of(settings["policy_kwargs"])
    for name in ("env_kwargs", "policy_kwargs"):
        if not isinstance(settings.setdefault(name, {}) or {}, dict):
            raise AgentError(f"{name} must be a table, got {settings[name]!r}")
        settings[name] = settings[name] or {}
    return settings


def arguments_of(text: str) -> dict[str, Any]:
    """Read ``dict(net_arch=[64], activation_fn=nn.ReLU)`` as a dict, with the names of classes in place of classes.

    RL Zoo evaluates this text; here nothing is. AgentError: no such call, or a value is neither a literal nor a class.
    """
    try:
        call = ast.parse(text.strip(), mode="eval").body
        match call:
            case ast.Call(func=ast.Name(id="dict"), args=[], keywords=pairs) if all(pair.arg for pair in pairs):
                return {str(pair.arg): _value_of(pair.value) for pair in pairs}
        raise ValueError
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        raise AgentError(f"policy_kwargs must be a table or dict(KEY=VALUE, ...), got {text[:200]!r}") from None


def _value_of(node: ast.expr) -> Any:
    match node:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
    return ast.literal_eval(node)


def changes_of(pairs: list[str]) -> dict[str, Any]:
    """Read ``["n_steps:64", "policy_kwargs:{net_arch: [32]}"]`` as a dict; values are YAML (AgentError: if not)."""
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


def pairs_of(changes: dict[str, Any]) -> str:
    """The inverse of :func:`changes_of`: ``KEY:VALUE ...``, quoted for a shell."""
    import yaml

    def text(value: Any) -> str:
        plain = isinstance(value, str) and re.fullmatch(r"[\w./-]+", value) and yaml.safe_load(value) == value
        return value if plain else json.dumps(value)  # JSON is YAML

    return " ".join(shlex.quote(f"{key}:{text(value)}") for key, value in changes.items())


def schedule(value):
    """``lin_0.001`` -> a schedule that falls linearly from 0.001 to 0; a number stays as it is."""
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


def check_id(id: str) -> None:
    """Check that an id is registered; AgentError lists the ids of this repository."""
    if id not in gym.registry:
        known = sorted(key for key in gym.registry if "Glass" in key or key in REAL)
        raise AgentError(f"no environment called {id!r}; there are: {', '.join(known)}")


def is_batched(id: str) -> bool:
    """Whether one batched environment steps all environments of an id."""
    check_id(id)
    return gym.spec(id).vector_entry_point is not None


def make_env(id: str, n_envs: int, seed: int | None = None, wrappers: list[str] | None = None, **kwargs: Any):
    """A VecEnv for SB3 that counts returns and lengths of episodes: a batched world, or any other environment n times.

    `wrappers` are names in :mod:`glass_gym.wrappers.vector`, `kwargs` the id's. AgentError: the id is unknown.
    """
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecMonitor

    from glass_gym.sb3 import GlassVecEnv

    if not is_batched(id):
        statistics = {"info_keywords": ("is_success",)}
        return make_vec_env(id, n_envs, seed=seed, env_kwargs=kwargs, monitor_kwargs=statistics)
    chosen = [getattr(vector, name) for name in wrappers or ()]
    return VecMonitor(GlassVecEnv(id, n_envs, wrappers=chosen, seed=seed, **kwargs), info_keywords=("is_success",))


def make_model(algorithm: str, settings: dict[str, Any], env, **kwargs: Any):
    """An SB3 model with the given hyperparameters; AgentError: the algorithm does not take them."""
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
    except (TypeError, ValueError, AssertionError, AttributeError, KeyError, RuntimeError) as error:  # all by SB3
        why = f"{type(error).__name__}: {str(error)[:300]}"
        raise AgentError(f"{algorithm} does not take these hyperparameters ({why})") from None


def runs_of(log_folder: Path, algorithm: str, id: str) -> dict[int, Path]:
    """The run folders LOG_FOLDER/ALGO/ID_N by their numbers N, oldest first."""
    found = (Path(log_folder) / algorithm).glob(f"{id}_*")
    numbered = {path.name.rpartition("_")[2]: path for path in found}
    return dict(sorted((int(number), path) for number, path in numbered.items() if number.isdigit()))
