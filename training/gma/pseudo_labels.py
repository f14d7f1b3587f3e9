"""Pseudo-labels for M: silhouettes of the agent, from the survey before GMA, and from background plates after it.

GMA misses limbs: a single shift cannot explain them. After GMA we take each shot's background as the median of its
unmasked pixels, label what differs from it and touches the mask as agent, and fine-tune M on these labels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from glass_gym.model.gma import GMA

from ..core.progress import Bar, say
from ..core.run import Run
from ..data.store import Store, Video, save_arrays
from ..footage.registration import CHANGED, overlap
from ..footage.survey import Survey
from ..footage.tracks import CONTRAST, with_enclosed
from .background import SAMPLES, SHOT, estimate_background, shots_of

LABELLED_FRAMES = 4000  # Approximate number of frames that are labelled.
BACKGROUND = 8  # A pixel that differs from the plate by less than this, of 255, is background.
AGREED = 0.5  # A frame gets a label only if its IoU with M's mask is at least this.
MIXED = 0.5  # A pixel on the agent's rim belongs to the agent if at least this share of its colour does.
FEWEST = 100  # If fewer frames could be labelled, no labels are used.


@dataclass(frozen=True)
class PseudoLabels:
    """Silhouettes of the agent in N frames, and the background plates of these frames.

    Attributes:
        frames: (N,) ints, frame indices in the store.
        silhouettes: (N, ceil(H W / 8)) uint8, the agent's pixels, packed bit by bit.
        plates: S background plates (h, w, 4) uint8: RGB, and 255 where it is known.
        plate_of: (N,) ints, the plate of each frame; -1: none.
        corners: (N, 2) px, (x, y) of the frame's top left corner on its plate.
        unsure: pixels that the loss ignores, packed as `silhouettes`; None: there are none.
    """

    frames: np.ndarray
    silhouettes: np.ndarray
    plates: list[np.ndarray] = field(default_factory=list)
    plate_of: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    corners: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), int))
    unsure: np.ndarray | None = None

    def save(self, path: Path) -> None:
        """Write as .npz."""
        known = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "plates"}
        plates = {f"plate_{n}": plate for n, plate in enumerate(self.plates)}
        save_arrays(path, plates | {k: v for k, v in known.items() if v is not None}, np.savez_compressed)

    @classmethod
    def load(cls, path: Path) -> PseudoLabels:
        """The inverse of :meth:`save`."""
        with np.load(path, allow_pickle=False) as file:
            known = {name: file[name] for name in file.files if not name.startswith("plate_") or name == "plate_of"}
            return cls(plates=[file[f"plate_{n}"] for n in range(len(file.files) - len(known))], **known)

    @classmethod
    def of_survey(cls, survey: Survey) -> PseudoLabels:
        """The silhouettes and plates that a survey found."""
        return cls(survey.seen_in, survey.silhouettes, survey.plates, survey.plate_of, survey.corners)

    def backgrounds(self, pick: np.ndarray, height: int, width: int) -> np.ndarray:
        """The plates that the frames of labels `pick` (B,) show: (B, H, W, 4) uint8, all zeros where unknown."""
        out = np.zeros((len(pick), height, width, 4), np.uint8)
        for b, n in enumerate(pick if len(self.plates) else []):
            if self.plate_of[n] >= 0:
                plate = self.plates[self.plate_of[n]]
                there, here = overlap(self.corners[n], plate.shape[1::-1], (width, height))
                out[b][here] = plate[there]
        return out


@torch.no_grad()
def make_pseudo_labels(gma: GMA, store: Store, progress: Callable[[int], None] = lambda frames: None) -> PseudoLabels:
    """Label about LABELLED_FRAMES frames of the training videos, by their distance from the background plate.

    Args:
        gma: a trained model.
        store: the videos.
        progress: called after each video with its number of frames.

    Returns:
        the labels; of no frames, if fewer than FEWEST could be labelled.
    """
    plates: list[np.ndarray] = []
    rows = []
    for video in _labelled_videos(store):
        shot = np.asarray(store.frames[video.start : video.start + min(video.length, SHOT)])
        for part in shots_of(shot):
            labels, plate = _label_shot(gma, shot[part])
            for t, blob, doubted, corner in labels:
                frame = video.start + part.start + t
                rows.append((frame, np.packbits(blob), len(plates), corner, np.packbits(doubted)))
            plates.append(plate)
        progress(len(shot))
    if len(rows) < FEWEST:
        return PseudoLabels(np.zeros(0, int), np.zeros((0, 0), np.uint8))
    frames, silhouettes, *known = (np.stack(values) for values in zip(*rows, strict=True))
    return PseudoLabels(frames, silhouettes, plates, *known)


def _labelled_videos(store: Store) -> list[Video]:
    """Evenly spread training videos that have about LABELLED_FRAMES frames; of each the first SHOT count."""
    videos = [v for v in store.videos if v.split == "train" and v.length >= SAMPLES]
    return videos[:: max(1, round(sum(min(v.length, SHOT) for v in videos) / LABELLED_FRAMES))]


def pseudo_labels_of(run: Run, gma: GMA, store: Store) -> PseudoLabels:
    """The labels of a run: those in its folder, which a resumed run uses again, or new ones, which are saved there."""
    path = run.out / "pseudo-labels.npz"
    if path.exists():
        return PseudoLabels.load(path)
    total = sum(min(v.length, SHOT) for v in _labelled_videos(store))
    with Bar("pseudo-labels from the background", total, "frame") as bar:
        labels = make_pseudo_labels(gma, store, bar.update)
        bar.tell("writing")
        labels.save(path)
    if not len(labels.frames):
        say("  too few frames could be labelled: the refine stage is skipped")
    return labels


def _label_shot(gma: GMA, frames: np.ndarray) -> tuple[list[tuple], np.ndarray]:
    """Label a shot (T, H, W, 3) uint8: (t, silhouette, unsure pixels, corner) of each labelled frame; and the plate."""
    from scipy import ndimage

    plate = estimate_background(gma, frames)
    labels = []
    for t, mask in enumerate(plate.masks):
        if (compared := plate.compare(t)) is None:
            continue
        far, near = compared
        background = far < BACKGROUND
        known = np.isfinite(far)
        differs = near & known & (far > max(CHANGED, CONTRAST * np.quantile(far[mask & known], 0.9)))
        blobs, _ = ndimage.label(mask & ~background | differs, np.ones((3, 3)))
        count = np.bincount(blobs[mask])
        count[:1] = 0
        if not count.any():
            continue
        blob = with_enclosed(blobs == count.argmax(), known & (far > CHANGED))
        if (blob & mask).sum() < AGREED * (blob | mask).sum():
            continue
        mixed, share = rim_share(frames[t] - plate.at(t)[0], blob)
        faint = known & mixed & (share < MIXED)
        blob &= ~faint
        doubted = near & ~blob & ~background & ~faint
        labels.append((t, blob, doubted, plate.corners[t]))
    return labels, np.dstack([plate.plate.astype(np.uint8), np.uint8(255) * plate.known])


def rim_share(off: np.ndarray, blob: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find pixels on the rim of the agent that mix its colour with the background's.

    Downscaling and antialiasing mix both colours on the rim. Such a pixel differs from the plate in the same direction
    as its neighbour inside, but by less; an outline of another colour differs in another direction, and is kept.

    Args:
        off: (H, W, 3) float, the frame minus the plate.
        blob: (H, W) bool, the agent.

    Returns:
        (H, W) bool, the pixels that mix; and (H, W), to which share each shows the agent.
    """
    from scipy import ndimage

    inside = ndimage.binary_erosion(blob, np.ones((3, 3)))
    beside = inside | blob & ~ndimage.binary_dilation(inside, np.ones((3, 3)))  # thin parts have no inside
    height, width = blob.shape
    padded = np.pad(np.where(beside[..., None], off, 0), ((1, 1), (1, 1), (0, 0)))
    neighbours = np.stack([padded[y : y + height, x : x + width] for y in range(3) for x in range(3)])
    strength = (neighbours**2).sum(-1)
    agent = np.take_along_axis(neighbours, strength.argmax(0)[None, ..., None], 0)[0]
    strength = strength.max(0)
    share = (agent * off).sum(-1) / np.maximum(strength, 1)
    mixed = np.abs(off - share[..., None] * agent).max(-1) < BACKGROUND
    return blob & ~inside & (strength > 0) & mixed, share
