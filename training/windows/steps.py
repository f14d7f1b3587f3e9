"""The agent's usual step length, and the cell size if it moves on a grid, from its tracked moves."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

SPAN, FRAMES = 0.2, 6
"""A speed is measured over SPAN seconds, but at least FRAMES frames, since positions are whole px. A move that is
undone within half of it does not count."""
JUMP = 3.0
"""The track jumps to something else if it moves by JUMP times more than in three quarters of the moves, and than in any
frame nearby in the same direction."""
RARE = 0.03
"""An axis has step length 0 if the way along it is less than this share of the way along the other; the agent moves on
a grid if no more of its moves are no whole steps."""
SAME_STEP = 0.15  # Lengths that differ by less than this share count as equal.
MODE = 0.4  # A length is a mode if moves of this length make up at least this share of the way.


def step_length(shifts: Sequence[np.ndarray], rate: float | None = None) -> tuple[float, float]:
    """The usual step length along each axis.

    It is the mode of the moves' lengths, weighted by the way that was covered with them, so that small moves back and
    forth, as of a sprite that turns or bobs, do not count. If single moves have no mode, moves over two frames are
    tried. If there is no mode either (continuous speed), it is the median speed while the agent moves: half of the way
    along the axis was covered at a higher speed, so that standing still does not count.

    Nothing is measured from one video to the next, or across a jump of the track (JUMP), as to another part of the
    agent.

    Args:
        shifts: of each video, (T - 1, 2) px, the agent's moves from frame to frame.
        rate: frames a second of the videos; None if not known.

    Returns:
        (x, y) px a frame; 0 for an axis along which it hardly moves. (1, 1) if it hardly moves at all.
    """
    videos = [np.asarray(video, np.float64) for video in shifts if len(video)]
    if not videos:
        return 1.0, 1.0
    lengths = np.concatenate([np.linalg.norm(video, axis=1) for video in videos])
    usual = float(np.quantile(lengths[lengths >= 1], 0.75)) if lengths.max() >= 1 else 1.0
    span = min(max(FRAMES, round(SPAN * (rate or 0))), max(map(len, videos)))
    measured = [_measure(video, span, usual) for video in videos]
    single, way, pairs, speed = (np.concatenate(part) for part in zip(*measured, strict=True))
    gone = np.where(speed * span > 1, speed, 0).sum(0)  # 1 px may be rounding
    if not gone.any():
        return 1.0, 1.0
    x, y = (
        (_mode(single[:, a], way[:, a]) or _mode(pairs[:, a], pairs[:, a]) or _middle(speed[:, a]))
        if gone[a] >= RARE * gone.max()
        else 0.0
        for a in range(2)
    )
    return x, y


def _measure(shifts: np.ndarray, span: int, usual: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Measure the moves of one video, (T - 1, 2) px.

    Returns:
        lengths of single moves and the way that was covered with each, both (T - 1, 2) px; speeds over two and over
        `span` frames, (N, 2) and (M, 2) px a frame, which are not measured across a jump.
    """
    count, half = len(shifts), max(1, span // 2)
    path = np.concatenate([np.zeros((1, 2)), shifts.cumsum(0)])
    when = np.arange(count)
    before, after = path[np.maximum(0, when - half)], when + half
    net = (np.abs(path[np.minimum(count, after + more)] - before) for more in (0, 1))  # over even and odd numbers
    squared = (shifts**2).sum(1)
    near = np.pad(shifts, ((half, half), (0, 0)))
    along = [(near[k : k + count] * shifts).sum(1) for k in range(2 * half + 1) if k != half]
    jump = (squared > (JUMP * usual) ** 2) & (squared > JUMP * np.max(along, 0))
    moved = np.abs(shifts) * (np.abs(shifts) >= 1)
    way = np.minimum.reduce([moved, *net]) * ~jump[:, None]
    jumps = np.concatenate([[0], jump.cumsum()])

    def speeds(frames: int) -> np.ndarray:
        whole = jumps[frames:] == jumps[:-frames]
        return np.abs(path[frames:] - path[:-frames])[whole] / frames

    return moved, way, speeds(2), speeds(span)  # an agent of 2.5 px a frame moves by 2 and 3 px in turns


def _mode(lengths: np.ndarray, way: np.ndarray) -> float | None:
    """The length, px, near which most of the way was covered; None if there is no such length."""
    if not way.any():
        return None
    lengths, way = lengths[lengths > 0], way[lengths > 0]
    longest = math.ceil(lengths[way > 0].max())
    near = [np.abs(lengths - k) <= max(0.5, SAME_STEP * k) for k in np.arange(1, longest + 1)]
    gone = [way[n].sum() / way.sum() for n in near]
    most = int(np.argmax(gone))
    length = float(np.median(lengths[near[most]]))
    return length if gone[most] >= MODE and length >= 2 else None


def _middle(speed: np.ndarray) -> float:
    """The speed up to which half of the way was covered."""
    order = np.sort(speed)
    gone = order.cumsum()
    return round(float(order[np.searchsorted(gone, gone[-1] / 2)]), 2)


def grid_of(shifts: Sequence[np.ndarray], rate: float | None = None) -> tuple[float, float] | None:
    """The cell size of the grid on which the agent moves, if tracked positions are not exactly on it.

    A sprite that turns on the spot is tracked as moving by a few px; in a grid world that is a change of pose, not a
    step, and positions have to be snapped to the grid.

    Args:
        shifts, rate: as in :func:`step_length`.

    Returns:
        (x, y) px; None if there is no grid, or all moves are whole steps.
    """
    step = np.array(step_length(shifts, rate))
    moves = np.concatenate(shifts)
    cells = np.where(step > 0, np.round(moves / np.maximum(step, 1e-6)), 0)
    off = np.abs(moves - cells * step) / np.maximum(step.max(), 1e-6)
    whole = off.max(1) <= 2 * SAME_STEP  # both ends of a move may be off
    if step.max() < 6 or whole.mean() < 1 - RARE or off.max() < 1e-3:
        return None
    return float(step[0]), float(step[1])
