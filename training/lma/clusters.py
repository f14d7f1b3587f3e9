"""Clusters of poses for local actions to start from: they tell most of what pose and shift leave open."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator, default_rng
from tqdm import tqdm

from ..poses.identity import cluster, project_out_identity

CONTEXTS = 64
"""Clusters of the present pose, by which the next one is expected: single poses are too rare."""
STAY = 1.35
"""Weight of poses that follow each other as expected being in one cluster, so that an action keeps its code while it
lasts; over the squared distance that pose and shift leave open."""
TRIES, SWEEPS = 60, 40


def pose_clusters(poses: np.ndarray, vectors: np.ndarray, count: int) -> np.ndarray:
    """(P,) ints, k-means clusters of pose vectors (P, channels), by how often poses occur among `poses` (N,)."""
    return cluster(vectors, np.bincount(poses, minlength=len(vectors)), count, tries=3, seed=0)


def informative_pose_clusters(
    poses: np.ndarray,
    vectors: np.ndarray,
    direction: np.ndarray,
    starts: np.ndarray,
    lengths: np.ndarray,
    count: int,
    context_free_weight: float,
    stay: float = STAY,
) -> np.ndarray:
    """(P,) ints, the cluster of each pose, so that the cluster tells what pose and shift leave open.

    We minimise three terms. First, the squared distance of next poses from the mean of their cluster after the same
    context (cluster of the present pose, and direction). Second, `context_free_weight` times, the distance from the
    cluster's mean whatever went before, where a pose counts by its surprise. Third, `stay` times, the expected steps
    between poses of two clusters. So a walk, whose next phase is known, takes few clusters, and a swing that begins
    takes one of its own. Identity is projected out first. We start from k-means, move one pose at a time, and keep the
    best of some tries.

    Args:
        poses: (N,) ints, pose indices of all frames.
        vectors: (P, channels), of the poses.
        direction: (M,) ints, of the steps, video after video.
        starts, lengths: (V,), of the videos, in frames.
        count: K.
        context_free_weight, stay: see above.
    """
    vectors = project_out_identity(poses, vectors, starts, lengths)
    group = pose_clusters(poses, vectors, CONTEXTS)
    before, after = _steps(poses, starts, lengths)
    context = np.unique(group[before] * (direction.max() + 1) + direction, return_inverse=True)[1]
    next_groups = np.zeros((context.max() + 1, group.max() + 1))
    np.add.at(next_groups, (context, group[after]), 1)
    others = next_groups - 0.5  # all steps but the one in question, and half a one of each cluster
    share = others[context, group[after]] / (others.sum(1)[context] + next_groups.shape[1] - 1)
    surprise = np.bincount(after, -np.log(share), len(vectors))
    counts = np.zeros((len(next_groups) + 1, len(vectors)))
    np.add.at(counts, (context, after), 1)
    means = counts[:-1] @ vectors / counts[:-1].sum(1, keepdims=True)
    left_open = ((vectors[after] - means[context]) ** 2).sum(1).mean()
    counts[-1] = context_free_weight * len(after) * surprise / max(1e-9, surprise.sum())
    follow = np.zeros((len(vectors), len(vectors)))
    np.add.at(follow, (before, after), stay * left_open * share)
    follow += follow.T
    np.fill_diagonal(follow, 0)
    found = []
    for seed in tqdm(range(TRIES), desc="clusters of poses", leave=False):
        began = cluster(vectors, counts.sum(0), count, 1, seed)
        found.append(_move_one_by_one(began, vectors, counts, follow, count, default_rng(seed)))
    return max(found, key=lambda f: f[0])[1]


def _steps(frames: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(M,) what is said of the frames (N,) that steps lead from, and of those that they lead to."""
    videos = [frames[a : a + n] for a, n in zip(starts, lengths, strict=True)]
    return np.concatenate([v[:-1] for v in videos]), np.concatenate([v[1:] for v in videos])


def _move_one_by_one(
    group: np.ndarray, vectors: np.ndarray, counts: np.ndarray, follow: np.ndarray, groups: int, rng: Generator
) -> tuple[float, np.ndarray]:
    """Clusters (P,) that no pose gains by leaving, and how good they are.

    Args:
        group: (P,) to begin with.
        vectors: (P, channels).
        counts: (C, P), of the poses in each context. Clusters are better by the weighted squared lengths of
            their means, by which the squared distances from the means fall.
        follow: (P, P), symmetric, zero diagonal: what two poses gain by being in one cluster.
        groups: K.
        rng: for the order.
    """
    group = group.copy()
    member = np.eye(groups)[group]
    sums = np.einsum("cp,pk,pv->ckv", counts, member, vectors, optimize=True)  # (C, K, channels)
    total = counts @ member  # (C, K)
    rows = [np.flatnonzero(c) for c in counts.T]

    def worth(sums: np.ndarray, total: np.ndarray) -> np.ndarray:
        return (sums**2).sum(-1) / np.maximum(total, 1e-9)

    for _ in range(SWEEPS):
        moved = False
        for pose in rng.permutation(len(vectors)):
            row, was = rows[pose], group[pose]
            weight = counts[row, pose]
            adds = weight[:, None] * vectors[pose]
            sums[row, was] -= adds
            total[row, was] -= weight
            gain = worth(sums[row] + adds[:, None], total[row] + weight[:, None]) - worth(sums[row], total[row])
            now = group[pose] = (gain.sum(0) + follow[pose] @ member).argmax()
            sums[row, now] += adds
            total[row, now] += weight
            member[pose, [was, now]] = 0, 1
            moved |= now != was
        if not moved:
            break
    together = np.einsum("pk,pq,qk->", member, follow, member, optimize=True) / 2
    return float(worth(sums, total).sum() + together), group
