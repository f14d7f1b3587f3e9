"""TorchEpisodeStatistics: returns and lengths of episodes that never leave the device."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from torch import Tensor

from glass_gym.wrappers.core_of import TellsAutoresetMode, core_of


class VectorTorchEpisodeStatistics(TellsAutoresetMode, VectorWrapper):
    """What Gymnasium's RecordEpisodeStatistics tells, as tensors, for environments with ``output="torch"``.

    A step's infos get `episode`, {"r": (n,) float32 returns, "l": (n,) int64 lengths}, 0 where no episode ended, and
    `_episode`, (n,) bool, True where one did. Nothing is looked at on the host. All autoreset modes; with DISABLED an
    episode ends once, and what a done row does until it is reset is not counted.

    Raises:
        ValueError: the environment's output is not torch.
    """

    def __init__(self, env: VectorEnv):
        super().__init__(env)
        if getattr(env.unwrapped, "output", None) != "torch":
            raise ValueError(
                "TorchEpisodeStatistics counts in tensors: make the environment with output='torch', "
                "or use gymnasium.wrappers.vector.RecordEpisodeStatistics"
            )
        self.episode_returns = torch.zeros(0)
        self.episode_lengths = torch.zeros(0, dtype=torch.long)
        self._over = torch.zeros(0, dtype=torch.bool)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """As the environment's; rows that start anew have counted nothing."""
        observation, info = self.env.reset(seed=seed, options=options)
        device = core_of(self.env).device
        mask = (options or {}).get("reset_mask")
        if mask is None:
            self.episode_returns = torch.zeros(self.num_envs, device=device)
            self.episode_lengths = torch.zeros(self.num_envs, dtype=torch.long, device=device)
            self._over = torch.zeros(self.num_envs, dtype=torch.bool, device=device)
        else:
            self._begin(torch.as_tensor(mask, device=device))
        return observation, info

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """As the environment's, with `episode` and `_episode` in the infos."""
        observation, reward, terminated, truncated, info = self.env.step(actions)
        mode = self.autoreset_mode
        counted = ~self._over  # a row that was over is reset in this step, or waits for it
        if mode == AutoresetMode.NEXT_STEP:
            self._begin(self._over)
        self.episode_returns = self.episode_returns + reward * counted
        self.episode_lengths = self.episode_lengths + counted
        done = (terminated | truncated) & counted
        info["episode"] = {"r": self.episode_returns * done, "l": self.episode_lengths * done}
        info["_episode"] = done
        if mode == AutoresetMode.SAME_STEP:
            self._begin(done)
        else:
            self._over = self._over | done
        return observation, reward, terminated, truncated, info

    def _begin(self, rows: Tensor) -> None:
        self.episode_returns = self.episode_returns.masked_fill(rows, 0)
        self.episode_lengths = self.episode_lengths.masked_fill(rows, 0)
        self._over = self._over & ~rows
