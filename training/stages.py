"""What each stage trains on and with which losses. A stage owns its boxes, its batches and its schedule.

Batches follow from (seed, stage, iteration) alone, so that a resumed training repeats an uninterrupted one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glass_gym.glass import Glass, crop_windows, inside_windows
from training import losses
from training.data.store import Store, Video, frames_to_tensor
from training.windows import MARGIN, WindowSet


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
    """largest share of the frame that the mask may cover for free; default 0.007 for tennis, else 0.06"""
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


@dataclass
class LmaConfig:
    """The LMA stage: local actions and animation, on windows that follow the agent."""

    iterations: int = 3000
    """optimiser steps; 0 skips the stage"""
    frames: int = 128
    """frames drawn a step: the batch is frames / T clips"""
    rate: float = 1e-3
    """peak learning rate"""
    continuous: int = 700
    """first steps with unquantised, noisy code vectors: the decoder learns to listen before there are K words, which
    then start from k-means; 0 (for --again lma): the codebook goes on as it is"""
    noise: float = 0.3
    """of those vectors, a channel"""
    horizons: tuple[int, ...] = (2, 4, 8, 15)
    """free-running lengths T; each takes an equal share of the steps after `continuous`, which uses the first"""
    hide_shift: float = 0.3
    """share of the clips in which the RNN is told that the agent stands still: what the legs do must then come from the
    codes, and a code means the same on the spot (agent-centred models only)"""
    teacher_forced: int = 1
    """T_f: the first steps of a clip that start from the real foreground; 1 is free running (the paper: 5) ..."""
    teacher_steps: int = 25_000
    """... and falls to 1 over this many iterations"""
    learn_codes: bool = True
    """False: E, A and the codebook stay as they are, so that codes keep their meaning while C, the RNN and D learn on
    (with --init and --again lma)"""
    jitter: int = 2
    """clips are moved inside their window by up to this many px"""
    mask_weight: float = 4.0
    """extra weight of the agent's pixels, and again of pixels that change"""
    rec_u: float = 1.0
    rec_s: float = 0.5
    """D's coarser scales"""
    mask: float = 0.2
    cycle: float = 0.0
    commitment: float = 0.05
    entropy: float = 0.0
    """EMA codes: weight of the entropy of their use, a bonus for using all (off: revival does it, docs/results.md)"""
    revival: bool = True
    """EMA codes: a code that is used in under 4 % of the steps starts anew from a vector of the most used one"""
    information: float = 0.05
    """Gumbel actions: weight of the mutual information between directions and actions (CADDY)"""
    perceptual: float = 1.0
    """weight of the VGG term; used only with --vgg"""


