"""Wrappers of single environments; :mod:`glass_gym.wrappers.vector` has the same for vector environments."""

from glass_gym.wrappers.auto_local_action import AutoLocalAction
from glass_gym.wrappers.core_of import core_of
from glass_gym.wrappers.downscale_frame import DownscaleFrame
from glass_gym.wrappers.flatten_action import FlattenAction
from glass_gym.wrappers.goal_observation import GoalObservation

__all__ = ["AutoLocalAction", "DownscaleFrame", "FlattenAction", "GoalObservation", "core_of"]
