"""Registration: the camera's moves, frames put where they belong, and the background plate as their median."""

from __future__ import annotations

from typing import Any

import numpy as np

CHANGED = 18
"""A pixel differs by at least this much, of 255, in one channel."""
COARSE = 4
"""Side, px, of a cell of the coarse search for the camera's move."""
CAMERA = 24
"""Px a frame of the fastest camera."""


def camera_moves(frames: np.ndarray) -> np.ndarray:
    """Whole px by which the picture moved between frames (T, H, W, 3): (T - 1, 2), (right, down).

    The search is coarse, then fine. Differences are clipped, so that an agent that moves on its own counts little.
    """
    grey = np.stack([(f[..., 0].astype(np.float32) + f[..., 1] + f[..., 2]) / 3 for f in frames])
    height, width = grey.shape[1:]
    part = grey[:, : height // COARSE * COARSE, : width // COARSE * COARSE]
    small = part.reshape(len(grey), height // COARSE, COARSE, width // COARSE, COARSE).mean((2, 4))
    reach = max(1, min(CAMERA // COARSE, min(small.shape[1:]) // 4))
    coarse = [(x, y) for x in range(-reach, reach + 1) for y in range(-reach, reach + 1)]
    fine = [(x, y) for x in range(-COARSE, COARSE + 1) for y in range(-COARSE, COARSE + 1)]
    out = np.zeros((len(grey) - 1, 2), int)
    for t in range(len(out)):
        stayed = _mismatch(grey[t], grey[t + 1], 0, 0)
        if stayed < 0.5:  # nearly nothing changed
            continue
        x, y = min(coarse, key=lambda d: _mismatch(small[t], small[t + 1], *d))
        near = [(COARSE * x + dx, COARSE * y + dy) for dx, dy in fine]
        found = min(near, key=lambda d: _mismatch(grey[t], grey[t + 1], *d))
        if _mismatch(grey[t], grey[t + 1], *found) < 0.6 * stayed:
            out[t] = found
    return out


def _mismatch(before: np.ndarray, after: np.ndarray, right: int, down: int) -> float:
    """Mean difference, cut off, of two grey pictures (H, W) where they overlap once the first has moved."""
    height, width = before.shape
    a = before[max(0, -down) : height - max(0, down), max(0, -right) : width - max(0, right)]
    b = after[max(0, down) : height - max(0, -down), max(0, right) : width - max(0, -right)]
    return float(np.minimum(np.abs(a - b), CHANGED).mean())


def register(frames: np.ndarray, camera: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Put frames (T, H, W, 3) where they belong on one canvas, given the camera's moves (T - 1, 2) px.

    Returns:
        the canvas as each frame shows it (T, h, w, 3), which part each frame shows (T, h, w) bool, and the position of
        each frame's corner on it (T, 2) px. The canvas ends half a frame away from the middle frame.
    """
    count, height, width, _ = frames.shape
    if not camera.any():
        return frames, np.ones(frames.shape[:3], bool), np.zeros((count, 2), int)
    path = -np.concatenate([np.zeros((1, 2), int), camera.cumsum(0)])
    path -= path[count // 2]
    half = np.array([width, height]) // 2
    corner = np.maximum(path.min(0), -half)
    size = np.minimum(path.max(0), half) + np.array([width, height]) - corner
    path -= corner
    whole = np.zeros((count, size[1], size[0], 3), np.uint8)
    known = np.zeros(whole.shape[:3], bool)
    for t, place in enumerate(path):
        there, here = overlap(place, size, (width, height))
        whole[t][there] = frames[t][here]
        known[t][there] = True
    return whole, known, path


def overlap(place: np.ndarray, size: Any, frame: tuple[int, int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """The overlap of a frame (width, height) at (x, y) with a canvas (width, height): slices of both, rows first."""
    low = np.clip(place, 0, size)
    high = np.clip(place + np.array(frame), 0, size)
    there = tuple(slice(a, b) for a, b in zip(low[::-1], high[::-1], strict=True))
    here = tuple(slice(a, b) for a, b in zip((low - place)[::-1], (high - place)[::-1], strict=True))
    return there, here


def median_background(whole: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The background plate: the median (h, w, 3) of registered frames (T, h, w, 3) where pixels are `known` (T, h, w).

    At most 41 frames are used.

    Returns:
        the plate, and in how many frames each of its pixels was known, (h, w).
    """
    some = np.linspace(0, len(whole) - 1, min(len(whole), 41)).astype(int)
    count = known[some].sum(0)
    if (count == len(some)).all():
        return np.median(whole[some], axis=0), count
    out = np.empty(whole.shape[1:])
    for row in range(len(out)):  # a row at a time: floats of all frames at once take much memory
        shown = np.where(known[some, row, :, None], whole[some, row], np.float32("nan"))
        shown[0, ~known[some, row].any(0)] = 0
        out[row] = np.nanmedian(shown, axis=0)
    return out, count
