"""Held-out clips: the figures of GMA (Tables 1 and 2), and the layers that LMA is measured on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glass_gym.model.glass import Glass
from glass_gym.model.shift import translate
from glass_gym.tools.time_left import TimeLeft

from ...core.progress import each, say
from ...data.sources import source_of
from ...data.store import Store, Video, frames_to_tensor
from ...decoding.decode import decode
from ...windows.tracking import Track, track
from .errors import centroids, iou, shift_errors, soft_iou

HORIZON = 15  # Steps of a held-out clip (the paper's Tennis clips have 16 frames).


@dataclass
class Clips:
    """Held-out clips of T = HORIZON steps; `codes` and what follows are of every step of the whole videos."""

    layers: Tensor  # (N, T + 1, 4, h, w), as the model's view cuts them
    shifts: Tensor  # (N, T, 2) px, by the tracker
    positions: Tensor  # (N, T + 1, 2) px
    starts: np.ndarray  # (N,) frames of the store
    background: Tensor  # (N, T, 2) px, shifts of the background
    true_masks: Tensor | None  # (N, T + 1, 1, h, w)
    codes: np.ndarray | None
    code_shifts: np.ndarray | None
    code_labels: np.ndarray | None
    code_groups: np.ndarray | None

    def static(self, follows: bool) -> Tensor:
        """The static baseline (N, T, 4, h, w): the first layer, moved by the same shifts and otherwise unchanged."""
        still = self.layers[:, :1].expand(-1, self.shifts.shape[1], -1, -1, -1)
        if follows:  # the window moves instead
            return still
        moved = translate(still.flatten(0, 1), self.shifts.cumsum(1).flatten(0, 1))
        return moved.unflatten(0, still.shape[:2])


def held_out_videos(store: Store, count: int, *splits: str) -> list[Video]:
    """Up to `count` videos with the frames of a clip, evenly spread; of all splits if these have none."""
    long_enough = [v for v in store.videos if v.length > HORIZON]
    videos = [v for v in long_enough if v.split in splits] or long_enough
    return videos[:: max(1, len(videos) // count)][:count]


def analyse(
    model: Glass,
    store: Store,
    videos: Sequence[Video],
    clips: bool = True,
    codes: bool = True,
    grid: tuple[float, float] | None = None,
) -> tuple[dict[str, Any], Clips]:
    """GMA's figures, and (with `clips`) the clips that LMA is measured on; `codes` are those of a trained LMA.

    In a grid world, `grid` is (x, y) px of a cell.
    """
    found: dict[str, list] = defaultdict(list)
    time_left = TimeLeft(len(videos))
    for done, video in enumerate(each(videos, "held-out videos", "video")):
        if told := time_left.after(done):
            say(f"held-out videos: about {told[1]:.0f} minutes more on this machine")
        span = slice(video.start, video.start + video.length)
        frames = frames_to_tensor(store.frames[span])
        decoded = decode(model, frames, grid) if codes else None
        tracked = track(model, frames) if decoded is None else decoded.track
        truth = store.masks(span.start, span.stop) if store.has_masks else None
        background = _analyse_gma(model, store, video, frames, tracked, truth, found)
        if not clips:
            continue
        moves = tracked.position.diff(dim=0)
        layers = tracked.layers(model.lma.view, frames) if decoded is None else decoded.layers
        of_frames = {"layers": layers, "positions": tracked.position}
        if truth is not None:
            mask = torch.from_numpy(truth)[:, None].float()
            white = torch.ones_like(mask).expand(-1, 3, -1, -1)
            of_frames["true_masks"] = model.lma.view.cut(white, mask, tracked.position)[:, 3:]
        if decoded is not None:
            source = source_of(store)
            found["codes"].append(decoded.codes.numpy())
            found["code_shifts"].append(moves.numpy())
            if (labels := source.local_actions(store, video)) is not None:
                found["code_labels"].append(labels)
            if (groups := source.characters(store, video)) is not None:
                found["code_groups"].append(groups)
        for begin in range(0, video.length - HORIZON, HORIZON + 1):
            found["starts"].append(video.start + begin)
            for name, values in of_frames.items():
                found[name].append(values[begin : begin + HORIZON + 1])
            for name, values in (("shifts", moves), ("background", background)):
                found[name].append(values[begin : begin + HORIZON])
    of_clips = ("layers", "shifts", "positions", "background", "true_masks")
    of_videos = ("codes", "code_shifts", "code_labels", "code_groups")
    parts: dict[str, Any] = {name: torch.stack(found[name]) if found[name] else None for name in of_clips}
    parts |= {name: np.concatenate(found[name]) if found[name] else None for name in of_videos}
    return _figures(found), Clips(starts=np.array(found["starts"]), **parts)


def _analyse_gma(model: Glass, store: Store, video: Video, frames: Tensor, tracked: Track, truth, found) -> Tensor:
    """Adds GMA's figures of a video to `found`; returns the shifts of the background (T - 1, 2) px."""
    raw = tracked.raw_masks
    pairs = torch.stack([frames[:-1], frames[1:]], 1)
    pair_masks = torch.stack([raw[:-1], raw[1:]], 1)
    estimate = model.gma.shift_foreground(pairs, pair_masks).float().numpy()
    background = model.gma.shift_background(pairs, 1 - pair_masks).float()
    if truth is not None:
        kept = (tracked.masks[:, 0] > 0.5).numpy()
        found["iou"].append(iou((raw[:, 0] > 0.5).numpy(), truth))
        found["soft"].append(soft_iou(raw[:, 0].numpy(), truth.astype(np.float32)))
        found["around"].append(iou(kept, truth))
        found["pixels"].append([(kept & truth).sum(), (kept | truth).sum()])
        found["distance"].append(np.linalg.norm(centroids(kept) - centroids(truth), axis=1))
    source = source_of(store)
    if (move := source.shifts(store, video, truth)) is not None:
        found["tracked"].append(tracked.position.diff(dim=0).numpy())
        found["pairwise"].append(estimate)
        found["true"].append(move)
    if (move := source.background_shifts(store, video)) is not None:
        found["estimated_background"].append(background.numpy())
        found["true_background"].append(move)
    return background


def _figures(found: dict[str, list]) -> dict[str, Any]:
    def joined(name: str) -> np.ndarray:
        return np.concatenate(found[name])

    out: dict[str, Any] = {}
    if found["iou"]:
        both, either = np.sum(found["pixels"], 0)
        out["segmentation"] = {
            "miou": float(joined("iou").mean()),
            "soft_iou": float(joined("soft").mean()),
            "miou_around_agent": float(joined("around").mean()),
            "pixel_iou_around_agent": float(both / either),
            "centroid_distance_px": finite(np.nanmean, joined("distance")),
        }
    if found["true"]:
        out["foreground_shift_pairwise"] = shift_errors(joined("pairwise"), joined("true"))
        out["foreground_shift_tracked"] = shift_errors(joined("tracked"), joined("true"))
    if found["true_background"]:
        out["background_shift"] = shift_errors(joined("estimated_background"), joined("true_background"))
    return out


def finite(reduce: Callable[[np.ndarray], Any], values: np.ndarray) -> float | None:
    """A statistic of measured values as a float; None if all are nan."""
    return float(reduce(values)) if np.isfinite(values).any() else None
