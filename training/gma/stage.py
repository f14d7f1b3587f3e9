"""The GMA stage: segmentation, inpainting and shifts, from pairs of neighbouring frames (Sec. 3.1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glass_gym.model.gma import GMA
from glass_gym.tensors.convert import to_images
from glass_gym.tensors.geometry import dilate

from ..config import GmaConfig
from ..core import losses, sheets
from ..core.stage import Batch, Stage
from ..data.store import Store, frames_to_tensor
from ..footage.choices import LARGEST
from .perceptual import VggFeatures
from .pseudo_labels import PseudoLabels

MOVING_PIXELS = 30  # A pair of frames counts as moving if more pixels than this change.
STILL_PAIRS = 0.05  # Share of the other pairs that are used.
WEIGHTS = {
    "rec_f": 1.0,
    "rec_b": 2.0,
    "rec_j": 4.0,  # four times the paper's, so that the mask forms in half of the steps
    "binary": 0.5,
    "idle": 0.5,
    "size": 1.0,
    "pseudo_label": 0.3,  # at first: it falls to zero over `pseudo_label_steps`
    "plate": 2.0,  # of N's L1 error where the background plate is known
    "vgg": 0.01,
}
"""Weights of the losses."""
HOLE_GROWTH = 2
"""N's holes exceed the mask by a random number of px up to this, so that N learns to fill what M misses."""


class PairSampler:
    """Random pairs of neighbouring frames with motion, and random pseudo-labels.

    Args:
        store: the videos.
        config: batch size.
        labels: pseudo-labels, or None.

    Raises:
        ValueError: no training video has two frames.
    """

    def __init__(self, store: Store, config: GmaConfig, labels: PseudoLabels | None = None):
        self.store = store
        self.config = config
        self.labels = labels
        self.videos = [v for v in store.videos if v.split == "train" and v.length >= 2]
        if not self.videos:
            raise ValueError(f"{store.root}: no training video of at least 2 frames")

    def batch(self, rng: np.random.Generator, iteration: int) -> Batch:
        """frames (B, 2, H, W, 3) uint8; with labels: labelled, silhouettes, unsure, plates, as in PseudoLabels."""
        pairs = []
        for attempt in range(self.config.batch * 50):
            video = self.videos[rng.integers(len(self.videos))]
            start = video.start + rng.integers(video.length - 1)
            pair = self.store.frames[start : start + 2]
            moving = (pair[0] != pair[1]).any(-1).sum() > MOVING_PIXELS
            if moving or rng.random() < STILL_PAIRS or attempt > self.config.batch * 40:
                pairs.append(pair)
            if len(pairs) == self.config.batch:
                break
        out = {"frames": torch.from_numpy(np.stack(pairs))}
        if self.labels is not None:
            pick = rng.integers(len(self.labels.frames), size=self.config.batch)
            out["labelled"] = torch.from_numpy(np.asarray(self.store.frames[self.labels.frames[pick]]))
            out["silhouettes"] = self._unpacked(self.labels.silhouettes[pick])
            if self.labels.unsure is not None:
                out["unsure"] = self._unpacked(self.labels.unsure[pick])
            out["plates"] = torch.from_numpy(self.labels.backgrounds(pick, self.store.height, self.store.width))
        return out

    def _unpacked(self, bits: np.ndarray) -> Tensor:
        height, width = self.store.height, self.store.width
        return torch.from_numpy(np.unpackbits(bits, axis=1, count=height * width).reshape(-1, 1, height, width))


