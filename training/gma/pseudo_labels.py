"""A second look at footage, with M: what is behind the agent shows where M says that the agent is not.

The first look (:mod:`training.footage.survey`) knows only what moves: an agent that acts on the spot is the scene to it, and
of silhouettes it finds little more than half. M, trained on pairs and begun with those, knows where the agent is, but
for what it lost: hands that move on their own can be explained by no shift, so that nothing asks for them. Both
together say more than either. Over the frames of a shot the median of what M leaves free is the scene, also behind an
agent that hardly walks; and what differs from that and hangs together with M's agent is the agent's, hands too.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from glass_gym.model.glass import Glass

from ..data.store import Store
from ..footage.survey import CHANGED, CONTRAST, with_enclosed
from .background import SAMPLES, SHOT, estimate_background, shots_of
from .stage import PseudoLabels

FRAMES = 4000
"""That are looked at, about."""
ALIKE = 8
"""What differs by less, of 255, from the scene is the scene."""
AGREED = 0.5
"""What was found and M's mask have this IoU at least; else nothing is said of the frame."""
MIXED = 0.5
"""A pixel is the agent's, if this share of its colour is."""
FEWEST = 100
"""Frames of which something is said, at least; else nothing is said at all."""


@torch.no_grad()
def make_pseudo_labels(
    model: Glass, store: Store, progress: Callable[[int], None] = lambda frames: None
) -> PseudoLabels:
    """Silhouettes and scenes of some of the training videos.

    Args:
        model: its GMA is trained.
        store: the videos' store.
        progress: called with numbers of frames that were looked at.

    Returns:
        the silhouettes, which pixels they are not sure of, and scenes; of no frames, if there is too little to be sure
        of.
    """
    videos = [v for v in store.videos if v.split == "train" and v.length >= SAMPLES]
    each = [min(v.length, SHOT) for v in videos]
    step = max(1, round(sum(each) / FRAMES))
    frames, silhouettes, unsure, scenes, scene_of, corners = ([] for _ in range(6))
    for video in videos[::step]:
        shot = np.asarray(store.frames[video.start : video.start + min(video.length, SHOT)])
        for part in shots_of(shot):
            found = _look_at_shot(model, shot[part])
            for t, blob, doubted, corner in zip(*found[:4], strict=True):
                frames.append(video.start + part.start + t)
                silhouettes.append(np.packbits(blob))
                unsure.append(np.packbits(doubted))
                scene_of.append(len(scenes))
                corners.append(corner)
            scenes.append(found[4])
        progress(len(shot))
    if len(frames) < FEWEST:
        return PseudoLabels(np.zeros(0, int), np.zeros((0, 0), np.uint8))
    return PseudoLabels(
        *(np.stack(x) for x in (frames, silhouettes)),
        scenes,
        *(np.stack(x) for x in (scene_of, corners, unsure)),
    )


def _look_at_shot(model: Glass, frames: np.ndarray) -> tuple[list, list, list, list, np.ndarray]:
    """Frames of (T, H, W, 3) uint8 that something is said of, their agents, what is unsure, corners; the scene."""
    from scipy import ndimage

    behind = estimate_background(model, frames)
    said: tuple[list, list, list, list] = ([], [], [], [])
    for t, mask in enumerate(behind.masks):
        if (compared := behind.compare(t)) is None:
            continue
        far, near = compared
        alike = far < ALIKE
        known = np.isfinite(far)
        differs = near & known & (far > max(CHANGED, CONTRAST * np.quantile(far[mask & known], 0.9)))
        names, _ = ndimage.label(mask & ~alike | differs, np.ones((3, 3)))
        count = np.bincount(names[mask])
        count[:1] = 0
        if not count.any():
            continue
        blob = with_enclosed(names == count.argmax(), known & (far > CHANGED))
        if (blob & mask).sum() < AGREED * (blob | mask).sum():
            continue
        faint = known & _faint_rim(frames[t] - behind.at(t)[0], blob)
        blob &= ~faint
        doubted = near & ~blob & ~alike & ~faint
        for values, value in zip(said, (t, blob, doubted, behind.corners[t]), strict=True):
            values.append(value)
    return *said, np.dstack([behind.scene.astype(np.uint8), np.uint8(255) * behind.known])


def _faint_rim(off: np.ndarray, blob: np.ndarray) -> np.ndarray:
    """Which pixels on the rim of a blob (H, W) bool show more of the scene than of the agent.

    Where frames were made smaller, or a renderer smoothed its edges, a pixel on the rim is a mixture of both: it is off
    the scene in the direction in which its neighbour inside is, less far. An outline of another colour is not.

    Args:
        off: (H, W, 3) float, how far the frame is from the scene.
        blob: the agent.
    """
    from scipy import ndimage

    inside = ndimage.binary_erosion(blob, np.ones((3, 3)))
    beside = inside | blob & ~ndimage.binary_dilation(inside, np.ones((3, 3)))  # what is thin has no inside
    height, width = blob.shape
    padded = np.pad(np.where(beside[..., None], off, 0), ((1, 1), (1, 1), (0, 0)))
    neighbours = np.stack([padded[y : y + height, x : x + width] for y in range(3) for x in range(3)])
    strength = (neighbours**2).sum(-1)
    agent = np.take_along_axis(neighbours, strength.argmax(0)[None, ..., None], 0)[0]
    strength = strength.max(0)
    share = (agent * off).sum(-1) / np.maximum(strength, 1)
    mixed = np.abs(off - share[..., None] * agent).max(-1) < ALIKE
    return blob & ~inside & (strength > 0) & mixed & (share < MIXED)
