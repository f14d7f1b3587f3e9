"""TorchEpisodeStatistics: returns and lengths of episodes as tensors on the device."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from torch import Tensor

from glass_gym.wrappers.core_of import TellsAutoresetMode, core_of


class VectorTorchEpisodeStatistics(TellsAutoresetMode, VectorWrapper):
    """Gymnasium's RecordEpisodeStatistics for environments with ``output="torch"``: no value is read on the host.

    The infos of a step get `episode`, {"r": returns (n,) float32, "l": lengths (n,) int64}, 0 where no episode ended,
    and `_episode`, (n,) bool, True where one did. All autoreset modes work. With DISABLED, steps of a done row are not
    counted until it is reset.

    Raises:
        ValueError: the output of the environment is not torch.
    """

    def __init__(self, env: VectorEnv):
        super().__init__(env)
        if getattr(env.unwrapped, "output", None) != "torch":
            raise ValueError(
                "TorchEpisodeStatistics counts in tensors: make the environment with output='torch', "
                "or use gymnasium.wrappers.vector.RecordEpisodeStatistics"
            )
        device = core_of(env).device
        self.episode_returns = torch.zeros(self.num_envs, device=device)
        self.episode_lengths = torch.zeros(self.num_envs, dtype=torch.long, device=device)
        self._over = torch.zeros(self.num_envs, dtype=torch.bool, device=device)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """As of the environment; the counts of rows that are reset start at 0."""
        observation, info = self.env.reset(seed=seed, options=options)
        mask = (options or {}).get("reset_mask")
        self._begin(torch.as_tensor(True if mask is None else mask, device=self._over.device))
        return observation, info

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """As of the environment, with `episode` and `_episode` in the infos."""
        observation, reward, terminated, truncated, info = self.env.step(actions)
        mode = self.autoreset_mode
        counted = ~self._over  # a row that is over is reset in this step, or later
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
