"""AutoLocalAction: the agent chooses global actions, the world draws local ones."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorActionWrapper, VectorEnv
from gymnasium.vector.utils import batch_space

from glass_gym.env.core import GlassCore
from glass_gym.wrappers.core_of import TellsAutoresetMode, discrete_core_of


def core_with_prior(env: Any) -> GlassCore:
    """The core, see :func:`discrete_core_of`; ValueError: the world has no prior over local actions."""
    core = discrete_core_of(env)
    if not core.simulator.has_prior:
        raise ValueError(
            f"world {core.world.name or 'given'!r} has no prior over local actions; "
            "glass-train --architecture pose trains one"
        )
    return core


class AutoLocalAction(gym.ActionWrapper, gym.utils.RecordConstructorArgs):
    """MultiDiscrete([S, K]) -> Discrete(S): global actions. Local ones are drawn from the prior p(code | state, shift).

    The draws follow from the environment's seed.

    Raises:
        ValueError: the world has no prior over local actions.
    """

    def __init__(self, env: gym.Env):
        gym.utils.RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self._core = core_with_prior(env)
        self.action_space = gym.spaces.Discrete(len(self._core.table.shifts))

    def action(self, action: Any) -> np.ndarray:
        """A shift's index -> (shift, code), (2,) int64, the code drawn from the prior; ValueError: no such shift."""
        if action not in self.action_space:
            raise ValueError(f"the action must lie in 0..{len(self._core.table.shifts) - 1}, got {action!r}")
        shift = torch.tensor([int(action)], device=self._core.device)
        return np.array([int(action), int(self._core.sample_codes(shift))])

    def get_keys_to_action(self) -> dict[tuple[int, ...], int]:
        """The arrow keys of the environment."""
        pairs = self.env.get_wrapper_attr("get_keys_to_action")()
        digits = {ord(digit) for digit in "0123456789"}
        return {keys: int(pair[0]) for keys, pair in pairs.items() if not digits & set(keys)}


class VectorAutoLocalAction(TellsAutoresetMode, VectorActionWrapper):
    """:class:`AutoLocalAction` for vector environments: an index of a shift per row."""

    def __init__(self, env: VectorEnv):
        super().__init__(env)
        self._core = core_with_prior(env)
        self.single_action_space = gym.spaces.Discrete(len(self._core.table.shifts))
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def actions(self, actions: Any) -> Any:
        """Indices of shifts (n,), array or tensor -> actions (n, 2) of the same kind."""
        tensor = isinstance(actions, torch.Tensor)
        shift = actions if tensor else torch.from_numpy(np.asarray(actions))
        shift = shift.to(self._core.device, torch.long)
        pairs = torch.stack([shift, self._core.sample_codes(shift)], -1)
        return pairs if tensor else pairs.cpu().numpy()
