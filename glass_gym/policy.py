"""Policies trained with Stable-Baselines3 (SB3): how they act in a world, and a file format without pickle.

`model.save` of SB3 writes a zip of pickles, and loading a pickle can run code. :func:`save_policy` writes a policy as
one .safetensors file instead: the weights, and a JSON header that may only name the classes of a fixed table.
"""

from __future__ import annotations

import importlib
import itertools
import json
import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from glass_gym.env.core import GlassCore
from glass_gym.tensors.convert import to_numpy
from glass_gym.worlds.checkpoint import FORMAT_VERSION, write_atomically
from glass_gym.worlds.headers import PolicyHeader, Version, read_header

ALGORITHMS = {"ppo": "PPO", "dqn": "DQN", "sac": "SAC"}
"""Name (as in RL Zoo's --algo) -> class of Stable-Baselines3. Hindsight replay (HER) belongs to dqn."""
CLASSES = {
    **dict.fromkeys(("ReLU", "Tanh", "ELU", "SiLU"), "torch.nn"),
    **dict.fromkeys(("NatureCNN", "FlattenExtractor", "CombinedExtractor"), "stable_baselines3.common.torch_layers"),
    "GlassExtractor": "glass_gym.sb3",
}
"""Class that a policy file may name -> module that it is imported from."""
ARGUMENTS = {
    "net_arch",
    "activation_fn",
    "ortho_init",
    "features_extractor_class",
    "features_extractor_kwargs",
    "share_features_extractor",
    "normalize_images",
}
"""Arguments of an SB3 policy that a file keeps. Those of the optimiser are left out."""
UNUSED = ("q_net_target", "critic")  # Networks of an SB3 policy that only learning needs; files leave them out.
LARGEST_LAYER = 4096  # Largest number in a file's policy arguments, such as a layer's width.
LARGEST_OBSERVATION = 1 << 22  # Most values in an observation of a file's policy.


class PolicyError(ValueError):
    """A policy cannot be read, written or used in this world; the message says which and why."""


def load_policy(path: str | Path, algorithm: str = "ppo", core: GlassCore | None = None) -> Policy:
    """Load a policy from a .safetensors file of :func:`save_policy` or from an SB3 zip.

    A .safetensors file is only data. A zip is unpickled, which can run code: load only zips that you trust.

    Args:
        path: the file.
        algorithm: of a zip: ``"ppo"``, ``"dqn"`` or ``"sac"``. A .safetensors file names its own.
        core: check that the policy's spaces fit this world; None: no check.

    Returns:
        a policy that acts in all environments of a core at once.

    Raises:
        PolicyError: no such file or algorithm, no SB3, a damaged or foreign file, or spaces that do not fit the world.
    """
    path = Path(path)
    if not path.is_file():
        raise PolicyError(f"{path}: no such policy file")
    policy = Policy(_read(path) if path.suffix == ".safetensors" else read_zip(path, algorithm))
    if core is not None:
        try:
            policy.check(core)
        except PolicyError as error:
            raise PolicyError(f"{path}: {error}") from None
    return policy


def model_class(algorithm: str) -> Any:
    """The SB3 class of an algorithm; PolicyError: the algorithm is unknown, or SB3 is not installed."""
    if algorithm not in ALGORITHMS:
        raise PolicyError(f"no algorithm called {algorithm!r}; there are: {', '.join(ALGORITHMS)}")
    try:
        import stable_baselines3
    except ImportError:
        raise PolicyError("policies need stable_baselines3: pip install 'glass-gym[agents]'") from None
    return getattr(stable_baselines3, ALGORITHMS[algorithm])


def read_zip(path: Path, algorithm: str) -> Any:
    """Unpickle (trust its source!) an SB3 zip -> the model without replay buffer; PolicyError: not of `algorithm`."""
    kind = model_class(algorithm)
    unneeded = {"replay_buffer_class": None, "replay_buffer_kwargs": {}, "buffer_size": 1}
    try:
        return kind.load(path, device="cpu", custom_objects=unneeded)
    except Exception as error:  # SB3 lets zip, pickle, JSON and torch errors through
        raise PolicyError(f"{path}: not a policy of {kind.__name__} ({type(error).__name__}: {error})") from None


# --- files without pickle --------------------------------------------------------------------------------------


