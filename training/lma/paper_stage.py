"""The paper's LMA stage (Sec. 3.2): infers local actions and animates whole-frame foregrounds, free running."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from glass_gym.model.paper import PaperLMA
from glass_gym.tensors.convert import unpack_layers

from ..config import PaperConfig
from ..core import losses, sheets
from ..core.progress import each
from ..core.stage import Batch, Stage
from ..gma.perceptual import VggFeatures
from ..windows.windows import WindowSet

TEACHER_STEPS = 25_000  # Optimiser steps over which T_f falls to 1.
COMMITMENT = 0.05  # Weight of L_VQ's commitment term; the paper: 0.25.
NOISE = 0.3  # Standard deviation, per channel, of the noise on unquantised code vectors.
MASK_WEIGHT = 4.0  # Pixels have weight 1, plus this on the agent, plus this where the mask changes.
REC_S, MASK, PERCEPTUAL = 0.5, 0.2, 1.0  # Weights of L_RECS, L_MSK and L_VGG.


def horizon(config: PaperConfig, iteration: int) -> int:
    """The clip length T at a step of the stage, by `config.horizons`."""
    if iteration < config.continuous or len(config.horizons) == 1:
        return config.horizons[0]
    share = (iteration - config.continuous) / max(1, config.iterations - config.continuous)
    return config.horizons[min(len(config.horizons) - 1, int(share * len(config.horizons)))]


class ClipSampler:
    """Random clips of whole-frame layers.

    Args:
        windows: whole-frame layers of the training videos.
        config: frames per step, and horizons.
    """

    def __init__(self, windows: WindowSet, config: PaperConfig):
        self.windows = windows
        self.config = config

    def batch(self, rng: np.random.Generator, iteration: int) -> Batch:
        """Clips, see :meth:`clips`, as long as the horizon at this step."""
        return self.clips(rng, horizon(self.config, iteration))

    def clips(self, rng: np.random.Generator, steps: int) -> Batch:
        """Random clips of T = `steps` steps: layers (B, T + 1, 4, H, W) uint8, shifts (B, T, 2) px."""
        clips = [self.windows.sample(rng, steps + 1) for _ in range(max(1, self.config.frames // steps))]
        layers = np.stack([clip.layers for clip in clips])
        shifts = np.stack([np.diff(clip.position, axis=0) for clip in clips])
        return {"layers": torch.from_numpy(layers), "shifts": torch.from_numpy(shifts)}


class PaperStage(Stage):
    """Trains E, C, A, its quantiser, the RNN and D.

    Args:
        model: the LMA to train.
        windows: whole-frame layers of the training videos.
        config: loss weights and schedule.
        features: VGG features for L_VGG, or None.
        shown: clips for sample sheets (:func:`training.core.sheets.rollout_sheet`), or None.
    """

    name = "lma"
    rate = 1e-3
    model: PaperLMA

    def __init__(
        self,
        model: PaperLMA,
        windows: WindowSet,
        config: PaperConfig,
        features: VggFeatures | None = None,
        shown: dict[str, Tensor] | None = None,
    ):
        self.model = model
        self.windows = windows
        self.config = config
        self.features = features
        self.shown = shown
        self.sampler = ClipSampler(windows, config)

    def teacher(self, iteration: int, batch: int, steps: int) -> Tensor | None:
        """Which steps start from the real foreground: (`batch`, `steps`) bool; None in free running."""
        c = self.config
        left = 1 - min(1.0, iteration / TEACHER_STEPS)
        forced = round(1 + (c.teacher_forced - 1) * left)
        return (torch.arange(steps) < forced).expand(batch, steps).to(self.device) if forced > 1 else None

    @torch.no_grad()
    def prepare(self, iteration: int, generator: torch.Generator) -> None:
        """At the end of the continuous phase, initialise the codebook by k-means of A's directions."""
        if self.config.continuous <= 0 or iteration != self.config.continuous:
            return
        rng = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
        vectors = []
        for _ in each(range(16), "code vectors"):
            batch = self.sampler.clips(rng, min(8, int(self.windows.lengths.max()) - 1))
            layers, shifts = unpack_layers(batch["layers"].to(self.device)), batch["shifts"].to(self.device)
            vectors.append(self.model.directions(layers, shifts).flatten(0, 1))
        self.model.quantiser.begin(torch.cat(vectors), generator)

    def _codes(self, z: Tensor, iteration: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Code vectors (B, T, code_channels) for directions of that shape, and the quantiser's losses (L_VQ)."""
        quantiser = self.model.quantiser
        if iteration < self.config.continuous:
            vectors = quantiser.normalise(z)
            return vectors + NOISE * torch.randn(vectors.shape, generator=generator).to(vectors), {}
        flat = z.flatten(0, 1)
        quantised = quantiser(flat)
        terms = quantiser.auxiliary_losses(flat, quantised, COMMITMENT)
        quantiser.update(flat, generator)
        return quantised.vector.unflatten(0, z.shape[:2]), terms

    def losses(self, batch: Batch, iteration: int, generator: torch.Generator) -> dict[str, Tensor]:
        """L_RECU, L_RECS, L_MSK, L_VQ; L_VGG with features; L_CYC if it has a weight (Sec. 3.2)."""
        c = self.config
        model = self.model
        layers = unpack_layers(batch["layers"])
        shifts = batch["shifts"]
        z = model.directions(layers, shifts)  # (B, T, code)
        codes, terms = self._codes(z, iteration, generator)
        drawn = model.rollout(layers, shifts, codes, self.teacher(iteration, *shifts.shape[:2]))
        target = layers[:, 1:].transpose(0, 1).flatten(0, 1)  # (T B, 4, H, W)
        before = layers[:, :-1].transpose(0, 1).flatten(0, 1)
        weight = 1 + MASK_WEIGHT * (target[:, 3:] + (target[:, 3:] - before[:, 3:]).abs())
        layer = torch.cat([d.layer for d in drawn])
        terms["rec_u"] = losses.weighted_squared(layer, target, weight)
        logits = torch.cat([d.logits for d in drawn])
        terms["mask"] = MASK * losses.mask_entropy(logits, target[:, 3:], weight)
        for level in range(len(drawn[0].coarse)):
            coarse = torch.cat([d.coarse[level] for d in drawn])
            terms[f"rec_s{level}"] = REC_S * losses.rec_s(coarse, target, weight)
        if self.features is not None:
            terms["vgg"] = PERCEPTUAL * losses.perceptual(self.features, layer[:, :3], target[:, :3])
        if c.cycle and iteration >= c.continuous:
            again = model.directions(torch.stack([layers[:, 0], drawn[0].layer], 1), shifts[:, :1])
            terms["cycle"] = c.cycle * losses.cycle(codes[:, 0], model.quantiser.normalise(again[:, 0]))
        return terms

    def sheet(self, model: PaperLMA, iteration: int) -> np.ndarray | None:
        """As :meth:`Stage.sheet`; code vectors are not quantised during the continuous phase."""
        quantised = iteration > self.config.continuous
        return None if self.shown is None else sheets.rollout_sheet(model, self.shown, quantised)