@dataclass
class GmaStage:
    """Trains M, N, P_f, P_b on pairs of neighbouring frames."""

    model: Glass
    store: Store
    config: GmaConfig
    features: object = None  # VGG features for L_VGG, or None
    name: str = "gma"
    videos: list[Video] = field(init=False)

    def __post_init__(self):
        self.videos = [v for v in self.store.videos if v.split == "train" and v.length >= 2]
        if not self.videos:
            raise ValueError(f"{self.store.root}: no training video of at least 2 frames")

    @property
    def iterations(self) -> int:
        return self.config.iterations

    @property
    def boxes(self) -> list[nn.Module]:
        """What is trained."""
        return self.model.boxes("gma")

    def batch(self, rng: np.random.Generator, iteration: int) -> dict[str, Tensor]:
        """Random pairs that move: frames (B, 2, 3, H, W)."""
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
        return {"frames": frames_to_tensor(np.stack(pairs))}

    def prepare(self, iteration: int, generator: torch.Generator) -> None:
        """Nothing to do between steps."""

    def losses(self, batch: dict[str, Tensor], iteration: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Weighted terms; their sum is the stage's loss."""
        c, frames = self.config, batch["frames"]
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


@dataclass
class LmaStage:
    """Trains E, C, A, the RNN and D, free-running on windows cut by the frozen GMA."""

    model: Glass
    windows: WindowSet
    config: LmaConfig
    features: object = None  # VGG features, or None
    name: str = "lma"

    @property
    def iterations(self) -> int:
        return self.config.iterations

    @property
    def boxes(self) -> list[nn.Module]:
        """What is trained."""
        return self.model.boxes("lma" if self.config.learn_codes else "long")

    def horizon(self, iteration: int) -> int:
        """Free-running length T at an iteration."""
        c = self.config
        if iteration < c.continuous or len(c.horizons) == 1:
            return c.horizons[0]
        share = (iteration - c.continuous) / max(1, c.iterations - c.continuous)
        return c.horizons[min(len(c.horizons) - 1, int(share * len(c.horizons)))]

    def teacher(self, iteration: int, batch: int, steps: int) -> Tensor | None:
        """(B, T) bool: steps that start from the real foreground; None when free running."""
        c = self.config
        left = 1 - min(1.0, iteration / max(1, c.teacher_steps))
        forced = round(1 + (c.teacher_forced - 1) * left)
        return (torch.arange(steps) < forced).expand(batch, steps) if forced > 1 else None

    def batch(self, rng: np.random.Generator, iteration: int) -> dict[str, Tensor]:
        """Random clips of the iteration's horizon T, see :meth:`clips`."""
        return self.clips(rng, self.horizon(iteration))

    def clips(self, rng: np.random.Generator, horizon: int) -> dict[str, Tensor]:
        """layers (B, T + 1, 4, s, s), shifts (B, T, 2) px, inside (B, T + 1, 1, s, s): the part in the frame."""
        side = self.model.config.window
        layers, shifts, inside = [], [], []
        for _ in range(max(1, self.config.frames // horizon)):
            clip = self.windows.sample(rng, horizon + 1)
            if self.windows.whole:
                layers.append(clip.layers)
                shifts.append(clip.position.diff(dim=0))
                inside.append(torch.ones_like(clip.layers[:, 3:]))
                continue
            offset = torch.from_numpy(rng.integers(-self.config.jitter, self.config.jitter + 1, 2))
            corner = (MARGIN + offset).expand(horizon + 1, 2)
            layers.append(crop_windows(clip.layers, corner, side))
            shifts.append(clip.position.diff(dim=0))
            place = clip.position.long() - side // 2 + offset
            inside.append(inside_windows(place, side, self.windows.height, self.windows.width))
        return {"layers": torch.stack(layers), "shifts": torch.stack(shifts), "inside": torch.stack(inside)}

    @torch.no_grad()
    def prepare(self, iteration: int, generator: torch.Generator) -> None:
        """At the end of a continuous phase the codebook starts from k-means over A's vectors."""
        c = self.config
        began = c.continuous > 0 and iteration == c.continuous  # without such a phase the codebook goes on as it is
        if not began or not c.learn_codes or not hasattr(self.model.quantiser, "kmeans"):
            return
        rng = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
        device = next(self.model.parameters()).device
        vectors = []
        for _ in range(16):
            batch = {key: value.to(device) for key, value in self.clips(rng, 8).items()}
            vectors.append(self.model.directions(batch["layers"], batch["shifts"]).flatten(0, 1))
        self.model.quantiser.kmeans(torch.cat(vectors).cpu(), generator=generator)

    def losses(self, batch: dict[str, Tensor], iteration: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Weighted terms; their sum is the stage's loss."""
        c, model = self.config, self.model
        layers, shifts, inside = batch["layers"], batch["shifts"], batch["inside"]
        with torch.set_grad_enabled(c.learn_codes and torch.is_grad_enabled()):
            z = model.directions(layers, shifts)  # (B, T, code)
        terms: dict[str, Tensor] = {}
        if not c.learn_codes:
            codes = model.quantiser.embed(model.quantise(z).index).unflatten(0, z.shape[:2])
        elif iteration < c.continuous:
            codes = model.quantiser.normalise(z)
            codes = codes + c.noise * torch.randn(codes.shape, generator=generator).to(codes)
        else:
            quantised = model.quantise(z)
            codes = quantised.vector.unflatten(0, z.shape[:2])
            normal = model.quantiser.normalise(z).flatten(0, 1)
            if model.config.quantiser == "gumbel":
                terms["information"] = -c.information * model.quantiser.information(z.flatten(0, 1))
            else:
                terms["commitment"] = c.commitment * losses.code_commitment(normal, quantised.nearest)
            if hasattr(model.quantiser, "update"):
                model.quantiser.update(z.flatten(0, 1), generator, c.revival)
                if c.entropy:
                    terms["entropy"] = -c.entropy * model.quantiser.entropy(z.flatten(0, 1))
            elif model.config.quantiser == "plain":
                terms["codebook"] = losses.codebook(normal, quantised.nearest)
        told = shifts
        if c.hide_shift and not self.windows.whole:
            hidden = torch.rand(len(shifts), generator=generator) < c.hide_shift
            told = torch.where(hidden.to(shifts.device)[:, None, None], torch.zeros_like(shifts), shifts)
        teacher = self.teacher(iteration, *shifts.shape[:2])
        teacher = None if teacher is None else teacher.to(shifts.device)
        drawn = model.rollout(layers, told, codes, teacher, scales=True)
        target = layers[:, 1:].transpose(0, 1).flatten(0, 1)  # (T B, 4, s, s)
        before = layers[:, :-1].transpose(0, 1).flatten(0, 1)
        valid = inside[:, 1:].transpose(0, 1).flatten(0, 1)
        weight = (1 + c.mask_weight * (target[:, 3:] + (target[:, 3:] - before[:, 3:]).abs())) * valid
        layer = torch.cat([d.layer for d in drawn])
        logits = torch.cat([d.logits for d in drawn])
        terms["rec_u"] = c.rec_u * losses.weighted_squared(layer, target, weight)
        entropy = F.binary_cross_entropy_with_logits(logits, target[:, 3:].clamp(0, 1), reduction="none")
        terms["mask"] = c.mask * (entropy * weight).mean() / weight.mean()
        for level in range(len(drawn[0].coarse)):
            coarse = torch.cat([d.coarse[level] for d in drawn])
            scale = target.shape[-1] // coarse.shape[-1]
            colour, mask = torch.tanh(coarse[:, :3]), torch.sigmoid(coarse[:, 3:])
            if mask.shape[1]:
                colour = torch.cat([colour, mask], 1)
            wanted = F.avg_pool2d(target[:, : colour.shape[1]], scale)
            terms[f"rec_s{level}"] = c.rec_s * losses.weighted_squared(colour, wanted, F.avg_pool2d(weight, scale))
        if self.features is not None:
            terms["vgg"] = c.perceptual * losses.perceptual(self.features, layer[:, :3], target[:, :3])
        if c.cycle and iteration >= c.continuous:
            again = model.directions(torch.stack([layers[:, 0], drawn[0].layer], 1), shifts[:, :1])
            terms["cycle"] = c.cycle * losses.cycle(codes[:, 0], model.quantiser.normalise(again[:, 0]))
        return terms
