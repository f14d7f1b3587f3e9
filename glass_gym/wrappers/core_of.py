"""What wrappers need of what they wrap."""

from __future__ import annotations

from typing import Any

from gymnasium.vector import AutoresetMode

from glass_gym.env.core import GlassCore


def core_of(env: Any) -> GlassCore:
    """The core under any wrappers, of a single or a vector environment.

    Returns:
        the core.

    Raises:
        TypeError: not a glass_gym environment.
    """
    core = getattr(env.unwrapped, "core", None)
    if not isinstance(core, GlassCore):
        raise TypeError(f"this wrapper needs a glass_gym environment, got {env.unwrapped!r}")
    return core


class TellsAutoresetMode:
    """A vector wrapper that tells the mode of what it wraps, where TorchRL looks for it."""

    @property
    def autoreset_mode(self) -> AutoresetMode:
        """The environment's."""
        return self.env.unwrapped.metadata["autoreset_mode"]  # type: ignore[attr-defined]
