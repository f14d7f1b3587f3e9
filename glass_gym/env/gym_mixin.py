"""GymMixin: what the single and the vector environment share."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from glass_gym.env.core import GlassCore
from glass_gym.tensors.convert import to_numpy


class GymMixin:
    """For classes that have `core` and `closed`."""

    core: GlassCore
    closed: bool

    @property
    def shifts(self) -> np.ndarray:
        """Global actions, (S, 2) px. In named tables: stay, then counter-clockwise from right."""
        return self.core.table.shifts

    @property
    def code_names(self) -> tuple[str, ...]:
        """K names of the local actions, by code."""
        return self.core.table.code_names

    def code_prior(self) -> Any:
        """p(code | state, shift) of the next step, (num_envs, S, K), for all S shifts; ValueError: no prior."""
        self._must_be_ready()
        return to_numpy(self.core.code_prior())

    def set_target(self, target: Any) -> None:
        """Move the targets: the reset option `target`, (x, y) px, or one per environment; ValueError: it is none."""
        self._must_be_ready()
        self.core.set_target(target)

    def _must_be_open(self) -> None:
        if self.closed:
            raise gym.error.ClosedEnvironmentError("this environment is closed; make a new one")

    def _must_be_ready(self) -> None:
        self._must_be_open()
        if not self.core.started:
            raise gym.error.ResetNeeded("call reset() first")
