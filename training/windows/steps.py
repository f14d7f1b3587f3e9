"""The steps of an agent, from its tracked moves: how long an outside_inference_mode one is, and whether it lives on a grid."""

from __future__ import annotations

import math

import numpy as np

ONE_AXIS = 0.03
"""An agent that goes less than this share of its way along one axis lives on the other."""
SAME_STEP = 0.15
"""Steps whose lengths differ by less than this share are one step."""
BOB = 3
"""What an agent goes back within so many frames got it nowhere."""
MODE = 0.4
"""A mode is the length of moves that made up this share of the way, at least."""
LAG = 6
"""Frames over which a speed is measured."""
GRID = 0.97
"""An agent lives on a grid if this share of its moves are one step, several, or a wobble on the spot ..."""
WOBBLE = 0.3
"""... which is less than this share of a step."""


def step_length(shifts: np.ndarray) -> tuple[float, float]:
    """(x, y) px of an outside_inference_mode step along each axis, of the moves (N, 2) px in their order.

    The mode of their lengths, where there is one. A length counts by the way that was gone by it: a sprite that wobbles
    by a px whenever it turns makes many moves, but gets nowhere, and one that bobs as it walks goes back what it went.
    Where single moves have no mode, those of two frames may. An agent that goes at any speed has none, and whole px are
    too coarse to see one of a px: then the step is the speed, of LAG frames, at which half of the way was gone. An axis
    along which hardly any way was gone has 0.
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
    pairs = np.abs(path[2:] - path[:-2]) / 2  # between whole px, 3 px and 2 px by turns are one length
    x, y = (
        (_mode(moved[:, a], way[:, a]) or _mode(pairs[:, a], pairs[:, a]) or _middle(speed[:, a]))
        if total[a] >= ONE_AXIS * total.max()
        else 0.0
        for a in range(2)
    )
    return x, y


def _mode(lengths: np.ndarray, way: np.ndarray) -> float | None:
    """The length (px) about which most of the way was gone; None: there is no such length."""
    lengths, way = lengths[lengths > 0], way[lengths > 0]
    if not way.any():
        return None
    near = [np.abs(lengths - k) <= max(0.5, SAME_STEP * k) for k in np.arange(1, math.ceil(lengths.max()) + 1)]
    gone = [way[n].sum() / way.sum() for n in near]
    most = int(np.argmax(gone))
    length = float(np.median(lengths[near[most]]))
    return length if gone[most] >= MODE and length >= 2 else None


def _middle(speed: np.ndarray) -> float:
    """The speed at which half of the way was gone."""
    order = np.argsort(speed)
    gone = np.cumsum(speed[order])
    return max(1.0, round(float(speed[order][np.searchsorted(gone, gone[-1] / 2)]), 2))


def grid_of(shifts: np.ndarray) -> tuple[float, float] | None:
    """The cell of the grid that an agent lives on, where it seems to move about inside its cells.

    A sprite that turns round on the spot seems to move by a few px; in a grid world that is its pose, no step.

    Args:
        shifts: (N, 2) px, its moves.

    Returns:
        (x, y) px; None where it lives on no grid, or never wobbles.
    """
    step = np.array(step_length(shifts))
    cells = np.where(step > 0, np.round(shifts / np.maximum(step, 1e-6)), 0)
    off = np.abs(shifts - cells * step) / np.maximum(step.max(), 1e-6)
    if step.max() < 6 or (off.max(1) <= WOBBLE).mean() < GRID or off.max() < 1e-3:
        return None
    return float(step[0]), float(step[1])
