"""The steps of an agent, from its tracked moves: how long an ordinary one is, and whether it lives on a grid."""

from __future__ import annotations

import math

import numpy as np

ONE_AXIS = 0.03
"""An agent that goes less than this share of its way along one axis lives on the other."""
SAME_STEP = 0.15
"""Steps whose lengths differ by less than this share are one step."""
GRID = 0.97
"""An agent lives on a grid if this share of its moves are one step, several, or a wobble on the spot ..."""
WOBBLE = 0.3
"""... which is less than this share of a step."""


def step_length(shifts: np.ndarray) -> tuple[float, float]:
    """(x, y) px of an ordinary step along each axis, of the moves (N, 2) px: the mode of their lengths.

    A length counts by the way that was gone by it: a sprite that wobbles by a px whenever it turns makes many moves,
    but gets nowhere. An axis along which hardly any way was gone has 0: the agent cannot go there.
    """
    way = (np.abs(shifts) * (np.abs(shifts) >= 1)).sum(0)
    if not way.any():
        return 1.0, 1.0
    x, y = (_mode(shifts[:, axis]) if way[axis] >= ONE_AXIS * way.max() else 0.0 for axis in range(2))
    return x, y


def _mode(moves: np.ndarray) -> float:
    """The length (px) about which most of the way was gone."""
    moved = np.abs(moves)[np.abs(moves) >= 1]
    near = [np.abs(moved - k) <= max(0.5, SAME_STEP * k) for k in np.arange(1, math.ceil(moved.max()) + 1)]
    return float(np.median(moved[near[int(np.argmax([moved[n].sum() for n in near]))]]))


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
