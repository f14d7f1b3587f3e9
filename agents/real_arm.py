"""A real robot arm, as far as MuJoCo goes: FetchReach seen by the camera that GlassArm-v0 was recorded with."""

from __future__ import annotations

import gymnasium as gym
import numpy as np

from agents.real import RealReach
from glass_gym.worlds.fetch_reach import SIDE, WORKSPACE, Arm, to_frames

WRIST = np.array([0.0, 0.0, 0.2])  # From the hand to the wrist, m.
BODY = np.array([-1.2, -10.0])
"""From the wrist, as it is seen, to where the world places the arm, px. Over 60 frames of random moves this differs
from the position that the world reads by 1.0 px along x and 1.6 px along y (standard deviations)."""


class RealArm(RealReach):
    """Reach a target with the arm. Controls are FetchReach's: the hand's move along x, y, z and the fingers', -1 to 1.

    Args:
        kwargs: see :class:`agents.real.RealReach`.

    Raises:
        ImportError: gymnasium-robotics or mujoco is not installed.
        OSError: MuJoCo cannot draw here.
    """

    size = (SIDE, SIDE)
    step_px = (4.0, 2.5)
    area = (20.0, 3.0, 74.0, 37.0)  # the world's ground
    control_names = ("x", "y", "z", "fingers")

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.arm = Arm()
        self.action_space = gym.spaces.Box(-1.0, 1.0, (4,), np.float32)

    def start(self) -> None:
        """The hand is at a random place over the table."""
        self.arm.reset(int(self.np_random.integers(2**31)), self.np_random.uniform(*WORKSPACE))
        self._picture = None

    def act(self, control) -> None:
        """A step of 0.04 s."""
        self.arm.act(control)
        self._picture = None

    @property
    def position(self) -> np.ndarray:
        """Position of the arm, by its wrist, (2,) float32 px."""
        return (self.arm.project(self.arm.hand + WRIST) + BODY).astype(np.float32)

    def picture(self) -> np.ndarray:
        """The frame, (96, 96, 3) uint8."""
        if self._picture is None:
            self._picture = to_frames(self.arm.picture())
        return self._picture
