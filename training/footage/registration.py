"""Registration: find the camera's moves, paste frames on a common canvas, take their median as background plate."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..data.cuts import CHANGED, SHOT, farthest

SMALL = 0.1  # Less than this share of something is negligible.
OFTEN = 0.3  # A fact holds for footage if it holds in more than this share of the frames, or of the picture.
MOST = 0.7  # Two outlines or pictures are the same if they share at least this much of their edges.
COARSE = 4  # Factor of downscaling in the coarse search for the camera's move.
CAMERA = 24  # Largest camera move in the coarse search, px a frame.
CELLS = 8  # Cells on each side of the picture, in which edges are counted.
MEDIAN_OF = 41  # Number of frames whose median is a background plate.
LARGEST_BOX = 7  # Side of the largest box over which differences are averaged, px.


def camera_moves(frames: np.ndarray) -> np.ndarray:
    """By how many whole px the picture moves between frames (T, H, W, 3): (T - 1, 2), (right, down).

    The search is coarse, then fine. Differences are clipped, so that an agent that moves by itself has little weight.
    """
    grey = np.stack([(f[..., 0].astype(np.float32) + f[..., 1] + f[..., 2]) / 3 for f in frames])
    levels = [_smaller(grey, COARSE), _smaller(grey, 2), grey]
    reach = max(1, min(CAMERA // COARSE, min(levels[0].shape[1:]) // 4))
    coarse = [(x, y) for x in range(-reach, reach + 1) for y in range(-reach, reach + 1)]
    near = [(x, y) for x in range(-2, 3) for y in range(-2, 3)]
    out = np.zeros((len(grey) - 1, 2), int)
    for t in range(len(out)):
        stayed = _mismatch(grey[t], grey[t + 1], 0, 0)
        if stayed < 0.5 or not _changes_widely(grey[t], grey[t + 1]):
            continue
        x, y = min(coarse, key=lambda d: _mismatch(levels[0][t], levels[0][t + 1], *d))
        for level in levels[1:]:
            nearer = [(2 * x + dx, 2 * y + dy) for dx, dy in near]
            x, y = min(nearer, key=lambda d: _mismatch(level[t], level[t + 1], *d))
        if _mismatch(grey[t], grey[t + 1], x, y) < 0.6 * stayed:
            out[t] = x, y
    return out


def _smaller(pictures: np.ndarray, factor: int) -> np.ndarray:
    """Pictures (T, H, W) downscaled by a whole number."""
    count, height, width = pictures.shape
    part = pictures[:, : height // factor * factor, : width // factor * factor]
    return part.reshape(count, height // factor, factor, width // factor, factor).mean((2, 4))


def _changes_widely(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether grey pictures (H, W) differ in more than OFTEN of the picture: else something in it moves alone."""
    return float((_by_cell(np.abs(after - before) > CHANGED / 2) > 0).mean()) > OFTEN


def _mismatch(before: np.ndarray, after: np.ndarray, right: int, down: int) -> float:
    """Mean clipped difference of two grey pictures (H, W) in their overlap, after moving the first (right, down) px."""
    height, width = before.shape
    a = before[max(0, -down) : height - max(0, down), max(0, -right) : width - max(0, right)]
    b = after[max(0, down) : height - max(0, -down), max(0, right) : width - max(0, -right)]
    return float(np.minimum(np.abs(a - b), CHANGED).mean())


