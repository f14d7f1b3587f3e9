"""Independent detectors: they look at frames only, never at the simulator's own bookkeeping."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from training.data.ale_tennis import PLAYER_COLOURS, player_mask
from training.data.store import frames_to_tensor


@dataclass
class Detections:
    """masks and the largest piece alone (N, H, W) bool; its centroid (N, 2) px and area (N,) px; pieces (N,)."""

    masks: np.ndarray
    largest: np.ndarray
    centroid: np.ndarray
    area: np.ndarray
    pieces: np.ndarray


def find_pieces(masks: np.ndarray, least: int, reach: int = 2) -> Detections:
    """Connected pieces of masks (N, H, W), strokes under `reach` px apart joined; those under `least` px dropped."""
    centroid = np.full((len(masks), 2), np.nan)
    largest = np.zeros_like(masks)
    area, pieces = np.zeros(len(masks), int), np.zeros(len(masks), int)
    for n, mask in enumerate(masks):
        labels, count = ndimage.label(ndimage.binary_dilation(mask, np.ones((3, 3)), iterations=reach))
        sizes = ndimage.sum(mask, labels, np.arange(1, count + 1)) if count else np.zeros(0)
        pieces[n] = int((sizes >= least).sum())
        if pieces[n]:
            best = int(np.argmax(sizes)) + 1
            largest[n] = mask & (labels == best)
            y, x = np.nonzero(largest[n])
            centroid[n], area[n] = (x.mean(), y.mean()), len(x)
    return Detections(masks, largest, centroid, area, pieces)


class TennisDetector:
    """Finds the near player by colour, off the static court's lines.

    Args:
        courts: (2, H, W, 3) uint8, the static court of each side (written beside the recording).
    """

    least = 25
    plausible = (45, 150)
    """px: real players cover 67..101"""

    def __init__(self, courts: np.ndarray):
        self.courts = courts

    def sides(self, frames: np.ndarray) -> np.ndarray:
        """(N,) index of the near player's colour: the court's lines wear it."""
        distance = [np.abs(frames.astype(int) - court.astype(int)).sum((1, 2, 3)) for court in self.courts]
        return np.argmin(distance, 0)

    def __call__(self, frames: np.ndarray, sides: np.ndarray | None = None) -> Detections:
        """frames (N, H, W, 3) uint8."""
        sides = self.sides(frames) if sides is None else sides
        masks = np.stack(
            [player_mask(f, self.courts[s], PLAYER_COLOURS[s]) for f, s in zip(frames, sides, strict=True)]
        )
        return find_pieces(masks, self.least)


class MaskDetector:
    """Finds the agent with M, run afresh on the composed frame."""

    def __init__(self, model, typical_area: float):
        self.model = model
        self.least = max(4, int(0.25 * typical_area))
        self.plausible = (0.5 * typical_area, 1.6 * typical_area)

    def __call__(self, frames: np.ndarray, sides=None) -> Detections:
        """frames (N, H, W, 3) uint8."""
        import torch

        masks = []
        with torch.inference_mode():
            for part in np.array_split(frames, max(1, len(frames) // 32)):
                image = frames_to_tensor(part)
                masks.append((self.model.mask(image)[:, 0] > 0.5).numpy())
        return find_pieces(np.concatenate(masks), self.least)
