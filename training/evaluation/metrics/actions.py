"""Local actions: usage, mutual information with true labels (Table 3), effects, and transfer (Fig. 5)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from glass_gym.worlds.codes import STEPS

from .evaluation import Evaluation


def local_actions(e: Evaluation) -> dict[str, Any]:
    """Usage of the codes on held-out videos, mutual information with true labels, and the effect of each code."""
    clips = e.clips
    out: dict[str, Any] = {"usage": usage(clips.codes, e.world.config.codes)}
    if clips.code_labels is not None:
        out |= mutual_information(clips.codes, clips.code_labels, clips.code_groups, clips.code_shifts)
    return out | {"effect": code_effect(e)}


def transfer(e: Evaluation) -> dict[str, Any]:
    """Plays the actions of one clip from the first frame of another; the share of the codes that A reads back."""
    t = e.transferred
    again = e.model.lma.infer_codes(torch.cat([t.target[:, :1], t.drawn], 1), t.shifts)
    own = e.model.lma.infer_codes(t.target, t.shifts)
    return {
        "pairs": len(t.donor),
        "codes_read_back": float((again == t.codes).float().mean()),
        "codes_of_the_target_before": float((own == t.codes).float().mean()),
    }


def code_effect(e: Evaluation) -> dict[str, Any]:
    """Repeats each code 12 times from every start with zero shift: change of the picture, and share read back by A."""
    each, ends = {}, []
    for code, (name, clip) in enumerate(zip(e.world.code_names, e.code_clips, strict=True)):
        read = e.model.lma.infer_codes(clip, torch.zeros(len(clip), STEPS, 2))
        change = (clip[:, 1:, :3] - clip[:, :-1, :3]).square().mean((2, 3, 4))
        ends.append(end := clip[:, -1])
        each[f"{code} {name}"] = {
            "mse_from_start": float((end[:, :3] - clip[:, 0, :3]).square().mean()),
            "mse_a_step": float(change.mean()),
            "read_back": float((read == code).float().mean()),
            "silhouette_agreement": agreement(end),
        }
    between = [[float((a[:, :3] - b[:, :3]).square().mean()) for b in ends] for a in ends]
    return {"each": each, "mse_between_codes": np.round(between, 5).tolist()}


def agreement(layers: torch.Tensor) -> float:
    """Mean IoU of the silhouettes of layers (B, 4, h, w) with one another, centres of mass aligned."""
    masks = layers[:, 3] > 0.5
    height, width = masks.shape[1:]
    mass = masks.sum((1, 2)).clamp_min(1)
    x = ((masks.sum(1) * torch.arange(width)).sum(1).float() / mass - width / 2).floor().long()
    y = ((masks.sum(2) * torch.arange(height)).sum(1).float() / mass - height / 2).floor().long()
    rolled = [m.roll((-int(b), -int(a)), (0, 1)) for m, a, b in zip(masks, x, y, strict=True)]
    moved = torch.stack(rolled).flatten(1).float()
    both = moved @ moved.T
    either = moved.sum(1)[:, None] + moved.sum(1) - both
    return float((both / either.clamp_min(1)).mean())


def usage(codes: np.ndarray, count: int) -> dict[str, Any]:
    """Share of each code, perplexity, and the codes below 1 % (dead)."""
    share = np.bincount(codes, minlength=count) / max(1, len(codes))
    perplexity = float(np.exp(-(share[share > 0] * np.log(share[share > 0])).sum()))
    return {"share": share.round(4).tolist(), "perplexity": perplexity, "dead": np.flatnonzero(share < 0.01).tolist()}


def mutual_information(
    codes: np.ndarray, labels: np.ndarray, groups: np.ndarray | None = None, shifts: np.ndarray | None = None
) -> dict[str, float]:
    """NMI_G over all pairs; with `groups` (characters) NMI_S averaged over them, and CON = NMI_S - NMI_G (Table 3).

    NMI of few pairs is too large by chance. NMI_S is therefore also taken over random groups of the same sizes. For
    codes that mean the same in every group, `con_corrected` = NMI_S - NMI_S of random groups is 0. With `shifts`
    (N, 2) px, NMI is also taken within each direction of motion and averaged over pairs.
    """
    from sklearn.metrics import normalized_mutual_info_score as nmi

    rng = np.random.default_rng(0)
    out = {"nmi_g": float(nmi(labels, codes)), "pairs": len(codes), "nmi_random": nmi(labels, rng.permutation(codes))}
    if groups is not None:
        each = lambda g: float(np.mean([nmi(labels[g == k], codes[g == k]) for k in np.unique(g)]))  # noqa: E731
        out["nmi_s"] = each(groups)
        out["con"] = out["nmi_s"] - out["nmi_g"]
        out["nmi_s_random_groups"] = float(np.mean([each(rng.permutation(groups)) for _ in range(5)]))
        out["con_corrected"] = out["nmi_s"] - out["nmi_s_random_groups"]
        out["pairs_a_group"] = float(len(codes) / len(np.unique(groups)))
    if shifts is not None:
        directions = np.where(np.abs(shifts) > 0.5, np.sign(shifts), 0) @ [3, 1]
        parts = [(d == directions) for d in np.unique(directions)]
        out["nmi_given_shift"] = float(sum(nmi(labels[p], codes[p]) * p.mean() for p in parts))
    return out
