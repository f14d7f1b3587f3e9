"""ColumnReward: rewards as a column, as TorchRL expects tensors."""

from __future__ import annotations

from typing import Any

from gymnasium.vector import VectorRewardWrapper

from glass_gym.wrappers.core_of import TellsAutoresetMode


class VectorColumnReward(TellsAutoresetMode, VectorRewardWrapper):
    """Rewards (n, 1) instead of (n,), for TorchRL over ``output="torch"``.

    TorchRL gives arrays the shape of its reward spec, (n, 1), but takes tensors as they are. Its transforms then add
    (n,) to (n, 1): the `episode_reward` of RewardSum would be (n, n).
    """

    def rewards(self, rewards: Any) -> Any:
        """Rewards (n,), array or tensor -> (n, 1)."""
        return rewards[:, None]
