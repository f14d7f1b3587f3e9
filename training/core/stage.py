"""What the trainer asks of a stage."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from glass_gym.model.glass import Glass

Batch = dict[str, Tensor]


class Sampler(Protocol):
    """Makes batches, in worker processes too: it knows data and numbers, no model."""

    def batch(self, rng: np.random.Generator, iteration: int) -> Batch:
        """CPU tensors, of `rng` and `iteration` alone; pictures are uint8."""
        ...


class StageConfig(Protocol):
    """What every stage's options have."""

    iterations: Any
    rate: float


class Stage(ABC):
    """What is trained, on which batches, with which losses.

    Attributes:
        name: of the stage, in files and flags.
        model: under training.
        config: its options.
        sampler: of its batches.
    """

    name: str
    model: Glass
    config: StageConfig
    sampler: Sampler

    @property
    def iterations(self) -> int:
        """Optimiser steps; 0 skips the stage."""
        return self.config.iterations or 0

    @property
    def modules(self) -> list[nn.Module]:
        """The parts that are trained."""
        return self.model.modules_of(self.name)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def prepare(self, iteration: int, generator: torch.Generator) -> None:
        """Before a step; by default nothing."""
        return None

    @abstractmethod
    def losses(self, batch: Batch, iteration: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Weighted terms of a batch on the model's device; their sum is the stage's loss."""

    def state_dict(self) -> dict[str, Tensor]:
        """What the stage keeps between steps, for a checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """The inverse of :meth:`state_dict`."""
        return None
