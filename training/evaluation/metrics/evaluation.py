"""An evaluation: a world, held-out videos, and the rollouts that figures and pictures share, each made once."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from glass_gym.model.glass import Glass
from glass_gym.model.shift import translate
from glass_gym.tensors.convert import to_bytes
from glass_gym.worlds.checkpoint import World

from ...data.store import Store, Video, frames_to_tensor
from ...gma.perceptual import VggFeatures
from .held_out import HORIZON, Clips, analyse
from .probe import Play, SimulatorProbe, random_play

EFFECT_STEPS = 12
"""Repetitions of a code whose effect is measured."""


@dataclass
class RolledOut:
    """Clips drawn under their own inferred actions: codes (N, T), free running and one step (N, T, 4, h, w)."""

    codes: torch.Tensor
    free: torch.Tensor
    one_step: torch.Tensor


@dataclass
class Transferred:
    """Actions of `donor` clips, played from the first frames of `target` clips, as `drawn`; codes (N, T)."""

    donor: torch.Tensor
    target: torch.Tensor
    drawn: torch.Tensor
    shifts: torch.Tensor
    codes: torch.Tensor


def infer_actions(model: Glass, layers: torch.Tensor, shifts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes (N, T) of clips (N, T + 1, 4, h, w) under shifts (N, T, 2) px, and their vectors (N, T, C)."""
    found = model.lma.quantise(model.lma.directions(layers, shifts))
    return found.index.unflatten(0, shifts.shape[:2]), found.vector.unflatten(0, shifts.shape[:2])


def roll_out(
    model: Glass, layers: torch.Tensor, shifts: torch.Tensor, position: torch.Tensor | None = None
) -> RolledOut:
    """Draw clips (N, T + 1, 4, h, w) under their own inferred actions; `position` (N, 2) px is that of frame 0."""
    codes, vectors = infer_actions(model, layers, shifts)
    always = torch.ones(shifts.shape[:2], dtype=torch.bool)
    free, once = (
        torch.stack([d.layer for d in model.lma.rollout(layers, shifts, vectors, teacher, position=position)], 1)
        for teacher in (None, always)
    )
    return RolledOut(codes, free, once)


@dataclass(eq=False)
class Evaluation:
    """The input of all metrics and figures.

    Attributes:
        world: is measured; only its GMA if it has no start frames.
        store: of the videos.
        videos: held out.
        features: VGG features for distances, or None.
        rollouts: of random play.
        seed: of random play.
        networks: also measure LPIPS and FID.
        split: of the videos from which pictures are made.
    """

    world: World
    store: Store
    videos: Sequence[Video]
    features: VggFeatures | None = None
    rollouts: int = 256
    seed: int = 0
    networks: bool = False
    split: str = "test"

    @property
    def model(self) -> Glass:
        """The world's."""
        return self.world.model

    @functools.cached_property
    def _analysed(self) -> tuple[dict[str, Any], Clips | None]:
        known = self.world.statistics.get("grid")
        grid = (float(known[0]), float(known[1])) if known else None
        return analyse(self.model, self.store, self.videos, codes=len(self.world.start_frames) > 0, grid=grid)

    @property
    def gma(self) -> dict[str, Any]:
        """Figures of segmentation and shifts."""
        return self._analysed[0]

    @property
    def clips(self) -> Clips:
        """The clips that LMA is measured on."""
        clips = self._analysed[1]
        assert clips is not None
        return clips

    @functools.cached_property
    def probe(self) -> SimulatorProbe:
        """The simulator and its detectors."""
        return SimulatorProbe.build(self.world, self.store, self.features)

    @functools.cached_property
    def rolled_out(self) -> RolledOut:
        """The clips, drawn under their own inferred actions."""
        return roll_out(self.model, self.clips.layers, self.clips.shifts, self.clips.positions[:, 0])

    @functools.cached_property
    def reconstruction(self) -> tuple[np.ndarray, np.ndarray]:
        """Whole frames of the clips, drawn free running, and the real ones, (N, T, H, W, 3) uint8 each.

        The agent is drawn over the inpainted first background, moved by the estimated shifts.
        """
        drawn = []
        real = []
        for n, start in enumerate(self.clips.starts):
            frames = self.store.frames[start : start + HORIZON + 1]
            first = frames_to_tensor(frames[:1])
            background = (
                self.model.gma.inpaint_background(first, self.model.gma.mask(first)).float().expand(HORIZON, -1, -1, -1)
            )
            total = self.clips.background[n].cumsum(0)
            if total.abs().max() >= 0.25:
                background = translate(background, total, "border")
            positions = self.clips.positions[n, 1:]
            made = self.model.lma.view.draw(self.rolled_out.free[n], to_bytes(background), positions)
            drawn.append(made.permute(0, 2, 3, 1).numpy())
            real.append(np.asarray(frames[1:]))
        return np.stack(drawn), np.stack(real)

    @functools.cached_property
    def transferred(self) -> Transferred:
        """Actions inferred from clips, played from the first frames of other clips; 64 pairs at most."""
        count = min(64, len(self.clips.layers))
        donor = self.clips.layers[:count]
        shifts = self.clips.shifts[:count]
        target = donor.roll(count // 2, 0)
        begins = self.clips.positions[:count, 0].roll(count // 2, 0)
        codes, vectors = infer_actions(self.model, donor, shifts)
        drawn = torch.stack([d.layer for d in self.model.lma.rollout(target, shifts, vectors, position=begins)], 1)
        return Transferred(donor, target, drawn, shifts, codes)

    @functools.cached_property
    def code_clips(self) -> list[torch.Tensor]:
        """Each code 12 times from every start with zero shift: (S, 13, 4, h, w) each."""
        start = self.probe.start
        out = []
        for code in range(self.world.config.codes):
            state = start
            layers = [start.layer]
            for _ in range(EFFECT_STEPS):
                state = self.probe.go(state, [("stay", code)])
                layers.append(state.layer)
            out.append(torch.stack(layers, 1))
        return out

    @functools.cached_property
    def play(self) -> Play:
        """Random play."""
        return random_play(self.probe, self.rollouts, self.seed)
