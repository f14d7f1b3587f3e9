"""How much is left open by pose and shift: what local actions have to say."""

from __future__ import annotations

import numpy as np

KINDS = 24
"""Poses are counted by kinds: single ones are too rare."""


def kinds_of_poses(tokens: np.ndarray, vectors: np.ndarray, kinds: int, tries: int = 3) -> np.ndarray:
    """(P,) ints, which of so many kinds each pose is of: clusters of their vectors (P, channels), by how often the
    poses occur among `tokens` (N,); the best of some tries."""
    from sklearn.cluster import KMeans

    use = np.bincount(tokens, minlength=len(vectors)) + 1e-3
    return KMeans(min(kinds, len(vectors)), n_init=tries, random_state=0).fit(vectors, sample_weight=use).labels_


def surprise_of_next(
    tokens: np.ndarray,
    vectors: np.ndarray,
    direction: np.ndarray,
    starts: np.ndarray,
    lengths: np.ndarray,
    kinds: int = KINDS,
) -> float:
    """Entropy of the next pose's kind given this one's and the step's direction, nats (Miller and Madow's estimate).

    Args:
        tokens: (N,) ints, poses of all frames.
        vectors: (P, channels), of the poses.
        direction: (M,) ints, of the steps, video after video.
        starts, lengths: (V,), of the videos, in frames.
        kinds: clusters of poses.
    """
    kind = kinds_of_poses(tokens, vectors, kinds)
    before = np.concatenate([kind[tokens[a : a + n - 1]] for a, n in zip(starts, lengths, strict=True)])
    after = np.concatenate([kind[tokens[a + 1 : a + n]] for a, n in zip(starts, lengths, strict=True)])
    counts = np.zeros((kind.max() + 1, direction.max() + 1, kind.max() + 1))
    np.add.at(counts, (before, direction, after), 1)
    total = counts.sum(2)
    share = counts / np.maximum(total, 1)[..., None]
    entropy = -(share * np.log(np.maximum(share, 1e-12))).sum(2)
    entropy += np.maximum((counts > 0).sum(2) - 1, 0) / (2 * np.maximum(total, 1))
    return float((entropy * total).sum() / total.sum())
