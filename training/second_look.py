"""A second look at footage, with M: what is behind the agent shows where M says that the agent is not.

The first look (:mod:`training.survey`) knows only what moves: an agent that acts on the spot is the scene to it, and
of silhouettes it finds little more than half. M, trained on pairs and begun with those, knows where the agent is, but
for what it lost: hands that move on their own can be explained by no shift, so that nothing asks for them. Both
together say more than either. Over the frames of a shot the median of what M leaves free is the scene, also behind an
agent that hardly walks; and what differs from that and hangs together with M's agent is the agent's, hands too.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from glass_gym.glass import Glass

from .data.cuts import find_cuts
from .data.store import Store, frames_to_tensor
from .stages.gma import Hints
from .survey import BLURRED, CHANGED, CONTRAST, camera_moves, median_of, overlap, registered

FRAMES = 4000
"""That are looked at, about ..."""
SHOT = 200
"""... and so many of a shot, at most."""
SAMPLES = 3
"""A place of the scene is known if it is free in so many frames."""
ALIKE = 8
"""What differs by less, of 255, from the scene is the scene."""
NEAR = 0.25
"""The agent is no farther from M's mask than this share of the mask's size (the root of its area) ..."""
AGREED = 0.5
"""... and what was found and the mask have this IoU at least; else nothing is said of the frame."""
FEWEST = 100
"""Frames of which something is said, at least; else nothing is said at all."""


@torch.no_grad()
def look_again(model: Glass, store: Store, progress: Callable[[int], None] = lambda frames: None) -> Hints:
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
        cuts = find_cuts(shot)
        for start, stop in zip([0, *cuts], [*cuts, len(shot)], strict=True):
            if stop - start < SAMPLES:
                continue
            found = _look_at_shot(model, shot[start:stop])
            for t, blob, doubted, corner in zip(*found[:4], strict=True):
                frames.append(video.start + start + t)
                silhouettes.append(np.packbits(blob))
                unsure.append(np.packbits(doubted))
                scene_of.append(len(scenes))
                corners.append(corner)
            scenes.append(found[4])
        progress(len(shot))
    if len(frames) < FEWEST:
        return Hints(np.zeros(0, int), np.zeros((0, 0), np.uint8))
    return Hints(
        *(np.stack(x) for x in (frames, silhouettes)),
        scenes,
        *(np.stack(x) for x in (scene_of, corners, unsure)),
    )


def _look_at_shot(model: Glass, frames: np.ndarray) -> tuple[list, list, list, list, np.ndarray]:
    """Frames of (T, H, W, 3) uint8 that something is said of, their agents, what is unsure, corners; the scene."""
    from scipy import ndimage

    height, width = frames.shape[1:3]
    device = next(model.parameters()).device
    images = frames_to_tensor(frames).to(device)
    masks = torch.cat([model.mask(part)[:, 0].float() for part in images.split(32)]).cpu().numpy() > 0.5
    whole, shown, corners = registered(frames, camera_moves(frames))
    size = whole.shape[2:0:-1]
    places = [overlap(corner, size, (width, height)) for corner in corners]
    free = shown.copy()
    for t, (there, here) in enumerate(places):
        free[t][there] &= ~ndimage.binary_dilation(masks[t])[here]
    scene, samples = median_of(whole, free)
    known = samples >= SAMPLES
    said: tuple[list, list, list, list] = ([], [], [], [])
    for t, (there, here) in enumerate(places):
        sure = np.zeros((height, width), bool)
        far = np.zeros((height, width), np.float32)
        sure[here] = known[there]
        far[here] = np.abs(frames[t][here] - scene[there]).max(-1)
        far *= sure
        mask = masks[t]
        reach = round(NEAR * np.sqrt(mask.sum()))
        if not (mask & sure).any() or not reach:
            continue
        near = ndimage.binary_dilation(mask, np.ones((3, 3)), iterations=reach)
        if (far[~near] > CHANGED).mean() > BLURRED and (corners != corners[0]).any():
            continue  # it does not fit
        differs = near & (far > max(CHANGED, CONTRAST * np.quantile(far[mask & sure], 0.9)))
        names, _ = ndimage.label(mask & ~(sure & (far < ALIKE)) | differs, np.ones((3, 3)))
        count = np.bincount(names[mask])
        count[:1] = 0
        if not count.any():
            continue
        blob = names == count.argmax()
        if (blob & mask).sum() < AGREED * (blob | mask).sum():
            continue
        doubted = near & ~blob & ~(sure & (far < ALIKE))
        for values, value in zip(said, (t, blob, doubted, corners[t]), strict=True):
            values.append(value)
    return *said, np.dstack([scene.astype(np.uint8), np.uint8(255) * known])
