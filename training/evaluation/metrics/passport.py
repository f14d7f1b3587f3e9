"""A world's passport: what holds over thousands of steps, and whether actions mean the same from every start frame.

All is measured in random play, from many start frames at once. In the last SAMPLED steps before each of MARKS: is there
one agent, does it move as commanded, does A read back the commanded code, and is what is drawn as near to real
layers as before? The matrix of codes says what A reads where each code was commanded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glass_gym.simulator.simulator import WorldState

from ...core.progress import each
from .evaluation import Evaluation
from .probe import spread

MARKS = (100, 900, 4500)  # Steps of random play; 4,500 are five minutes at 15 steps a second.
SAMPLED = 16  # Steps before each mark that are measured.
ROWS = 16  # Rollouts, unless an evaluation has fewer.
COMPARED = 2000  # About so many real layers of held-out clips are compared.


def passport(e: Evaluation, rollouts: int = ROWS) -> dict[str, Any]:
    """Presence, control, codes and appearance in long random play; and the matrix of codes."""
    rows = np.linspace(0, len(e.probe.start) - 1, min(rollouts, e.rollouts)).astype(int)
    state = e.probe.start.rows(torch.from_numpy(rows))
    real = e.clips.layers.flatten(0, 1)
    real = torch.cat([real[:: max(1, len(real) // COMPARED)], e.probe.start.layer])
    rng = np.random.default_rng(e.seed)
    films: dict[str, Any] = {}
    told: list[np.ndarray] = []
    for step in each(range(1, max(MARKS) + 1), "long random play", "step"):
        mark = min(m for m in MARKS if m >= step)
        if step == max(1, mark - SAMPLED + 1):
            film, shifts, codes = [state], [], []
        shift, code = e.probe.random_actions(rng, len(rows))
        moved = e.probe.simulator.clamp(state.position + shift, state.position) - state.position
        state = e.probe.simulator.step(state, shift, code)
        if step > mark - SAMPLED:
            film.append(state)
            shifts.append(moved)
            codes.append(code)
        if step == mark:
            figures, read = _measure(e, rows, film, torch.stack(shifts, 1), torch.stack(codes, 1), real)
            films[f"step_{mark}"] = figures
            told.append(read)
    count = np.sum(told, 0)
    share = count / np.maximum(count.sum(1, keepdims=True), 1)
    return {"rollouts": len(rows), "sampled_steps": SAMPLED, **films, "codes_read": share.round(3).tolist()}


def _measure(
    e: Evaluation, rows: np.ndarray, film: Sequence[WorldState], shifts: Tensor, codes: Tensor, real: Tensor
) -> tuple[dict[str, Any], np.ndarray]:
    """Figures of a film of T + 1 states under shifts (B, T, 2) px and codes (B, T); how often A reads each code
    (columns) where each was commanded (rows), (K, K)."""
    found = [e.probe.detect(state, rows) for state in film]
    place = np.stack([e.probe.position(detections)[0] for detections in found], 1)
    error = np.linalg.norm(np.diff(place, axis=1) - shifts.numpy(), axis=2).flatten()
    half = min(length for length in e.world.step if length > 0) / 2
    layers = torch.stack([state.layer for state in film], 1)
    read = e.model.lma.infer_codes(layers, shifts)
    pairs = np.zeros((e.world.config.codes,) * 2, int)
    np.add.at(pairs, (codes.flatten().numpy(), read.flatten().numpy()), 1)
    return (
        {
            "present": float(np.mean([e.probe.plausible(detections) for detections in found[1:]])),
            "control": float((error <= half).mean()),  # not found: not as commanded
            "control_px": spread(error),
            "codes_read_back": float((read == codes).float().mean()),
            "nearest_real_mse": _nearest(layers[:, 1:].flatten(0, 1), real),
        },
        pairs,
    )


def _nearest(drawn: Tensor, real: Tensor) -> float:
    """Mean squared difference of the colours of layers (B, 4, h, w) to the nearest of `real` (N, 4, h, w)."""
    distance = torch.cdist(drawn[:, :3].flatten(1).float(), real[:, :3].flatten(1).float()).min(1).values
    return float(distance.square().mean() / drawn[0, :3].numel())
