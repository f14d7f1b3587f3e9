"""Cuts: where a video changes to another scene at once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

CUT = 18.0
"""A cut: blocks of the picture change by this much on average, of 255 ..."""
CUT_RATIO = 4.0
"""... and by this many times what they changed by in the frames about it."""
CHANGED = 0.5
"""Also a cut: this share of the pixels changes by CUT, and CUT_RATIO times what changed in the frames about it."""
BLOCK = 8
"""Px to a block; smaller motion does not make a cut."""
SHOT = 8
"""Frames of the shortest shot that is of use."""


def find_cuts(frames: np.ndarray) -> np.ndarray:
    """Indices of the first frames after cuts in frames (T, H, W, 3): (N,) ints."""
    if len(frames) < 2:
        return np.zeros(0, int)
    changed = [(farthest(b, a) > CUT).mean() for a, b in pairwise(frames)]
    # scenes of fine texture have blocks alike
    fine = [t + 1 for t, now in enumerate(changed) if now > CHANGED and now > CUT_RATIO * _usual(changed, t)]
    return np.union1d(cuts_of(block_means(frames)), np.array(fine, int)).astype(int)


def farthest(frame: np.ndarray, other: np.ndarray) -> np.ndarray:
    """How far frames (..., H, W, 3) uint8 are from another picture, in the channel where it is farthest: (..., H, W).

    A channel after the other: numpy's maximum over an axis of three takes eight times as long.
    """
    apart = [np.abs(frame[..., c].astype(np.int16) - other[..., c]) for c in range(3)]
    return np.maximum(np.maximum(apart[0], apart[1]), apart[2])


def _usual(changes: Sequence[float] | np.ndarray, t: int) -> float:
    """What changed in the dozen frames on each side of a change."""
    about = [*changes[max(0, t - 12) : t], *changes[t + 1 : t + 13]]
    return float(np.median(about)) if about else 0.0


def block_means(frames: np.ndarray) -> np.ndarray:
    """Mean colours of BLOCK x BLOCK px of frames (T, H, W, 3): (T, N, 3) float32."""
    count, height, width, _ = frames.shape
    rows = max(1, height // BLOCK)
    columns = max(1, width // BLOCK)
    part = frames[:, : height // rows * rows, : width // columns * columns]
    cells = part.reshape(count, rows, height // rows, columns, width // columns, 3)
    return cells.mean((2, 4), dtype=np.float32).reshape(count, -1, 3)


def cuts_of(blocks: np.ndarray) -> np.ndarray:
    """As :func:`find_cuts`, of block means (T, N, 3)."""
    change = np.abs(np.diff(blocks, axis=0)).mean((1, 2))
    out = []
    for t, now in enumerate(change):
        if now > CUT and now > CUT_RATIO * _usual(change, t):
            out.append(t + 1)
    # where everything is a cut nothing stands out: the picture is another one in most of its blocks
    different = (np.abs(np.diff(blocks, axis=0)).max(2) > 2 * CUT).mean(1) > 0.7
    return np.union1d(np.array(out, int), np.flatnonzero(different) + 1).astype(int)
