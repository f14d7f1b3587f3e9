"""What the wrappers share."""

from __future__ import annotations

from typing import Any

from gymnasium.vector import AutoresetMode

from glass_gym.env.core import GlassCore


def core_of(env: Any) -> GlassCore:
    """The core of a single or a vector environment, under any wrappers; TypeError: it is not of glass_gym."""
    core = getattr(env.unwrapped, "core", None)
    if not isinstance(core, GlassCore):
        raise TypeError(f"this wrapper needs a glass_gym environment, got {env.unwrapped!r}")
    return core


class TellsAutoresetMode:
    """A vector wrapper with the attribute `autoreset_mode`, which TorchRL reads."""

    @property
    def autoreset_mode(self) -> AutoresetMode:
        """The mode of the environment."""
        return self.env.unwrapped.metadata["autoreset_mode"]  # type: ignore[attr-defined]


def discrete_core_of(env: Any) -> GlassCore:
    """As :func:`core_of`; ValueError: actions are no pairs of shift and local action."""
    core = core_of(env)
    if core.action != "discrete":
        raise ValueError(f"this wrapper needs action='discrete', got {core.action!r}")
    return core
