"""Held-out clips: the figures of GMA (Tables 1 and 2), and the layers that LMA is measured on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from glass_gym.model.glass import Glass
from glass_gym.model.shift import translate
from glass_gym.tools.time_left import TimeLeft

from ...data.sources import source_of
from ...data.store import Store, Video, frames_to_tensor
from ...windows.tracking import track
from .motion import shift_errors
from .segmentation import centroids, iou, soft_iou

HORIZON = 15
"""Steps of a held-out clip (the paper's Tennis clips have 16 frames)."""


@dataclass
class Clips:
    """Held-out clips of T = HORIZON steps.

    Attributes:
        layers: (N, T + 1, 4, h, w), as the model's view cuts them.
        shifts: (N, T, 2) px, by the tracker.
        positions: (N, T + 1, 2) px.
        starts: (N,) frames of the store.
        background: (N, T, 2) px, shifts of the background.
        true_masks: (N, T + 1, 1, h, w), or None.
        codes, code_shifts, code_labels, code_groups: of every step of the whole videos, or None.
    """

    layers: torch.Tensor
    shifts: torch.Tensor
    positions: torch.Tensor
    starts: np.ndarray
    background: torch.Tensor
    true_masks: torch.Tensor | None
    codes: np.ndarray | None
    code_shifts: np.ndarray | None
    code_labels: np.ndarray | None
    code_groups: np.ndarray | None

    def static(self, follows: bool) -> torch.Tensor:
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
) -> tuple[dict[str, Any], Clips | None]:
    """GMA's figures, and (with `clips`) the clips that LMA is measured on.

    Args:
        model: with a trained GMA.
        store: of the videos.
        videos: held out.
        clips: whether to cut clips.
        codes: whether to infer local actions; LMA must be trained.
        grid: (x, y) px of a cell, in a grid world.
    """
    found: dict[str, list] = defaultdict(list)
    time_left = TimeLeft(len(videos))
    for done, video in enumerate(tqdm(videos, desc="held-out videos", leave=False)):
        if told := time_left.after(done):
            tqdm.write(f"held-out videos: about {told[1]:.0f} minutes more on this machine")
        _analyse_video(model, store, video, found, clips, codes, grid)
    figures = _figures(found)
    return figures, _clips(found) if clips else None


def _analyse_video(
    model: Glass,
    store: Store,
    video: Video,
    found: dict[str, list],
    clips: bool,
    codes: bool,
    grid: tuple[float, float] | None,
) -> None:
    span = slice(video.start, video.start + video.length)
    frames = frames_to_tensor(store.frames[span])
    tracked = track(model, frames, refine=codes, grid=grid)
    moves = tracked.position.diff(dim=0)
    truth = store.masks(span.start, span.stop) if store.has_masks else None
    background = _gma(model, store, video, frames, tracked, truth, found)
    if not clips:
        return
    layers = model.lma.view.cut(frames, tracked.masks, tracked.position)
    true_layers = None
    if truth is not None:
        mask = torch.from_numpy(truth)[:, None].float()
        true_layers = model.lma.view.cut(torch.ones_like(mask).expand(-1, 3, -1, -1), mask, tracked.position)[:, 3:]
    if codes:
        source = source_of(store)
        found["codes"].append(model.lma.infer_codes(layers[None], moves[None])[0].numpy())
        found["code_shifts"].append(moves.numpy())
        if (labels := source.local_actions(store, video)) is not None:
            found["code_labels"].append(labels)
        if (groups := source.characters(store, video)) is not None:
            found["code_groups"].append(groups)
    for begin in range(0, video.length - HORIZON, HORIZON + 1):
        part = slice(begin, begin + HORIZON + 1)
        steps = slice(begin, begin + HORIZON)
        found["layers"].append(layers[part])
        found["shifts"].append(moves[steps])
        found["positions"].append(tracked.position[part])
        found["starts"].append(span.start + begin)
        found["background"].append(background[steps])
        if true_layers is not None:
            found["true_masks"].append(true_layers[part])


def _gma(model: Glass, store: Store, video: Video, frames, tracked, truth, found: dict[str, list]) -> torch.Tensor:
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
    move = source.shifts(store, video, truth)
    if move is not None:
        found["tracked"].append(tracked.position.diff(dim=0).numpy())
        found["pairwise"].append(estimate)
        found["true"].append(move)
    true_background = source.background_shifts(store, video)
    if true_background is not None:
        found["estimated_background"].append(background.numpy())
        found["true_background"].append(true_background)
    return background


def _figures(found: dict[str, list]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if found["iou"]:
        pixels = np.sum(found["pixels"], 0)
        out["segmentation"] = {
            "miou": _mean(found["iou"]),
            "soft_iou": _mean(found["soft"]),
            "miou_around_agent": _mean(found["around"]),
            "pixel_iou_around_agent": float(pixels[0] / pixels[1]),
            "centroid_distance_px": finite(np.nanmean, np.concatenate(found["distance"])),
        }
    if found["true"]:
        true = np.concatenate(found["true"])
        out["foreground_shift_pairwise"] = shift_errors(np.concatenate(found["pairwise"]), true)
        out["foreground_shift_tracked"] = shift_errors(np.concatenate(found["tracked"]), true)
    if found["true_background"]:
        estimated = np.concatenate(found["estimated_background"])
        out["background_shift"] = shift_errors(estimated, np.concatenate(found["true_background"]))
    return out


def _clips(found: dict[str, list]) -> Clips:
    of_clips = ("layers", "shifts", "positions", "background", "true_masks")
    of_videos = ("codes", "code_shifts", "code_labels", "code_groups")
    parts: dict[str, Any] = {name: torch.stack(found[name]) if found[name] else None for name in of_clips}
    parts |= {name: np.concatenate(found[name]) if found[name] else None for name in of_videos}
    return Clips(starts=np.array(found["starts"]), **parts)


def _mean(parts: list[np.ndarray]) -> float:
    return float(np.concatenate(parts).mean())


def finite(reduce: Callable[[np.ndarray], Any], values: np.ndarray) -> float | None:
    """A statistic of measured values as a float; None if all are nan."""
    return float(reduce(values)) if np.isfinite(values).any() else None
