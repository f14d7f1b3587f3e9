"""A robot arm over a table, for the recordings and for acting outside: FetchReach seen by a camera above the table.

FetchReach of gymnasium-robotics is simulated and rendered by MuJoCo. It needs
``pip install gymnasium-robotics "mujoco<3.4"``; without a display also ``MUJOCO_GL=osmesa`` (Debian: libosmesa6) or
``egl`` (libegl1).
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

NEEDS = "gymnasium-robotics 'mujoco<3.4'"
WORKSPACE = np.array([[1.20, 0.55, 0.46], [1.45, 0.95, 0.66]])
"""Lower and upper bound of the hand's position (x, y, z), m."""
CAMERA: dict[str, Any] = {"lookat": (1.38, 0.75, 0.5), "distance": 1.25, "azimuth": 180.0, "elevation": -60.0}
RENDERED = 192  # Side of rendered frames, px.
SIDE = 96  # Side of the world's frames, px.
HAND = ("gripper", "finger")
MOVING = ("shoulder", "upperarm", "elbow", "forearm", "wrist", *HAND)


def middle_of(mask: np.ndarray) -> np.ndarray:
    """The middle (x, y), px, of the bounding box of a mask (H, W); nan if the mask is empty."""
    ys, xs = np.nonzero(mask)
    return np.array([(v.min() + v.max() + 1) / 2 if len(v) else np.nan for v in (xs, ys)])


def smaller(pictures: np.ndarray) -> np.ndarray:
    """Means of squares of RENDERED / SIDE px: (..., 192, 192, C) -> (..., 96, 96, C) float64."""
    scale = RENDERED // SIDE
    *rows, _, _, channels = pictures.shape
    return pictures.reshape(*rows, SIDE, scale, SIDE, scale, channels).mean((-4, -2))


def to_frames(pictures: np.ndarray) -> np.ndarray:
    """Rendered pictures (..., 192, 192, 3) uint8 -> the world's frames (..., 96, 96, 3) uint8."""
    return smaller(pictures).round().astype(np.uint8)


class Arm:
    """The simulator with its camera. Neither the task of the environment nor what it draws of it is used.

    Raises:
        ImportError: gymnasium-robotics or mujoco is not installed.
        OSError: MuJoCo cannot draw here.
    """

    def __init__(self):
        if not os.environ.get("DISPLAY"):
            os.environ.setdefault("MUJOCO_GL", "osmesa")
        import gymnasium

        try:
            import gymnasium_robotics  # type: ignore[import-not-found]
            import mujoco  # type: ignore[import-not-found]
        except ImportError as error:
            raise ImportError(f"the arm needs MuJoCo: pip install {NEEDS} ({error})") from None

        self.mujoco = mujoco
        gymnasium.register_envs(gymnasium_robotics)
        self.env = gymnasium.make("FetchReach-v4", max_episode_steps=10**6)
        self.env.reset(seed=0)
        self.model: Any = self.env.unwrapped.model  # type: ignore[attr-defined]
        self.data: Any = self.env.unwrapped.data  # type: ignore[attr-defined]
        try:
            self.renderer = mujoco.Renderer(self.model, RENDERED, RENDERED)
        except Exception as error:  # each GL library raises errors of its own
            raise OSError(
                f"MuJoCo cannot draw here ({error}): set MUJOCO_GL=osmesa (apt install libosmesa6) or egl (libegl1)"
            ) from None
        self.camera = mujoco.MjvCamera()
        for name, value in CAMERA.items():
            setattr(self.camera, name, value)
        bodies = [mujoco.mj_id2name(self.model, mujoco.mjtObj.mjOBJ_BODY, b) or "" for b in range(self.model.nbody)]
        owner = self.model.geom_bodyid

        def geoms(*words: str) -> np.ndarray:
            return np.isin(owner, [b for b, name in enumerate(bodies) if any(w in name for w in words)])

        self._arm = np.flatnonzero(geoms(*(f"robot0:{part}" for part in MOVING)))
        self._hand = np.flatnonzero(geoms(*(f"robot0:{part}" for part in HAND)))
        self.model.geom_rgba[geoms("mocap"), 3] = 0  # neither the axes of the hand ...
        self.model.site_rgba[:, 3] = 0  # ... nor the goal are drawn
        table = geoms("table")
        self.model.geom_matid[table] = -1
        self.model.geom_rgba[table] = (0.55, 0.38, 0.22, 1.0)

    def reset(self, seed: int, hand: np.ndarray) -> None:
        """Put the environment back, and the hand to a place (x, y, z), m."""
        self.env.reset(seed=seed)
        for _ in range(40):
            self.act(np.append(np.clip((hand - self.hand) / 0.05, -1, 1), 0))

    def act(self, action: np.ndarray) -> None:
        """A step of 0.04 s under FetchReach's action (4,): the hand's move (x, y, z) and the fingers', -1 to 1."""
        self.env.step(np.asarray(action, np.float32))

    @property
    def hand(self) -> np.ndarray:
        """The hand's position, m."""
        return self.data.site("robot0:grip").xpos.copy()

    def project(self, place: np.ndarray) -> np.ndarray:
        """Where a place (x, y, z), m, is seen in the world's frames, (2,) px."""
        azimuth, elevation = np.radians((CAMERA["azimuth"], CAMERA["elevation"]))
        level = np.cos(elevation)
        forward = np.array([level * np.cos(azimuth), level * np.sin(azimuth), np.sin(elevation)])
        right = np.array([np.sin(azimuth), -np.cos(azimuth), 0.0])
        seen = place - (CAMERA["lookat"] - CAMERA["distance"] * forward)
        focus = SIDE / 2 / np.tan(np.radians(self.model.vis.global_.fovy) / 2)
        return SIDE / 2 + focus * np.array([seen @ right, seen @ np.cross(forward, right)]) / (seen @ forward)

    def picture(self) -> np.ndarray:
        """The rendered picture, (192, 192, 3) uint8."""
        self.renderer.update_scene(self.data, self.camera)
        return self.renderer.render().copy()

    def masks(self) -> tuple[np.ndarray, np.ndarray]:
        """The pixels of the arm and of its hand in the picture, (192, 192) bool each."""
        self.renderer.update_scene(self.data, self.camera)
        self.renderer.enable_segmentation_rendering()
        seen = self.renderer.render()
        self.renderer.disable_segmentation_rendering()
        geom = seen[..., 1] == self.mujoco.mjtObj.mjOBJ_GEOM
        return geom & np.isin(seen[..., 0], self._arm), geom & np.isin(seen[..., 0], self._hand)
