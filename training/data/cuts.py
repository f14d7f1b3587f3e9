"""Cuts: where a video changes to another scene at once."""

from __future__ import annotations

import numpy as np

CUT = 18.0
"""A cut: blocks of the picture change by this much on average, of 255 ..."""
CUT_RATIO = 4.0
"""... and by this many times what they changed by in the frames about it."""
BLOCK = 8
"""Px to a block; smaller motion does not make a cut."""
SHOT = 8
"""Frames of the shortest shot that is of use."""


def find_cuts(frames: np.ndarray) -> np.ndarray:
    """Indices of the first frames after cuts in frames (T, H, W, 3): (N,) ints."""
    if len(frames) < 2:
        return np.zeros(0, int)
    return cuts_of(block_means(frames))


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
        about = np.concatenate([change[max(0, t - 12) : t], change[t + 1 : t + 13]])
        usual = float(np.median(about)) if len(about) else 0.0
        if now > CUT and now > CUT_RATIO * usual:
            out.append(t + 1)
    # where everything is a cut nothing stands out: the picture is another one in most of its blocks
    different = (np.abs(np.diff(blocks, axis=0)).max(2) > 2 * CUT).mean(1) > 0.7
    return np.union1d(np.array(out, int), np.flatnonzero(different) + 1).astype(int)
