"""Poses without identity: a codebook in which the same pose has the same index for all characters.

With several characters, k-means gives each its own poses. We project out the directions that encode identity, rebuild
the codebook, and train Q to predict the new indices. Identity then comes only from the appearance.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from glass_gym.model.pose_model import PoseLMA

from ..windows.windows import WindowSet, iter_batches

SAMPLED_FRAMES = 10_000
"""Approximate number of frames, of whole videos, with which directions that encode identity are found."""
IDENTITY = 0.5  # A direction encodes identity if both halves of a file share more than this share of its variance.
CLUSTERS, FEWEST = 8, 100
"""Number of clusters of similar poses; identity is projected out of a cluster if both halves of videos have it in at
least FEWEST frames."""


class PoseTeacher(nn.Module):
    """Maps windows to pose indices without identity: a copy of Q, its codebook, an offset per entry, a new codebook.

    Args:
        lma: Q and its codebook are copied. Offsets are zero and both codebooks equal until :func:`make_pose_teacher`
            changes them.
    """

    offsets: Tensor

    def __init__(self, lma: PoseLMA):
        super().__init__()
        self.encoder = copy.deepcopy(lma.pose_encoder).eval()
        self.first = copy.deepcopy(lma.pose_codebook)
        self.codebook = copy.deepcopy(lma.pose_codebook)
        self.register_buffer("offsets", torch.zeros_like(lma.pose_codebook.codebook))

    @torch.no_grad()
    def encode(self, layers: Tensor) -> Tensor:
        """Layers (B, 4, s, s) -> normalised pose vectors (B, channels) without identity."""
        z = self.first.normalise(self.encoder(layers))
        return z + self.offsets[self.first.logits(z).argmax(1)]

    def forward(self, layers: Tensor) -> Tensor:
        """Layers (B, 4, s, s) -> pose indices (B,) int64."""
        return self.codebook.logits(self.encode(layers)).argmax(1)


def make_pose_teacher(lma: PoseLMA, windows: WindowSet, generator: torch.Generator) -> PoseTeacher | None:
    """Project identity out of the pose codebook, rebuild it, and return the teacher whose indices Q has to learn.

    Args:
        lma: the model; its codebook has just been initialised by k-means, and is initialised again without identity.
        windows: the windows of the training videos.
        generator: for k-means.

    Returns:
        the teacher; None if no direction encodes identity: then nothing changes.
    """
    every = -(-len(windows.layers) // SAMPLED_FRAMES)
    starts, lengths = windows.starts[::every], windows.lengths[::every]
    frames = np.concatenate([a + np.arange(n) for a, n in zip(starts, lengths, strict=True)])
    teacher = PoseTeacher(lma)
    device = lma.pose_codebook.codebook.device
    batches = iter_batches(windows, frames, lma.config.window)
    z = torch.cat([teacher.encode(layers.to(device)) for layers in batches])
    poses = teacher.first.logits(z).argmax(1)
    vectors = lma.pose_codebook.codebook.double().cpu().numpy()
    begins = np.r_[0, np.cumsum(lengths)[:-1]]
    projected = project_out_identity(poses.cpu().numpy(), vectors, *by_file(begins, lengths, windows.files[::every]))
    if np.array_equal(projected, vectors):
        return None
    teacher.offsets.copy_(torch.from_numpy(projected - vectors))
    lma.pose_codebook.begin(z + teacher.offsets[poses], generator)
    teacher.codebook.load_state_dict(lma.pose_codebook.state_dict())
    return teacher


def by_file(starts: np.ndarray, lengths: np.ndarray, files: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First frames and lengths of files, from those of the videos (V,) that are their parts, one after the other."""
    first = np.flatnonzero(np.r_[True, files[1:] != files[:-1]])
    return starts[first], np.add.reduceat(lengths, first)


def project_out_identity(poses: np.ndarray, vectors: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Project out of pose vectors the directions that encode identity.

    Each file shows one character, so a direction encodes identity if both halves of a file agree in it. We project
    over all poses first, which finds large differences between characters, then within clusters of similar poses, which
    finds small ones, such as a nose or a skirt.

    Args:
        poses: (N,) ints, pose indices of all frames.
        vectors: (P, channels), the pose codebook.
        starts, lengths: ints, first frames and lengths of the files (:func:`by_file`).

    Returns:
        (P, channels); unchanged if no direction encodes identity.
    """
    vectors = vectors.astype(np.float64)
    out = _projected(poses, vectors, np.ones(len(vectors), bool), starts, lengths)
    if out is vectors:
        return vectors
    group = cluster(out, np.bincount(poses, minlength=len(vectors)), CLUSTERS, tries=5, seed=0)
    for n in range(group.max() + 1):
        out = _projected(poses, out, group == n, starts, lengths)
    return out


def _projected(
    poses: np.ndarray, vectors: np.ndarray, some: np.ndarray, starts: np.ndarray, lengths: np.ndarray
) -> np.ndarray:
    """Project out of `some` (P,) bool of the vectors the directions in which halves of files agree by more than
    IDENTITY, with all that correlates with them; returns the same array if there are none."""
    from scipy.linalg import eigh

    here = some[poses]
    if not here.any():
        return vectors
    centred = np.where(some[:, None], vectors - vectors[poses[here]].mean(0), 0.0)
    seen = centred[poses]
    spread = seen.T @ seen / here.sum()
    spread += (1e-3 * np.trace(spread) / len(spread) + 1e-12) * np.eye(len(spread))
    shared = np.zeros_like(spread)
    weight = 0
    for start, length in zip(starts, lengths, strict=True):
        first, last = slice(start, start + length // 2), slice(start + length - length // 2, start + length)
        if fewer := min(here[first].sum(), here[last].sum()):
            shared += fewer * np.outer(seen[first][here[first]].mean(0), seen[last][here[last]].mean(0))
            weight += fewer
    if weight < FEWEST:
        return vectors
    share, axes = eigh((shared + shared.T) / (2 * weight), spread)
    identity = axes[:, share > IDENTITY]  # orthonormal with respect to `spread`
    return vectors - centred @ identity @ (identity.T @ spread) if identity.size else vectors


def cluster(vectors: np.ndarray, weight: np.ndarray, count: int, tries: int, seed: int) -> np.ndarray:
    """k-means with `count` clusters, the best of `tries`: (N,) ints for vectors (N, channels) with weights (N,)."""
    from sklearn.cluster import KMeans

    means = KMeans(min(count, len(vectors)), n_init=tries, random_state=seed)
    return means.fit(vectors, sample_weight=weight + 1e-3).labels_