def save_policy(path: str | Path, model: Any, algorithm: str, provenance: dict | None = None) -> Path:
    """Write the policy of an SB3 model as a .safetensors file, without its optimiser and buffers.

    Args:
        path: the file; its name ends in .safetensors.
        model: an SB3 model.
        algorithm: its algorithm, ``"ppo"``, ``"dqn"`` or ``"sac"``.
        provenance: how the policy was made; anything that JSON can hold.

    Returns:
        the file's path.

    Raises:
        PolicyError: the policy has a class, an argument or a space that the format does not know.
    """
    from safetensors.torch import save

    header = {
        "format_version": FORMAT_VERSION,
        "algorithm": algorithm,
        "provenance": provenance or {},
        "policy": _policy_name(model, algorithm),
        "arguments": _arguments_out(model.policy_kwargs),
        "observation_space": _space_out(model.observation_space),
        "action_space": _space_out(model.action_space),
    }
    tensors = {}
    seen = set()
    for key, value in model.policy.state_dict().items():
        if key.startswith(UNUSED) or value.data_ptr() in seen:
            continue  # a tensor that has several names is written once
        seen.add(value.data_ptr())
        tensors[key] = value.detach().cpu().contiguous()
    path = Path(path)
    write_atomically(path, lambda part: part.write_bytes(save(tensors, {"glass_policy": json.dumps(header)})))
    return path


def _policy_name(model, algorithm: str) -> str:
    for name, kind in model_class(algorithm).policy_aliases.items():
        if type(model.policy) is kind:
            return name
    raise PolicyError(f"policies of class {type(model.policy).__name__} cannot be written; use model.save")


def _arguments_out(arguments: dict) -> dict:
    out = {}
    for key, value in arguments.items():
        if key in ("optimizer_class", "optimizer_kwargs") or (key == "use_sde" and not value):
            continue
        if key not in ARGUMENTS:
            raise PolicyError(f"the policy argument {key!r} cannot be written; use model.save")
        if isinstance(value, type):
            if value.__name__ not in CLASSES:
                raise PolicyError(f"{key}={value.__name__} cannot be written; there are: {', '.join(CLASSES)}")
            value = {"class": value.__name__}
        out[key] = value
    return out


def _arguments_in(arguments: dict) -> dict:
    if not isinstance(arguments, dict) or not set(arguments) <= ARGUMENTS:
        raise ValueError(f"its policy arguments are {str(arguments)[:200]}")
    for number in _numbers(arguments):
        if not 0 <= abs(number) <= LARGEST_LAYER:
            raise ValueError(f"a size of {number} in its policy arguments is more than {LARGEST_LAYER}")
    out = dict(arguments)
    for key, value in arguments.items():
        if isinstance(value, dict) and set(value) == {"class"}:
            home = CLASSES.get(value["class"])
            if home is None:
                raise ValueError(f"it names the class {value['class']!r}")
            out[key] = getattr(importlib.import_module(home), value["class"])
    return out


def _least_weights(policy: str, arguments: dict, space: gym.Space) -> int:
    """A lower bound of the number of weights that these arguments ask for, found before any memory is allocated."""
    kwargs = arguments.get("features_extractor_kwargs") or {}
    extractor = arguments.get("features_extractor_class")
    inputs = gym.spaces.flatdim(space)
    total = 0
    widest = 0
    architecture = arguments.get("net_arch") or []
    for layers in architecture.values() if isinstance(architecture, dict) else [architecture]:
        total += sum(int(a) * int(b) for a, b in itertools.pairwise(layers))
        widest = max(widest, int(layers[0]) if layers else 0)
    if extractor is None and policy.startswith("Mlp"):
        total += inputs * widest
    elif (extractor is None or extractor.__name__ == "NatureCNN") and policy.startswith("Cnn"):
        total += inputs // 3 * int(kwargs.get("features_dim", 512))  # its strides multiply to 8, it has 64 channels
    return total


