"""Does the agent keep its appearance? Drawn agents are compared with all true pictures of the same character."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from glass_gym.simulator.simulator import WorldState

from ...core.progress import each
from ...data.sources import source_of
from .evaluation import Evaluation

ROWS = 48
STEPS = 20
SAMPLES = (5, 10, 20)  # Steps of play after which the agents are compared.
MATCH_PX = 12  # Largest offset between a drawn agent and the picture, px.


def identity(e: Evaluation) -> dict[str, Any]:
    """Distance to the nearest true picture of the same character, root mean square of 255 over the agent's pixels: of
    real frames as M cuts them, of random play, and of right and left in turns; empty without such pictures."""
    source = source_of(e.store)
    starts = [v.start for v in e.videos[:ROWS]]
    known = [p for p in (source.pictures(e.store, start) for start in starts) if p is not None]
    if len(known) < len(starts) or not e.model.lma.view.follows:
        return {}
    templates = [in_colour(torch.from_numpy(p).permute(0, 3, 1, 2).float() / 255) for p in known]
    probe = e.probe
    begun = probe.simulator.start(torch.from_numpy(np.stack([e.store.frames[s] for s in starts])))
    played = [begun, *probe.play(begun, STEPS, e.seed)]
    turned = [begun, *probe.hold(begun, ["right", "left"] * (STEPS // 2), e.seed)]

    def errors_of(states: list[WorldState]) -> dict[str, float]:
        pairs = [(layer, own) for s in states for layer, own in zip(s.layer, templates, strict=True)]
        found = np.array([distance(*pair) for pair in each(pairs, "appearance", "pair")])
        return {"mean": float(found.mean()), "p90": float(np.percentile(found, 90))}

    return {
        "characters": len(starts),
        "real": errors_of([begun]),
        "random_play": errors_of([played[n] for n in SAMPLES]),
        "turns": errors_of([turned[n] for n in SAMPLES]),
    }


def distance(layer: Tensor, templates: Tensor) -> float:
    """Root mean square distance, of 255, of a layer (4, s, s), colour * mask in [-1, 1], to the nearest of `templates`
    (N, 4, h, w) as of :func:`in_colour`, at the best offset within MATCH_PX px."""
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
