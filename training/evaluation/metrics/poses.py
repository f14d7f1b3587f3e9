"""The position of an agent in any pose: its silhouette is matched with real silhouettes of known position.

The centre of mass moves when an arm is raised, although the agent takes no step. A template gives both the pose and its
anchor, so that a change of pose does not count as a move.
"""

from __future__ import annotations

import numpy as np
import torch

from ...data.sources import source_of
from ...data.store import Store
from .segmentation import centroids

MATCH_PX = 4
"""Templates are tried at offsets of up to this many px from where the centres of mass agree."""


class PoseMatcher:
    """Positions of silhouettes by the best of many templates.

    Args:
        masks: (N, H, W) bool, real silhouettes.
        anchors: (N, 2) px, the agent's position in each; all have the same fraction of a px.
        side: px of the square around the centre of mass in which silhouettes are compared.
        templates: number of silhouettes that are kept, spread evenly; with too few, rare poses have no match.
    """

    def __init__(self, masks: np.ndarray, anchors: np.ndarray, side: int, templates: int = 2000):
        area = masks.sum((1, 2))
        whole = np.flatnonzero(area > 0.5 * np.median(area))
        whole = whole[:: max(1, -(-len(whole) // templates))]
        self.side = side
        crops, corners = _crops(masks[whole], centroids(masks[whole]), side)
        self.templates = torch.from_numpy(crops.reshape(len(crops), -1)).float()
        self.anchors = anchors[whole] - corners  # inside the crop
        self.areas = self.templates.sum(1)

    def __call__(self, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Masks (B, H, W) bool -> positions (B, 2) px and the IoU (B,) of the best match; nan and 0 if empty."""
        position = np.full((len(masks), 2), np.nan)
        quality = np.zeros(len(masks))
        seen = np.flatnonzero(masks.any((1, 2)))
        for part in np.array_split(seen, max(1, len(seen) // 64)) if len(seen) else []:
            centre = centroids(masks[part])
            wide, corners = _crops(masks[part], centre, self.side + 2 * MATCH_PX)
            wide = torch.from_numpy(wide).float()
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
                    found = corners + [dx, dy] + self.anchors[which.numpy()]
                    where[better] = found[better]
            position[part] = where
            quality[part] = best.numpy()
        return position, quality


def _crops(masks: np.ndarray, centre: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Squares around centres (N, 2) px: (N, side, side) bool, and their top-left corners (N, 2) px, (x, y)."""
    corner = np.floor(np.nan_to_num(centre)).astype(int) - side // 2
    padded = np.pad(masks, ((0, 0), (side, side), (side, side)))
    out = np.stack(
        [
            m[y + side : y + 2 * side, x + side : x + 2 * side]
            for m, (x, y) in zip(padded, np.clip(corner, -side, None), strict=True)
        ]
    )
    return out, corner


def matcher_of(store: Store, side: int, videos: int = 150) -> PoseMatcher | None:
    """A matcher from training videos with true masks and positions; None if the store has none."""
    chosen = [v for v in store.videos if v.split == "train"]
    chosen = chosen[:: max(1, len(chosen) // videos)]
    source = source_of(store)
    masks = []
    anchors = []
    for video in chosen if store.has_masks else ():
        truth = store.masks(video.start, video.start + video.length)
        position = source.positions(store, video, truth)
        if position is None:
            return None
        masks.append(truth[::4])
        anchors.append(position[::4])
    return PoseMatcher(np.concatenate(masks), np.concatenate(anchors), side) if masks else None
