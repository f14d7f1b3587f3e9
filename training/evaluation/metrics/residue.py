"""What stays of the agent in the backgrounds of episodes, where the footage shows what is really behind it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...data.cuts import farthest
from ...data.store import Video
from ...gma.background import SHOT, BackgroundPlate, estimate_background, shots_of
from .evaluation import Evaluation

OFF = 12  # A pixel is off if it differs from the true background by more than this, of 255, in some channel.
SEEN = 0.5  # A frame is measured if the footage shows the background behind at least this share of the agent.
VIDEOS = 32  # Number of held-out videos of which a frame is inpainted.


def residue(e: Evaluation) -> dict[str, Any]:
    """What stays of the agent: pixels that are off where it was, over its area; in start frames, and after N alone.

    The true background is the median of a shot's pixels without the agent: by the store's true masks, or by M's. Start
    frames that are not among the store's held-out frames are not measured.
    """
    wanted = {frame.tobytes(): n for n, frame in enumerate(e.world.start_frames)}
    starts = []
    for video in e.store.held_out:
        for t, frame in enumerate(e.store.frames[video.start : video.start + video.length]):
            if (n := wanted.pop(frame.tobytes(), None)) is not None:
                starts.append((video, t, e.probe.start.background[n]))
    videos = e.videos[:: max(1, len(e.videos) // VIDEOS)][:VIDEOS]
    middle = np.stack([e.store.frames[v.start + v.length // 2] for v in videos])
    inpainted = e.probe.simulator.start(torch.from_numpy(middle)).background
    others = [(v, v.length // 2, background) for v, background in zip(videos, inpainted, strict=True)]
    return {"start_frames": _measure(e, starts), "inpainted": _measure(e, others)}


def residue_share(background: np.ndarray, plate: BackgroundPlate, t: int) -> float | None:
    """Pixels of a background (H, W, 3) uint8 of frame t that are off where the agent was, over its area.

    Only pixels that the plate knows count. None: it knows too few.
    """
    mask = plate.masks[t]
    truth, known = plate.at(t)
    compared = plate.compare(t)
    if compared is None or known[mask].mean() < SEEN:
        return None
    off = (farthest(background, truth) > OFF) & known & compared[1]
    return float(off.sum() / (mask & known).sum())


def _measure(e: Evaluation, rows: Iterable[tuple[Video, int, Tensor]]) -> dict[str, Any]:
    """Mean and largest share left in backgrounds (3, H, W) uint8 of frames t of videos."""
    parts = defaultdict(list)
    for video, t, background in rows:
        parts[video.start + t // SHOT * SHOT, video].append((t % SHOT, background.permute(1, 2, 0).cpu().numpy()))
    shares = []
    for (start, video), some in parts.items():
        stop = min(start + SHOT, video.start + video.length)
        frames = np.asarray(e.store.frames[start:stop])
        masks = e.store.masks(start, stop) if e.store.has_masks else None
        for shot in shots_of(frames):
            inside = [(t - shot.start, background) for t, background in some if shot.start <= t < shot.stop]
            if inside:
                plate = estimate_background(e.model.gma, frames[shot], None if masks is None else masks[shot])
                shares += [residue_share(background, plate, t) for t, background in inside]
    known = [share for share in shares if share is not None]
    mean = float(np.mean(known)) if known else None
    return {"frames": len(known), "mean": mean, "largest": max(known, default=None)}
