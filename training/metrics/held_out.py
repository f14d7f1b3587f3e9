"""Held-out clips: what GMA says about them (Tables 1 and 2), and windows to measure LMA on."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from glass_gym.checkpoint import World
from glass_gym.glass import crop_windows
from glass_gym.tracking import track
from training.data.store import Store, frames_to_tensor
from training.metrics.motion import shift_errors
from training.metrics.poses import true_positions
from training.metrics.segmentation import centroids, iou, soft_iou

HORIZON = 15
"""Steps of a held-out clip (the paper's Tennis clips have 16 frames)."""


@dataclass
class Clips:
    """Held-out clips in the agent's window.

    Attributes:
        layers (N, T + 1, 4, s, s), shifts (N, T, 2) px, positions (N, T + 1, 2) px, starts (N,) frames of the store,
        background (N, T, 2) px, steps of the scene; true_masks in the windows, or None; labels (N, T) and groups
        (N, T), or None; codes, code_shifts, code_labels, code_groups: of every step of the whole videos.
    """

    layers: torch.Tensor
    shifts: torch.Tensor
    positions: torch.Tensor
    starts: np.ndarray
    background: torch.Tensor
    true_masks: torch.Tensor | None
    labels: np.ndarray | None
    groups: np.ndarray | None
    codes: np.ndarray
    code_shifts: np.ndarray
    code_labels: np.ndarray | None
    code_groups: np.ndarray | None


def analyse(world: World, store: Store, videos, result: dict, clips: bool = True) -> Clips | None:
    """GMA figures into `result`, and (with `clips`) the clips that LMA is measured on."""
    model, side = world.model, world.config.window
    found: dict[str, list] = defaultdict(list)
    pixels = np.zeros(2)
    for video in tqdm(videos, desc="held-out videos", leave=False):
        span = slice(video.start, video.start + video.length)
        frames = frames_to_tensor(store.frames[span])
        tracked = track(model, frames)
        raw = tracked.raw_masks
        moves = tracked.position.diff(dim=0)
        pairs = torch.stack([frames[:-1], frames[1:]], 1)
        pair_masks = torch.stack([raw[:-1], raw[1:]], 1)
        estimate = model.shift_foreground(pairs, pair_masks).float().numpy()
        scene = model.shift_background(pairs, 1 - pair_masks).float()
        corner = tracked.position.long() - side // 2
        truth = store.masks(span.start, span.stop) if store.has_masks else None
        if truth is not None:
            found["iou"].append(iou((raw[:, 0] > 0.5).numpy(), truth))
            found["soft"].append(soft_iou(raw[:, 0].numpy(), truth.astype(np.float32)))
            kept = (tracked.masks[:, 0] > 0.5).numpy()
            found["around"].append(iou(kept, truth))
            pixels += [(kept & truth).sum(), (kept | truth).sum()]
            found["distance"].append(np.linalg.norm(centroids(kept) - centroids(truth), axis=1))
        move = true_shifts(store, video, truth)
        if move is not None:
            found["tracked"].append(moves.numpy())
            found["pairwise"].append(estimate)
            found["true"].append(move)
        if "background_shift" in store.labels:
            found["scene"].append(scene.numpy())
            found["true_scene"].append(store.labels["background_shift"][span][:-1])
        if not clips:
            continue
        window = crop_windows(torch.cat([frames * tracked.masks, tracked.masks], 1), corner, side)
        true_window = None if truth is None else crop_windows(torch.from_numpy(truth)[:, None].float(), corner, side)
        if model.config.view == "agent" and len(world.start_frames):
            found["codes"].append(model.infer_codes(window[None], moves[None])[0].numpy())
            found["code_shifts"].append(moves.numpy())
            if "local_action" in store.labels:
                found["code_labels"].append(store.labels["local_action"][span][1:])
                found["code_groups"].append(store.labels["character"][span][1:])
        for begin in range(0, video.length - HORIZON, HORIZON + 1):
            part, steps = slice(begin, begin + HORIZON + 1), slice(begin, begin + HORIZON)
            found["layers"].append(window[part])
            found["shifts"].append(moves[steps])
            found["positions"].append(tracked.position[part])
            found["starts"].append(span.start + begin)
            found["background"].append(scene[steps])
            if true_window is not None:
                found["masks"].append(true_window[part])
            if "local_action" in store.labels:
                found["labels"].append(store.labels["local_action"][span][part][1:])
                found["groups"].append(store.labels["character"][span][part][1:])
    if store.has_masks:
        result["segmentation"] = {
            "miou": _mean(found["iou"]), "soft_iou": _mean(found["soft"]), "miou_around_agent": _mean(found["around"]),
            "pixel_iou_around_agent": float(pixels[0] / pixels[1]),
            "centroid_distance_px": finite(np.nanmean, np.concatenate(found["distance"])),
        }  # fmt: skip
    if found["true"]:
        true = np.concatenate(found["true"])
        result["foreground_shift_pairwise"] = shift_errors(np.concatenate(found["pairwise"]), true)
        result["foreground_shift_tracked"] = shift_errors(np.concatenate(found["tracked"]), true)
    if found["scene"]:
        result["background_shift"] = shift_errors(np.concatenate(found["scene"]), np.concatenate(found["true_scene"]))
    if not clips:
        return None
    stack = lambda name: torch.stack(found[name]) if found[name] else None  # noqa: E731
    array = lambda name, join=np.concatenate: join(found[name]) if found[name] else None  # noqa: E731
    return Clips(
        stack("layers"), stack("shifts"), stack("positions"), np.array(found["starts"]), stack("background"),
        stack("masks"), array("labels", np.stack), array("groups", np.stack), array("codes"), array("code_shifts"),
        array("code_labels"), array("code_groups"),
    )  # fmt: skip


def true_shifts(store: Store, video, masks: np.ndarray | None) -> np.ndarray | None:
    """True shifts (T - 1, 2) px of a video from labels, or None without them; see :func:`true_positions`."""
    if "foreground_shift" in store.labels:
        return store.labels["foreground_shift"][video.start : video.start + video.length][:-1]
    if masks is None:
        masks = np.zeros((video.length, store.height, store.width), bool)
    position = true_positions(store, video, masks)
    return None if position is None else np.diff(position, axis=0)


def _mean(parts: list[np.ndarray]) -> float:
    return float(np.concatenate(parts).mean())


def finite(reduce, values: np.ndarray) -> float | None:
    """A statistic as a float; None where nothing was measured."""
    return float(reduce(values)) if np.isfinite(values).any() else None
