"""Does the agent stay who it is? What is drawn in play, against all true pictures of the same character."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from glass_gym.simulator.simulator import WorldState

from ...data.sources import source_of
from .evaluation import Evaluation

ROWS = 48
STEPS = 20
SAMPLES = (5, 10, 20)
"""Steps of play after which the agents are looked at."""
MATCH_PX = 12
"""A drawn agent may lie this many px off the picture's place."""


def identity(e: Evaluation) -> dict[str, Any]:
    """How far agents are from the nearest true picture of their own character, root mean square of 255 over its pixels:
    real frames as M sees them, random play, right and left by turns. Empty where the source has no such pictures."""
    source = source_of(e.store)
    starts = [v.start for v in e.videos[:ROWS]]
    pictures = [source.pictures(e.store, start) for start in starts]
    known = [p for p in pictures if p is not None]
    if len(known) < len(starts) or not e.model.lma.view.follows:
        return {}
    templates = [in_colour(torch.from_numpy(p).permute(0, 3, 1, 2).float() / 255) for p in known]
    probe = e.probe
    begun = probe.simulator.start(torch.from_numpy(np.stack([e.store.frames[s] for s in starts])))
    rng = np.random.default_rng(e.seed)
    played = [begun]
    for _ in range(STEPS):
        played.append(probe.simulator.step(played[-1], *probe.random_actions(rng, len(starts))))
    turned = [begun, *probe.hold(begun, ["right", "left"] * (STEPS // 2), e.seed)]

    def far(states: list[WorldState]) -> dict[str, float]:
        pairs = [(layer, own) for s in states for layer, own in zip(s.layer, templates, strict=True)]
        found = np.array([distance(*pair) for pair in tqdm(pairs, desc="who it is", leave=False)])
        return {"mean": float(found.mean()), "p90": float(np.percentile(found, 90))}

    return {
        "characters": len(starts),
        "real": far([begun]),
        "random_play": far([played[n] for n in SAMPLES]),
        "turns": far([turned[n] for n in SAMPLES]),
    }


def distance(layer: Tensor, templates: Tensor) -> float:
    """From a layer (4, s, s), colour * mask in [-1, 1], to the nearest of `templates` (N, 4, h, w), as
    :func:`in_colour` gives them, wherever it lies within MATCH_PX px: root mean square of 255."""
    mask = layer[3:].float()
    seen = F.pad(torch.cat([(layer[:3].float() + mask) / 2, mask])[None], (MATCH_PX,) * 4)
    overlap = F.conv2d(seen, templates)[0].flatten(1).amax(1)
    squared = seen.square().sum() - 2 * overlap + templates.square().sum((1, 2, 3))
    nearest = squared.argmin()
    pixels = 4 * (templates[nearest, 3] > 0.5).sum()
    return float((squared[nearest].clamp_min(0) / pixels).sqrt() * 255)


def in_colour(pictures: Tensor) -> Tensor:
    """RGBA (N, 4, h, w) in [0, 1] -> colour * mask and mask."""
    return torch.cat([pictures[:, :3] * pictures[:, 3:], pictures[:, 3:]], 1)
