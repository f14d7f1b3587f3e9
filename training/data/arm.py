"""Videos of a robot arm over a table: FetchReach of gymnasium-robotics, rendered by MuJoCo from above."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from glass_gym.worlds.fetch_reach import SIDE, WORKSPACE, Arm, middle_of, smaller, to_frames

from .store import DataError, StoreWriter

STEPS = 60  # Number of frames of a video.


def videos(count: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Render videos of random moves: frames (T, 192, 192, 3) uint8, true masks (T, 192, 192) bool, hands (T, 2) px.

    A hand is the middle of its pixels. Its motion is that of the arm: the other end of the arm stays at the frame's
    edge, which cuts it. DataError: there is no MuJoCo, or it cannot draw.
    """
    try:
        arm = Arm()
    except (ImportError, OSError) as error:
        raise DataError(str(error)) from None
    for video in range(count):
        rng = np.random.default_rng([seed, video])
        arm.reset(int(rng.integers(2**31)), rng.uniform(*WORKSPACE))
        way = _ways(arm, rng)
        film = []
        for _ in range(STEPS):
            arm.act(next(way))
            mask, hand = arm.masks()
            film.append((arm.picture(), mask, middle_of(hand)))
        frames, masks, hands = (np.stack(part) for part in zip(*film, strict=True))
        yield frames, masks, hands


def _ways(arm: Arm, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Random actions: hold a direction for 3 to 8 steps; turn back at the bounds of the workspace."""
    while True:
        way = np.append(rng.integers(-1, 2, 2), rng.choice([-1, 0, 0, 1]))
        for _ in range(int(rng.integers(3, 9))):
            beyond = (arm.hand < WORKSPACE[0]) & (way < 0) | (arm.hand > WORKSPACE[1]) & (way > 0)
            way = np.where(beyond, -way, way)
            yield np.append(way, 0)


def record(out: Path, count: int = 160, seed: int = 0, progress: Callable[[int], None] = lambda done: None) -> Path:
    """Write a clip store of `count` videos to `out`, and return `out`; `progress` gets the number of videos done.

    It has true masks and the label `position`, the centre of the mask, px.
    """
    writer = StoreWriter(out, SIDE, SIDE, 1.0, "FetchReach (gymnasium-robotics)", "arm")
    for index, (frames, masks, _) in enumerate(videos(count, seed)):
        covered = smaller(masks[..., None])[..., 0] > 0.5
        centres = np.array([np.argwhere(m).mean(0)[::-1] if m.any() else (SIDE / 2, 0) for m in covered], np.float32)
        writer.add(f"{index:04d}", "train", to_frames(frames), covered, position=centres)
        progress(index + 1)
    writer.split_by_shots()
    writer.close()
    return Path(out)
