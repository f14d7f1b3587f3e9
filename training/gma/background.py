"""The background plate of a shot: the median of the pixels that M does not mask."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from glass_gym.model.gma import GMA, PlateInpaintNet
from glass_gym.tensors.convert import to_bytes, to_images
from glass_gym.tensors.geometry import reduced

from ..core.progress import Bar
from ..data.cuts import farthest, find_cuts
from ..data.store import Store, frames_to_tensor
from ..footage.registration import (
    CHANGED,
    MEDIAN_OF,
    camera_moves,
    match_exposure,
    median_background,
    overlap,
    register,
)
from ..footage.shots import BLURRED

SHOT = 200  # Maximum number of frames of a video that are used.
PLATE_FRAMES = 120  # Number of frames whose median is the common plate.
SAMPLES = 3  # Minimum number of frames in which a pixel of the plate must be unmasked to be known.
NEAR = 0.25
"""Pixels that M misses are searched within this distance of its mask, as a share of the root of the mask's area."""
UNREST_OF = 24  # Number of frames that :attr:`BackgroundPlate.unrest` is measured on.


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
        clear: (h, w) bool, which pixels enough frames show without the agent near.
    """

    frames: np.ndarray
    masks: np.ndarray
    sizes: np.ndarray
    plate: np.ndarray
    known: np.ndarray
    corners: np.ndarray
    clear: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))

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

    @functools.cached_property
    def unrest(self) -> np.ndarray:
        """By how much frames differ from the plate where the agent is not near, (H, W) float32 in [0, 255].

        It is the 90 % quantile of the largest difference over the channels in each pixel: noise, and what was moved,
        such as an animal's bedding. Zeros if the camera moves.
        """
        if (self.corners != self.corners[0]).any():
            return np.zeros(self.frames.shape[1:3], np.float32)
        seen = []
        for t in np.linspace(0, len(self.frames) - 1, min(len(self.frames), UNREST_OF)).astype(int):
            if (compared := self.compare(t)) is not None:
                far, near = compared
                seen.append(np.where(near | ~np.isfinite(far), np.nan, far))
        if not seen:
            return np.zeros(self.frames.shape[1:3], np.float32)
        found, known = quantile_of_known(np.stack(seen), 0.9)
        if known.any():  # where the agent always is near, as beside it
            from scipy import ndimage

            found = found[tuple(ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True))]
        return found

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
            filled = to_bytes(gma.segment(image)[2])
            background[~known] = filled[0].permute(1, 2, 0).cpu().numpy()[~known]
        return background, inpainted


def quantile_of_known(values: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """The quantile of values (T, H, W) over T, without nan: (H, W) float32; and (H, W) bool, where not all are nan."""
    count = np.isfinite(values).sum(0)
    ranked = np.sort(values, 0)  # nan last
    at = np.clip((share * (count - 1)).round().astype(int), 0, None)
    found = np.take_along_axis(ranked, at[None], 0)[0]
    return np.nan_to_num(found).astype(np.float32), count > 0


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
    with Bar("background plate"):
        frames = np.stack([store.frames[n] for n in index])
        masks, moves = masks_of(gma, frames, sharp=False), np.zeros((len(frames) - 1, 2), int)
        shot = _median_plate(gma, frames, masks, moves, _margin(gma), PLATE_FRAMES)
    device = next(gma.parameters()).device
    picture = torch.from_numpy(shot.plate.round().astype(np.uint8)).permute(2, 0, 1)
    return to_images(picture).to(device), torch.from_numpy(shot.known)[None].float().to(device)


def shots_of(frames: np.ndarray) -> list[slice]:
    """The shots of a video (T, H, W, 3) that are long enough for a plate."""
    cuts = find_cuts(frames)
    parts = [slice(a, b) for a, b in zip([0, *cuts], [*cuts, len(frames)], strict=True)]
    return [part for part in parts if part.stop - part.start >= SAMPLES]


@torch.no_grad()
def masks_of(gma: GMA, frames: np.ndarray, sharp: bool = True) -> np.ndarray:
    """Soft masks (T, H, W) of frames (T, H, W, 3) uint8: with sharp outlines, or M's own."""
    find = gma.sharp_mask if sharp else gma.mask
    device = next(gma.parameters()).device
    parts = np.split(frames, range(16, len(frames), 16))
    return np.concatenate([find(frames_to_tensor(part).to(device))[:, 0].float().cpu().numpy() for part in parts])


