"""What the trainer asks of a stage."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from glass_gym.model.blocks import StagedModel

Batch = dict[str, Tensor]


class Sampler(Protocol):
    """Makes batches, also in worker processes: it knows data and numbers, no model."""

    def batch(self, rng: np.random.Generator, iteration: int) -> Batch:
        """CPU tensors, which depend on `rng` and `iteration` alone; pictures are uint8."""
        ...


class StageConfig(Protocol):
    """The options that every stage has."""

    iterations: Any
    rate: float


class Stage(ABC):
    """What is trained, on which batches, with which losses.

    Attributes:
        name: of the stage, in files.
        model: under training.
        config: its options.
        sampler: of its batches.
    """

    name: str
    model: StagedModel
    config: StageConfig
    sampler: Sampler

    @property
    def options(self) -> str:
        """The prefix of its options."""
        return self.name

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
        """Weighted loss terms of a batch on the model's device; the stage's loss is their sum."""

    def sheet(self, model: StagedModel, iteration: int) -> np.ndarray | None:
        """A picture (h, w, 3) uint8 of what `model` can do after so many steps, for people; by default none."""
        return None

    def state_dict(self) -> dict[str, Tensor]:
        """What the stage keeps between steps, for a checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """The inverse of :meth:`state_dict`."""
        return None
