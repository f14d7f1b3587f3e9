"""The prior stage: which local action comes next, given the state and the shift; everything else stays as it is."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from glass_gym.glass import Glass

from ..options import Count, Positive, Rate
from ..windows import WindowSet, unpack_layers
from .base import Batch, Stage
from .lma import ClipSampler, LmaConfig


@dataclass
class PriorConfig:
    """The prior over local actions: p(code | state, shift), learned from the codes inferred on the training videos."""

    iterations: Count | None = None
    """optimiser steps; 0: the world has no prior; default: an eighth of LMA's, at most 400"""
    channels: Positive = 64
    """width of the head"""
    rate: Rate = 2e-3
    """peak learning rate"""
    frames: Positive = 240
    """steps of real clips that are drawn, free running, in an optimiser step"""


class PriorStage(Stage):
    """Trains the prior, on the states that free running goes through.

    Args:
        model: whose LMA is trained.
        windows: the agent's layers.
        config: schedule.
        lma: LMA's, of the clips.
    """

    name = "prior"

    def __init__(self, model: Glass, windows: WindowSet, config: PriorConfig, lma: LmaConfig):
        self.model = model
        self.windows = windows
        self.config = config
        longest = min(max(lma.horizons), int(windows.lengths.max()) - 1)
        clips = replace(lma, frames=config.frames, horizons=(longest,), continuous=0)
        self.sampler = ClipSampler(windows, clips, model.config.window)

    def losses(self, batch: Batch, iteration: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Cross-entropy, in nats a step."""
        model = self.model
        layers = unpack_layers(batch["layers"])
        shifts = batch["shifts"]
        visited = []
        with torch.no_grad():
            z = model.directions(layers, shifts)
            found = model.quantise(z)
            codes, vectors = (x.unflatten(0, z.shape[:2]) for x in (found.index, found.vector))
            layer = layers[:, 0]
            state = model.start_state(layer)
            for t in range(shifts.shape[1]):
                visited.append((layer, state))
                drawn, state = model.animate(layer, state, shifts[:, t], vectors[:, t])
                layer = drawn.layer
        said = [model.code_prior(*known, shifts[:, t : t + 1])[:, 0] for t, known in enumerate(visited)]
        return {"cross_entropy": F.nll_loss(torch.cat(said), codes.transpose(0, 1).flatten())}
