"""The LMA stage: local actions and animation, free-running on layers cut by the frozen GMA (Sec. 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Le, MinLen
from torch import Tensor, nn

from glass_gym.model.glass import Glass
from glass_gym.tensors.geometry import inside_windows

from ..core import losses
from ..core.options import Count, Positive, Rate, Share, Weight
from ..core.stage import Batch, Stage
from ..gma.perceptual import VggFeatures
from ..windows.windows import WindowSet, unpack_layers


@dataclass
class PaperConfig:
    """The LMA stage: local actions and animation."""

    iterations: Count = 3000
    """optimiser steps; 0 skips the stage"""
    frames: Positive = 128
    """frames drawn a step: the batch is frames / T clips"""
    rate: Rate = 1e-3
    """peak learning rate"""
    continuous: Count = 700
    """first steps with unquantised, noisy code vectors: the decoder learns to listen before there are K words, which
    then start from k-means; 0 (for --again lma): the codebook goes on as it is"""
    noise: Weight = 0.3
    """of those vectors, a channel"""
    horizons: Annotated[tuple[Positive, ...], MinLen(1)] = (2, 4, 8, 15)
    """free-running lengths T; each takes an equal share of the steps after `continuous`, which uses the first"""
    hide_shift: Share = 0.3
    """share of the clips in which the RNN is told that the agent stands still: what the legs do must then come from the
    codes, and a code means the same on the spot (agent-centred models only)"""
    teacher_forced: Positive = 1
    """T_f: the first steps of a clip that start from the real foreground; 1 is free running (the paper: 5) ..."""
    teacher_steps: Count = 25_000
    """... and falls to 1 over this many iterations"""
    learn_codes: bool = True
    """False: E, A and the codebook stay as they are, so that codes keep their meaning while C, the RNN and D learn on
    (with --init and --again lma)"""
    jitter: Annotated[int, Ge(0), Le(4)] = 2
    """clips are moved inside their window by up to this many px"""
    mask_weight: Weight = 4.0
    """extra weight of the agent's pixels, and again of pixels that change"""
    rec_u: Weight = 1.0
    rec_s: Weight = 0.5
    """D's coarser scales"""
    mask: Weight = 0.2
    cycle: Weight = 0.0
    commitment: Weight = 0.05
    """L_VQ: directions stay near their codes"""
    perceptual: Weight = 1.0
    """weight of the VGG term; used only with --vgg"""

    def horizon(self, iteration: int) -> int:
        """Free-running length T at an iteration."""
        if iteration < self.continuous or len(self.horizons) == 1:
            return self.horizons[0]
        share = (iteration - self.continuous) / max(1, self.iterations - self.continuous)
        return self.horizons[min(len(self.horizons) - 1, int(share * len(self.horizons)))]


