"""How much is left open by pose and shift: what local actions have to say."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator, default_rng
from tqdm import tqdm

BEFORE = 64
"""Kinds of the pose before, by which the next one is expected: single poses are too rare."""
ALONE = 0.2
"""Weight of a kind's poses being alike, whatever went before, over that of their being alike after the same pose and
step: 0 tells most of what comes next, but in other words after each pose; more, the same word always, but less."""
STAY = 1.35
"""Weight of poses that follow each other as expected being of one kind, so that an action keeps its code while it
lasts; over the squared distance that pose and step leave open."""
IDENTITY = 0.5
"""Share of a direction's variance among the poses that stays from one half of a video to the other: from here on it is
who acts, not what is done."""
ALIKE, FEW = 8, 100
"""Parts of the poses that are asked that each for itself, if seen in both halves of videos in so many frames."""
TRIES, SWEEPS = 60, 40


def pose_clusters(tokens: np.ndarray, vectors: np.ndarray, kinds: int) -> np.ndarray:
    """(P,) ints, which of so many kinds each pose is of: clusters of their vectors (P, channels), by how often the
    poses occur among `tokens` (N,)."""
    return _clusters(vectors, np.bincount(tokens, minlength=len(vectors)), kinds, tries=3, seed=0)


def informative_pose_clusters(
    tokens: np.ndarray,
    vectors: np.ndarray,
    direction: np.ndarray,
    starts: np.ndarray,
    lengths: np.ndarray,
    kinds: int,
    alone: float = ALONE,
    stay: float = STAY,
) -> np.ndarray:
    """(P,) ints, which of so many kinds each pose is of, so that the kind tells what pose and step leave open.

    The least squared distance of next poses from the mean of their kind after the same kind of pose and step; and,
    `alone` times, from the mean of their kind whatever went before, where a pose counts by how surprising it is; and,
    `stay` times, the fewest expected steps between poses of two kinds. Of a walk, whose next phase is known, little has
    to be told; of a swing that begins, much. Who acts is left out: what a larger character does is of the same kind.
    Found by moving one pose at a time, from k-means; the best of some tries.

    Args:
        tokens: (N,) ints, poses of all frames.
        vectors: (P, channels), of the poses.
        direction: (M,) ints, of the steps, video after video.
        starts, lengths: (V,), of the videos, in frames.
        kinds: K.
        alone, stay: see above.
    """
    vectors = project_out_identity(tokens, vectors, starts, lengths)
    kind = pose_clusters(tokens, vectors, BEFORE)
    before, after = _steps(tokens, starts, lengths)
    context = np.unique(kind[before] * (direction.max() + 1) + direction, return_inverse=True)[1]
    next_kinds = np.zeros((context.max() + 1, kind.max() + 1))
    np.add.at(next_kinds, (context, kind[after]), 1)
    others = next_kinds - 0.5  # all steps but the one in question, and half a one of each kind
    share = others[context, kind[after]] / (others.sum(1)[context] + next_kinds.shape[1] - 1)
    surprise = np.bincount(after, -np.log(share), len(vectors))
    counts = np.zeros((len(next_kinds) + 1, len(vectors)))
    np.add.at(counts, (context, after), 1)
    means = counts[:-1] @ vectors / counts[:-1].sum(1, keepdims=True)
    left_open = ((vectors[after] - means[context]) ** 2).sum(1).mean()
    counts[-1] = alone * len(after) * surprise / max(1e-9, surprise.sum())
    follow = np.zeros((len(vectors), len(vectors)))
    np.add.at(follow, (before, after), stay * left_open * share)
    follow += follow.T
    np.fill_diagonal(follow, 0)
    found = []
    for seed in tqdm(range(TRIES), desc="kinds of poses", leave=False):
        began = _clusters(vectors, counts.sum(0), kinds, 1, seed)
        found.append(_move_one_by_one(began, vectors, counts, follow, kinds, default_rng(seed)))
    return max(found, key=lambda f: f[0])[1]


def project_out_identity(
    tokens: np.ndarray, vectors: np.ndarray, starts: np.ndarray, lengths: np.ndarray
) -> np.ndarray:
    """The vectors (P, channels) of poses without what is the character's, if there are several.

    That is what stays the same in a video: over all poses a larger body, over those that are nearly alike (a profile)
    a nose or a skirt. Arguments as of :func:`informative_pose_clusters`.
    """
    vectors = vectors.astype(np.float64)
    out = _without_body(tokens, vectors, np.ones(len(vectors), bool), starts, lengths)
    if out is vectors:
        return vectors
    alike = _clusters(out, np.bincount(tokens, minlength=len(vectors)), ALIKE, tries=5, seed=0)
    for kind in range(alike.max() + 1):
        out = _without_body(tokens, out, alike == kind, starts, lengths)
    return out


def _without_body(
    tokens: np.ndarray, vectors: np.ndarray, some: np.ndarray, starts: np.ndarray, lengths: np.ndarray
) -> np.ndarray:
    """The vectors, of `some` (P,) bool of them without the directions in which halves of videos agree by more than
    IDENTITY, and without what goes with those; the same array, if there is none."""
    from scipy.linalg import eigh

    here = some[tokens]
    if not here.any():
        return vectors
    centred = np.where(some[:, None], vectors - vectors[tokens[here]].mean(0), 0.0)
    seen = centred[tokens]
    spread = seen.T @ seen / here.sum()
    spread += (1e-3 * np.trace(spread) / len(spread) + 1e-12) * np.eye(len(spread))
    shared = np.zeros_like(spread)
    weight = 0
    for start, length in zip(starts, lengths, strict=True):
        first, last = slice(start, start + length // 2), slice(start + length - length // 2, start + length)
        if fewer := min(here[first].sum(), here[last].sum()):
            shared += fewer * np.outer(seen[first][here[first]].mean(0), seen[last][here[last]].mean(0))
            weight += fewer
    if weight < FEW:
        return vectors
    share, axes = eigh((shared + shared.T) / (2 * weight), spread)
    body = axes[:, share > IDENTITY]  # of length one, and not correlated, as `spread` measures it
    return vectors - centred @ body @ (body.T @ spread) if body.size else vectors


def _steps(frames: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(M,) what is said of the frames (N,) that steps lead from, and of those that they lead to."""
    videos = [frames[a : a + n] for a, n in zip(starts, lengths, strict=True)]
    return np.concatenate([v[:-1] for v in videos]), np.concatenate([v[1:] for v in videos])


