"""A two-sample test (Lopez-Paz & Oquab, 2017): can a small network tell drawn windows from real ones?"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glass_gym.model.lma import LMA

from .evaluation import Evaluation

STEPS, BATCH = 200, 32  # Training steps of the network, and windows of each kind a step.
FIRST = 4  # Windows of a clip before this step are left out: they look like the first, which is real.


def two_sample(e: Evaluation) -> dict[str, Any]:
    """Accuracy of a small network that tells drawn from real held-out windows; 0.5: it cannot, 1: it always can.

    Drawn windows run freely from the clips' first windows, under their shifts and codes drawn from the prior.
    """
    layers, shifts, positions = e.clips.layers, e.clips.shifts, e.clips.positions
    if len(layers) < 4 or shifts.shape[1] <= FIRST:
        return {"accuracy": None, "clips": len(layers)}
    drawn = play_clips(e.model.lma, layers, shifts, positions, e.seed)
    real = layers[:, 1:]
    return {"accuracy": accuracy(real[:, FIRST:], drawn[:, FIRST:], e.seed), "clips": len(layers)}


@torch.no_grad()
def play_clips(lma: LMA, layers: Tensor, shifts: Tensor, positions: Tensor, seed: int) -> Tensor:
    """Draw clips (N, T + 1, 4, h, w) freely, with codes from the prior (without one: any): (N, T, 4, h, w)."""
    generator = torch.Generator().manual_seed(seed)
    layer, state = layers[:, 0], lma.start_state(layers[:, 0])
    out = []
    for t in range(shifts.shape[1]):
        if lma.prior is None:
            chances = torch.ones(len(layers), lma.config.codes)
        else:
            chances = lma.code_prior(state, shifts[:, t : t + 1])[:, 0].exp()
        codes = torch.multinomial(chances, 1, generator=generator)[:, 0]
        drawn, state = lma.animate(layer, state, shifts[:, t], lma.quantiser.embed(codes), positions[:, t + 1])
        layer = drawn.layer.float()
        out.append(layer)
    return torch.stack(out, 1)


@torch.inference_mode(False)
@torch.enable_grad()
def accuracy(real: Tensor, drawn: Tensor, seed: int = 0) -> float:
    """Mean accuracy on clips that were not trained on, of networks that tell real from drawn clips (N, T, 4, h, w)."""
    rng = np.random.default_rng(seed)
    halves = np.array_split(rng.permutation(len(real)), 2)
    scores = []
    for train, test in (halves, halves[::-1]):
        torch.manual_seed(seed)
        network = _network()
        optimiser = torch.optim.Adam(network.parameters(), 2e-3)
        pools = [x[train].flatten(0, 1).clone() for x in (real, drawn)]
        labels = torch.arange(2.0).repeat_interleave(BATCH)
        for _ in range(STEPS):
            batch = torch.cat([pool[torch.from_numpy(rng.integers(len(pool), size=BATCH))] for pool in pools])
            if rng.random() < 0.5:
                batch = batch.flip(3)
            loss = F.binary_cross_entropy_with_logits(network(batch.float())[:, 0], labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        network.eval()
        with torch.no_grad():
            right = [
                ((network(part.float())[:, 0] > 0) == bool(kind)).float().mean()
                for kind, pool in enumerate((real, drawn))
                for part in pool[test].flatten(0, 1).split(256)
            ]
        scores.append(float(torch.stack(right).mean()))
    return float(np.mean(scores))


def _network() -> nn.Module:
    """Layers (B, 4, h, w) -> logits (B, 1) of "drawn"."""
    channels = (4, 16, 32, 64)
    blocks = [
        part
        for a, b in itertools.pairwise(channels)
        for part in (nn.Conv2d(a, b, 3, stride=2, padding=1), nn.BatchNorm2d(b), nn.LeakyReLU(0.2))
    ]
    return nn.Sequential(*blocks, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(channels[-1], 1))
