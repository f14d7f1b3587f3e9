"""An evaluation: a world, held-out videos, and the rollouts that figures and pictures share, each made once."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glass_gym.model.glass import Glass
from glass_gym.model.shift import translate
from glass_gym.tensors.convert import to_bytes
from glass_gym.worlds.checkpoint import World
from glass_gym.worlds.codes import play_code

from ...data.store import Store, Video, frames_to_tensor
from ...decoding.decode import grid_of_world
from ...gma.perceptual import VggFeatures
from .held_out import HORIZON, Clips, analyse
from .probe import Play, SimulatorProbe, random_play


@dataclass
class RolledOut:
    """Clips drawn under their own inferred actions: codes (N, T), free running and one step (N, T, 4, h, w)."""

    codes: Tensor
    free: Tensor
    one_step: Tensor


@dataclass
class Transferred:
    """Actions of `donor` clips, played from the first frames of `target` clips, as `drawn`; codes (N, T)."""

    donor: Tensor
    target: Tensor
    drawn: Tensor
    shifts: Tensor
    codes: Tensor


@dataclass(eq=False)
class Evaluation:
    """The input of all metrics and figures; properties that take long are computed once."""

    world: World  # is measured; only its GMA if it has no start frames
    store: Store
    videos: Sequence[Video]  # held out
    features: VggFeatures | None = None  # for distances
    rollouts: int = 256  # of random play
    seed: int = 0  # of random play
    networks: bool = False  # also measure LPIPS and FID
    split: str = "test"  # of the videos from which pictures are made

    @property
    def model(self) -> Glass:
        """The world's."""
        return self.world.model

    @functools.cached_property
    def _analysed(self) -> tuple[dict[str, Any], Clips]:
        trained = len(self.world.start_frames) > 0
        return analyse(self.model, self.store, self.videos, codes=trained, grid=grid_of_world(self.world))

    @property
    def gma(self) -> dict[str, Any]:
        """Figures of segmentation and shifts."""
        return self._analysed[0]

    @property
    def clips(self) -> Clips:
        """The clips that LMA is measured on."""
        return self._analysed[1]

    @functools.cached_property
    def probe(self) -> SimulatorProbe:
        """The simulator and its detectors."""
        return SimulatorProbe.build(self.world, self.store, self.features)

    def infer_actions(self, layers: Tensor, shifts: Tensor) -> tuple[Tensor, Tensor]:
        """Codes (N, T) of clips (N, T + 1, 4, h, w) under shifts (N, T, 2) px, and their vectors (N, T, C)."""
        found = self.model.lma.quantise(self.model.lma.directions(layers, shifts))
        return found.index.unflatten(0, shifts.shape[:2]), found.vector.unflatten(0, shifts.shape[:2])

    @functools.cached_property
    def rolled_out(self) -> RolledOut:
        """The clips, drawn under their own inferred actions."""
        layers, shifts, position = self.clips.layers, self.clips.shifts, self.clips.positions[:, 0]
        codes, vectors = self.infer_actions(layers, shifts)
        always = torch.ones(shifts.shape[:2], dtype=torch.bool)
        rollouts = (self.model.lma.rollout(layers, shifts, vectors, t, position=position) for t in (None, always))
        return RolledOut(codes, *(torch.stack([d.layer for d in drawn], 1) for drawn in rollouts))

    @functools.cached_property
    def reconstruction(self) -> tuple[np.ndarray, np.ndarray]:
        """Whole frames of the clips, drawn free running, and the real ones, (N, T, H, W, 3) uint8 each.

        The agent is drawn over the inpainted first background, moved by the estimated shifts.
        """
        drawn, real = [], []
        gma = self.model.gma
        for n, start in enumerate(self.clips.starts):
            frames = self.store.frames[start : start + HORIZON + 1]
            first = frames_to_tensor(frames[:1])
            background = gma.segment(first)[2].expand(HORIZON, -1, -1, -1)
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
        donor, shifts = self.clips.layers[:count], self.clips.shifts[:count]
        target = donor.roll(count // 2, 0)
        begins = self.clips.positions[:count, 0].roll(count // 2, 0)
        codes, vectors = self.infer_actions(donor, shifts)
        drawn = torch.stack([d.layer for d in self.model.lma.rollout(target, shifts, vectors, position=begins)], 1)
        return Transferred(donor, target, drawn, shifts, codes)

    @functools.cached_property
    def code_clips(self) -> list[Tensor]:
        """Each code 12 times from every start with zero shift: (S, 13, 4, h, w) each."""
        codes, probe = range(self.world.config.codes), self.probe
        films = (play_code(probe.simulator, probe.start, code) for code in codes)
        return [torch.stack([state.layer for state in states], 1) for states in films]

    @functools.cached_property
    def play(self) -> Play:
        """Random play."""
        return random_play(self.probe, self.rollouts, self.seed)
