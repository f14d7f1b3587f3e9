"""Errors of masks (Table 1) and of estimated shifts (Table 2), and centres of mass."""

from __future__ import annotations

import numpy as np


def iou(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """IoU of bool masks (N, H, W) -> (N,); 1 if both are empty."""
    both = (predicted & true).sum((1, 2))
    either = (predicted | true).sum((1, 2))
    return np.where(either > 0, both / np.maximum(either, 1), 1.0)


def soft_iou(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Product over probabilistic union of soft masks (N, H, W) in [0, 1] -> (N,)."""
    both = (predicted * true).sum((1, 2))
    return both / np.maximum((predicted + true - predicted * true).sum((1, 2)), 1e-6)


def centroids(masks: np.ndarray) -> np.ndarray:
    """Centres of mass (N, 2) px, (x, y), of masks (N, H, W); nan if empty."""
    mass = masks.sum((1, 2)).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        x = (masks.sum(1) * np.arange(masks.shape[2])).sum(1) / mass
        y = (masks.sum(2) * np.arange(masks.shape[1])).sum(1) / mass
    return np.stack([x, y], 1)


def shift_errors(predicted: np.ndarray, true: np.ndarray, moving: float = 0.5) -> dict[str, float]:
    """L2 errors of shifts (N, 2) px, and the share of moving pairs (true shift > `moving` px) within 45 degrees."""
    error = np.linalg.norm(predicted - true, axis=1)
    length = np.linalg.norm(true, axis=1)
    moves = length > moving
    cosine = (predicted * true).sum(1) / np.maximum(np.linalg.norm(predicted, axis=1) * length, 1e-6)
    out = {"mean": error.mean(), "median": np.median(error), "max": error.max(), "pairs": len(error)}
    if moves.any():
        out |= {"moving_mean": error[moves].mean(), "angle_accuracy": (cosine[moves] > np.sqrt(0.5)).mean()}
    return {k: float(v) for k, v in out.items()}
