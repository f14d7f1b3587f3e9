"""The wrappers of :mod:`glass_gym.wrappers` for vector environments; numpy and torch output alike."""

from glass_gym.wrappers.auto_local_action import VectorAutoLocalAction as AutoLocalAction
from glass_gym.wrappers.column_reward import VectorColumnReward as ColumnReward
from glass_gym.wrappers.downscale_frame import VectorDownscaleFrame as DownscaleFrame
from glass_gym.wrappers.flatten_action import VectorFlattenAction as FlattenAction
from glass_gym.wrappers.goal_observation import VectorGoalObservation as GoalObservation
from glass_gym.wrappers.torch_episode_statistics import VectorTorchEpisodeStatistics as TorchEpisodeStatistics

__all__ = [
    "AutoLocalAction",
    "ColumnReward",
    "DownscaleFrame",
    "FlattenAction",
    "GoalObservation",
    "TorchEpisodeStatistics",
]
