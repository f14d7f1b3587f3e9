"""Videos of a robot arm over a table: FetchReach of gymnasium-robotics, rendered by MuJoCo from above.

It needs ``pip install gymnasium-robotics "mujoco<3.4"``; without a display also ``MUJOCO_GL=osmesa`` (Debian:
libosmesa6) or ``egl`` (libegl1).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .store import DataError, StoreWriter

NEEDS = "gymnasium-robotics 'mujoco<3.4'"
WORKSPACE = np.array([[1.20, 0.55, 0.46], [1.45, 0.95, 0.66]])
"""Lower and upper bound of the hand's position (x, y, z), m."""
CAMERA = {"lookat": (1.38, 0.75, 0.5), "distance": 1.25, "azimuth": 180.0, "elevation": -60.0}
RENDERED = 192  # Side of rendered frames, px.
SIDE = 96  # Side of frames in the store, px.
STEPS = 60  # Number of frames of a video.
HAND = ("gripper", "finger")
MOVING = ("shoulder", "upperarm", "elbow", "forearm", "wrist", *HAND)


def middle_of(mask: np.ndarray) -> np.ndarray:
    """The middle (x, y), px, of the bounding box of a mask (H, W); nan if the mask is empty."""
    ys, xs = np.nonzero(mask)
    return np.array([(v.min() + v.max() + 1) / 2 if len(v) else np.nan for v in (xs, ys)])


class Arm:
    """The simulator with its camera, and a hand that moves at random; the task of the environment is not used."""

    def __init__(self):
        if not os.environ.get("DISPLAY"):
            os.environ.setdefault("MUJOCO_GL", "osmesa")
        import gymnasium

        try:
            import gymnasium_robotics
            import mujoco
        except ImportError as error:
            raise DataError(f"the arm is recorded from MuJoCo: pip install {NEEDS} ({error})") from None

        self.mujoco = mujoco
        gymnasium.register_envs(gymnasium_robotics)
        self.env = gymnasium.make("FetchReach-v4", max_episode_steps=10**6)
        self.env.reset(seed=0)
        self.model: Any = self.env.unwrapped.model  # type: ignore[attr-defined]
        self.data: Any = self.env.unwrapped.data  # type: ignore[attr-defined]
        try:
            self.renderer = mujoco.Renderer(self.model, RENDERED, RENDERED)
        except Exception as error:  # each GL library raises errors of its own
            raise DataError(
                f"MuJoCo cannot draw here ({error}): set MUJOCO_GL=osmesa (apt install libosmesa6) or egl (libegl1)"
            ) from None
        self.camera = mujoco.MjvCamera()
        for name, value in CAMERA.items():
            setattr(self.camera, name, value)
        bodies = [mujoco.mj_id2name(self.model, mujoco.mjtObj.mjOBJ_BODY, b) or "" for b in range(self.model.nbody)]
        owner = self.model.geom_bodyid

        def geoms(*words: str) -> np.ndarray:
            return np.isin(owner, [b for b, name in enumerate(bodies) if any(w in name for w in words)])

        self.own = np.flatnonzero(geoms(*(f"robot0:{part}" for part in MOVING)))
        self.grip = np.flatnonzero(geoms(*(f"robot0:{part}" for part in HAND)))
        self.model.geom_rgba[geoms("mocap"), 3] = 0  # neither the axes of the hand ...
        self.model.site_rgba[:, 3] = 0  # ... nor the goal are drawn
        table = geoms("table")
        self.model.geom_matid[table] = -1
        self.model.geom_rgba[table] = (0.55, 0.38, 0.22, 1.0)

    def videos(self, count: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Render `count` videos: frames (T, 192, 192, 3) uint8, true masks (T, 192, 192) bool, hands (T, 2) px."""
        for video in range(count):
            rng = np.random.default_rng([seed, video])
            self.env.reset(seed=int(rng.integers(2**31)))
            self._go_to(rng.uniform(*WORKSPACE))
            way = self._ways(rng)
            pictures = [self.picture() for _ in map(self.env.step, (next(way) for _ in range(STEPS)))]
            frames, masks, hands = (np.stack(part) for part in zip(*pictures, strict=True))
            yield frames, masks, hands

    @property
    def hand(self) -> np.ndarray:
        """The hand's position, m."""
        return self.data.site("robot0:grip").xpos.copy()

    def _go_to(self, goal: np.ndarray, steps: int = 40) -> None:
        for _ in range(steps):
            self.env.step(np.append(np.clip((goal - self.hand) / 0.05, -1, 1), 0).astype(np.float32))

    def _ways(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Random actions: hold a direction for 3 to 8 steps; turn back at the bounds of the workspace."""
        while True:
            way = np.append(rng.integers(-1, 2, 2), rng.choice([-1, 0, 0, 1]))
            for _ in range(int(rng.integers(3, 9))):
                beyond = (self.hand < WORKSPACE[0]) & (way < 0) | (self.hand > WORKSPACE[1]) & (way > 0)
                way = np.where(beyond, -way, way)
                yield np.append(way, 0).astype(np.float32)

    def picture(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The frame (192, 192, 3) uint8, the arm's mask (192, 192) bool, and the middle (x, y) of its hand, px.

        The hand's motion is that of the arm: the other end of the arm stays at the frame's edge, which cuts it.
        """
        self.renderer.update_scene(self.data, self.camera)
        frame = self.renderer.render().copy()
        self.renderer.enable_segmentation_rendering()
        kind = self.mujoco.mjtObj.mjOBJ_GEOM
        seen = self.renderer.render()
        self.renderer.disable_segmentation_rendering()
        own, grip = ((seen[..., 1] == kind) & np.isin(seen[..., 0], part) for part in (self.own, self.grip))
        return frame, own, middle_of(grip)


def record(out: Path, videos: int = 160, seed: int = 0, progress: Callable[[int], None] = lambda done: None) -> Path:
    """Write a clip store of `videos` videos to `out`, and return `out`; `progress` gets the number of videos done.

    It has true masks and the label `position`, the centre of the mask, px.
    """
    writer = StoreWriter(out, SIDE, SIDE, 1.0, "FetchReach (gymnasium-robotics)", "arm")
    scale = RENDERED // SIDE
    for index, (frames, masks, _) in enumerate(Arm().videos(videos, seed)):
        small = frames.reshape(len(frames), SIDE, scale, SIDE, scale, 3).mean((2, 4)).round().astype(np.uint8)
        covered = masks.reshape(len(masks), SIDE, scale, SIDE, scale).mean((2, 4)) > 0.5
        centres = np.array([np.argwhere(m).mean(0)[::-1] if m.any() else (SIDE / 2, 0) for m in covered], np.float32)
        writer.add(f"{index:04d}", "train", small, covered, position=centres)
        progress(index + 1)
    writer.split_by_shots()
    writer.close()
    return Path(out)
