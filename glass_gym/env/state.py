"""The state of a batch of environments, and the result of a step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from glass_gym.simulator.simulator import WorldState
from glass_gym.tasks import TaskState
from glass_gym.tensors.rows import RowState


@dataclass
class EnvState(RowState):
    """The complete state of B rows. `state()` of an environment copies it, `set_state()` restores it.

    Attributes:
        world: the simulator's state.
        position: (B, 2) px, the agents' positions as the task sees them.
        previous: (B, 2) px, the same one step before.
        present: (B,) bool, whether the agent is visible.
        task: the task's state; for ``"reach"`` `target` (B, 2) px.
        steps: (B,) int64, steps since the last reset.
        done: (B,) bool, whether the last step ended the episode.
        key, episode: (B,) int64, they determine the row's random numbers.
        origin: (B,) int64, the world that the row belongs to (:attr:`World.identity`).
    """

    world: WorldState
    position: Tensor
    previous: Tensor
    present: Tensor
    task: TaskState
    steps: Tensor
    done: Tensor
    key: Tensor
    episode: Tensor
    origin: Tensor


torch.serialization.add_safe_globals([EnvState, WorldState])  # torch.load(weights_only=True) reads states


@dataclass
class StepOutcome:
    """The result of a step."""

    reward: Tensor  # (B,) float32
    terminated: Tensor  # (B,) bool
    commanded_shift: Tensor  # (B, 2) px, the shift of the action; the real one is shorter at the edge of the ground
