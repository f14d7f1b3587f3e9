"""The GMA stage: segmentation, inpainting and shifts, from pairs of neighbouring frames (Sec. 3.1)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from glass_gym.model.glass import Glass
from glass_gym.tensors.convert import to_images
from glass_gym.tensors.geometry import dilate

from ..core import losses
from ..core.options import Count, Positive, Rate, Share, Weight
from ..core.stage import Batch, Stage
from ..data.store import Store, save_arrays
from ..footage.survey import overlap
from .perceptual import VggFeatures

LARGEST = 1.1
"""theta over the 95th percentile of the agent's area."""


@dataclass
class GmaConfig:
    """The GMA stage: segmentation, inpainting, shifts."""

    iterations: Count | None = None
    """optimiser steps; 0 skips the stage. Default: 2000; where a look at the footage found what
    moves, 1200 if the camera moves, else 600"""
    batch: Positive = 8
    """pairs of frames a step"""
    rate: Rate = 1e-3
    """peak learning rate; warms up over 50 steps, then falls on a cosine to 5 %"""
    theta: Annotated[float, Gt(0), Le(1)] | None = None
    """largest share of the frame that the mask may cover for free; default: the source's"""
    still_pairs: Share = 0.05
    """share of the pairs without motion that are kept"""
    moving_pixels: Count = 30
    """a pair moves if more pixels than this change"""
    binary_ramp: Count = 400
    """L_BIN grows from zero over this many steps, so that the mask can form first"""
    hint: Weight = 0.3
    """weight of the silhouettes that a look at the footage found, where there was one; it falls to nothing ..."""
    hint_steps: Count = 300
    """... over so many steps: then M is on its own"""
    scene: Weight = 2.0
    """weight of N's error behind the agent, where a look at the footage found the scene there"""
    grow: Annotated[int, Ge(0), Le(8)] = 2
    """holes for N are larger than the mask by up to so many px, at random: it learns to fill what M falls short of"""
    rec_f: Weight = 1.0
    rec_b: Weight = 2.0
    rec_j: Weight = 4.0
    """four times the paper's: the mask forms twice as early (docs/training.md)"""
    binary: Weight = 0.5
    idle: Weight = 0.5
    """weight of mask where what N puts there looks the same (ours); grows as L_BIN does"""
    size: Weight = 1.0
    perceptual: Weight = 0.01
    """weight of the VGG term; used only with --vgg"""


@dataclass
class RefineConfig:
    """The refine stage: GMA goes on, and M is told what a second look at the footage found."""

    iterations: Count | None = None
    """optimiser steps; 0 skips the stage. Default: where a look at the footage found what moves 300 if the camera
    moves, else 200, at most a third of GMA's; 0 without that look"""
    rate: Rate = 5e-4
    """peak learning rate"""
    hint: Weight = 1.0
    """weight of the silhouettes"""


@dataclass(frozen=True)
class PseudoLabels:
    """Where a look at the footage found the agent (:mod:`training.footage.survey`): what M begins with.

    Attributes:
        frames: (N,) ints, of the store.
        silhouettes: (N, ceil(H W / 8)) uint8, packed bit by bit.
        scenes: S pictures (h, w, 4) uint8 of what is behind the agent, and 255 where that is known, ...
        scene_of: ... which of them each silhouette is before, (N,) ints; -1: none, ...
        corners: ... and where in it the frame's corner is, (N, 2) px.
        unsure: pixels that may be the agent's or not, as `silhouettes`; None: it is sure.
    """

    frames: np.ndarray
    silhouettes: np.ndarray
    scenes: list[np.ndarray] = field(default_factory=list)
    scene_of: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    corners: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), int))
    unsure: np.ndarray | None = None

    def save(self, path: Path) -> None:
        """Write as .npz."""
        known = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "scenes"}
        scenes = {f"scene_{n}": scene for n, scene in enumerate(self.scenes)}
        save_arrays(path, scenes | {k: v for k, v in known.items() if v is not None}, np.savez_compressed)

    @classmethod
    def load(cls, path: Path) -> PseudoLabels:
        """The inverse of :meth:`save`."""
        with np.load(path, allow_pickle=False) as file:
            known = {name: file[name] for name in file.files if not name.startswith("scene_") or name == "scene_of"}
            return cls(scenes=[file[f"scene_{n}"] for n in range(len(file.files) - len(known))], **known)

    def behind(self, pick: np.ndarray, height: int, width: int) -> np.ndarray:
        """Scenes (B, H, W, 4) uint8 of some silhouettes (B,); nothing is known where there is none."""
        out = np.zeros((len(pick), height, width, 4), np.uint8)
        for b, n in enumerate(pick if len(self.scenes) else []):
            if self.scene_of[n] >= 0:
                scene = self.scenes[self.scene_of[n]]
                there, here = overlap(self.corners[n], scene.shape[1::-1], (width, height))
                out[b][here] = scene[there]
        return out


