"""Cuts: find frames at which a video changes to another scene at once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

CHANGED = 18  # Colours differ if they do so by more than this, of 255; at a cut, those of blocks do on average.
CUT_RATIO = 4.0
"""At a cut, they also change by more than this many times the median change of the frames around it. It is also a cut
if most of the pixels differ, and CUT_RATIO times as many as usual."""
BLOCK = 8  # Side of a block, px; block means ignore smaller motion.
SHOT = 8  # Number of frames of the shortest shot that is used.


def find_cuts(frames: np.ndarray) -> np.ndarray:
    """Indices (N,) of the first frames after cuts, in the frames (T, H, W, 3) uint8 of a video."""
    if len(frames) < 2:
        return np.zeros(0, int)
    changed = [(farthest(b, a) > CHANGED).mean() for a, b in pairwise(frames)]
    # scenes of fine texture may have equal block means
    fine = [t + 1 for t, now in enumerate(changed) if now > 0.5 and now > CUT_RATIO * _usual(changed, t)]
    return np.union1d(cuts_of(block_means(frames)), np.array(fine, int)).astype(int)


def farthest(frame: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Largest absolute difference over the channels, of frames (..., H, W, 3) uint8 from another picture: (..., H, W).

    It goes channel by channel: numpy's maximum over an axis of length three takes eight times as long.
    """
    apart = [np.abs(frame[..., c].astype(np.int16) - other[..., c]) for c in range(3)]
    return np.maximum(np.maximum(apart[0], apart[1]), apart[2])


def _usual(changes: Sequence[float] | np.ndarray, t: int) -> float:
    """Median change over the twelve frames on each side of frame t."""
    about = [*changes[max(0, t - 12) : t], *changes[t + 1 : t + 13]]
    return float(np.median(about)) if about else 0.0


def block_means(frames: np.ndarray) -> np.ndarray:
    """Mean colours of blocks of about BLOCK x BLOCK px in frames (T, H, W, 3): (T, N, 3) float32."""
    count, height, width, _ = frames.shape
    rows = max(1, height // BLOCK)
    columns = max(1, width // BLOCK)
    part = frames[:, : height // rows * rows, : width // columns * columns]
    cells = part.reshape(count, rows, height // rows, columns, width // columns, 3)
    return cells.mean((2, 4), dtype=np.float32).reshape(count, -1, 3)


def cuts_of(blocks: np.ndarray) -> np.ndarray:
    """As :func:`find_cuts`, from block means (T, N, 3) only."""
    change = np.abs(np.diff(blocks, axis=0)).mean((1, 2))
    out = [t + 1 for t, now in enumerate(change) if now > CHANGED and now > CUT_RATIO * _usual(change, t)]
    # among cuts at every frame none stands out: count frames in which most blocks are different
    different = (np.abs(np.diff(blocks, axis=0)).max(2) > 2 * CHANGED).mean(1) > 0.7
    return np.union1d(np.array(out, int), np.flatnonzero(different) + 1).astype(int)
