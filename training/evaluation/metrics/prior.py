"""How well does the prior predict local actions? Nats a step on held-out clips, beside tables of counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .evaluation import Evaluation


def prior(e: Evaluation) -> dict[str, Any]:
    """Mean -log p(code | state, shift) of the inferred codes, given real frames up to each step; empty without a prior.

    The baselines are tables of counts, (shift, code before) -> code and shift -> code, counted on one half of the clips
    and scored on the other, both ways. Shifts are the nine directions of the world's step.
    """
    if e.model.lma.prior is None:
        return {}
    codes = e.rolled_out.codes.numpy()  # (N, T)
    count = e.world.config.codes
    direction = _directions(e.clips.shifts.numpy(), 0.5 * np.asarray(e.world.step))
    before = np.concatenate([np.full((len(codes), 1), count), codes[:, :-1]], 1)  # the first step has none
    shares = np.bincount(codes.ravel(), minlength=count) / codes.size
    return {
        "nats": float(_surprise(e).mean()),
        "table_of_shift_and_code_before": _table(codes, direction * (count + 1) + before, 9 * (count + 1), count),
        "table_of_shift": _table(codes, direction, 9, count),
        "shares": float(-(shares[shares > 0] * np.log(shares[shares > 0])).sum()),
        "steps": int(codes.size),
    }


def _surprise(e: Evaluation) -> torch.Tensor:
    """-log p (N, T) of the inferred codes."""
    layers, shifts, codes = e.clips.layers, e.clips.shifts, e.rolled_out.codes
    always = torch.ones(len(layers), dtype=torch.bool)
    layer = layers[:, 0]
    state = e.model.lma.start_state(layer)
    out = []
    for t in range(shifts.shape[1]):
        log_p = e.model.lma.code_prior(state, shifts[:, t : t + 1])[:, 0]
        out.append(-log_p.gather(1, codes[:, t, None])[:, 0])
        vector = e.model.lma.quantiser.embed(codes[:, t])
        _, state = e.model.lma.animate(layer, state, shifts[:, t], vector, e.clips.positions[:, t + 1])
        layer = layers[:, t + 1]
        state = e.model.lma.correct_state(state, layer, always)
    return torch.stack(out, 1)


def _directions(shifts: np.ndarray, least: np.ndarray) -> np.ndarray:
    """Shifts (..., 2) px -> one of nine directions; an axis moves if its shift is more than `least` (2,) px."""
    signs = np.where(np.abs(shifts) > least, np.sign(shifts), 0).astype(int) + 1
    return 3 * signs[..., 1] + signs[..., 0]


def _table(codes: np.ndarray, known: np.ndarray, rows: int, count: int) -> float:
    """Nats of codes (N, T) under a table of counts, plus one, of codes given `known` (N, T) below `rows`."""
    halves = np.arange(len(codes)) % 2
    surprises = []
    for half in (0, 1):
        table = np.ones((rows, count))
        np.add.at(table, (known[halves == half].ravel(), codes[halves == half].ravel()), 1)
        chance = table / table.sum(1, keepdims=True)
        surprises.append(-np.log(chance[known[halves != half], codes[halves != half]]).ravel())
    return float(np.concatenate(surprises).mean())