def _clusters(vectors: np.ndarray, weight: np.ndarray, kinds: int, tries: int, seed: int) -> np.ndarray:
    from sklearn.cluster import KMeans

    means = KMeans(min(kinds, len(vectors)), n_init=tries, random_state=seed)
    return means.fit(vectors, sample_weight=weight + 1e-3).labels_


def _move_one_by_one(
    kind: np.ndarray, vectors: np.ndarray, counts: np.ndarray, follow: np.ndarray, kinds: int, rng: Generator
) -> tuple[float, np.ndarray]:
    """Kinds (P,) from which no pose gains by leaving, and how good they are.

    Args:
        kind: (P,) to begin with.
        vectors: (P, channels).
        counts: (C, P), of the poses in each context. Kinds are better by the weighted squares of their means' lengths,
            by which the squared distances from the means fall ...
        follow: (P, P), symmetric, without a diagonal: ... and by what two poses gain by being of one kind.
        kinds: K.
        rng: for the order.
    """
    kind = kind.copy()
    member = np.eye(kinds)[kind]
    sums = np.einsum("cp,pk,pv->ckv", counts, member, vectors, optimize=True)  # (C, K, channels)
    total = counts @ member  # (C, K)
    rows = [np.flatnonzero(c) for c in counts.T]

    def worth(sums: np.ndarray, total: np.ndarray) -> np.ndarray:
        return (sums**2).sum(-1) / np.maximum(total, 1e-9)

    for _ in range(SWEEPS):
        moved = False
        for pose in rng.permutation(len(vectors)):
            row, was = rows[pose], kind[pose]
            weight = counts[row, pose]
            adds = weight[:, None] * vectors[pose]
            sums[row, was] -= adds
            total[row, was] -= weight
            gain = worth(sums[row] + adds[:, None], total[row] + weight[:, None]) - worth(sums[row], total[row])
            now = kind[pose] = (gain.sum(0) + follow[pose] @ member).argmax()
            sums[row, now] += adds
            total[row, now] += weight
            member[pose, [was, now]] = 0, 1
            moved |= now != was
        if not moved:
            break
    together = np.einsum("pk,pq,qk->", member, follow, member, optimize=True) / 2
    return float(worth(sums, total).sum() + together), kind
