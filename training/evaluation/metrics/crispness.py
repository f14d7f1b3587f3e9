"""Is the drawn agent crisp? Presence, control error and squared error do not show blur; these figures do."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from glass_gym.simulator.simulator import WorldState

from ...data.sources import source_of
from .evaluation import Evaluation
from .probe import SimulatorProbe

AGENT_DIFFERENCE = 24
"""A pixel belongs to the agent if it differs from the background by more than this, in summed RGB."""
PALETTE_DISTANCE = 60.0  # A pixel has a palette colour if it is within this distance of it, Euclidean RGB.
ROWS = 32
HELD, PLAYED = 10, 200  # Steps of each held arrow, and of random play.
PLAY_SAMPLES = (1, 2, 5, 10, 20, 50, 100, 150, 200)


def crispness(e: Evaluation) -> dict[str, Any]:
    """Gradient energy over that of real layers; and the blend share, if the source gives the agent's palette."""
    out: dict[str, Any] = {"gradient_energy": gradient_energy(e)}
    palette = source_of(e.store).palette
    if palette is not None:
        out["blend_share"] = blend_shares(e.probe, np.asarray(palette, np.float32), e.seed)
    return out


def blend_share(frames: np.ndarray, backgrounds: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Share (N,) of the agent's pixels in frames (N, H, W, 3) uint8 that have none of the colours in `palette` (P, 3);
    nan where there is no agent, that is, no difference from the backgrounds (N, H, W, 3) uint8."""
    frames = frames.astype(np.float32)
    agent = np.abs(frames - backgrounds.astype(np.float32)).sum(-1) > AGENT_DIFFERENCE
    distance = np.linalg.norm(frames[..., None, :] - palette, axis=-1).min(-1)
    count = agent.sum((1, 2))
    mixed = (agent & (distance > PALETTE_DISTANCE)).sum((1, 2))
    return np.where(count > 0, mixed / np.maximum(count, 1), np.nan)


def blend_shares(probe: SimulatorProbe, palette: np.ndarray, seed: int) -> dict[str, Any]:
    """Blend shares of the start frames (real), under held arrows, and in random play, from 32 starts."""
    rows = torch.arange(ROWS) % len(probe.start)
    start = probe.start.rows(rows)
    backgrounds = start.background.permute(0, 2, 3, 1).numpy()

    def share(state: WorldState) -> np.ndarray:
        return blend_share(probe.simulator.frames(state).numpy(), backgrounds, palette)

    held = [share(state) for state in probe.hold(start, ["right"] * HELD + ["left"] * HELD, seed)]
    played = [share(state) for n, state in enumerate(probe.play(start, PLAYED, seed), 1) if n in PLAY_SAMPLES]
    real = blend_share(probe.world.start_frames[rows.numpy()], backgrounds, palette)
    kinds = {"real": real, "held_arrows": np.concatenate(held), "random_play": np.concatenate(played)}
    figures = {n: {"mean": float(np.nanmean(v)), "p90": float(np.nanpercentile(v, 90))} for n, v in kinds.items()}
    return {"rows": ROWS} | figures


def gradient_energy(e: Evaluation) -> dict[str, Any]:
    """Mean gradient magnitude inside the mask of drawn layers over that of the nearest real layers; 1: equally crisp.

    Drawn layers are the last step of free-running held-out clips, and those after 50 steps of random play. The nearest
    real layer is the one of the clips with the least squared distance.
    """
    real = e.clips.layers.flatten(0, 1)
    real = real[:: max(1, len(real) // 2000)]
    *_, played = e.probe.play(e.probe.start, 50, e.seed)
    drawn = {"free_running": e.rolled_out.free[:, -1], "random_play": played.layer}
    out = {}
    for name, layers in drawn.items():
        nearest = torch.cdist(layers.flatten(1).float(), real.flatten(1).float()).argmin(1)
        out[name] = float(_energy(layers).mean() / _energy(real[nearest]).mean())
    return out


def _energy(layers: Tensor) -> Tensor:
    """Mean magnitude of the colours' gradient inside the masks: (N,)."""
    colour = layers[:, :3].float()
    across = (colour[..., 1:] - colour[..., :-1]).square().sum(1)[:, :-1]
    down = (colour[:, :, 1:] - colour[:, :, :-1]).square().sum(1)[..., :-1]
    inside = (layers[:, 3, :-1, :-1].float() > 0.5).float()
    return ((across + down).sqrt() * inside).sum((1, 2)) / inside.sum((1, 2)).clamp_min(1)
