"""Detectors that find the agent in frames, without the simulator's state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from glass_gym.model.glass import Glass
from glass_gym.worlds.checkpoint import World

from .store import frames_to_tensor


@dataclass
class Detections:
    """Agents found in N frames: masks and their largest connected pieces (N, H, W) bool; centroids (N, 2) and areas
    (N,) of these pieces, px, nan and 0 where there is none; numbers of pieces (N,)."""

    masks: np.ndarray
    largest: np.ndarray
    centroid: np.ndarray
    area: np.ndarray
    pieces: np.ndarray


def find_pieces(masks: np.ndarray, least: int, reach: int = 2) -> Detections:
    """Connected pieces of masks (N, H, W) bool with at least `least` px; gaps of up to 2 `reach` px are bridged."""
    from scipy import ndimage

    centroid = np.full((len(masks), 2), np.nan)
    largest = np.zeros_like(masks)
    area = np.zeros(len(masks), int)
    pieces = np.zeros(len(masks), int)
    for n, mask in enumerate(masks):
        labels, count = ndimage.label(ndimage.binary_dilation(mask, np.ones((3, 3)), iterations=reach))
        sizes = ndimage.sum(mask, labels, np.arange(1, count + 1)) if count else np.zeros(0)
        pieces[n] = int((sizes >= least).sum())
        if pieces[n]:
            best = int(np.argmax(sizes)) + 1
            largest[n] = mask & (labels == best)
            y, x = np.nonzero(largest[n])
            centroid[n] = (x.mean(), y.mean())
            area[n] = len(x)
    return Detections(masks, largest, centroid, area, pieces)


class Detector(Protocol):
    """Finds agents in frames."""

    least: int
    """pieces of fewer px are ignored"""
    plausible: tuple[float, float]
    """least and largest area of one agent, px"""

    def context(self, frames: np.ndarray) -> np.ndarray | None:
        """Extra input, from real start frames (N, H, W, 3) uint8, for frames generated from them: (N,), or None."""

    def __call__(self, frames: np.ndarray, context: np.ndarray | None = None) -> Detections:
        """Find the agents in frames (N, H, W, 3) uint8, given the extra input (N,) of each."""


class MaskDetector:
    """Finds the agent by M's mask of the frame.

    Args:
        model: has M.
        typical_area: usual area of an agent, px.
    """

    def __init__(self, model: Glass, typical_area: float):
        self.model = model
        self.least = max(4, int(0.25 * typical_area))
        self.plausible = (0.5 * typical_area, 1.6 * typical_area)

    @classmethod
    def of(cls, world: World) -> MaskDetector:
        """A detector with a world's M; the typical area is the median over its start frames."""
        frames = frames_to_tensor(world.start_frames)
        with torch.inference_mode():
            masks = torch.cat([world.model.gma.mask(part) for part in frames.split(16)])
        return cls(world.model, float((masks > 0.5).float().sum((1, 2, 3)).median()))

    def context(self, frames: np.ndarray) -> None:
        """None: the detector needs no extra input."""

    def __call__(self, frames: np.ndarray, context: np.ndarray | None = None) -> Detections:
        """As :meth:`Detector.__call__`."""
        masks = []
        with torch.inference_mode():
            for part in np.array_split(frames, max(1, len(frames) // 32)):
                masks.append((self.model.gma.mask(frames_to_tensor(part))[:, 0] > 0.5).numpy())
        return find_pieces(np.concatenate(masks), self.least)
