"""Local actions: usage, and mutual information with true labels (Table 3)."""

from __future__ import annotations

import numpy as np


def usage(codes: np.ndarray, count: int) -> dict:
    """Share of each code, perplexity, and the codes below 1 % (dead)."""
    share = np.bincount(codes, minlength=count) / max(1, len(codes))
    entropy = -(share[share > 0] * np.log(share[share > 0])).sum()
    return {
        "share": share.round(4).tolist(), "perplexity": float(np.exp(entropy)),
        "dead": np.flatnonzero(share < 0.01).tolist(),
    }  # fmt: skip


def mutual_information(
    codes: np.ndarray, labels: np.ndarray, groups: np.ndarray | None = None, shifts: np.ndarray | None = None
) -> dict[str, float]:
    """NMI_G over all pairs; with `groups` (characters) NMI_S averaged over them and CON = NMI_S - NMI_G.

    NMI of few pairs is too large by chance. So NMI_S is also taken over random groups of the same sizes: codes that
    mean the same for everybody reach that value, and `con_corrected` = NMI_S - NMI_S of random groups is 0 for them.
    With `shifts` (N, 2) px also NMI given the global action: within each direction of motion, averaged over pairs.
    """
    from sklearn.metrics import normalized_mutual_info_score as nmi

    rng = np.random.default_rng(0)
    out = {"nmi_g": float(nmi(labels, codes)), "pairs": len(codes)}
    out["nmi_random"] = float(nmi(labels, rng.permutation(codes)))
    if groups is not None:
        each = lambda g: float(np.mean([nmi(labels[g == k], codes[g == k]) for k in np.unique(g)]))  # noqa: E731
        out["nmi_s"] = each(groups)
        out["con"] = out["nmi_s"] - out["nmi_g"]
        out["nmi_s_random_groups"] = float(np.mean([each(rng.permutation(groups)) for _ in range(5)]))
        out["con_corrected"] = out["nmi_s"] - out["nmi_s_random_groups"]
        out["pairs_a_group"] = float(len(codes) / len(np.unique(groups)))
    if shifts is not None:
        ways = np.where(np.abs(shifts) > 0.5, np.sign(shifts), 0) @ [3, 1]
        parts = [(w == ways) for w in np.unique(ways)]
        out["nmi_given_shift"] = float(sum(nmi(labels[p], codes[p]) * p.mean() for p in parts))
    return out