def _numbers(value: Any, depth: int = 0) -> list:
    """All numbers in a value that may nest lists and dicts."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return []
    if isinstance(value, (int, float)):
        return [value]
    parts = list(value.values()) if isinstance(value, dict) else list(value)
    if depth > 4 or len(parts) > 32:
        raise ValueError("its policy arguments are nested too deep or too long")
    return [number for part in parts for number in _numbers(part, depth + 1)]


def _space_out(space: gym.Space) -> dict:
    if isinstance(space, gym.spaces.Dict):
        return {"kind": "dict", "parts": {name: _space_out(part) for name, part in space.items()}}
    if isinstance(space, gym.spaces.Box):
        low, high = (x.ravel()[0].item() if x.min() == x.max() else x.tolist() for x in (space.low, space.high))
        return {"kind": "box", "low": low, "high": high, "shape": list(space.shape), "dtype": space.dtype.name}
    if isinstance(space, gym.spaces.Discrete) and not space.start:
        return {"kind": "discrete", "n": int(space.n)}
    if isinstance(space, gym.spaces.MultiDiscrete) and not space.start.any():
        return {"kind": "multidiscrete", "nvec": space.nvec.tolist()}
    raise PolicyError(f"the space {space} cannot be written; use model.save")


def _space_in(data: dict, depth: int = 0) -> gym.Space:
    kind = data["kind"]
    if kind == "dict" and depth == 0 and len(data["parts"]) <= 8:
        return gym.spaces.Dict({str(name): _space_in(part, 1) for name, part in data["parts"].items()})
    if kind == "box" and data["dtype"] in ("uint8", "float32"):
        shape = tuple(int(v) for v in data["shape"])
        if not shape or min(shape) < 1 or math.prod(shape) > LARGEST_OBSERVATION:
            raise ValueError(f"it observes boxes of shape {shape}")
        low, high = (np.broadcast_to(np.asarray(data[k], data["dtype"]), shape).copy() for k in ("low", "high"))
        return gym.spaces.Box(low, high, dtype=np.dtype(data["dtype"]).type)
    if kind == "discrete" and 1 <= int(data["n"]) <= 1 << 16:
        return gym.spaces.Discrete(int(data["n"]))
    if kind == "multidiscrete" and len(data["nvec"]) <= 8 and all(1 <= int(n) <= LARGEST_LAYER for n in data["nvec"]):
        return gym.spaces.MultiDiscrete([int(n) for n in data["nvec"]])
    raise ValueError(f"its space is {str(data)[:200]}")


def policy_header(path: str | Path) -> dict:
    """A policy file's header: algorithm, class, arguments, spaces, provenance; PolicyError: damaged or foreign file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise PolicyError(f"{path}: not a whole .safetensors file ({error}); copy it or write it again") from None
    if "glass_policy" not in metadata:
        raise PolicyError(f"{path}: a .safetensors file, but no policy (no 'glass_policy' metadata)")
    try:
        version = read_header(metadata["glass_policy"], Version).format_version
        if version == FORMAT_VERSION:
            return read_header(metadata["glass_policy"], PolicyHeader).model_dump()
    except ValueError as error:
        raise PolicyError(f"{path}: {error}; write it again with save_policy") from None
    raise PolicyError(f"{path}: format {version}, this glass_gym reads {FORMAT_VERSION}; upgrade glass_gym")


def _read(path: Path):
    """An SB3 policy from a file of :func:`save_policy`."""
    from safetensors.torch import load_file

    header = policy_header(path)
    algorithm = header["algorithm"]
    if algorithm not in ALGORITHMS:
        raise PolicyError(f"{path}: its algorithm is {algorithm!r}; there are: {', '.join(ALGORITHMS)}")
    known = model_class(algorithm).policy_aliases
    try:
        if header["policy"] not in known:
            raise ValueError(f"its policy is called {header['policy']!r}; there are: {', '.join(known)}")
        spaces = [_space_in(header[key]) for key in ("observation_space", "action_space")]
        arguments = _arguments_in(header["arguments"])
        size = _least_weights(header["policy"], arguments, spaces[0])
        if size > 4 * path.stat().st_size:  # a weight takes four bytes of the file
            raise ValueError(f"its arguments ask for about {size} weights, more than the file holds")
        policy = known[header["policy"]](*spaces, lambda _: 0.0, **arguments)
        missing, unexpected = policy.load_state_dict(load_file(path), strict=False)
        own = policy.state_dict()
        read = {value.data_ptr() for key, value in own.items() if key not in missing}
        lost = [k for k in missing if own[k].data_ptr() not in read and not k.startswith(UNUSED)]
        if lost or unexpected:
            raise ValueError(f"weights do not fit: missing {lost[:3]}, unexpected {unexpected[:3]}")
        if odd := [key for key, value in own.items() if value.is_floating_point() and not value.isfinite().all()]:
            raise ValueError(f"{odd[0]} holds numbers that are not finite")
    except Exception as error:  # a file from elsewhere can raise anything in SB3 and torch
        why = " ".join(str(error).split())[:300] or type(error).__name__
        raise PolicyError(f"{path}: damaged or foreign ({why}); write it again with save_policy") from None
    policy.set_training_mode(False)
    return policy


