"""The one builder: a config -> a model, its parts made by the architecture's own file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from glass_gym.config import GlassConfig
from glass_gym.glass import Glass
from glass_gym.networks import lean, paper, token
from glass_gym.token_glass import TokenGlass

PARTS = {"lean": lean.PARTS, "token": token.PARTS, "paper": paper.PARTS}


def build_glass(config: GlassConfig, **parts: Callable[[GlassConfig], Any]) -> Glass:
    """Make a model with random weights.

    Example:
        >>> from glass_gym import GlassConfig, build_glass
        >>> model = build_glass(GlassConfig.lean(64, 64, codes=3))
        >>> model.quantiser.codebook.shape
        torch.Size([3, 16])

    Args:
        config: sizes, and the architecture.
        parts: makers of other parts, by the names of :class:`Glass`; a checkpoint does not record them, so a world
            that uses some is for experiments (see `training/ablations`).

    Returns:
        the model, on the CPU, in training mode.

    Raises:
        ValueError: a part that no model has.
    """
    makers = PARTS[config.architecture]
    if unknown := set(parts) - set(makers):
        raise ValueError(f"no parts called {sorted(unknown)}; a model has {', '.join(makers)}")
    kind = TokenGlass if config.architecture == "token" else Glass
    return kind(config, **{name: make(config) for name, make in (makers | parts).items()})
