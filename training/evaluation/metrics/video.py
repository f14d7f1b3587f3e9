"""Whole frames of held-out clips, drawn free running: PSNR, SSIM, L1, and a detector's ADD and MDR (Table 5)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from glass_gym.tensors.convert import to_images

from ...data.sources import source_of
from .evaluation import Evaluation
from .held_out import HORIZON, finite
from .images import fid, frechet_distance, lpips, picture_errors


def reconstruction(e: Evaluation) -> dict[str, Any]:
    """Picture errors; ADD, the mean distance, px, of the detections in real and drawn frames; and MDR, the share of the
    real detections that are missing in the drawn frames."""
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
    flat, true = (x.reshape(-1, *x.shape[2:]) for x in (drawn, real))
    out["detection"] = _detection(e, flat, true)
    if e.features is not None:
        sample = np.linspace(0, len(flat) - 1, min(512, len(flat))).astype(int)
        parts = [[e.features(p)[-1].mean((2, 3)) for p in _planes(x[sample]).split(32)] for x in (flat, true)]
        out["vgg_hed_frechet_distance"] = frechet_distance(*(torch.cat(p).numpy() for p in parts))
    if e.networks:
        out["lpips"] = lpips(_planes(flat), _planes(true))
        out["fid"] = fid(*(torch.from_numpy(x).permute(0, 3, 1, 2) for x in (flat, true)))
    return out


def _planes(frames: np.ndarray) -> torch.Tensor:
    """(N, H, W, 3) uint8 -> (N, 3, H, W) in [-1, 1]."""
    return to_images(torch.from_numpy(frames).permute(0, 3, 1, 2))


def _detection(e: Evaluation, flat: np.ndarray, true: np.ndarray) -> dict[str, Any]:
    probe = e.probe
    context = source_of(e.store).context(e.store, np.repeat(e.clips.starts, HORIZON))
    found, wanted = probe.detector(flat, context), probe.detector(true, context)
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
        apart = probe.matcher(found.largest)[0] - probe.matcher(wanted.largest)[0]
        out["add_by_template_px"] = finite(np.nanmean, np.linalg.norm(apart, axis=1))
    return out
