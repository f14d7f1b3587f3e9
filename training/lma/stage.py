"""The LMA stage of the pose model: A infers local actions, the RNN predicts the next pose index."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from glass_gym.model.pose_model import PoseLMA

from ..config import LmaConfig
from ..core import sheets
from ..core.progress import Bar
from ..core.stage import Batch, Stage
from ..windows.windows import WindowSet, iter_batches
from .clusters import informative_pose_clusters
from .mirror import mirror_images

STEPS = 16  # T, steps per clip.
SHIFT_DROPOUT = 0.1
"""Share of the clips in which the RNN gets zero shifts, so that codes have to explain the motion of limbs."""
CLUSTERS_UNTIL = 0.3  # Share of the steps over which `cluster_weight` falls to zero.
PRIOR_KL = 0.03  # Weight of the KL divergence of A's codes from the prior, nats: A should choose codes that are likely.
PRIOR_KL_WARMUP = 0.3  # Share of the steps over which this weight grows from zero.
LABEL_WIDTH = 1.0  # Width of the Gaussian that spreads labels over similar poses, in median distances to the nearest.


class PoseClips:
    """Samples clips: frame indices (B, T + 1) int64, shifts (B, T, 2) px, positions after each step (B, T, 2) px.

    Args:
        windows: the windows of the training videos.
        config: B. T is STEPS, less if no video is that long.
    """

    def __init__(self, windows: WindowSet, config: LmaConfig):
        self.windows = windows
        self.config = config
        self.steps = min(STEPS, int(windows.lengths.max()) - 1)
        self.fits = np.flatnonzero(windows.lengths > self.steps)

    def batch(self, rng: np.random.Generator, iteration: int) -> Batch:
        """Random clips."""
        video = self.fits[rng.integers(len(self.fits), size=self.config.batch)]
        room = self.windows.lengths[video] - self.steps
        start = self.windows.starts[video] + (rng.random(len(video)) * room).astype(int)
        frames = start[:, None] + np.arange(self.steps + 1)
        positions = self.windows.position[frames].astype(np.float32)
        shifts = np.diff(positions, axis=1)
        known = {"frames": frames, "shifts": shifts, "positions": positions[:, 1:]}
        return {name: torch.from_numpy(value) for name, value in known.items()}


@torch.no_grad()
def encode_windows(lma: PoseLMA, windows: WindowSet) -> Tensor:
    """The pose indices (N,) int64 of all windows, on the model's device."""
    device = next(lma.parameters()).device
    lma.pose_encoder.eval()
    found = []
    with Bar("encoding poses", len(windows.layers), "frame") as bar:
        for layers in iter_batches(windows, np.arange(len(windows.layers)), lma.config.window):
            found.append(lma.encode_poses(layers.to(device)))
            bar.update(len(layers))
    return torch.cat(found)


def smoothed_labels(poses: Tensor, vectors: Tensor, width: float) -> Tensor:
    """Soft labels: row p spreads the label of pose p over similar poses, by a Gaussian of their distance.

    Args:
        poses: (N,) pose indices of the windows; poses that never occur get no share.
        vectors: (P, channels), the pose codebook.
        width: standard deviation, in units of the median distance of a pose to its nearest; 0: one-hot labels.

    Returns:
        (P, P); rows add up to 1.
    """
    known = torch.bincount(poses, minlength=len(vectors)) > 0
    itself = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    if width == 0 or known.sum() < 2:
        return itself.float()
    apart = torch.cdist(vectors, vectors).masked_fill(~known & ~itself, torch.inf)
    nearest = apart.masked_fill(itself, torch.inf)[known].amin(1).median()
    return (-(apart / (width * nearest).clamp_min(1e-6)).square() / 2).softmax(1)