@torch.no_grad()
def estimate_background(
    gma: GMA, frames: np.ndarray, masks: np.ndarray | None = None, scale: int = 1
) -> BackgroundPlate:
    """The plate of one shot: register its frames, take the median of pixels that the masks leave out.

    The agent may stand still for a shot: if frames are large and N has a plate, of all footage, it is that one wherever
    the agent always is near. Elsewhere the shot knows better: things may have been moved.

    Args:
        gma: a trained model.
        frames: (T, H, W, 3) uint8.
        masks: (T, H, W), the agent's; default: M's.
        scale: frames and masks are reduced by this factor.
    """
    from scipy import ndimage

    soft = masks_of(gma, frames, sharp=False) if masks is None else masks.astype(np.float32)
    if scale > 1:
        soft = reduced(torch.from_numpy(soft)[:, None], scale)[:, 0].numpy()
        frames = np.stack(
            [to_bytes(reduced(frames_to_tensor(f[None]), scale))[0].movedim(0, 2).numpy() for f in frames]
        )
    stands = isinstance(gma.inpaint, PlateInpaintNet)
    moves = np.zeros((len(frames) - 1, 2), int) if stands else camera_moves(frames)
    shot = _median_plate(gma, frames, soft, moves, 1 if masks is not None else max(1, _margin(gma) // scale))
    if not stands or gma.matting is None:
        return shot
    plate, known = (x.permute(1, 2, 0).cpu().numpy() for x in gma.inpaint.plate_of(frames.shape[2]))
    known = known[..., 0] > 0.5
    picture = (127.5 * (plate + 1)).round().astype(np.uint8)
    both = known & shot.clear
    picture = match_exposure(picture[None], shot.plate, both[None])[0].astype(np.float32)
    wide = gma.config.agent_radius * frames.shape[2] / gma.config.width / 2
    weight = ndimage.gaussian_filter(both.astype(np.float32), wide) + 1e-6
    for channel in range(3):  # what light and shadows add around the agent goes on behind it, so that no seam is seen
        off = np.where(both, shot.plate[..., channel] - picture[..., channel], 0).clip(-CHANGED, CHANGED)
        picture[..., channel] += ndimage.gaussian_filter(off.astype(np.float32), wide) / weight
    share = np.where(known, both * (2 * weight - 1).clip(0, 1), 1)[..., None]
    shot.plate = picture.clip(0, 255) * (1 - share) + shot.plate * share
    shot.known |= known
    return shot


def _margin(gma: GMA) -> int:
    """By how many px of a frame the agent may reach beyond M's mask: two of those that M sees, if frames are large."""
    return 2 * gma.config.gma_scale if gma.config.gma_scale > 1 else 1


def _median_plate(
    gma: GMA, frames: np.ndarray, soft: np.ndarray, moves: np.ndarray, margin: int, most: int = MEDIAN_OF
) -> BackgroundPlate:
    """The median of frames (T, H, W, 3) uint8, registered by the camera's moves, where masks do not cover it.

    M misses parts of the agent, such as feet. Where enough frames show a pixel without the agent near it, only these
    count.

    Args:
        gma: tells the agent's size.
        frames: of one place.
        soft: (T, H, W), soft masks.
        moves: (T - 1, 2) px, of the camera.
        margin: px by which masks are dilated; at least 1.
        most: largest number of frames whose median is taken.
    """
    from scipy import ndimage

    height, width = frames.shape[1:3]
    masks = soft > 0.5
    canvas, shown, corners = register(frames, moves)
    some = np.linspace(0, len(frames) - 1, min(len(frames), most)).astype(int)
    canvas, free, clear = canvas[some], shown[some], shown[some]
    radius = gma.config.agent_radius * width / gma.config.width
    for n, t in enumerate(some):
        there, here = overlap(corners[t], canvas.shape[2:0:-1], (width, height))
        free[n][there] &= ~ndimage.maximum_filter(masks[t], 2 * margin + 1)[here]
        near = ndimage.maximum_filter(masks[t], 2 * max(margin, round(NEAR * np.sqrt(masks[t].sum()))) + 1)
        if masks[t].any():
            x, y = (np.median(along) for along in np.nonzero(masks[t])[::-1])
            box = (slice(max(0, round(middle - radius)), round(middle + radius) + 1) for middle in (y, x))
            near[tuple(box)] = True
        clear[n][there] &= ~near[here]
    enough = clear.sum(0) >= SAMPLES
    free &= clear | ~enough
    plate, samples = median_background(canvas, free, most)
    if (matched := match_exposure(canvas, plate, free)) is not canvas:
        plate, samples = median_background(matched, free, most)
    return BackgroundPlate(frames, masks, soft.sum((1, 2)), plate, samples >= SAMPLES, corners, enough)
