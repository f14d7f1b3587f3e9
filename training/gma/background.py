"""What is behind the agent: over the frames of a shot, the median of what M leaves free."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from glass_gym.model.glass import Glass

from ..data.cuts import farthest, find_cuts
from ..data.store import frames_to_tensor
from ..footage.survey import BLURRED, CHANGED, camera_moves, median_of, overlap, registered

SHOT = 200
"""Frames of a shot that are looked at, at most."""
SAMPLES = 3
"""A place of the scene is known if it is free in so many frames."""
NEAR = 0.25
"""The agent is no farther from M's mask than this share of the mask's size (the root of its area)."""


@dataclass
class BackgroundPlate:
    """What is behind the agent in a shot of T frames.

    Attributes:
        frames: (T, H, W, 3) uint8.
        masks: (T, H, W) bool, M's.
        sizes: (T,) px, the sums of M's masks before they were cut at a half.
        scene: (h, w, 3) float, of all frames put where the camera was.
        known: (h, w) bool, where M left it free often enough.
        corners: (T, 2) px, where in the scene the frames' corners are.
    """

    frames: np.ndarray
    masks: np.ndarray
    sizes: np.ndarray
    scene: np.ndarray
    known: np.ndarray
    corners: np.ndarray

    def at(self, t: int) -> tuple[np.ndarray, np.ndarray]:
        """The scene in frame t, (H, W, 3) float32, and where it is known, (H, W) bool; elsewhere it is the frame."""
        height, width = self.frames.shape[1:3]
        there, here = overlap(self.corners[t], self.scene.shape[1::-1], (width, height))
        sure = np.zeros((height, width), bool)
        sure[here] = self.known[there]
        scene = self.frames[t].astype(np.float32)
        scene[here] = np.where(sure[here][..., None], self.scene[there], scene[here])
        return scene, sure

    def compare(self, t: int) -> tuple[np.ndarray, np.ndarray] | None:
        """How far frame t is from the scene, (H, W) in [0, 255], infinite where that is not known, and what is near M's
        agent, (H, W) bool. None where nothing is known behind the agent, or the scene does not fit the frame."""
        from scipy import ndimage

        mask = self.masks[t]
        scene, known = self.at(t)
        reach = round(NEAR * np.sqrt(mask.sum()))
        if not (mask & known).any() or not reach:
            return None
        far = farthest(self.frames[t], scene)
        near = ndimage.binary_dilation(mask, np.ones((3, 3)), iterations=reach)
        if (far[~near] > CHANGED).mean() > BLURRED and (self.corners != self.corners[0]).any():
            return None
        return np.where(known, far, np.float32(np.inf)), near


def shots_of(frames: np.ndarray) -> list[slice]:
    """The shots of a video (T, H, W, 3) that are long enough to look behind the agent."""
    cuts = find_cuts(frames)
    parts = [slice(a, b) for a, b in zip([0, *cuts], [*cuts, len(frames)], strict=True)]
    return [part for part in parts if part.stop - part.start >= SAMPLES]


@torch.no_grad()
def estimate_background(model: Glass, frames: np.ndarray) -> BackgroundPlate:
    """The scene of one shot (T, H, W, 3) uint8: the median of what M leaves free, the camera's moves taken out."""
    from scipy import ndimage

    height, width = frames.shape[1:3]
    images = frames_to_tensor(frames).to(next(model.parameters()).device)
    soft = torch.cat([model.mask(part)[:, 0].float() for part in images.split(16)]).cpu().numpy()
    masks = soft > 0.5
    whole, shown, corners = registered(frames, camera_moves(frames))
    free = shown.copy()
    for t, corner in enumerate(corners):
        there, here = overlap(corner, whole.shape[2:0:-1], (width, height))
        free[t][there] &= ~ndimage.binary_dilation(masks[t])[here]
    scene, samples = median_of(whole, free)
    return BackgroundPlate(frames, masks, soft.sum((1, 2)), scene, samples >= SAMPLES, corners)
