"""Sample sheets: what a model does, as one PNG. Numbers lie where pictures don't."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from glass_gym.model.token_glass import PoseLMA
from PIL import Image
from torch import Tensor

from glass_gym.model.glass import Glass
from glass_gym.tensors.convert import to_bytes

from ..data.store import Store, frames_to_tensor


def to_picture(images: Tensor) -> np.ndarray:
    """(..., 3, H, W) in [-1, 1] -> (..., H, W, 3) uint8."""
    return to_bytes(images.float().cpu()).movedim(-3, -1).numpy()


def grid(rows: list[list[np.ndarray]], scale: int = 2, gap: int = 2) -> np.ndarray:
    """Rows of equally sized pictures (H, W, 3) -> one picture, enlarged without smoothing."""
    padded = [
        np.concatenate([np.pad(p, ((0, gap), (0, gap), (0, 0)), constant_values=40) for p in row], 1) for row in rows
    ]
    sheet = np.concatenate(padded, 0)
    return sheet.repeat(scale, 0).repeat(scale, 1)


def save_picture(path: Path, picture: np.ndarray) -> Path:
    """Write a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
    return path


@torch.no_grad()
def layers_sheet(model: Glass, store: Store, split: str = "val", rows: int = 6) -> np.ndarray:
    """Frame, mask, foreground, inpainted background, and the next frame composed of the moved layers (Fig. 8)."""
    videos = [v for v in store.videos if v.split == split and v.length >= 2] or store.videos
    device = next(model.parameters()).device
    out = []
    for video in videos[:: max(1, len(videos) // rows)][:rows]:
        start = video.start + video.length // 2 - 1
        pair = frames_to_tensor(store.frames[start : start + 2])
        motion = model.gma.analyse_pairs(pair[None].to(device))
        mask = motion.masks[0, 0].expand(3, -1, -1) * 2 - 1
        foreground = motion.masks[0, 0].cpu() * pair[0] - (1 - motion.masks[0, 0].cpu())
        out.append([to_picture(x) for x in (pair[0], mask, foreground, motion.backgrounds[0, 0], motion.composed[0])])
    return grid(out)


@torch.no_grad()
def rollout_sheet(model: Glass, batch: dict[str, Tensor], quantised: bool, rows: int = 6) -> np.ndarray:
    """Real foregrounds above, free-running foregrounds (inferred codes) below."""
    layers = batch["layers"][:rows]
    shifts = batch["shifts"][:rows]
    z = model.lma.directions(layers, shifts)
    codes = model.lma.quantise(z).vector.unflatten(0, z.shape[:2]) if quantised else model.lma.quantiser.normalise(z)
    drawn = model.lma.rollout(layers, shifts, codes, position=_places(batch)[:rows, 0])
    return _above(layers, [layers[:, 0], *(d.layer for d in drawn)])


@torch.no_grad()
def poses_sheet(model: PoseLMA, batch: dict[str, Tensor], rows: int = 6) -> np.ndarray:
    """Real foregrounds above; below them the pose read off each, drawn with the looks of the first."""
    layers = batch["layers"][:rows]
    looks, first, pose, hidden, _ = model.lma.start_state(layers[:, 0])
    drawn = []
    for layer, place in zip(layers.unbind(1), _places(batch)[:rows].unbind(1), strict=True):
        pose = model.lma.pose_codebook.embed(model.lma.encode_poses(layer))
        drawn.append(model.lma.draw_pose((looks, first, pose, hidden, place), pose).layer)
    return _above(layers, drawn)


def _places(batch: dict[str, Tensor]) -> Tensor:
    """Where the windows are, (B, T + 1, 2) px."""
    return (batch["corner"] + batch["layers"].shape[-1] // 2).float()


def _above(real: Tensor, drawn: list[Tensor]) -> np.ndarray:
    """Clips (B, T, 4, s, s), each above what was drawn of it: T times (B, 4, s, s)."""
    out = []
    for row in range(len(real)):
        out.append([to_picture(x[:3]) for x in real[row]])
        out.append([to_picture(x[row, :3]) for x in drawn])
    return grid(out)


def curves(path: Path, figures: dict[str, list]) -> Path:
    """Line plots of `figures` over its list "step", one panel each, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = [n for n, values in figures.items() if n != "step" and any(v is not None for v in values)]
    figure, axes = plt.subplots(1, len(names), figsize=(4 * len(names), 3), squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        points = [(s, v) for s, v in zip(figures["step"], figures[name], strict=True) if v is not None]
        axis.plot(*zip(*points, strict=True), marker=".")
        axis.set_title(name.replace("_", " "), fontsize=9)
        axis.set_xlabel("step")
        axis.set_ylim(0, 1.1 * max(max(v for _, v in points), 1e-3))
        axis.grid(alpha=0.3)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    plt.close(figure)
    return path
