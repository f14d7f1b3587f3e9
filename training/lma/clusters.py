"""Clusters of poses that local actions start from: they tell most about the next pose, given pose and shift."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator, default_rng

from ..core.progress import each
from ..poses.identity import by_file, cluster, project_out_identity

CONTEXTS = 64  # Number of k-means clusters of the present pose that serve as context; single poses are too rare.
STAY = 1.35
"""Weight of keeping poses that follow each other in one cluster, so that an action keeps its code while it lasts; in
units of the mean squared distance of next poses from their context's mean."""
TRIES, SWEEPS = 60, 40  # Number of random starts, and maximum number of passes over all poses in each.


def pose_clusters(poses: np.ndarray, vectors: np.ndarray, count: int) -> np.ndarray:
    """k-means with `count` clusters: (P,) ints for vectors (P, channels), weighted by their frequency in `poses`."""
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
    files: np.ndarray | None = None,
) -> np.ndarray:
    """Cluster poses so that the next pose's cluster tells most of what the present pose and the shift leave open.

    A context is a cluster of the present pose, and a direction. We minimise three terms: the squared distance of next
    poses from the mean of their cluster in the same context; `context_free_weight` times the squared distance from the
    mean of their cluster over all contexts, each step weighted by its surprise; and `stay` times the number of steps
    between two clusters, each weighted by its probability in its context. So a walk, whose next phase is predictable,
    takes few clusters, and the start of a swing takes one of its own. Identity is projected out first. We start from
    k-means, move one pose at a time, and keep the best of TRIES.

    Args:
        poses: (N,) ints, pose indices of all frames.
        vectors: (P, channels), the pose codebook.
        direction: (M,) ints, the direction of each step, video after video.
        starts, lengths: (V,) ints, first frames and lengths of the videos.
        count: K, the number of clusters.
        context_free_weight, stay: weights of the second and third term.
        files: (V,) ints, equal for videos of one file; default: each has its own.

    Returns:
        (P,) ints, the cluster of each pose.
    """
    parts = np.arange(len(starts)) if files is None else files
    vectors = project_out_identity(poses, vectors, *by_file(np.asarray(starts), np.asarray(lengths), parts))
    group = pose_clusters(poses, vectors, CONTEXTS)
    before, after = _steps(poses, starts, lengths)
    context = np.unique(group[before] * (direction.max() + 1) + direction, return_inverse=True)[1]
    next_groups = np.zeros((context.max() + 1, group.max() + 1))
    np.add.at(next_groups, (context, group[after]), 1)
    others = next_groups - 0.5  # leave the step itself out, and add half a count to each cluster
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
    for seed in each(range(TRIES), "clusters of poses"):
        began = cluster(vectors, counts.sum(0), count, 1, seed)
        found.append(_move_one_by_one(began, vectors, counts, follow, count, default_rng(seed)))
    return max(found, key=lambda f: f[0])[1]


def _steps(frames: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values of frames (N,) at the start and at the end of each step: (M,) each; steps do not cross videos."""
    videos = [frames[a : a + n] for a, n in zip(starts, lengths, strict=True)]
    return np.concatenate([v[:-1] for v in videos]), np.concatenate([v[1:] for v in videos])


def _move_one_by_one(
    group: np.ndarray, vectors: np.ndarray, counts: np.ndarray, follow: np.ndarray, groups: int, rng: Generator
) -> tuple[float, np.ndarray]:
    """Local search: move single poses to other clusters while the objective grows.

    Args:
        group: (P,) ints, clusters to start from.
        vectors: (P, channels).
        counts: (C, P), weights of the poses in each context. Maximising the weighted squared norms of the clusters'
            means minimises the squared distances from them.
        follow: (P, P), symmetric, zero diagonal: the gain of two poses being in one cluster.
        groups: K.
        rng: for the order of the poses.

    Returns:
        the objective, and the clusters (P,).
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
