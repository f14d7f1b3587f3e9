"""Glass: a GMA and an LMA joined; and functions that build all three.

Where the default architecture's symbols are: M, N in gma.py; P_f, P_b in shift.py; E, Q, A, RNN, D in pose_model.py.
Their layers are in blocks.py, the codebooks of A and Q in quantise.py. The paper's own networks are in paper.py.

Tensors are (batch, time, channels, height, width). Images are in [-1, 1]. Shifts are in px, positive right and down.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from glass_gym.model import gma, library, paper, pose_model
from glass_gym.model.config import GlassConfig
from glass_gym.model.gma import GMA
from glass_gym.model.lma import LMA

GMA_PARTS = {"pose": gma.PARTS, "paper": paper.GMA_PARTS}
LMA_PARTS = {"pose": pose_model.PARTS, "library": library.PARTS, "paper": paper.PARTS}
LMA_KINDS: dict[str, type[LMA]] = {
    "pose": pose_model.PoseLMA,
    "library": library.LibraryLMA,
    "paper": paper.PaperLMA,
}


class Glass(nn.Module):
    """The whole model: `gma` splits frames into foreground and background, `lma` animates the foreground."""

    def __init__(self, gma: GMA, lma: LMA):
        super().__init__()
        self.gma = gma
        self.lma = lma
        gma.config = lma.config  # the LMA is built after GMA is trained, with the sizes that this gave

    @property
    def config(self) -> GlassConfig:
        """The sizes of both models."""
        return self.lma.config

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device


def build_gma(config: GlassConfig, **parts: Callable[[GlassConfig], Any]) -> GMA:
    """Make a GMA with random weights, on the CPU, in training mode.

    Args:
        config: the architecture and its sizes.
        parts: replacements for single parts: the name of a part of :class:`GMA`, and a function of the config that
            makes it. For experiments: a checkpoint does not record them.

    Returns:
        the model.

    Raises:
        ValueError: the model has no part of that name.
    """
    return GMA(config, **_make_parts(GMA_PARTS[config.architecture], parts, config))


def build_lma(config: GlassConfig, **parts: Callable[[GlassConfig], Any]) -> LMA:
    """Make an LMA with random weights; arguments, result and errors are those of :func:`build_gma`."""
    kind = "library" if config.library else config.architecture
    return LMA_KINDS[kind](config, **_make_parts(LMA_PARTS[kind], parts, config))


def build_glass(config: GlassConfig) -> Glass:
    """Make a GMA and an LMA with random weights and join them.

    Example:
        >>> from glass_gym import GlassConfig, build_glass
        >>> model = build_glass(GlassConfig.pose(64, 64, codes=3))
        >>> model.lma.quantiser.codebook.shape
        torch.Size([3, 16])

    Returns:
        the model, on the CPU, in training mode.
    """
    return Glass(build_gma(config), build_lma(config))


def _make_parts(makers: dict[str, Callable], parts: dict[str, Callable], config: GlassConfig) -> dict[str, Any]:
    if unknown := set(parts) - set(makers):
        raise ValueError(f"no parts called {sorted(unknown)}; the model has {', '.join(makers)}")
    return {name: make(config) for name, make in (makers | parts).items()}
