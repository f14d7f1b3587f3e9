"""Glass: a GMA and an LMA, joined; and the builders of all three.

Tensors are (batch, time, channels, height, width); images in [-1, 1]; shifts in px, positive right and down.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from glass_gym.model import gma, paper, pose_model
from glass_gym.model.config import GlassConfig
from glass_gym.model.gma import GMA
from glass_gym.model.lma import LMA

GMA_PARTS = {"pose": gma.PARTS, "paper": paper.GMA_PARTS}
LMA_PARTS = {"pose": pose_model.PARTS, "paper": paper.PARTS}
LMA_KINDS: dict[str, type[LMA]] = {"pose": pose_model.PoseLMA, "paper": paper.PaperLMA}


class Glass(nn.Module):
    """The whole model: `gma` splits frames into layers, `lma` animates the foreground.

    Args:
        gma: see :class:`glass_gym.model.gma.GMA`.
        lma: see :class:`glass_gym.model.lma.LMA`.
    """

    def __init__(self, gma: GMA, lma: LMA):
        super().__init__()
        self.gma = gma
        self.lma = lma
        gma.config = lma.config  # chosen after GMA's training, so it knows more

    @property
    def config(self) -> GlassConfig:
        """The sizes of both."""
        return self.lma.config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device


def build_gma(config: GlassConfig, **parts: Callable[[GlassConfig], Any]) -> GMA:
    """Make a GMA with random weights.

    Args:
        config: sizes, and the architecture.
        parts: makers of other parts, by the names of :class:`GMA`. A checkpoint does not record them: for experiments.

    Returns:
        the model, on the CPU, in training mode.

    Raises:
        ValueError: a part that no GMA has.
    """
    return GMA(config, **_made(GMA_PARTS[config.architecture], parts, config))


def build_lma(config: GlassConfig, **parts: Callable[[GlassConfig], Any]) -> LMA:
    """Make an LMA with random weights; arguments, result and errors as of :func:`build_gma`."""
    return LMA_KINDS[config.architecture](config, **_made(LMA_PARTS[config.architecture], parts, config))


def build_glass(config: GlassConfig) -> Glass:
    """Make both, with random weights.

    Example:
        >>> from glass_gym import GlassConfig, build_glass
        >>> model = build_glass(GlassConfig.pose(64, 64, codes=3))
        >>> model.lma.quantiser.codebook.shape
        torch.Size([3, 16])

    Args:
        config: sizes, and the architecture.

    Returns:
        the model, on the CPU, in training mode.
    """
    return Glass(build_gma(config), build_lma(config))


def _made(makers: dict[str, Callable], parts: dict[str, Callable], config: GlassConfig) -> dict[str, Any]:
    if unknown := set(parts) - set(makers):
        raise ValueError(f"no parts called {sorted(unknown)}; the model has {', '.join(makers)}")
    return {name: make(config) for name, make in (makers | parts).items()}
