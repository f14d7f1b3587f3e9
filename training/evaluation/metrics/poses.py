"""The position of an agent in any pose: its silhouette is matched with real silhouettes of known position.

The centre of mass moves when an arm is raised, although the agent takes no step. A template gives both the pose and its
anchor, so that a change of pose does not count as a move.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from glass_gym.tensors.geometry import crop_windows

from ...data.sources import source_of
from ...data.store import Store
from .errors import centroids

MATCH_PX = 4  # Templates are tried at offsets of up to this many px from where the centres of mass agree.


class PoseMatcher:
    """Positions of silhouettes by the best of many templates: evenly spread silhouettes of `masks` (N, H, W) bool.

    `anchors` (N, 2) px are the agent's positions; all have the same fraction of a px. Silhouettes are compared in a
    square of `side` px around the centre of mass. With too few `templates`, rare poses have no match.
    """

    def __init__(self, masks: np.ndarray, anchors: np.ndarray, side: int, templates: int = 2000):
        area = masks.sum((1, 2))
        whole = np.flatnonzero(area > 0.5 * np.median(area))
        whole = whole[:: max(1, -(-len(whole) // templates))]
        self.side = side
        crops, corners = _crops(masks[whole], side)
        self.templates = crops.flatten(1)
        self.anchors = anchors[whole] - corners  # inside the crop
        self.areas = self.templates.sum(1)

    def __call__(self, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Masks (B, H, W) bool -> positions (B, 2) px and the IoU (B,) of the best match; nan and 0 if empty."""
        position, quality = np.full((len(masks), 2), np.nan), np.zeros(len(masks))
        seen = np.flatnonzero(masks.any((1, 2)))
        for part in np.array_split(seen, max(1, len(seen) // 64)) if len(seen) else []:
            wide, corners = _crops(masks[part], self.side + 2 * MATCH_PX)
            best = torch.full((len(part),), -1.0)
            where = np.zeros((len(part), 2))
            for dy in range(2 * MATCH_PX + 1):
                for dx in range(2 * MATCH_PX + 1):
                    crop = wide[:, dy : dy + self.side, dx : dx + self.side].flatten(1)
                    both = crop @ self.templates.T
                    either = wide.sum((1, 2))[:, None] + self.areas - both
                    iou, which = (both / either.clamp_min(1)).max(1)
                    better = (iou > best).numpy()
                    best = torch.maximum(best, iou)
                    where[better] = (corners + [dx, dy] + self.anchors[which.numpy()])[better]
            position[part] = where
            quality[part] = best.numpy()
        return position, quality


def _crops(masks: np.ndarray, side: int) -> tuple[Tensor, np.ndarray]:
    """Squares (N, side, side) around the centres of mass of masks (N, H, W) bool; their top-left corners (N, 2) px."""
    corner = np.floor(centroids(masks)).astype(int) - side // 2
    images = torch.from_numpy(masks)[:, None].float()
    return crop_windows(images, torch.from_numpy(corner), side)[:, 0], corner


def matcher_of(store: Store, side: int, videos: int = 150) -> PoseMatcher | None:
    """A matcher from training videos with true masks and positions; None if the store has none."""
    chosen = [v for v in store.videos if v.split == "train"]
    chosen = chosen[:: max(1, len(chosen) // videos)]
    source = source_of(store)
    masks, anchors = [], []
    for video in chosen if store.has_masks else ():
        truth = store.masks(video.start, video.start + video.length)
        position = source.positions(store, video, truth)
        if position is None:
            return None
        masks.append(truth[::4])
        anchors.append(position[::4])
    return PoseMatcher(np.concatenate(masks), np.concatenate(anchors), side) if masks else None
