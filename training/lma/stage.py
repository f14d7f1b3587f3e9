"""The two stages of the token architecture: a vocabulary of poses, then local actions that say which comes next."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from glass_gym.model.token_glass import PoseLMA
from torch import Tensor
from torch.nn import functional as F

from glass_gym.model.glass import SHIFT_UNIT
from glass_gym.model.gma import Drawn

from ..core import losses
from ..core.options import Count, Positive, Rate, Share, Weight
from ..core.stage import Batch, Stage
from ..poses.identity import PoseTeacher, teach_poses
from ..windows.windows import WindowSet, crop_layers, iter_batches, pack_layers, unpack_layers
from .clusters import ALONE, informative_pose_clusters
from .mirror import mirror_images

SHARPNESS = 3.0
"""Of A's choice among the codes, over its cosines."""


@dataclass
class PoseConfig:
    """The pose stage: a vocabulary of P poses, and the decoder that draws them (architecture token)."""

    iterations: Count | None = None
    """optimiser steps; 0 skips the stage. Default: 3000, or for little footage every other frame's number, at least
    1200"""
    batch: Positive | None = None
    """pairs of windows of one video a step: what the agent looks like is read off one, the pose off the other. Default:
    32, of windows larger than 64 px less"""
    rate: Rate = 1e-3
    """peak learning rate"""
    continuous: Share = 0.4
    """share of the steps with unquantised, noisy poses, before the vocabulary starts from k-means"""
    noise: Weight = 0.2
    """of those vectors, a channel"""
    mask_weight: Weight = 4.0
    """extra weight of the agent's pixels"""
    mask: Weight = 0.2
    commitment: Weight = 0.1
    taught: Share = 0.2
    """share of the steps, the first ones with a vocabulary, in which Q learns to call a pose the same whoever it is,
    where words told that, too: so nobody's hair grows because of the word that comes next; 0: off"""


class WindowPairs:
    """Two windows of one video: (B, 2, 4, s, s) uint8, and where the second one is, (B, 2) px.

    Args:
        windows: of the training videos.
        config: how many (`batch`).
        side: of the model's window, px.
    """

    def __init__(self, windows: WindowSet, config: Any, side: int):
        self.windows = windows
        self.config = config
        self.side = side

    def batch(self, rng: np.random.Generator, iteration: int) -> Batch:
        """Random pairs."""
        pair = self.pairs(rng)
        layers = crop_layers(self.windows, pair.T.flatten(), self.side)
        places = torch.from_numpy(self.windows.position[pair[1]].astype(np.float32))
        return {"layers": pack_layers(layers).unflatten(0, (-1, 2)), "places": places}

    def pairs(self, rng: np.random.Generator) -> np.ndarray:
        """Any two frames of a video: (2, B) int64."""
        video = rng.choice(len(self.windows.lengths), self.config.batch, p=self._share)
        length = self.windows.lengths[video]
        return self.windows.starts[video] + (rng.random((2, len(video))) * length).astype(int)

    @property
    def _share(self) -> np.ndarray:
        return self.windows.lengths / self.windows.lengths.sum()


def drawing_losses(drawn: Drawn, target: Tensor, config: Any) -> dict[str, Tensor]:
    """L_RECU and L_MSK of a drawn foreground against layers (B, 4, s, s), by a config's `mask_weight` and `mask`."""
    weight = 1 + config.mask_weight * target[:, 3:]
    return {
        "rec_u": losses.weighted_squared(drawn.layer, target, weight),
        "mask": config.mask * losses.mask_entropy(drawn.logits, target[:, 3:], weight),
    }