class GmaStage(Stage):
    """Trains M, N, P_f and P_b.

    Args:
        model: the GMA to train.
        store: the videos.
        config: batch size, steps, theta, and losses to leave out.
        features: VGG features for L_VGG, or None.
        labels: pseudo-labels, or None.
        pairs: (N, 2, 3, H, W) frames in [-1, 1] for sample sheets, or None.

    Attributes:
        weights: of the losses.
        binary_ramp: steps over which the weights of L_BIN and of idle mask grow, so that the mask can form first.
        pseudo_label_steps: steps over which the weight of the pseudo-labels falls to zero.
    """

    name = "gma"
    rate = 1e-3
    binary_ramp = 400
    pseudo_label_steps = 300

    def __init__(
        self,
        model: GMA,
        store: Store,
        config: GmaConfig,
        features: VggFeatures | None = None,
        labels: PseudoLabels | None = None,
        pairs: Tensor | None = None,
    ):
        self.model = model
        self.config = config
        self.features = features
        self.labels = labels
        self.pairs = pairs
        self.weights: dict[str, float] = WEIGHTS | dict.fromkeys(config.without, 0.0)
        self.sampler = PairSampler(store, config, labels)

    def losses(self, batch: Batch, iteration: int, generator: torch.Generator) -> dict[str, Tensor]:
        """L_RECF, L_RECB, L_RECJ, L_BIN, L_SIZE, L_VGG (Sec. 3.1); ours: idle mask, pseudo-labels, N against plates."""
        w = self.weights
        frames = to_images(batch["frames"].movedim(-1, -3))  # (B, 2, 3, H, W), channels last in memory
        motion = self.model.analyse_pairs(frames, int(torch.randint(HOLE_GROWTH + 1, (1,), generator=generator)))
        layer = frames[:, 1] * motion.masks[:, 1]
        ramp = min(1.0, iteration / max(1, self.binary_ramp))
        terms = {
            "rec_f": w["rec_f"] * losses.rec_f(motion.moved_layer[:, :3], layer),
            "rec_b": w["rec_b"] * losses.rec_b(motion.moved_background, motion.backgrounds[:, 1]),
            "rec_j": w["rec_j"] * losses.rec_j(motion.composed, frames[:, 1], frames[:, 0]),
            "binary": w["binary"] * ramp * losses.binary(motion.masks),
            "idle": w["idle"] * ramp * losses.idle(motion.masks, frames, motion.backgrounds),
            "size": w["size"] * losses.size(motion.masks.flatten(0, 1), self.config.theta or 1.0),
        }
        if "labelled" in batch:
            images = to_images(batch["labelled"].movedim(-1, -3))
            seen = batch["silhouettes"].to(images)
            if weight := self._label_weight(iteration):
                sure = 1 - batch["unsure"].to(images) if "unsure" in batch else 1
                terms["pseudo_label"] = weight * losses.dice(self.model.mask(images) * sure, seen)
            if self.labels is not None and len(self.labels.plates):
                plates = batch["plates"].movedim(-1, -3)
                terms["plate"] = w["plate"] * self._plate_error(images, seen, plates, generator)
        if self.features is not None:
            terms["vgg"] = w["vgg"] * (
                losses.perceptual(self.features, motion.moved_layer[:, :3], layer)
                + losses.perceptual(self.features, motion.moved_background, motion.backgrounds[:, 1])
            )
        return terms

    def _label_weight(self, iteration: int) -> float:
        return self.weights["pseudo_label"] * max(0.0, 1 - iteration / max(1, self.pseudo_label_steps))

    def _plate_error(self, images: Tensor, seen: Tensor, plates: Tensor, generator: torch.Generator) -> Tensor:
        """L1 between N and plates (B, 4, H, W), in holes: silhouettes (B, 1, H, W) dilated by a random number of px."""
        hole = dilate(seen, int(torch.randint(HOLE_GROWTH + 2, (1,), generator=generator)))
        where = hole * (plates[:, 3:] > 0)
        error = (self.model.inpaint_background(images, hole) - to_images(plates[:, :3])).abs()
        return (error * where).sum() / (3 * where.sum()).clamp(min=1)

    def sheet(self, model: GMA, iteration: int) -> np.ndarray | None:
        """As :meth:`Stage.sheet`."""
        return None if self.pairs is None else sheets.layers_sheet(model, self.pairs)

    def correct(self, found: dict[str, Any], models: Sequence[GMA]) -> None:
        """Apply corrected options (:func:`training.gma.corrections.correct_options`) to the stage, and to `models`: the
        trained model and its average."""
        self.config = dataclasses.replace(self.config, theta=found.get("gma.theta", self.config.theta))
        self.pseudo_label_steps = found.get("gma.pseudo_label_steps", self.pseudo_label_steps)
        if "foreground_range" in found:
            for model in models:
                model.set_foreground_range(found["foreground_range"])


class RefineStage(GmaStage):
    """Trains GMA on pseudo-labels from background plates, with weight 1 and half of GMA's learning rate.

    Args:
        model: a trained GMA.
        store: the videos.
        config: options of the GMA stage; theta grows if labels are larger.
        iterations: optimiser steps.
        labels: from :func:`training.gma.pseudo_labels.make_pseudo_labels`.
        features, pairs: as for :class:`GmaStage`.
    """

    name = "refine"
    binary_ramp = 0

    @property
    def rate(self) -> float:  # type: ignore[override]
        """Half of GMA's."""
        return GmaStage.rate / 2

    def __init__(
        self,
        model: GMA,
        store: Store,
        config: GmaConfig,
        iterations: int,
        labels: PseudoLabels,
        features: VggFeatures | None = None,
        pairs: Tensor | None = None,
    ):
        areas = np.unpackbits(labels.silhouettes, axis=1).mean(1)
        theta = min(1.0, max(config.theta or 0.0, LARGEST * float(np.quantile(areas, 0.95))))
        config = dataclasses.replace(config, iterations=iterations, theta=theta)
        super().__init__(model, store, config, features, labels, pairs)

    def _label_weight(self, iteration: int) -> float:
        return 1.0


def sample_pairs(store: Store, split: str = "val", count: int = 6) -> Tensor:
    """One pair of neighbouring frames from each of about `count` videos of a split: (N, 2, 3, H, W) in [-1, 1]."""
    videos = [v for v in store.videos if v.split == split and v.length >= 2] or store.videos
    some = videos[:: max(1, len(videos) // count)][:count]
    starts = [v.start + v.length // 2 - 1 for v in some]
    return torch.stack([frames_to_tensor(store.frames[start : start + 2]) for start in starts])
