"""Errors of estimated shifts (Table 2)."""

from __future__ import annotations

import numpy as np


def shift_errors(predicted: np.ndarray, true: np.ndarray, moving: float = 0.5) -> dict[str, float]:
    """L2 errors of shifts (N, 2) px: mean, median and max over all pairs and over moving pairs, angle accuracy.

    Angle accuracy: share of moving pairs (true shift > `moving` px) whose direction is within 45 degrees.
    """
    error = np.linalg.norm(predicted - true, axis=1)
    length = np.linalg.norm(true, axis=1)
    moves = length > moving
    cosine = (predicted * true).sum(1) / np.maximum(np.linalg.norm(predicted, axis=1) * length, 1e-6)
    out = {"mean": error.mean(), "median": np.median(error), "max": error.max(), "pairs": len(error)}
    if moves.any():
        out |= {"moving_mean": error[moves].mean(), "angle_accuracy": (cosine[moves] > np.sqrt(0.5)).mean()}
    return {k: float(v) for k, v in out.items()}