def register(frames: np.ndarray, camera: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Paste each frame on a canvas of its own at its place in the scene.

    Args:
        frames: (T, H, W, 3) uint8.
        camera: (T - 1, 2) px, from :func:`camera_moves`.

    Returns:
        the canvases (T, h, w, 3); the pixels that each frame covers (T, h, w) bool; and the positions (T, 2) px of the
        frames' top left corners. The canvas extends at most half a frame beyond the middle frame on each side.
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
    """The overlap of a canvas of `size` with a frame at `place`, all (x, y) px: slices (rows, columns) of both."""
    low = np.clip(place, 0, size)
    high = np.clip(place + np.array(frame), 0, size)
    there = tuple(slice(a, b) for a, b in zip(low[::-1], high[::-1], strict=True))
    here = tuple(slice(a, b) for a, b in zip((low - place)[::-1], (high - place)[::-1], strict=True))
    return there, here


def noise_of(whole: np.ndarray, plate: np.ndarray, known: np.ndarray) -> float:
    """Standard deviation of the footage's noise, of 255: that of sensors, compression, and textures that wobble.

    It is that of the noisiest tenth of the pixels, from their median distance to the plate, so that no agent counts.

    Args:
        whole: (T, h, w, 3) uint8, registered frames.
        plate: (h, w, 3), their median.
        known: (T, h, w) bool, the pixels to use.
    """
    some = np.linspace(0, len(whole) - 1, min(len(whole), MEDIAN_OF)).astype(int)
    far = np.median([farthest(frame, plate) for frame in whole[some]], axis=0)[known[some].all(0)]
    return 1.5 * float(np.quantile(far, 1 - SMALL)) if len(far) else 0.0  # 1.5 median deviations


def noise_box(noise: float) -> int:
    """Side of the box, px, over which differences are to be averaged: as small as noise of this deviation allows.

    If noise is independent, it falls by the side of the box; an agent does not. Without noise the side is 1.
    """
    return min(2 * math.ceil((4 * noise / CHANGED - 1) / 2) + 1, LARGEST_BOX) if 4 * noise > CHANGED else 1


def apart(frame: np.ndarray, other: np.ndarray, box: int) -> np.ndarray:
    """Largest difference over the channels of a frame (h, w, 3) uint8 from another picture, (h, w) uint8.

    Differences are means over a box of side `box`, px.
    """
    from scipy import ndimage

    if box == 1:
        return farthest(frame, other).astype(np.uint8)
    far = [np.abs(ndimage.uniform_filter(frame[..., c] - other[..., c].astype(np.float32), box)) for c in range(3)]
    return np.maximum(np.maximum(far[0], far[1]), far[2]).astype(np.uint8)


def match_exposure(whole: np.ndarray, plate: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Give registered frames the exposure and white balance of the plate: a gain and an offset for each channel.

    Cameras adjust themselves, mains flickers, and lights are switched. Frames of which most pixels equal the plate's
    stay as they are.

    Args:
        whole: (T, h, w, 3) uint8, the frames' canvases.
        plate: (h, w, 3), their median.
        known: (T, h, w) bool, the pixels to compare.

    Returns:
        the canvases (T, h, w, 3) uint8; a copy if any of them changes.
    """
    some = (slice(None, None, COARSE), slice(None, None, COARSE))
    target = plate[some].astype(np.float32)
    out = whole
    for t, frame in enumerate(whole):
        here = known[t][some]
        seen, wanted = frame[some][here].astype(np.float32), target[here]
        if not len(seen) or np.median(np.abs(seen - wanted)) < 1:
            continue
        out = whole.copy() if out is whole else out
        for channel in range(3):
            gain, offset = _fit(seen[:, channel], wanted[:, channel])
            levels = (np.arange(256) * gain + offset).round().clip(0, 255).astype(np.uint8)
            out[t, ..., channel] = levels[frame[..., channel]]
    return out


def _fit(values: np.ndarray, wanted: np.ndarray) -> tuple[float, float]:
    """Gain and offset that map values (N,) to wanted ones, by least squares without outliers, such as an agent."""
    keep = np.ones(len(values), bool)
    gain, offset = 1.0, 0.0
    for _ in range(4):
        x, y = values[keep], wanted[keep]
        spread = x.var()
        gain = float(np.clip(((x - x.mean()) * (y - y.mean())).mean() / spread, 0.5, 2)) if spread > 1 else 1.0
        offset = float(y.mean() - gain * x.mean())
        off = np.abs(wanted - gain * values - offset)
        keep = off <= 3.7 * np.median(off) + 0.5  # 2.5 standard deviations
    return gain, offset


def show_one_place(plate: np.ndarray, other: np.ndarray) -> bool:
    """Whether two plates (h, w, 3) show one place: most edges of each are in the other, whatever the exposure."""
    mine, theirs = _slopes(plate), _slopes(other)
    slope = np.maximum(np.hypot(*mine), np.hypot(*theirs))
    steep = slope > CHANGED / 4
    return not steep.any() or bool((np.hypot(*(mine - theirs)) <= slope / 2)[steep].mean() >= MOST)


def turned(whole: np.ndarray, known: np.ndarray) -> float:
    """In which share of the picture the edges move within SHOT frames, if that is more than where they stay; else 0.

    If a camera stands still, or only shifts, its registered frames share all edges but the agent's. If it turns, zooms
    or follows the agent, they do not. The picture is compared in CELLS x CELLS cells, those with edges.

    Args:
        whole: (T, h, w, 3) uint8, registered frames.
        known: (T, h, w) bool, the pixels to use.
    """
    step = min(SHOT, len(whole) - 1)
    shares = []
    for t in np.unique(np.linspace(0, len(whole) - 1 - step, 9).astype(int)):
        slopes = _slopes(whole[t])
        slope, change = np.hypot(*slopes), np.hypot(*(slopes - _slopes(whole[t + step])))
        there = known[t] & known[t + step]
        if not there.any():
            continue
        noise = 1.5 * float(np.median(change[there]))  # a standard deviation is 1.5 median deviations
        steep = there & (slope > max(CHANGED / 4, 3 * noise))
        edges, moved, pixels = (_by_cell(p) for p in (steep, steep & (change > slope / 2), there))
        textured = edges > SMALL / 4 * pixels
        moves = textured & (2 * moved > edges)
        shares.append(moves.sum() / (pixels > 0).sum() if 2 * moves.sum() > textured.sum() else 0.0)
    return float(np.median(shares)) if shares else 0.0


def _slopes(picture: np.ndarray) -> np.ndarray:
    """Gradient (2, h, w), a px, of the mean over the channels of a picture (h, w, 3)."""
    return np.stack(np.gradient((picture[..., 0].astype(np.float32) + picture[..., 1] + picture[..., 2]) / 3))


def _by_cell(pixels: np.ndarray) -> np.ndarray:
    """Number of pixels (h, w) bool in each of CELLS x CELLS cells."""
    height, width = pixels.shape
    rows, columns = (np.arange(CELLS) * n // CELLS for n in (height, width))
    return np.add.reduceat(np.add.reduceat(pixels.astype(int), rows, 0), columns, 1)


def median_background(
    whole: np.ndarray, known: np.ndarray | None, most: int = MEDIAN_OF
) -> tuple[np.ndarray, np.ndarray]:
    """The background plate: the median of at most `most` registered frames.

    Args:
        whole: (T, h, w, 3), the frames' canvases.
        known: (T, h, w) bool, the pixels to use; None: all.
        most: largest number of frames.

    Returns:
        the plate (h, w, 3), and how many of these frames had each pixel, (h, w).
    """
    some = np.linspace(0, len(whole) - 1, min(len(whole), most)).astype(int)
    if known is None:
        known = np.ones(whole.shape[:3], bool)
    count = known[some].sum(0)
    if (count == len(some)).all():
        return np.median(whole[some], axis=0), count
    out = np.empty(whole.shape[1:])
    last = np.iinfo(whole.dtype).max if whole.dtype.kind == "u" else np.inf
    for row in range(len(out)):  # row by row, to save memory
        shown = np.sort(np.where(known[some, row, :, None], whole[some, row], whole.dtype.type(last)), axis=0)
        middle = (np.take_along_axis(shown, (at // 2)[None, :, None], 0)[0].astype(float)
                  for at in (count[row].clip(1) - 1, count[row]))  # fmt: skip
        out[row] = np.where(count[row, :, None] > 0, sum(middle) / 2, 0)
    return out, count