class PoseStage(Stage):
    """Trains E, Q, the vocabulary and D to draw any window of a video with the looks of any other.

    Args:
        model: under training.
        windows: the agent's layers.
        config: weights and schedule.
    """

    name = "pose"
    model: PoseLMA

    def __init__(self, model: PoseLMA, windows: WindowSet, config: PoseConfig):
        self.model = model
        self.windows = windows
        self.config = config
        if config.iterations is None:
            config.iterations = int(np.clip(len(windows.layers) // 2, 1200, 3000))
        if config.batch is None:
            config.batch = int(np.clip(32 * (64 / model.config.window) ** 2, 8, 32))
        self.sampler = WindowPairs(windows, config, model.config.window)
        self.namer: PoseTeacher | None = None

    @property
    def _quantised_from(self) -> int:
        return int(self.config.continuous * self.iterations)

    @property
    def _taught_until(self) -> int:
        return self._quantised_from + int(self.config.taught * self.iterations)

    @torch.no_grad()
    def prepare(self, iteration: int, generator: torch.Generator) -> None:
        """After the continuous phase the vocabulary starts from Q's vectors; once more, if its words tell who it is."""
        if iteration == self._quantised_from:
            rng = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
            vectors = []
            for _ in range(80):
                layers = unpack_layers(self.sampler.batch(rng, 0)["layers"].flatten(0, 1).to(self.device))
                vectors.append(self.model.pose_encoder(layers))
            self.model.poses.begin(torch.cat(vectors), generator)
            if self.config.taught:
                self.namer = teach_poses(self.model, self.windows, generator)
        if iteration == self._taught_until:
            self.namer = None

    def losses(self, batch: Batch, iteration: int, generator: torch.Generator) -> dict[str, Tensor]:
        """L_RECU and L_MSK of windows drawn with another window's looks, and the vocabulary's L_VQ."""
        c = self.config
        model = self.model
        layers = unpack_layers(batch["layers"])
        seen = layers[:, 0]
        target = layers[:, 1]
        z = model.pose_encoder(layers.flatten(0, 1))
        terms = {}
        if iteration < self._quantised_from:
            vectors = model.poses.normalise(z)
            vectors = vectors + c.noise * torch.randn(vectors.shape, generator=generator).to(vectors)
        elif self.namer is not None:
            vectors = model.poses.embed(self.namer(layers.flatten(0, 1)))
            terms = {"taught": (model.poses.normalise(z) - vectors).square().mean()}
        else:
            quantised = model.poses(z)
            vectors = quantised.vector
            terms = model.poses.auxiliary_losses(z, quantised, c.commitment)
            if torch.is_grad_enabled():
                model.poses.update(z, generator)
        first, pose = vectors.unflatten(0, (-1, 2)).unbind(1)
        looks = model.encoder(seen)
        drawn = model.decoder(looks, first, pose, batch["places"])
        return terms | drawing_losses(drawn, target, c)

    def state_dict(self) -> dict[str, Tensor]:
        """The namer's, while Q is taught."""
        return {} if self.namer is None else self.namer.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """The inverse of :meth:`state_dict`."""
        self.namer = PoseTeacher(self.model)
        self.namer.load_state_dict(state)


@dataclass
class LmaConfig:
    """The LMA stage of architecture token: local actions, and which pose comes next."""

    iterations: Count | None = None
    """optimiser steps. Default: 1500, for little footage three for ten frames, at least 800, for much one for twenty:
    more learns by heart"""
    batch: Positive = 32
    """clips a step"""
    steps: Positive = 16
    """T, steps of a clip"""
    rate: Rate = 2e-3
    """peak learning rate"""
    hide_shift: Share = 0.1
    """share of the clips in which the RNN is told that the agent stands still"""
    blind: Weight = 0.3
    """weight of telling the poses to come from the code alone: so it means the same whatever went before ..."""
    blind_steps: Positive = 1
    """... and so many of them: so it says what the agent does, not which pose comes next"""
    kinds: Weight = 1.0
    """weight, at first, of a code being the kind of the pose that comes next (K kinds that tell what pose and shift
    leave open): so codes start with a meaning of their own, and what they begin as does not hang on the seed ..."""
    kinds_until: Share = 0.3
    """... and share of the steps over which that weight falls to nothing"""
    alone: Weight = ALONE
    """of those kinds, weight of looking alike whatever went before: less tells more of what comes next, more means the
    same word always"""
    alike: Weight = 1.0
    """a pose that looks like the one to come is told, too, by a normal distribution over the distance of their vectors,
    so many times as wide as poses usually are from their nearest: codes need not say what nobody sees; 0: off"""
    mirror: bool = True
    """a pose may be told as well as its mirror image: so a code means the same whichever way the agent faces"""
    free: Share = 1.0
    """share of the steps that start from the pose that was predicted, not from the real one"""
    sure: Weight = 0.03
    """weight of the local actions' distance from the prior, nats: codes are chosen among what is likely"""
    warm: Share = 0.3
    """share of the steps over which that weight grows from nothing"""


class PoseClips:
    """Clips of poses: frames (B, T + 1) int64, shifts (B, T, 2) px and where they lead to, places (B, T, 2) px.

    Args:
        windows: of the training videos.
        config: how many, and how long.
    """

    def __init__(self, windows: WindowSet, config: LmaConfig):
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
        places = self.windows.position[frames].astype(np.float32)
        shifts = np.diff(places, axis=1)
        known = {"frames": frames, "shifts": shifts, "places": places[:, 1:]}
        return {name: torch.from_numpy(value) for name, value in known.items()}


@torch.no_grad()
def encode_windows(model: PoseLMA, windows: WindowSet) -> Tensor:
    """The poses (N,) int64 in all windows, on the model's device."""
    device = next(model.parameters()).device
    model.pose_encoder.eval()
    parts = iter_batches(windows, np.arange(len(windows.layers)), model.config.window)
    return torch.cat([model.tokens(layers.to(device)) for layers in parts])


def pose_similarity(tokens: Tensor, vectors: Tensor, width: float) -> Tensor:
    """How much each pose counts as each other one, (P, P), rows add up to 1.

    Args:
        tokens: (N,) poses in the windows; others count as nothing.
        vectors: (P, channels), of the poses.
        width: standard deviation of the distance, over the median distance of a pose from its nearest.
    """
    known = torch.bincount(tokens, minlength=len(vectors)) > 0
    itself = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    if width == 0 or known.sum() < 2:
        return itself.float()
    apart = torch.cdist(vectors, vectors).masked_fill(~known & ~itself, torch.inf)
    nearest = apart.masked_fill(itself, torch.inf)[known].amin(1).median()
    return (-(apart / (width * nearest).clamp_min(1e-6)).square() / 2).softmax(1)


class LmaStage(Stage):
    """Trains A, the codebook, the RNN and the prior on clips of poses, with cross-entropy.

    Args:
        model: under training; its vocabulary is done.
        windows: the agent's layers.
        config: weights and schedule.
    """

    name = "lma"
    model: PoseLMA

    def __init__(self, model: PoseLMA, windows: WindowSet, config: LmaConfig):
        self.model = model
        self.windows = windows
        self.config = config
        if config.iterations is None:
            config.iterations = int(np.clip(3 * len(windows.layers) // 10, 800, max(1500, len(windows.layers) // 20)))
        self.sampler = PoseClips(windows, config)
        self.tokens = encode_windows(model, windows)
        poses = model.config.poses
        mirrored = mirror_images(self.tokens.cpu(), windows, poses) if config.mirror else torch.arange(poses)
        self.mirrored = mirrored.to(self.tokens)
        self.alike = pose_similarity(self.tokens, model.poses.codebook.detach(), config.alike)

    @cached_property
    def kinds(self) -> Tensor:
        """(P,) the kind of each pose; found when it is first asked for, since it may take a minute."""
        tokens, vectors = self.tokens.cpu().numpy(), self.model.poses.codebook.cpu().numpy()
        windows = self.windows
        known = (tokens, vectors, windows.directions(), windows.starts, windows.lengths)
        return torch.from_numpy(informative_pose_clusters(*known, self.model.config.codes, self.config.alone)).to(
            self.tokens
        )

    @torch.no_grad()
    def prepare(self, iteration: int, generator: torch.Generator) -> None:
        """The code vectors are directions as far from one another as can be, and stay; A learns what to call them."""
        if iteration == 0:
            codebook = self.model.quantiser.codebook
            directions = torch.nn.init.orthogonal_(torch.empty(codebook.shape), generator=generator)
            codebook.copy_(self.model.quantiser.normalise(directions))

    def losses(self, batch: Batch, iteration: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Cross-entropies of the next pose, expected over A's codes, and the codes' distance from their prior.

        K is small, so the expectation is a sum: no straight-through gradient, and no code can die of neglect. With
        q(k | pose, next pose) by A, the first and the last term are the evidence bound of p(next pose | state, shift).
        """
        c = self.config
        model = self.model
        tokens = self.tokens[batch["frames"]]  # (B, T + 1)
        poses = model.poses.embed(tokens)
        batches, steps = batch["shifts"].shape[:2]
        z = model.action(poses).flatten(0, 1)
        log_q = (SHARPNESS * model.quantiser.logits(z).float()).log_softmax(-1)
        q = log_q.exp().unflatten(0, (batches, steps))  # (B, T, K)
        codes = model.quantiser.codebook
        told = batch["shifts"] / SHIFT_UNIT
        hidden_shift = torch.rand(batches, generator=generator) < c.hide_shift
        hidden_shift = hidden_shift.to(told.device)[:, None, None]
        shifts = torch.where(hidden_shift, torch.zeros_like(told), told)
        places = batch["places"].masked_fill(hidden_shift, torch.nan)
        hidden = model.dynamics.start(batches, poses)
        surprises = []
        priors = []
        pose = poses[:, 0]
        for t in range(steps):
            hidden = model.dynamics.remember(pose, hidden)
            logits = model.dynamics.of_each(pose, hidden, shifts[:, t], codes, places[:, t])  # (B, K, P)
            likely = self.alike[tokens[:, t + 1], None]  # (B, 1, P)
            surprises.append(-(likely * logits.log_softmax(-1)).sum(-1))
            if model.prior is not None:
                priors.append(model.prior(pose, hidden, told[:, t : t + 1])[:, 0])
            free = torch.rand(batches, generator=generator) < c.free
            chosen = logits.detach()[torch.arange(batches), q[:, t].argmax(1)].argmax(1)
            pose = torch.where(free.to(pose.device)[:, None], model.poses.embed(chosen), poses[:, t + 1])
        terms = {"next_pose": (q * torch.stack(surprises, 1)).sum(-1).mean()}
        if c.blind:
            alone = -(self._alone(codes) @ self.alike.T)[:, tokens[:, 1:]].permute(1, 2, 0)  # (B, T, K)
            ahead = [alone[:, min(k, steps - 1) :] for k in range(c.blind_steps)]
            ahead = torch.stack([F.pad(a, (0, 0, 0, steps - a.shape[1])) for a in ahead]).sum(0)
            known = torch.arange(steps, 0, -1, device=q.device).clamp(max=c.blind_steps)[:, None]
            terms["blind"] = c.blind * (q * ahead / known).sum(-1).mean()
        if (meant := c.kinds * (1 - iteration / max(1.0, c.kinds_until * self.iterations))) > 0:
            terms["kinds"] = meant * F.nll_loss(log_q, self.kinds[tokens[:, 1:]].flatten())
        if priors:
            log_p = torch.stack(priors, 1)
            terms["prior"] = -(q.detach() * log_p).sum(-1).mean()
            grown = min(1.0, iteration / max(1.0, c.warm * self.iterations))
            log_q = log_q.unflatten(0, (batches, steps))
            terms["sure"] = c.sure * grown * (q * (log_q - log_p.detach())).sum(-1).mean()
        return terms

    def _alone(self, codes: Tensor) -> Tensor:
        """Log probabilities (K, P) of a pose or its mirror image, of code vectors (K, code_channels) alone."""
        nothing = codes.new_zeros(len(codes), self.model.poses.codebook.shape[1])
        hidden = self.model.dynamics.start(len(codes), codes)
        still = codes.new_zeros(len(codes), 2)
        one = self.model.dynamics(nothing, hidden, still, codes, still + torch.nan).log_softmax(1)
        itself = self.mirrored == torch.arange(one.shape[1], device=one.device)
        return torch.where(itself, one, torch.logaddexp(one, one[:, self.mirrored]))
