"""The two stages of the token architecture: a vocabulary of poses, then local actions that say which comes next."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from glass_gym.glass import SHIFT_UNIT
from glass_gym.token_glass import TokenGlass
from training import losses
from training.stages.base import Batch, Stage
from training.windows import WindowSet, crop_layers, pack_layers, unpack_layers


@dataclass
class PoseConfig:
    """The pose stage: a vocabulary of P poses, and the decoder that draws them (architecture token)."""

    iterations: int = 4000
    """optimiser steps; 0 skips the stage"""
    batch: int = 48
    """pairs of windows of one video a step: what the agent looks like is read off one, the pose off the other"""
    rate: float = 1e-3
    """peak learning rate"""
    continuous: float = 0.4
    """share of the steps with unquantised, noisy poses, before the vocabulary starts from k-means"""
    noise: float = 0.2
    """of those vectors, a channel"""
    mask_weight: float = 4.0
    """extra weight of the agent's pixels"""
    mask: float = 0.2
    commitment: float = 0.1


class WindowPairs:
    """Two windows of one video: (B, 2, 4, s, s) uint8.

    Args:
        windows: of the training videos.
        config: how many.
        side: of the model's window, px.
    """

    def __init__(self, windows: WindowSet, config: PoseConfig, side: int):
        self.windows = windows
        self.config = config
        self.side = side

    def batch(self, rng: np.random.Generator, iteration: int) -> Batch:
        """Random pairs, any two frames of a video."""
        video = rng.choice(len(self.windows.lengths), self.config.batch, p=self._share)
        length = self.windows.lengths[video]
        pair = self.windows.starts[video] + (rng.random((2, len(video))) * length).astype(int)
        layers = crop_layers(self.windows, pair.T.flatten(), self.side)
        return {"layers": pack_layers(layers).unflatten(0, (-1, 2))}

    @property
    def _share(self) -> np.ndarray:
        return self.windows.lengths / self.windows.lengths.sum()


class PoseStage(Stage):
    """Trains E, Q, the vocabulary and D to draw any window of a video with the looks of any other.

    Args:
        model: under training.
        windows: the agent's layers.
        config: weights and schedule.
    """

    name = "pose"
    model: TokenGlass

    def __init__(self, model: TokenGlass, windows: WindowSet, config: PoseConfig):
        self.model = model
        self.windows = windows
        self.config = config
        self.sampler = WindowPairs(windows, config, model.config.window)

    @property
    def _quantised_from(self) -> int:
        return int(self.config.continuous * self.config.iterations)

    @torch.no_grad()
    def prepare(self, iteration: int, generator: torch.Generator) -> None:
        """After the continuous phase the vocabulary starts from Q's vectors."""
        if iteration != self._quantised_from:
            return
        rng = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
        vectors = []
        for _ in range(80):
            layers = unpack_layers(self.sampler.batch(rng, 0)["layers"].flatten(0, 1).to(self.device))
            vectors.append(self.model.pose_encoder(layers))
        self.model.poses.begin(torch.cat(vectors), generator)

    def losses(self, batch: Batch, iteration: int, generator: torch.Generator) -> dict[str, Tensor]:
        """L_RECU and L_MSK of windows drawn with another window's looks, and the vocabulary's L_VQ."""
        c = self.config
        model = self.model
        layers = unpack_layers(batch["layers"])
        seen = layers[:, 0]
        target = layers[:, 1]
        z = model.pose_encoder(layers.flatten(0, 1))
        if iteration < self._quantised_from:
            vectors = model.poses.normalise(z)
            vectors = vectors + c.noise * torch.randn(vectors.shape, generator=generator).to(vectors)
            terms = {}
        else:
            quantised = model.poses(z)
            vectors = quantised.vector
            terms = model.poses.auxiliary_losses(z, quantised, c.commitment)
            if torch.is_grad_enabled():
                model.poses.update(z, generator)
        first, pose = vectors.unflatten(0, (-1, 2)).unbind(1)
        looks, _, _ = model.encoder(seen.contiguous(memory_format=torch.channels_last))
        drawn = model.decoder(looks, first, pose)
        weight = 1 + c.mask_weight * target[:, 3:]
        terms["rec_u"] = losses.weighted_squared(drawn.layer, target, weight)
        terms["mask"] = c.mask * losses.mask_entropy(drawn.logits, target[:, 3:], weight)
        return terms


@dataclass
class TokenConfig:
    """The LMA stage of architecture token: local actions, and which pose comes next."""

    iterations: int = 2500
    """optimiser steps"""
    batch: int = 48
    """clips a step"""
    steps: int = 16
    """T, steps of a clip"""
    rate: float = 2e-3
    """peak learning rate"""
    continuous: float = 0.25
    """share of the steps with unquantised, noisy code vectors, before the codebook starts from k-means"""
    noise: float = 0.3
    """of those vectors, a channel"""
    hide_shift: float = 0.1
    """share of the clips in which the RNN is told that the agent stands still"""
    blind: float = 0.0
    """weight of telling the poses to come from the code alone, so that a code means the same whatever went before: in
    Tennis it turns codes into poses to stand in, and walks get worse ..."""
    blind_steps: int = 4
    """... and so many of them: so it names what the agent does, not one pose"""
    free: float = 0.5
    """share of the steps that start from the pose that was predicted, not from the real one"""
    commitment: float = 0.05


