"""A trained Stable-Baselines3 policy as a function of a core: whatever it was trained to observe is made for it."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import numpy as np

from glass_gym.core import GlassCore, emit

ALGORITHMS = {
    "ppo": ("stable_baselines3", "PPO"), "a2c": ("stable_baselines3", "A2C"), "dqn": ("stable_baselines3", "DQN"),
    "recurrent_ppo": ("sb3_contrib", "RecurrentPPO"), "qrdqn": ("sb3_contrib", "QRDQN"),
}  # fmt: skip
"""Names as in RL Zoo's --algo; HER is dqn."""


class PolicyError(ValueError):
    """A policy that cannot be used here; the message names the file and why."""


def load_policy(path: str | Path, algorithm: str = "ppo", core: GlassCore | None = None) -> Policy:
    """Load an SB3 zip. It is unpickled, which can run code: load only files that you trust.

    Args:
        path: the .zip that `model.save` wrote.
        algorithm: a key of ALGORITHMS.
        core: where it shall act; checked against the policy's spaces.

    Raises:
        PolicyError: no such file or algorithm, SB3 is not installed, or the policy does not fit the world.
    """
    import importlib

    if algorithm not in ALGORITHMS:
        raise PolicyError(f"no algorithm called {algorithm!r}; there are: {', '.join(ALGORITHMS)}")
    if not Path(path).is_file():
        raise PolicyError(f"{path}: no such policy file")
    package, name = ALGORITHMS[algorithm]
    try:
        module = importlib.import_module(package)
    except ImportError:
        raise PolicyError(f"{algorithm} needs {package}: pip install 'glass-gym[agents]'") from None
    try:
        model = getattr(module, name).load(path, device="cpu")
    except Exception as error:  # SB3 lets zip, pickle, JSON and torch errors through
        raise PolicyError(f"{path}: not a policy of {name} ({type(error).__name__}: {error})") from None
    policy = Policy(model)
    if core is not None:
        try:
            policy.check(core)
        except PolicyError as error:
            raise PolicyError(f"{path}: {error}") from None
    return policy


class Policy:
    """Acts in row 0 of a core.

    Args:
        model: an SB3 model.
    """

    def __init__(self, model):
        self.model = model
        self.begin()

    def begin(self) -> None:
        """A new episode: forget recurrent state and stacked frames."""
        self._memory, self._first, self._frames = None, np.ones(1, bool), None

    def check(self, core: GlassCore) -> None:
        """Raise PolicyError if the policy's spaces do not fit the core."""
        space, count = self.model.action_space, int(np.prod(core.table.nvec))
        flat = hasattr(space, "n") and space.n == count
        pair = hasattr(space, "nvec") and tuple(space.nvec) == tuple(core.table.nvec)
        if not (flat or pair):
            raise PolicyError(f"its actions are {space}, the world's MultiDiscrete({list(core.table.nvec)})")
        self._plan(core)

    def act(self, core: GlassCore) -> np.ndarray:
        """(shift, code) for row 0."""
        action, self._memory = self.model.predict(
            self._observation(core), state=self._memory, episode_start=self._first, deterministic=True
        )
        self._first = np.zeros(1, bool)
        action = np.asarray(action)[0]
        return core.table.unflatten(action) if np.ndim(action) == 0 else action

    def _plan(self, core: GlassCore) -> dict:
        """How to make each part of the observation: name -> (kind, shape)."""
        space = self.model.observation_space
        parts = dict(space.spaces) if hasattr(space, "spaces") else {"": space}
        plan = {}
        for name, part in parts.items():
            shape = part.shape
            if len(shape) == 1 and shape[0] in (2, 4) and (core.task or shape[0] == 2):
                plan[name] = ("position", shape)
            elif len(shape) == 3 and (shape[0] % 3 == 0 or shape[2] % 3 == 0):
                plan[name] = ("frame", shape)
            else:
                raise PolicyError(
                    f"it observes {name or 'something'} of shape {shape}, which this world does not offer"
                )
        return plan

    def _observation(self, core: GlassCore):
        plan, out = self._plan(core), {}
        goal = "desired_goal" in plan
        for name, (kind, shape) in plan.items():
            if kind == "position":
                place = emit(core.observe("position"))[:1]
                out[name] = place[:, 2:] if name == "desired_goal" else place[:, : shape[0]]
            else:
                first = shape[0] % 3 == 0 and shape[0] < shape[2]
                size = shape[1:] if first else shape[:2]
                frame = emit(core.observe("frame", size, first, ring=core.task is not None and not goal))[:1]
                out[name] = self._stacked(frame, shape[0] if first else shape[2], 1 if first else 3)
        return out[""] if "" in out else out

    def _stacked(self, frame: np.ndarray, channels: int, axis: int) -> np.ndarray:
        count = channels // 3
        if self._frames is None:
            self._frames = deque([np.zeros_like(frame)] * count, maxlen=count)
        self._frames.append(frame)
        return np.concatenate(self._frames, axis)
