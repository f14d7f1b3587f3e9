"""Is what is drawn crisp? Presence, control and squared errors cannot see blur; these can."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from glass_gym.simulator.simulator import WorldState

from ...data.sources import source_of
from .evaluation import Evaluation
from .probe import SimulatorProbe

AGENT = 24
"""A pixel belongs to the agent if it differs from the row's background by more than this, in summed RGB."""
PURE = 60.0
"""A pixel has a colour of the palette if it is nearer than this to it, Euclidean RGB."""
ROWS = 32
HELD, PLAYED = 10, 200
"""Steps of each held arrow, and of random play."""
PLAY_SAMPLES = (1, 2, 5, 10, 20, 50, 100, 150, 200)


def crispness(e: Evaluation) -> dict[str, Any]:
    """Blend share, where the source knows its palette; and gradient energy over the nearest real layers."""
    out: dict[str, Any] = {"gradient_energy": gradient_energy(e)}
    palette = source_of(e.store).palette
    if palette is not None:
        out["blend_share"] = blend_shares(e.probe, np.asarray(palette, np.float32), e.seed)
    return out


def blend_share(frames: np.ndarray, backgrounds: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Share of the agent's pixels that wear none of its colours.

    Args:
        frames: (N, H, W, 3) uint8.
        backgrounds: (N, H, W, 3) uint8, what is behind the agents.
        palette: (P, 3), the agents' true colours.

    Returns:
        (N,), nan where there is no agent.
    """
    frames = frames.astype(np.float32)
    agent = np.abs(frames - backgrounds.astype(np.float32)).sum(-1) > AGENT
    distance = np.linalg.norm(frames[..., None, :] - palette, axis=-1).min(-1)
    count = agent.sum((1, 2))
    mixed = (agent & (distance > PURE)).sum((1, 2))
    return np.where(count > 0, mixed / np.maximum(count, 1), np.nan)


def blend_shares(probe: SimulatorProbe, palette: np.ndarray, seed: int) -> dict[str, Any]:
    """Blend shares of the start frames (real), of held arrows, and of random play; of 32 rows."""
    rows = np.arange(ROWS) % len(probe.start)
    start = probe.start.rows(torch.from_numpy(rows))
    behind = start.background.permute(0, 2, 3, 1).numpy()

    def share(state: WorldState) -> np.ndarray:
        return blend_share(probe.simulator.frames(state).numpy(), behind, palette)

    held = [share(state) for state in probe.hold(start, ["right"] * HELD + ["left"] * HELD, seed)]
    played = []
    state = start
    rng = np.random.default_rng(seed)
    for step in range(1, PLAYED + 1):
        state = probe.simulator.step(state, *probe.random_actions(rng, ROWS))
        if step in PLAY_SAMPLES:
            played.append(share(state))
    real = blend_share(probe.world.start_frames[rows], behind, palette)
    kinds = {"real": real, "held_arrows": np.concatenate(held), "random_play": np.concatenate(played)}
    return {
        "rows": ROWS,
        **{name: {"mean": float(np.nanmean(v)), "p90": float(np.nanpercentile(v, 90))} for name, v in kinds.items()},
    }


def gradient_energy(e: Evaluation) -> dict[str, Any]:
    """Mean gradient magnitude inside the mask of drawn layers, over that of the nearest real ones; 1 is as crisp.

    Drawn: free running on held-out clips, last step; and after 50 steps of random play. Real: all layers of the clips,
    the nearest by squared distance.
    """
    real = e.clips.layers.flatten(0, 1)
    real = real[:: max(1, len(real) // 2000)]
    drawn = {"free_running": e.rolled_out.free[:, -1], "random_play": _played(e.probe, e.seed)}
    return {
        name: float(_energy(layers).mean() / _energy(_nearest(layers, real)).mean()) for name, layers in drawn.items()
    }


def _played(probe: SimulatorProbe, seed: int, steps: int = 50) -> Tensor:
    rng = np.random.default_rng(seed)
    state = probe.start
    for _ in range(steps):
        state = probe.simulator.step(state, *probe.random_actions(rng, len(state)))
    return state.layer


def _nearest(layers: Tensor, real: Tensor) -> Tensor:
    far = torch.cdist(layers.flatten(1).float(), real.flatten(1).float())
    return real[far.argmin(1)]


def _energy(layers: Tensor) -> Tensor:
    """Mean magnitude of the colours' gradient inside the masks: (N,)."""
    colour = layers[:, :3].float()
    mask = layers[:, 3:].float()
    across = (colour[..., 1:] - colour[..., :-1]).square().sum(1)[:, :-1]
    down = (colour[:, :, 1:] - colour[:, :, :-1]).square().sum(1)[..., :-1]
    inside = (mask[:, 0, :-1, :-1] > 0.5).float()
    return ((across + down).sqrt() * inside).sum((1, 2)) / inside.sum((1, 2)).clamp_min(1)
