"""LMA on held-out clips: free running and one step, beside the static baseline (Figs. 6 and 8; mIoU_RE of Table 3)."""

from __future__ import annotations

from typing import Any

import torch

from .errors import iou
from .evaluation import Evaluation
from .held_out import HORIZON

STEPS_RE = 12  # Steps of mIoU_RE (the paper's W-Sprites clips have 12 frames).
PROTOCOL = (
    "free running from frame 0, inferred codes, shifts by the tracker; "
    "static = first foreground moved by the same shifts; MSE averaged over clips before any ratio"
)


def animation(e: Evaluation) -> dict[str, Any]:
    """Errors and silhouettes, free running at steps 1, 5 and 15, and of single steps from real frames."""
    clips, layers, real = e.clips, e.clips.layers, e.clips.layers[:, 1:]
    free, one_step = e.rolled_out.free, e.rolled_out.one_step
    static = clips.static(e.model.lma.view.follows)
    out: dict[str, Any] = {"clips": len(layers), "protocol": PROTOCOL}
    for step in (1, 5, HORIZON):
        at = step - 1
        error, still = squared(free[:, at], real[:, at]), squared(static[:, at], real[:, at])
        figures = {"foreground_mse": error, "static_mse": still, "ratio": error / still}
        figures["mask_iou"] = _mask_iou(free[:, at], real[:, at, 3:])
        figures["static_iou"] = _mask_iou(static[:, at], real[:, at, 3:])
        if clips.true_masks is not None:
            truth = clips.true_masks[:, step]
            figures["true_mask_iou"] = _mask_iou(free[:, at], truth)
            figures["true_static_iou"] = _mask_iou(static[:, at], truth)
        out[f"step_{step}"] = figures
    out["one_step"] = {
        "foreground_mse": squared(one_step, real),
        "copy_mse": squared(layers[:, :-1], real),
        "mask_iou": _mask_iou(one_step, real[:, :, 3:]),
    }
    if clips.true_masks is not None:
        truth = clips.true_masks[:, 1 : STEPS_RE + 1]
        rows = {"free_running": free, "one_step": one_step, "static": static, "m_on_real_frames": real}
        out["miou_re"] = {f"{name}_{STEPS_RE}": _mask_iou(drawn[:, :STEPS_RE], truth) for name, drawn in rows.items()}
    return out


def squared(a: torch.Tensor, b: torch.Tensor) -> float:
    """Mean squared difference of the colours of layers (..., 4, h, w)."""
    return float((a[..., :3, :, :] - b[..., :3, :, :]).square().mean())


def _mask_iou(layers: torch.Tensor, masks: torch.Tensor) -> float:
    """Mean IoU of the masks of layers (..., 4, h, w) with masks (..., 1, h, w)."""
    drawn, true = layers[..., 3, :, :] > 0.5, masks[..., 0, :, :] > 0.5
    return float(iou(drawn.flatten(0, -3).numpy(), true.flatten(0, -3).numpy()).mean())