def lma_iterations(frames: int) -> int:
    """Default number of steps for a number of frames; more steps would overfit to the real sequences."""
    return int(np.clip(3 * frames // 10, 800, max(1500, frames // 20)))


class LmaStage(Stage):
    """Trains A, the RNN and the prior on clips of pose indices, with cross-entropy.

    Args:
        model: the LMA to train, after the pose stage.
        windows: the windows of the training videos.
        config: loss weights and schedule; iterations are set.
        shown: clips for sample sheets (:func:`training.core.sheets.rollout_sheet`), or None.

    Attributes:
        cluster_weight: initial weight of A predicting the cluster of the next pose.
    """

    name = "lma"
    rate = 2e-3
    cluster_weight = 1.0
    model: PoseLMA

    def __init__(self, model: PoseLMA, windows: WindowSet, config: LmaConfig, shown: dict[str, Tensor] | None = None):
        self.model = model
        self.windows = windows
        self.config = config
        self.shown = shown
        self.sampler = PoseClips(windows, config)
        self.poses = encode_windows(model, windows)
        with Bar("mirror images of poses"):
            self.mirrored = mirror_images(self.poses.cpu(), windows, model.config.poses).to(self.poses)
        self.labels = smoothed_labels(self.poses, model.pose_codebook.codebook.detach(), LABEL_WIDTH)

    @cached_property
    def clusters(self) -> Tensor:
        """(P,) int64, the cluster of each pose; computed on first use, which may take a minute."""
        poses, vectors = self.poses.cpu().numpy(), self.model.pose_codebook.codebook.cpu().numpy()
        known = (poses, vectors, self.windows.directions(), self.windows.starts, self.windows.lengths)
        weight = self.config.context_free_weight
        found = informative_pose_clusters(*known, self.model.config.codes, weight, files=self.windows.files)
        return torch.from_numpy(found).to(self.poses)

    @torch.no_grad()
    def prepare(self, iteration: int, generator: torch.Generator) -> None:
        """Before the first step, set the code vectors to orthogonal directions. They stay fixed; A learns their use."""
        if iteration == 0:
            codebook = self.model.quantiser.codebook
            directions = torch.nn.init.orthogonal_(torch.empty(codebook.shape), generator=generator)
            codebook.copy_(self.model.quantiser.normalise(directions))

    def losses(self, batch: Batch, iteration: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Cross-entropy of the next pose, expected over A's codes, and the KL divergence of the codes from the prior.

        The expectation over q(code | pose, next pose) is an exact sum over all K codes: no straight-through gradient is
        needed, and every code is trained. "next_pose" plus "prior_kl" with weight 1 would be a variational bound on
        -log p(next pose | state, shift). "clusters" pulls q toward the next pose's cluster in the first steps.
        """
        c = self.config
        model = self.model
        indices = self.poses[batch["frames"]]  # (B, T + 1)
        poses = model.pose_codebook.embed(indices)
        batches, steps = batch["shifts"].shape[:2]
        log_q = model.log_posterior(self.directions(poses, batch))  # (B, T, K)
        q = log_q.exp()
        codes = model.quantiser.codebook
        true_shifts = self.shifts(batch) / self.model.shift_unit
        dropped = torch.rand(batches, generator=generator) < SHIFT_DROPOUT
        dropped = dropped.to(true_shifts.device)[:, None, None]
        shifts = torch.where(dropped, torch.zeros_like(true_shifts), true_shifts)
        positions = batch["positions"].masked_fill(dropped, torch.nan)
        hidden = model.dynamics.start(batches, poses)
        surprises = []
        priors = []
        pose = self.first_poses(batch)
        for t in range(steps):
            hidden = model.dynamics.update_hidden(pose, hidden)
            out = model.dynamics.logits_per_action(pose, hidden, shifts[:, t], codes, positions[:, t])
            surprises.append(self.surprises(pose, out, batch, t))
            if model.prior is not None:
                priors.append(model.prior(pose, hidden, true_shifts[:, t : t + 1])[:, 0])
            pose = self.next_poses(pose, out.detach()[torch.arange(batches), q[:, t].argmax(1)])
        terms = {"next_pose": (q * torch.stack(surprises, 1)).sum(-1).mean()}
        if c.action_only_weight:
            terms["action_only"] = c.action_only_weight * (q * self.action_only(codes, batch)).sum(-1).mean()
        if (weight := self.cluster_weight * (1 - iteration / max(1.0, CLUSTERS_UNTIL * self.iterations))) > 0:
            terms["clusters"] = weight * F.nll_loss(log_q.flatten(0, 1), self.clusters[indices[:, 1:]].flatten())
        if priors:
            log_p = torch.stack(priors, 1)
            terms["prior"] = -(q.detach() * log_p).sum(-1).mean()
            grown = min(1.0, iteration / max(1.0, PRIOR_KL_WARMUP * self.iterations))
            terms["prior_kl"] = PRIOR_KL * grown * (q * (log_q - log_p.detach())).sum(-1).mean()
        return terms

    def directions(self, poses: Tensor, batch: Batch) -> Tensor:
        """A's vectors (B, T, code_channels) of pose vectors (B, T + 1, POSE_CHANNELS)."""
        return self.model.action(poses)

    def first_poses(self, batch: Batch) -> Tensor:
        """The pose vectors (B, POSE_CHANNELS) that clips start from."""
        return self.model.pose_codebook.embed(self.poses[batch["frames"][:, 0]])

    def shifts(self, batch: Batch) -> Tensor:
        """The shifts (B, T, 2) px as the RNN gets them."""
        return batch["shifts"]

    def surprises(self, pose: Tensor, out: Tensor, batch: Batch, t: int) -> Tensor:
        """The surprise, nats, of what follows step t under each code, (B, K), given the RNN's output (B, K, ...)."""
        target = self.labels[self.poses[batch["frames"][:, t + 1]], None]  # (B, 1, P)
        return -(target * out.log_softmax(-1)).sum(-1)

    def next_poses(self, pose: Tensor, out: Tensor) -> Tensor:
        """The pose vectors (B, POSE_CHANNELS) that the RNN's output (B, ...) means."""
        return self.model.pose_codebook.embed(out.argmax(1))

    def without_context(self, codes: Tensor) -> Tensor:
        """The RNN's output (K, ...) for codes (K, channels), with zero pose, shift and memory."""
        nothing = codes.new_zeros(len(codes), self.model.pose_codebook.codebook.shape[1])
        hidden = self.model.dynamics.start(len(codes), codes)
        still = codes.new_zeros(len(codes), 2)
        return self.model.dynamics(nothing, hidden, still, codes, still + torch.nan)

    def action_only(self, codes: Tensor, batch: Batch) -> Tensor:
        """The surprise, nats, of the next poses or their mirror images, from the code alone: (B, T, K)."""
        one = self.without_context(codes).log_softmax(1)
        itself = self.mirrored == torch.arange(one.shape[1], device=one.device)
        likely = torch.where(itself, one, torch.logaddexp(one, one[:, self.mirrored]))
        return -(likely @ self.labels.T)[:, self.poses[batch["frames"][:, 1:]]].permute(1, 2, 0)

    def sheet(self, model: PoseLMA, iteration: int) -> np.ndarray | None:
        """As :meth:`Stage.sheet`."""
        return None if self.shown is None else sheets.rollout_sheet(model, self.shown)
