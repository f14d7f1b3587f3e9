"""The background plate of a shot: the median of the pixels that M does not mask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from glass_gym.model.gma import GMA
from glass_gym.tensors.convert import to_bytes

from ..data.cuts import farthest, find_cuts
from ..data.store import frames_to_tensor
from ..footage.registration import CHANGED, camera_moves, match_exposure, median_background, overlap, register
from ..footage.survey import BLURRED

SHOT = 200  # Maximum number of frames of a video that are used.
SAMPLES = 3  # Minimum number of frames in which a pixel of the plate must be unmasked to be known.
NEAR = 0.25
"""Pixels that M misses are searched within this distance of its mask, as a share of the root of the mask's area."""


@dataclass
class BackgroundPlate:
    """The background plate of a shot of T frames.

    Attributes:
        frames: (T, H, W, 3) uint8, the shot.
        masks: (T, H, W) bool, M's masks above 0.5.
        sizes: (T,) px, the sums of M's soft masks.
        plate: (h, w, 3) float, the median of the registered frames; as large as the camera's path needs.
        known: (h, w) bool, which pixels of the plate were unmasked in enough frames.
        corners: (T, 2) px, (x, y) of each frame's top left corner on the plate.
    """

    frames: np.ndarray
    masks: np.ndarray
    sizes: np.ndarray
    plate: np.ndarray
    known: np.ndarray
    corners: np.ndarray

    def at(self, t: int) -> tuple[np.ndarray, np.ndarray]:
        """The plate as frame t shows it, with its exposure, (H, W, 3) float32; and where it is known, (H, W) bool.

        Elsewhere it is filled from the frame.
        """
        height, width = self.frames.shape[1:3]
        there, here = overlap(self.corners[t], self.plate.shape[1::-1], (width, height))
        known = np.zeros((height, width), bool)
        known[here] = self.known[there]
        plate = self.frames[t].astype(np.float32)
        plate[here] = np.where(known[here][..., None], self.plate[there], plate[here])
        shown = plate.round().astype(np.uint8)[None]
        return match_exposure(shown, self.frames[t], (known & ~self.masks[t])[None])[0].astype(np.float32), known

    def compare(self, t: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Compare frame t with the plate.

        Returns:
            (H, W), the largest difference over the channels in [0, 255], infinite where the plate is unknown; and (H,
            W) bool, the neighbourhood of M's mask. None if the plate is unknown there, or does not fit the frame.
        """
        from scipy import ndimage

        mask = self.masks[t]
        plate, known = self.at(t)
        reach = round(NEAR * np.sqrt(mask.sum()))
        if not (mask & known).any() or not reach:
            return None
        far = farthest(self.frames[t], plate)
        near = ndimage.binary_dilation(mask, np.ones((3, 3)), iterations=reach)
        if (far[~near] > CHANGED).mean() > BLURRED and (self.corners != self.corners[0]).any():
            return None
        return np.where(known, far, np.float32(np.inf)), near

    @torch.no_grad()
    def without_agent(self, gma: GMA, t: int) -> tuple[np.ndarray, float]:
        """Frame t without the agent, and without all else that moves: the plate, where it is known and fits the frame.

        Elsewhere N inpaints the mask, and the rest is as in the frame.

        Returns:
            the background (H, W, 3) uint8; and which share of the mask N inpainted, in [0, 1].
        """
        plate, known = self.at(t)
        if self.compare(t) is None:
            known = np.zeros_like(known)
        background = plate.astype(np.uint8)
        inpainted = float((~known)[self.masks[t]].mean()) if self.masks[t].any() else 0.0
        if inpainted or not known.any():
            image = frames_to_tensor(self.frames[t : t + 1]).to(next(gma.parameters()).device)
            filled = to_bytes(gma.inpaint_background(image, gma.mask(image).float()).float())
            background[~known] = filled[0].permute(1, 2, 0).cpu().numpy()[~known]
        return background, inpainted


def shots_of(frames: np.ndarray) -> list[slice]:
    """The shots of a video (T, H, W, 3) that are long enough for a plate."""
    cuts = find_cuts(frames)
    parts = [slice(a, b) for a, b in zip([0, *cuts], [*cuts, len(frames)], strict=True)]
    return [part for part in parts if part.stop - part.start >= SAMPLES]


@torch.no_grad()
def estimate_background(gma: GMA, frames: np.ndarray, masks: np.ndarray | None = None) -> BackgroundPlate:
    """The plate of one shot (T, H, W, 3) uint8: register its frames, take the median of pixels that M leaves out.

    `masks` (T, H, W) bool, true ones for scoring, take the place of M's.
    """
    from scipy import ndimage

    height, width = frames.shape[1:3]
    if masks is None:
        images = frames_to_tensor(frames).to(next(gma.parameters()).device)
        soft = torch.cat([gma.mask(part)[:, 0].float() for part in images.split(16)]).cpu().numpy()
        masks = soft > 0.5
    else:
        soft = masks.astype(np.float32)
    canvas, shown, corners = register(frames, camera_moves(frames))
    free = shown.copy()
    for t, corner in enumerate(corners):
        there, here = overlap(corner, canvas.shape[2:0:-1], (width, height))
        free[t][there] &= ~ndimage.binary_dilation(masks[t])[here]
    plate, samples = median_background(canvas, free)
    return BackgroundPlate(frames, masks, soft.sum((1, 2)), plate, samples >= SAMPLES, corners)
