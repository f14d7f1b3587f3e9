"""The agent's usual step length, and the cell size if it moves on a grid, from its tracked moves."""

from __future__ import annotations

import math

import numpy as np

ONE_AXIS = 0.03  # An axis has step length 0 if the way along it is less than this share of the way along the other.
SAME_STEP = 0.15  # Lengths that differ by less than this share count as equal.
BOB = 3  # Moves that are undone within this number of frames, or one more, do not count.
MODE = 0.4  # A length is a mode if moves of this length make up at least this share of the way.
LAG = 6  # Number of frames over which a speed is measured.
GRID = 0.97  # The agent moves on a grid if this share of its moves are whole steps, within WOBBLE.
WOBBLE = 0.3  # Largest deviation of such a move from a whole step, as a share of the step.


def step_length(shifts: np.ndarray) -> tuple[float, float]:
    """The usual step length along each axis.

    It is the mode of the moves' lengths, weighted by the way that was covered with them, so that small moves back and
    forth, as of a sprite that turns or bobs, do not count. If single moves have no mode, moves over two frames are
    tried. If there is no mode either (continuous speed), it is the speed, over LAG frames, up to which half of the way
    was covered.

    Args:
        shifts: (N, 2) px, the agent's moves in their order.

    Returns:
        (x, y) px; 0 for an axis along which it hardly moves.
    """
    moved = np.abs(shifts) * (np.abs(shifts) >= 1)
    path = np.concatenate([np.zeros((1, 2)), np.cumsum(shifts, 0)])
    when = np.arange(len(shifts))
    way = moved
    for more in (0, 1):  # an even and an odd number of moves
        net = np.abs(path[np.minimum(len(shifts), when + BOB + more)] - path[np.maximum(0, when - BOB)])
        way = np.minimum(way, net)
    total = way.sum(0)
    if not total.any():
        return 1.0, 1.0
    lag = min(LAG, len(shifts))
    speed = np.abs(path[lag:] - path[:-lag]) / lag
    pairs = np.abs(path[2:] - path[:-2]) / 2  # an agent of 2.5 px a frame moves by 2 and 3 px in turns
    x, y = (
        (_mode(moved[:, a], way[:, a]) or _mode(pairs[:, a], pairs[:, a]) or _middle(speed[:, a]))
        if total[a] >= ONE_AXIS * total.max()
        else 0.0
        for a in range(2)
    )
    return x, y


def _mode(lengths: np.ndarray, way: np.ndarray) -> float | None:
    """The length, px, near which most of the way was covered; None if there is no such length."""
    lengths, way = lengths[lengths > 0], way[lengths > 0]
    if not way.any():
        return None
    near = [np.abs(lengths - k) <= max(0.5, SAME_STEP * k) for k in np.arange(1, math.ceil(lengths.max()) + 1)]
    gone = [way[n].sum() / way.sum() for n in near]
    most = int(np.argmax(gone))
    length = float(np.median(lengths[near[most]]))
    return length if gone[most] >= MODE and length >= 2 else None


def _middle(speed: np.ndarray) -> float:
    """The speed up to which half of the way was covered."""
    order = np.argsort(speed)
    gone = np.cumsum(speed[order])
    return max(1.0, round(float(speed[order][np.searchsorted(gone, gone[-1] / 2)]), 2))


def grid_of(shifts: np.ndarray) -> tuple[float, float] | None:
    """The cell size of the grid on which the agent moves, if tracked positions are not exactly on it.

    A sprite that turns on the spot is tracked as moving by a few px; in a grid world that is a change of pose, not a
    step, and positions have to be snapped to the grid.

    Args:
        shifts: (N, 2) px, the agent's moves in their order.

    Returns:
        (x, y) px; None if there is no grid, or all moves are whole steps.
    """
    step = np.array(step_length(shifts))
    cells = np.where(step > 0, np.round(shifts / np.maximum(step, 1e-6)), 0)
    off = np.abs(shifts - cells * step) / np.maximum(step.max(), 1e-6)
    if step.max() < 6 or (off.max(1) <= WOBBLE).mean() < GRID or off.max() < 1e-3:
        return None
    return float(step[0]), float(step[1])