class ClipSampler:
    """Random clips of the agent's layers.

    Args:
        windows: of the training videos.
        config: how many frames a step, and how long.
        side: of the model's window, px.
    """

    def __init__(self, windows: WindowSet, config: PaperConfig, side: int):
        self.windows = windows
        self.config = config
        self.side = side

    def batch(self, rng: np.random.Generator, iteration: int) -> Batch:
        """Clips of the iteration's horizon, see :meth:`clips`."""
        return self.clips(rng, self.config.horizon(iteration))

    def clips(self, rng: np.random.Generator, horizon: int) -> Batch:
        """Random clips.

        Returns:
            layers (B, T + 1, 4, h, w) uint8, shifts (B, T, 2) px, corner (B, T + 1, 2) int64 px, the layers' top-left
            pixels in the frame.
        """
        layers = []
        shifts = []
        corners = []
        for _ in range(max(1, self.config.frames // horizon)):
            clip = self.windows.sample(rng, horizon + 1)
            offset = np.zeros(2, int)
            corner = np.zeros((horizon + 1, 2), np.int64)
            if not self.windows.whole:
                offset = rng.integers(-self.config.jitter, self.config.jitter + 1, 2)
                corner = clip.position.astype(np.int64) - self.side // 2 + offset
            layers.append(self.windows.centred(clip, self.side, offset))
            shifts.append(np.diff(clip.position, axis=0))
            corners.append(corner)
        parts = {"layers": layers, "shifts": shifts, "corner": corners}
        return {name: torch.from_numpy(np.stack(part)) for name, part in parts.items()}


class PaperStage(Stage):
    """Trains E, C, A, its quantiser, the RNN and D.

    Args:
        model: under training; its GMA is not looked at.
        windows: the agent's layers.
        config: weights and schedule.
        features: VGG features for L_VGG, or None.
    """

    name = "lma"

    def __init__(self, model: Glass, windows: WindowSet, config: PaperConfig, features: VggFeatures | None = None):
        self.model = model
        self.windows = windows
        self.config = config
        self.features = features
        self.sampler = ClipSampler(windows, config, model.config.window)

    @property
    def modules(self) -> list[nn.Module]:
        """The parts that are trained: without E and A where codes are kept."""
        return self.model.modules_of("lma" if self.config.learn_codes else "long")

    def clips(self, rng: np.random.Generator, horizon: int) -> Batch:
        """Random clips on the model's device: layers (B, T + 1, 4, h, w) float32, shifts (B, T, 2) px."""
        batch = {name: value.to(self.device) for name, value in self.sampler.clips(rng, horizon).items()}
        return batch | {"layers": unpack_layers(batch["layers"])}

    def teacher(self, iteration: int, batch: int, steps: int) -> Tensor | None:
        """(B, T) bool: steps that start from the real foreground; None when free running."""
        c = self.config
        left = 1 - min(1.0, iteration / max(1, c.teacher_steps))
        forced = round(1 + (c.teacher_forced - 1) * left)
        return (torch.arange(steps) < forced).expand(batch, steps).to(self.device) if forced > 1 else None

    @torch.no_grad()
    def prepare(self, iteration: int, generator: torch.Generator) -> None:
        """At the end of a continuous phase the codebook starts from A's vectors."""
        c = self.config
        if not c.learn_codes or c.continuous <= 0 or iteration != c.continuous:
            return
        rng = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
        vectors = []
        for _ in range(16):
            batch = self.clips(rng, min(8, int(self.windows.lengths.max()) - 1))
            vectors.append(self.model.directions(batch["layers"], batch["shifts"]).flatten(0, 1))
        self.model.quantiser.begin(torch.cat(vectors), generator)

    def _codes(self, z: Tensor, iteration: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Code vectors (B, T, code_channels) of directions, and the quantiser's own losses."""
        c = self.config
        quantiser = self.model.quantiser
        if not c.learn_codes:
            return quantiser.embed(self.model.quantise(z).index).unflatten(0, z.shape[:2]), {}
        if iteration < c.continuous:
            vectors = quantiser.normalise(z)
            return vectors + c.noise * torch.randn(vectors.shape, generator=generator).to(vectors), {}
        flat = z.flatten(0, 1)
        quantised = quantiser(flat)
        terms = quantiser.auxiliary_losses(flat, quantised, c.commitment)
        quantiser.update(flat, generator)
        return quantised.vector.unflatten(0, z.shape[:2]), terms

    def losses(self, batch: Batch, iteration: int, generator: torch.Generator) -> dict[str, Tensor]:
        """L_RECU, L_RECS, L_MSK, L_VQ and, where they have a weight, L_VGG and L_CYC (Sec. 3.2)."""
        return self.draw(batch, iteration, generator)[0]

    def draw(
        self, batch: Batch, iteration: int, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """The terms of :meth:`losses`, what was drawn, and what is real: (T B, 4, h, w) layers each."""
        c = self.config
        model = self.model
        layers = unpack_layers(batch["layers"])
        shifts = batch["shifts"]
        with torch.set_grad_enabled(c.learn_codes and torch.is_grad_enabled()):
            z = model.directions(layers, shifts)  # (B, T, code)
        codes, terms = self._codes(z, iteration, generator)
        observed_shift = shifts
        if c.hide_shift and model.view.follows:
            hidden = torch.rand(len(shifts), generator=generator) < c.hide_shift
            observed_shift = torch.where(hidden.to(shifts.device)[:, None, None], torch.zeros_like(shifts), shifts)
        drawn = model.rollout(layers, observed_shift, codes, self.teacher(iteration, *shifts.shape[:2]), scales=True)
        target = layers[:, 1:].transpose(0, 1).flatten(0, 1)  # (T B, 4, h, w)
        before = layers[:, :-1].transpose(0, 1).flatten(0, 1)
        weight = 1 + c.mask_weight * (target[:, 3:] + (target[:, 3:] - before[:, 3:]).abs())
        if model.view.follows:  # what lies outside the frame does not count
            corner = batch["corner"][:, 1:].transpose(0, 1).flatten(0, 1)
            weight = weight * inside_windows(corner, model.config.window, self.windows.height, self.windows.width)
        layer = torch.cat([d.layer for d in drawn])
        terms["rec_u"] = c.rec_u * losses.weighted_squared(layer, target, weight)
        logits = torch.cat([d.logits for d in drawn])
        terms["mask"] = c.mask * losses.mask_entropy(logits, target[:, 3:], weight)
        for level in range(len(drawn[0].coarse)):
            coarse = torch.cat([d.coarse[level] for d in drawn])
            terms[f"rec_s{level}"] = c.rec_s * losses.rec_s(coarse, target, weight)
        if self.features is not None:
            terms["vgg"] = c.perceptual * losses.perceptual(self.features, layer[:, :3], target[:, :3])
        if c.cycle and iteration >= c.continuous:
            again = model.directions(torch.stack([layers[:, 0], drawn[0].layer], 1), shifts[:, :1])
            terms["cycle"] = c.cycle * losses.cycle(codes[:, 0], model.quantiser.normalise(again[:, 0]))
        return terms, layer, target
