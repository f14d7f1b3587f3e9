"""Pseudo-labels for M: where the agent is, from the survey before GMA, and from the background plate after it.

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
from tqdm import tqdm

from glass_gym.model.gma import GMA

from ..core.run import Run
from ..data.store import Store, save_arrays
from ..footage.registration import CHANGED, overlap
from ..footage.survey import CONTRAST, Survey, with_enclosed
from .background import SAMPLES, SHOT, estimate_background, shots_of

LABELLED_FRAMES = 4000
"""Frames that are labelled, about."""
BACKGROUND = 8
"""What differs by less, of 255, from the plate is background."""
AGREED = 0.5
"""Least IoU of a label with M's mask; other frames get no label."""
MIXED = 0.5
"""A pixel on the rim is the agent's if this share of its colour is."""
FEWEST = 100
"""With fewer labelled frames there are no labels at all."""


@dataclass(frozen=True)
class PseudoLabels:
    """Where the agent is in some frames: from the survey at first, from :func:`make_pseudo_labels` after GMA.

    Attributes:
        frames: (N,) ints, of the store.
        silhouettes: (N, ceil(H W / 8)) uint8, packed bit by bit.
        plates: S background plates (h, w, 4) uint8, and 255 where they are known.
        plate_of: (N,) ints, the plate of each frame; -1: none.
        corners: (N, 2) px, the position of the frame's corner on it.
        unsure: pixels that may be the agent's or not, packed as `silhouettes`; None: there are none.
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
        """What a survey saw move."""
        return cls(survey.seen_in, survey.silhouettes, survey.plates, survey.plate_of, survey.corners)

    def backgrounds(self, pick: np.ndarray, height: int, width: int) -> np.ndarray:
        """The plates of some labels (B,), as their frames show them: (B, H, W, 4) uint8; unknown where there is none."""
        out = np.zeros((len(pick), height, width, 4), np.uint8)
        for b, n in enumerate(pick if len(self.plates) else []):
            if self.plate_of[n] >= 0:
                plate = self.plates[self.plate_of[n]]
                there, here = overlap(self.corners[n], plate.shape[1::-1], (width, height))
                out[b][here] = plate[there]
        return out


@torch.no_grad()
def make_pseudo_labels(gma: GMA, store: Store, progress: Callable[[int], None] = lambda frames: None) -> PseudoLabels:
    """Labels of some of the training videos.

    Args:
        gma: trained.
        store: the videos' store.
        progress: called with numbers of frames that are done.

    Returns:
        silhouettes, which pixels they are not sure of, and plates; of no frames where too little is sure.
    """
    videos = [v for v in store.videos if v.split == "train" and v.length >= SAMPLES]
    each = [min(v.length, SHOT) for v in videos]
    step = max(1, round(sum(each) / LABELLED_FRAMES))
    frames, silhouettes, unsure, plates, plate_of, corners = ([] for _ in range(6))
    for video in videos[::step]:
        shot = np.asarray(store.frames[video.start : video.start + min(video.length, SHOT)])
        for part in shots_of(shot):
            found = _label_shot(gma, shot[part])
            for t, blob, doubted, corner in zip(*found[:4], strict=True):
                frames.append(video.start + part.start + t)
                silhouettes.append(np.packbits(blob))
                unsure.append(np.packbits(doubted))
                plate_of.append(len(plates))
                corners.append(corner)
            plates.append(found[4])
        progress(len(shot))
    if len(frames) < FEWEST:
        return PseudoLabels(np.zeros(0, int), np.zeros((0, 0), np.uint8))
    return PseudoLabels(
        *(np.stack(x) for x in (frames, silhouettes)),
        plates,
        *(np.stack(x) for x in (plate_of, corners, unsure)),
    )


def pseudo_labels_of(run: Run, gma: GMA, store: Store) -> PseudoLabels:
    """The labels of a run's GMA; made once: a refine stage that is resumed goes on with those it began with."""
    path = run.out / "pseudo-labels.npz"
    if path.exists():
        return PseudoLabels.load(path)
    with tqdm(desc="pseudo-labels from the background", unit="frame") as bar:
        labels = make_pseudo_labels(gma, store, bar.update)
    if not len(labels.frames):
        print("  too little is sure about the agent, or the background behind it; M stays as it is")
    labels.save(path)
    return labels


def _label_shot(gma: GMA, frames: np.ndarray) -> tuple[list, list, list, list, np.ndarray]:
    """Of a shot (T, H, W, 3) uint8: the labelled frames, their agents, unsure pixels and corners; and the plate."""
    from scipy import ndimage

    plate = estimate_background(gma, frames)
    labelled: tuple[list, list, list, list] = ([], [], [], [])
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
        faint = known & _faint_rim(frames[t] - plate.at(t)[0], blob)
        blob &= ~faint
        doubted = near & ~blob & ~background & ~faint
        for values, value in zip(labelled, (t, blob, doubted, plate.corners[t]), strict=True):
            values.append(value)
    return *labelled, np.dstack([plate.plate.astype(np.uint8), np.uint8(255) * plate.known])


def _faint_rim(off: np.ndarray, blob: np.ndarray) -> np.ndarray:
    """Which pixels on the rim of a blob (H, W) bool show more of the background than of the agent.

    Where frames were made smaller, or a renderer smoothed its edges, a pixel on the rim is a mixture of both: it is off
    the plate in the direction in which its neighbour inside is, less far. An outline of another colour is not.

    Args:
        off: (H, W, 3) float, the frame less the plate.
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
    mixed = np.abs(off - share[..., None] * agent).max(-1) < BACKGROUND
    return blob & ~inside & (strength > 0) & mixed & (share < MIXED)
