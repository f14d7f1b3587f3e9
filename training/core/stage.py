"""The interface between the trainer and a stage."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from glass_gym.model.blocks import StagedModel

Batch = dict[str, Tensor]


class Sampler(Protocol):
    """Makes batches. It may run in worker processes, so it holds data and options, but no model."""

    def batch(self, rng: np.random.Generator, iteration: int) -> Batch:
        """A batch of CPU tensors, images as uint8; it must depend on `rng` and `iteration` only."""
        ...


class StageConfig(Protocol):
    """The option that every stage has."""

    iterations: Any


class Stage(ABC):
    """A part of the training: what is trained, on which batches, with which losses.

    Attributes:
        name: in files, options and messages.
        rate: peak learning rate: 50 steps of warm-up, then a cosine down to 5 %.
        model: the model that is trained.
        config: the stage's options.
        sampler: makes its batches.
    """

    name: str
    rate: float
    model: StagedModel
    config: StageConfig
    sampler: Sampler

    @property
    def iterations(self) -> int:
        """Optimiser steps; 0 skips the stage."""
        return self.config.iterations or 0

    @property
    def modules(self) -> list[nn.Module]:
        """The parts of the model that are trained; by default those that the model lists for this stage."""
        return self.model.modules_of(self.name)

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return next(self.model.parameters()).device

    def prepare(self, iteration: int, generator: torch.Generator) -> None:
        """Called before each step, to change the model between phases; by default nothing."""
        return None

    @abstractmethod
    def losses(self, batch: Batch, iteration: int, generator: torch.Generator) -> dict[str, Tensor]:
        """The weighted loss terms of a batch; the trainer minimises their sum.

        Args:
            batch: from the sampler, on the model's device.
            iteration: step of the stage, from 0.
            generator: CPU generator for all random numbers, so that a resumed run repeats them.
        """

    def sheet(self, model: StagedModel, iteration: int) -> np.ndarray | None:
        """A sample sheet (h, w, 3) uint8 of `model`, the averaged weights, after `iteration` steps; by default None."""
        return None

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors that the stage keeps between steps, for the checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """The inverse of :meth:`state_dict`."""
        return None