class PairSampler:
    """Random pairs of neighbouring frames that move.

    Args:
        store: of the videos.
        config: how many, and what counts as motion.

        hints: what moves in some frames, or None.

    Raises:
        ValueError: no training video of two frames.
    """

    def __init__(self, store: Store, config: GmaConfig, hints: PseudoLabels | None = None):
        self.store = store
        self.config = config
        self.hints = hints
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
        out = {"frames": torch.from_numpy(np.stack(pairs))}
        if self.hints is not None and (iteration < self.config.hint_steps or len(self.hints.scenes)):
            pick = rng.integers(len(self.hints.frames), size=self.config.batch)
            out["hinted"] = torch.from_numpy(np.asarray(self.store.frames[self.hints.frames[pick]]))
            out["silhouettes"] = self._unpacked(self.hints.silhouettes[pick])
            if self.hints.unsure is not None:
                out["unsure"] = self._unpacked(self.hints.unsure[pick])
            out["scenes"] = torch.from_numpy(self.hints.behind(pick, self.store.height, self.store.width))
        return out

    def _unpacked(self, bits: np.ndarray) -> Tensor:
        height, width = self.store.height, self.store.width
        return torch.from_numpy(np.unpackbits(bits, axis=1, count=height * width).reshape(-1, 1, height, width))


class GmaStage(Stage):
    """Trains M, N, P_f and P_b.

    Args:
        model: under training.
        store: the videos.
        config: weights and schedule.
        features: VGG features for L_VGG, or None.
        hints: what M begins with, or None.
    """

    name = "gma"

    def __init__(
        self,
        model: Glass,
        store: Store,
        config: GmaConfig,
        features: VggFeatures | None = None,
        hints: PseudoLabels | None = None,
    ):
        self.model = model
        self.config = config
        self.features = features
        self.hints = hints
        self.sampler = PairSampler(store, config, hints)

    def losses(self, batch: Batch, iteration: int, generator: torch.Generator) -> dict[str, Tensor]:
        """L_RECF, L_RECB, L_RECJ, L_BIN, L_SIZE (Sec. 3.1), what the mask covers in vain and, with features, L_VGG."""
        c = self.config
        frames = to_images(batch["frames"].movedim(-1, -3))  # (B, 2, 3, H, W), channels last in memory
        motion = self.model.analyse_pairs(frames, int(torch.randint(c.grow + 1, (1,), generator=generator)))
        layer = frames[:, 1] * motion.masks[:, 1]
        ramp = min(1.0, iteration / max(1, c.binary_ramp))
        terms = {
            "rec_f": c.rec_f * losses.rec_f(motion.moved_layer[:, :3], layer),
            "rec_b": c.rec_b * losses.rec_b(motion.moved_background, motion.backgrounds[:, 1]),
            "rec_j": c.rec_j * losses.rec_j(motion.composed, frames[:, 1], frames[:, 0]),
            "binary": c.binary * ramp * losses.binary(motion.masks),
            "idle": c.idle * ramp * losses.idle(motion.masks, frames, motion.backgrounds),
            "size": c.size * losses.size(motion.masks.flatten(0, 1), c.theta),
        }
        if "hinted" in batch:
            hinted = to_images(batch["hinted"].movedim(-1, -3))
            seen = batch["silhouettes"].to(hinted)
            if weight := self._hint_weight(iteration):
                sure = 1 - batch["unsure"].to(hinted) if "unsure" in batch else 1
                terms["hint"] = weight * losses.hint(self.model.mask(hinted) * sure, seen)
            if c.scene and self.hints is not None and len(self.hints.scenes):
                terms["scene"] = c.scene * self._scene_error(hinted, seen, batch["scenes"].movedim(-1, -3), generator)
        if self.features is not None:
            terms["vgg"] = c.perceptual * (
                losses.perceptual(self.features, motion.moved_layer[:, :3], layer)
                + losses.perceptual(self.features, motion.moved_background, motion.backgrounds[:, 1])
            )
        return terms

    def _hint_weight(self, iteration: int) -> float:
        return self.config.hint * max(0.0, 1 - iteration / max(1, self.config.hint_steps))

    def _scene_error(self, images: Tensor, seen: Tensor, scenes: Tensor, generator: torch.Generator) -> Tensor:
        """How far N is off behind what was seen to move, in holes that are larger than it by a random number of px."""
        hole = dilate(seen, int(torch.randint(self.config.grow + 2, (1,), generator=generator)))
        where = hole * (scenes[:, 3:] > 0)
        error = (self.model.behind(images, hole) - to_images(scenes[:, :3])).abs()
        return (error * where).sum() / (3 * where.sum()).clamp(min=1)


class RefineStage(GmaStage):
    """GMA goes on with the silhouettes and scenes of a second look (:mod:`training.gma.pseudo_labels`).

    Args:
        model: its GMA is trained.
        store: the videos.
        gma: weights, as in GMA.
        config: weight and schedule.
        hints: of the second look.
        features: VGG features for L_VGG, or None.
    """

    name = "refine"

    def __init__(
        self,
        model: Glass,
        store: Store,
        gma: GmaConfig,
        config: RefineConfig,
        hints: PseudoLabels,
        features: VggFeatures | None = None,
    ):
        assert gma.theta is not None
        areas = np.unpackbits(hints.silhouettes, axis=1).mean(1)
        changed = {
            "iterations": config.iterations,
            "rate": config.rate,
            "hint": config.hint,
            "hint_steps": config.iterations,
            "binary_ramp": 0,
            "theta": min(1.0, max(gma.theta, LARGEST * float(np.quantile(areas, 0.95)))),
        }
        super().__init__(model, store, dataclasses.replace(gma, **changed), features, hints)

    def _hint_weight(self, iteration: int) -> float:
        return self.config.hint
