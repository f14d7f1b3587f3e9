"""The GMA stage: segmentation, inpainting and shifts, from pairs of neighbouring frames (Sec. 3.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from glass_gym.convert import to_images
from glass_gym.glass import Glass
from training import losses
from training.data.store import Store
from training.perceptual import VggFeatures
from training.stages.base import Batch, Stage


@dataclass
class GmaConfig:
    """The GMA stage: segmentation, inpainting, shifts."""

    iterations: int = 2000
    """optimiser steps; 0 skips the stage"""
    batch: int = 8
    """pairs of frames a step"""
    rate: float = 1e-3
    """peak learning rate; warms up over 50 steps, then falls on a cosine to 5 %"""
    theta: float | None = None
    """largest share of the frame that the mask may cover for free; default: the source's"""
    still_pairs: float = 0.05
    """share of the pairs without motion that are kept"""
    moving_pixels: int = 30
    """a pair moves if more pixels than this change"""
    binary_ramp: int = 400
    """L_BIN grows from zero over this many steps, so that the mask can form first"""
    rec_f: float = 1.0
    rec_b: float = 2.0
    rec_j: float = 4.0
    """four times the paper's: the mask forms twice as early (docs/training.md)"""
    binary: float = 0.5
    size: float = 1.0
    perceptual: float = 0.01
    """weight of the VGG term; used only with --vgg"""


class PairSampler:
    """Random pairs of neighbouring frames that move.

    Args:
        store: of the videos.
        config: how many, and what counts as motion.

    Raises:
        ValueError: no training video of two frames.
    """

    def __init__(self, store: Store, config: GmaConfig):
        self.store = store
        self.config = config
        self.videos = [v for v in store.videos if v.split == "train" and v.length >= 2]
        if not self.videos:
            raise ValueError(f"{store.root}: no training video of at least 2 frames")

    def batch(self, rng: np.random.Generator, iteration: int) -> Batch:
        """frames (B, 2, H, W, 3) uint8."""
        pairs = []
        for attempt in range(self.config.batch * 50):
            video = self.videos[rng.integers(len(self.videos))]
            start = video.start + rng.integers(video.length - 1)
            pair = self.store.frames[start : start + 2]
            moving = (pair[0] != pair[1]).any(-1).sum() > self.config.moving_pixels
            if moving or rng.random() < self.config.still_pairs or attempt > self.config.batch * 40:
                pairs.append(pair)
            if len(pairs) == self.config.batch:
                break
        return {"frames": torch.from_numpy(np.stack(pairs))}


class GmaStage(Stage):
    """Trains M, N, P_f and P_b.

    Args:
        model: under training.
        store: the videos.
        config: weights and schedule.
        features: VGG features for L_VGG, or None.
    """

    name = "gma"

    def __init__(self, model: Glass, store: Store, config: GmaConfig, features: VggFeatures | None = None):
        self.model = model
        self.config = config
        self.features = features
        self.sampler = PairSampler(store, config)

    def losses(self, batch: Batch, iteration: int, generator: torch.Generator) -> dict[str, Tensor]:
        """L_RECF, L_RECB, L_RECJ, L_BIN, L_SIZE and, with features, L_VGG (Sec. 3.1)."""
        c = self.config
        frames = to_images(batch["frames"].movedim(-1, -3))  # (B, 2, 3, H, W), channels last in memory
        motion = self.model.analyse_pairs(frames)
        layer = frames[:, 1] * motion.masks[:, 1]
        ramp = min(1.0, iteration / max(1, c.binary_ramp))
        terms = {
            "rec_f": c.rec_f * losses.rec_f(motion.moved_layer[:, :3], layer),
            "rec_b": c.rec_b * losses.rec_b(motion.moved_background, motion.backgrounds[:, 1]),
            "rec_j": c.rec_j * losses.rec_j(motion.composed, frames[:, 1], frames[:, 0]),
            "binary": c.binary * ramp * losses.binary(motion.masks),
            "size": c.size * losses.size(motion.masks.flatten(0, 1), c.theta),
        }
        if self.features is not None:
            terms["vgg"] = c.perceptual * (
                losses.perceptual(self.features, motion.moved_layer[:, :3], layer)
                + losses.perceptual(self.features, motion.moved_background, motion.backgrounds[:, 1])
            )
        return terms
