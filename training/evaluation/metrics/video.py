"""Whole frames of held-out clips, drawn free running: pictures, and ADD / MDR of a detector (Table 5)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from glass_gym.tensors.convert import to_images

from ...data.sources import source_of
from . import learned
from .evaluation import Evaluation
from .held_out import HORIZON, finite
from .images import picture_errors


def reconstruction(e: Evaluation) -> dict[str, Any]:
    """Picture errors; ADD, the distance of detections in real and reconstructed frames, px; and MDR, the share of real
    detections that the reconstruction lacks."""
    drawn, real = e.reconstruction  # (N, T, H, W, 3)
    out: dict[str, Any] = {}
    for step in (1, 5, HORIZON):
        at = step - 1
        figures: dict[str, Any] = picture_errors(drawn[:, at], real[:, at])
        if e.store.has_masks:
            truth = np.stack([e.store.masks(s + step, s + step + 1)[0] for s in e.clips.starts])
            figures["foreground"] = picture_errors(drawn[:, at], real[:, at], truth)
        if e.features is not None:
            figures["vgg_hed_distance"] = float(e.probe.distance(_planes(drawn[:, at]), _planes(real[:, at])).mean())
        out[f"step_{step}"] = figures
    flat = drawn.reshape(-1, *drawn.shape[2:])
    true = real.reshape(-1, *real.shape[2:])
    out["detection"] = _detection(e, flat, true)
    if e.features is not None:
        sample = np.linspace(0, len(flat) - 1, min(512, len(flat))).astype(int)
        a, b = (learned.pooled_features(e.features, x[sample]) for x in (flat, true))
        out["vgg_hed_frechet_distance"] = learned.frechet_distance(a, b)
    if e.networks:
        out["lpips"] = learned.lpips(_planes(flat), _planes(true))
        out["fid"] = learned.fid(*(torch.from_numpy(x).permute(0, 3, 1, 2) for x in (flat, true)))
    return out


def _planes(frames: np.ndarray) -> torch.Tensor:
    """(N, H, W, 3) uint8 -> (N, 3, H, W) in [-1, 1]."""
    return to_images(torch.from_numpy(frames).permute(0, 3, 1, 2))


def _detection(e: Evaluation, flat: np.ndarray, true: np.ndarray) -> dict[str, Any]:
    probe = e.probe
    starts = e.clips.starts
    context = source_of(e.store).context(e.store, np.repeat(starts, HORIZON))
    found = probe.detector(flat, context)
    wanted = probe.detector(true, context)
    seen = wanted.pieces > 0
    both = seen & (found.pieces > 0)
    distance = np.linalg.norm(found.centroid - wanted.centroid, axis=1)[both]
    out = {
        "detector": type(probe.detector).__name__,
        "frames": int(seen.sum()),
        "add_px": finite(np.mean, distance),
        "add_median_px": finite(np.median, distance),
        "mdr_percent": float(100 * (1 - both.sum() / max(1, seen.sum()))),
    }
    if probe.matcher is not None:
        a = probe.matcher(found.largest)[0]
        b = probe.matcher(wanted.largest)[0]
        out["add_by_template_px"] = finite(np.nanmean, np.linalg.norm(a - b, axis=1))
    return out
