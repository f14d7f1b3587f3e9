"""GymMixin: what the single and the vector environment share."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec

from glass_gym.env.core import GlassCore
from glass_gym.tensors.convert import to_numpy
from glass_gym.worlds.checkpoint import World


class GymMixin:
    """For classes that have `core` and `closed`."""

    core: GlassCore
    closed: bool
    _spec: EnvSpec | None = None

    @property
    def spec(self) -> EnvSpec | None:  # type: ignore[override]
        """How gymnasium.make made the environment; JSON can hold it, unless its world is from no file."""
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        self._spec = spec and replace(spec, kwargs={key: _plain(value) for key, value in spec.kwargs.items()})

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


def _plain(value: Any) -> Any:
    """An argument as JSON can hold it; what it cannot hold stays as it is."""
    if isinstance(value, World):
        return value if value.file is None else str(value.file)
    if isinstance(value, Enum):
        return value.value
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
