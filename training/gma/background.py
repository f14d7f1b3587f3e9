"""The background plate of a shot: the median of the pixels that M does not mask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from glass_gym.model.gma import GMA, PlateInpaintNet
from glass_gym.tensors.convert import to_bytes, to_images
from glass_gym.tensors.geometry import dilate, reduced

from ..core.progress import each
from ..data.cuts import farthest, find_cuts
from ..data.store import Store, frames_to_tensor
from ..footage.registration import (
    CHANGED,
    camera_moves,
    match_exposure,
    median_background,
    overlap,
    register,
)
from ..footage.survey import BLURRED

SHOT = 200  # Maximum number of frames of a video that are used.
PLATE_FRAMES = 120  # Number of frames whose median is the common plate.
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
        """The plate as frame t shows it, (H, W, 3) float32, filled from the frame where unknown; (H, W) bool, known."""
        height, width = self.frames.shape[1:3]
        there, here = overlap(self.corners[t], self.plate.shape[1::-1], (width, height))
        known = np.zeros((height, width), bool)
        known[here] = self.known[there]
        plate = self.frames[t].astype(np.float32)
        plate[here] = np.where(known[here][..., None], self.plate[there], plate[here])
        return plate, known

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
        near = ndimage.maximum_filter(mask, 2 * reach + 1, mode="constant")
        if (far[~near] > CHANGED).mean() > BLURRED and (self.corners != self.corners[0]).any():
            return None
        return np.where(known, far, np.float32(np.inf)), near


@torch.no_grad()
def common_background(gma: GMA, store: Store) -> tuple[Tensor, Tensor] | None:
    """The common plate of all training videos in full size: the median of the pixels that M leaves out.

    Args:
        gma: a trained model.
        store: the videos, of one place by a camera that stands still.

    Returns:
        the plate (3, H, W) in [-1, 1], and which pixels are known, (1, H, W) 0 or 1; None if the model has no plate.
    """
    if not isinstance(gma.inpaint, PlateInpaintNet):
        return None
    videos = [v for v in store.videos if v.split == "train"] or store.videos
    index = np.concatenate([np.arange(v.start, v.start + v.length) for v in videos])
    index = index[np.linspace(0, len(index) - 1, min(len(index), PLATE_FRAMES)).astype(int)]
    device = next(gma.parameters()).device
    frames = np.stack([store.frames[n] for n in index])
    free = []
    for part in each(np.array_split(frames, max(1, len(frames) // 16)), "background plate"):
        masks = gma.mask(frames_to_tensor(part).to(device)).float()
        free.append((dilate(masks, 2 * gma.config.gma_scale)[:, 0] < 0.5).cpu().numpy())
    free = np.concatenate(free)
    frames = match_exposure(frames, np.median(frames, axis=0), free)
    plate, samples = median_background(frames, free, len(frames))
    picture = torch.from_numpy(plate.round().astype(np.uint8)).permute(2, 0, 1)
    return to_images(picture).to(device), torch.from_numpy(samples >= SAMPLES)[None].float().to(device)


def shots_of(frames: np.ndarray) -> list[slice]:
    """The shots of a video (T, H, W, 3) that are long enough for a plate."""
    cuts = find_cuts(frames)
    parts = [slice(a, b) for a, b in zip([0, *cuts], [*cuts, len(frames)], strict=True)]
    return [part for part in parts if part.stop - part.start >= SAMPLES]


@torch.no_grad()
def estimate_background(
    gma: GMA, frames: np.ndarray, scale: int = 1, mask_of: Callable[[Tensor], Tensor] | None = None
) -> BackgroundPlate:
    """The plate of one shot: register its frames, take the median of pixels that M leaves out.

    If frames are large and N has a plate, it is that one, of all footage, where the agent may stand still for a shot.

    Args:
        gma: a trained model.
        frames: (T, H, W, 3) uint8.
        scale: frames are reduced by this factor once M has seen them.
        mask_of: finds the agent; default: M.
    """
    from scipy import ndimage

    mask_of = mask_of or gma.mask
    device = next(gma.parameters()).device
    soft, small = [], []
    for part in np.split(frames, range(16, len(frames), 16)):
        images = frames_to_tensor(part).to(device)
        soft.append(reduced(mask_of(images).float(), scale)[:, 0].cpu().numpy())
        if scale > 1:
            small.append(to_bytes(reduced(images, scale)).permute(0, 2, 3, 1).cpu().numpy())
    soft = np.concatenate(soft)
    frames = np.concatenate(small) if small else frames
    height, width = frames.shape[1:3]
    masks = soft > 0.5
    stands = isinstance(gma.inpaint, PlateInpaintNet)
    if stands and gma.matting is not None:
        plate, known = gma.inpaint.plate_of(width)
        picture = (127.5 * (plate.permute(1, 2, 0) + 1)).cpu().numpy()
        place = np.zeros((len(frames), 2), int)
        return BackgroundPlate(frames, masks, soft.sum((1, 2)), picture, (known[0] > 0.5).cpu().numpy(), place)
    moves = np.zeros((len(frames) - 1, 2), int) if stands else camera_moves(frames)
    canvas, shown, corners = register(frames, moves)
    free = shown.copy()
    for t, corner in enumerate(corners):
        there, here = overlap(corner, canvas.shape[2:0:-1], (width, height))
        free[t][there] &= ~ndimage.binary_dilation(masks[t])[here]
    plate, samples = median_background(canvas, free)
    return BackgroundPlate(frames, masks, soft.sum((1, 2)), plate, samples >= SAMPLES, corners)