# --- acting ----------------------------------------------------------------------------------------------------


class Policy:
    """Chooses the actions of all environments of a core.

    The core makes the observations that the model was trained on (frames of its size, positions, goals), whatever the
    environment itself observes. Models that stack frames get the last frames of each environment.

    Args:
        model: an SB3 model or policy without recurrent state.
        deterministic: take the most likely action; False draws one from the policy's distribution.
    """

    def __init__(self, model: Any, deterministic: bool = True):
        self.model = model
        self.deterministic = deterministic
        self.begin()

    def begin(self, rows: np.ndarray | None = None) -> None:
        """New episodes begin in `rows` (B,) bool, or in all: stacked frames of earlier ones are not used."""
        if rows is None:
            self._first = None
            self._frames = {}
        elif self._first is not None:
            self._first = self._first | np.asarray(rows, bool)

    def check(self, core: GlassCore) -> None:
        """Check that the policy's spaces fit a core; PolicyError: other actions, or an observation it cannot give."""
        space = self.model.action_space
        count = int(np.prod(core.table.nvec))
        box = core.action_space
        if core.action == "discrete":
            fits = space in (box, gym.spaces.Discrete(count))
        else:
            fits = isinstance(space, gym.spaces.Box) and space.shape == box.shape
        if not fits:
            raise PolicyError(f"its actions are {space}, the world's {box}")
        self._plan(core)

    def act(self, core: GlassCore) -> np.ndarray:
        """Choose actions for the core's B environments, which stay as they are: (B, 2) int64, or (B, n) of a box."""
        if self._first is None:
            self._first = np.ones(core.rows, bool)
        action, _ = self.model.predict(self._observation(core), deterministic=self.deterministic)
        self._first = np.zeros(core.rows, bool)
        action = np.asarray(action)
        return core.table.unflatten(action) if action.ndim == 1 else action

    def _plan(self, core: GlassCore) -> dict:
        """What the policy observes: name of each part -> (``"position"`` or ``"frame"``, shape)."""
        space = self.model.observation_space
        full = core.position_space.shape[0]
        parts = dict(space.spaces) if hasattr(space, "spaces") else {"": space}
        plan = {}
        for name, shape in ((name, part.shape) for name, part in parts.items()):
            if len(shape) == 1 and shape[0] in (full, full // 2):
                plan[name] = ("position", shape)
            elif len(shape) == 3 and (shape[0] % 3 == 0 or shape[2] % 3 == 0):
                plan[name] = ("frame", shape)
            else:
                raise PolicyError(f"it observes {name or 'something'} of shape {shape}; this world does not offer that")
        return plan

    def _observation(self, core: GlassCore):
        plan = self._plan(core)
        out = {}
        goal = "desired_goal" in plan
        for name, (kind, shape) in plan.items():
            if kind == "position":
                place = to_numpy(core.observe("position"))
                first = shape[0] if name == "desired_goal" else 0  # after what is achieved
                out[name] = place[:, first : first + shape[0]]
            else:
                first = shape[0] % 3 == 0 and shape[0] < shape[2]
                size = shape[1:] if first else shape[:2]
                frame = to_numpy(core.observe("frame", size, first, shown=not goal))
                out[name] = self._stacked(name, frame, shape[0] if first else shape[2], 1 if first else 3)
        return out[""] if "" in out else out

    def _stacked(self, name: str, frame: np.ndarray, channels: int, axis: int) -> np.ndarray:
        """The last frames along the channel axis, oldest first; zeros stand for frames before an episode's first."""
        count = channels // 3
        if count == 1 or self._first is None:
            return frame
        kept = self._frames.get(name, [np.zeros_like(frame)] * count)
        old = ~self._first.reshape(-1, 1, 1, 1)
        kept = [*(one * old for one in kept[1:]), frame]
        self._frames[name] = kept
        return np.concatenate(kept, axis)