class TokenClips:
    """Clips of poses: frames (B, T + 1) int64 and shifts (B, T, 2) px.

    Args:
        windows: of the training videos.
        config: how many, and how long.
    """

    def __init__(self, windows: WindowSet, config: TokenConfig):
        self.windows = windows
        self.config = config
        self.steps = min(config.steps, int(windows.lengths.max()) - 1)
        self.fits = np.flatnonzero(windows.lengths > self.steps)

    def batch(self, rng: np.random.Generator, iteration: int) -> Batch:
        """Random clips."""
        video = self.fits[rng.integers(len(self.fits), size=self.config.batch)]
        room = self.windows.lengths[video] - self.steps
        start = self.windows.starts[video] + (rng.random(len(video)) * room).astype(int)
        frames = start[:, None] + np.arange(self.steps + 1)
        shifts = np.diff(self.windows.position[frames].astype(np.float32), axis=1)
        return {"frames": torch.from_numpy(frames), "shifts": torch.from_numpy(shifts)}


@torch.no_grad()
def all_tokens(model: TokenGlass, windows: WindowSet) -> Tensor:
    """The poses (N,) int64 in all windows, on the model's device."""
    device = next(model.parameters()).device
    model.pose_encoder.eval()
    parts = np.array_split(np.arange(len(windows.layers)), max(1, len(windows.layers) // 1024))
    side = model.config.window
    return torch.cat([model.tokens(crop_layers(windows, part, side).to(device)) for part in parts])


class TokenLmaStage(Stage):
    """Trains A, the codebook, the RNN and the prior on clips of poses, with cross-entropy.

    Args:
        model: under training; its vocabulary is done.
        windows: the agent's layers.
        config: weights and schedule.
    """

    name = "lma"
    model: TokenGlass

    def __init__(self, model: TokenGlass, windows: WindowSet, config: TokenConfig):
        self.model = model
        self.windows = windows
        self.config = config
        self.sampler = TokenClips(windows, config)
        self.tokens = all_tokens(model, windows)

    @property
    def _quantised_from(self) -> int:
        return int(self.config.continuous * self.config.iterations)

    def _vectors(self, batch: Batch) -> Tensor:
        return self.model.poses.embed(self.tokens[batch["frames"]])

    @torch.no_grad()
    def prepare(self, iteration: int, generator: torch.Generator) -> None:
        """After the continuous phase the codebook starts from A's vectors."""
        if iteration != self._quantised_from:
            return
        rng = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
        batches = [self.sampler.batch(rng, 0) for _ in range(16)]
        vectors = [self.model.action(self._vectors(b | {"frames": b["frames"].to(self.device)})) for b in batches]
        self.model.quantiser.begin(torch.cat(vectors).flatten(0, 1), generator)

    def losses(self, batch: Batch, iteration: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Cross-entropies of the next pose, of the poses to come from the code alone, and of the code (the prior)."""
        c = self.config
        model = self.model
        quantiser = model.quantiser
        tokens = self.tokens[batch["frames"]]  # (B, T + 1)
        poses = self._vectors(batch)
        z = model.action(poses).flatten(0, 1)
        terms = {}
        index = None
        if iteration < self._quantised_from:
            codes = quantiser.normalise(z)
            codes = codes + c.noise * torch.randn(codes.shape, generator=generator).to(codes)
        else:
            quantised = quantiser(z)
            codes = quantised.vector
            index = quantised.index
            terms = quantiser.auxiliary_losses(z, quantised, c.commitment)
            if torch.is_grad_enabled():
                quantiser.update(z, generator)
        batches, steps = batch["shifts"].shape[:2]
        codes = codes.unflatten(0, (batches, steps))
        told = batch["shifts"] / SHIFT_UNIT
        hidden_shift = torch.rand(batches, generator=generator) < c.hide_shift
        shifts = torch.where(hidden_shift.to(told.device)[:, None, None], torch.zeros_like(told), told)
        hidden = model.dynamics.start(batches, poses)
        logits = []
        priors = []
        pose = poses[:, 0]
        for t in range(steps):
            hidden = model.dynamics.remember(pose, hidden)
            logits.append(model.dynamics(pose, hidden, shifts[:, t], codes[:, t]))
            if model.prior is not None:
                priors.append(model.prior(pose, hidden.detach(), told[:, t : t + 1])[:, 0])
            free = torch.rand(batches, generator=generator) < c.free
            predicted = model.poses.embed(logits[-1].detach().argmax(1))
            pose = torch.where(free.to(pose.device)[:, None], predicted, poses[:, t + 1])
        terms["next_pose"] = F.cross_entropy(torch.stack(logits, 1).flatten(0, 1), tokens[:, 1:].flatten())
        if c.blind:
            alone = self._alone(codes)  # (B, T, P)
            ahead = min(c.blind_steps, steps)
            terms["blind"] = (
                c.blind
                * sum(
                    F.cross_entropy(alone[:, : steps - k].flatten(0, 1), tokens[:, 1 + k :].flatten())
                    for k in range(ahead)
                )
                / ahead
            )
        if index is not None and priors:
            terms["prior"] = F.nll_loss(torch.stack(priors, 1).flatten(0, 1), index)
        return terms

    def _alone(self, codes: Tensor) -> Tensor:
        """Logits (B, T, P) of a pose, of code vectors (B, T, code_channels) alone."""
        flat = codes.flatten(0, 1)
        nothing = flat.new_zeros(len(flat), self.model.poses.codebook.shape[1])
        hidden = self.model.dynamics.start(len(flat), flat)
        said = self.model.dynamics(nothing, hidden, flat.new_zeros(len(flat), 2), flat)
        return said.unflatten(0, codes.shape[:2])
