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


def mutual_information(codes: np.ndarray, labels: np.ndarray, groups: np.ndarray | None = None) -> dict[str, float]:
    """NMI_G over all pairs; with `groups` (characters) NMI_S averaged over them and CON = NMI_S - NMI_G."""
    from sklearn.metrics import normalized_mutual_info_score as nmi

    out = {"nmi_g": float(nmi(labels, codes))}
    out["nmi_random"] = float(nmi(labels, np.random.default_rng(0).permutation(codes)))
    if groups is not None:
        each = [nmi(labels[groups == g], codes[groups == g]) for g in np.unique(groups)]
        out["nmi_s"] = float(np.mean(each))
        out["con"] = out["nmi_s"] - out["nmi_g"]
    return out
