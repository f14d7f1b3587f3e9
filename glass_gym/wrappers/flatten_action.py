"""FlattenAction: one integer for both actions."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorActionWrapper, VectorEnv
from gymnasium.vector.utils import batch_space

from glass_gym.wrappers.core_of import TellsAutoresetMode, discrete_core_of


class FlattenAction(gym.ActionWrapper, gym.utils.RecordConstructorArgs):
    """MultiDiscrete([S, K]) -> Discrete(S * K), index = shift * K + code. For algorithms such as DQN."""

    def __init__(self, env: gym.Env):
        gym.utils.RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self._table = discrete_core_of(env).table
        self.action_space = gym.spaces.Discrete(int(np.prod(self._table.nvec)))

    def action(self, action: Any) -> np.ndarray:
        """A flat index -> (shift, code), (2,) int64; ValueError: there is no such index."""
        if action not in self.action_space:
            raise ValueError(f"the flat action must lie in 0..{np.prod(self._table.nvec) - 1}, got {action!r}")
        return self._table.unflatten(action)

    def get_keys_to_action(self) -> dict[tuple[int, ...], int]:
        """The keys of the environment, with flat indices."""
        pairs = self.env.get_wrapper_attr("get_keys_to_action")()
        return {keys: int(self._table.flatten(pair)) for keys, pair in pairs.items()}


class VectorFlattenAction(TellsAutoresetMode, VectorActionWrapper):
    """:class:`FlattenAction` for vector environments: a flat index per row."""

    def __init__(self, env: VectorEnv):
        super().__init__(env)
        self._table = discrete_core_of(env).table
        self.single_action_space = gym.spaces.Discrete(int(np.prod(self._table.nvec)))
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def actions(self, actions: Any) -> Any:
        """Flat indices (n,), array or tensor -> actions (n, 2)."""
        if isinstance(actions, torch.Tensor):
            index, codes = actions.int(), len(self._table.code_names)  # Metal does not divide int64
            return torch.stack([index // codes, index % codes], -1).to(actions.dtype)
        return self._table.unflatten(actions)
