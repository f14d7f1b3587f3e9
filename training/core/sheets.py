"""Sample sheets: pictures (PNG) that show what a model does during training, and curves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from glass_gym.model.gma import GMA
from glass_gym.model.lma import LMA
from glass_gym.model.pose_model import PoseLMA
from glass_gym.worlds.sheets import grid, to_picture


@torch.no_grad()
def layers_sheet(gma: GMA, pairs: Tensor) -> np.ndarray:
    """A row for each pair of frames (B, 2, 3, H, W) in [-1, 1], as in Fig. 8 of the paper: the frame, its mask, its
    foreground, the inpainted background, and the next frame as composed of the moved layers."""
    device = next(gma.parameters()).device
    out = []
    for pair in pairs:
        motion = gma.analyse_pairs(pair[None].to(device))
        mask = motion.masks[0, 0].expand(3, -1, -1) * 2 - 1
        foreground = motion.masks[0, 0].cpu() * pair[0] - (1 - motion.masks[0, 0].cpu())
        out.append([to_picture(x) for x in (pair[0], mask, foreground, motion.backgrounds[0, 0], motion.composed[0])])
    return grid(out)


@torch.no_grad()
def rollout_sheet(lma: LMA, batch: dict[str, Tensor], quantised: bool = True) -> np.ndarray:
    """Two rows for each clip: real foregrounds above, free-running foregrounds with inferred codes below.

    Args:
        lma: the model.
        batch: layers (B, T + 1, 4, h, w), shifts (B, T, 2) px, positions (B, T + 1, 2) px.
        quantised: whether A's directions are quantised.
    """
    layers, shifts = batch["layers"], batch["shifts"]
    z = lma.directions(layers, shifts)
    codes = lma.quantise(z).vector.unflatten(0, z.shape[:2]) if quantised else lma.quantiser.normalise(z)
    drawn = lma.rollout(layers, shifts, codes, position=batch["positions"][:, 0])
    return _above(layers, [layers[:, 0], *(d.layer for d in drawn)])


@torch.no_grad()
def poses_sheet(lma: PoseLMA, batch: dict[str, Tensor]) -> np.ndarray:
    """Two rows for each clip of a batch (see :func:`rollout_sheet`): real foregrounds; below them, their poses drawn in
    the appearance of the clip's first frame."""
    layers = batch["layers"]
    appearance, first, _, hidden = lma.start_state(layers[:, 0])
    drawn = []
    for layer, position in zip(layers.unbind(1), batch["positions"].unbind(1), strict=True):
        pose = lma.pose_codebook.embed(lma.encode_poses(layer))
        drawn.append(lma.draw((appearance, first, pose, hidden), position).layer)
    return _above(layers, drawn)


def _above(real: Tensor, drawn: list[Tensor]) -> np.ndarray:
    """Rows of clips (B, T, 4, s, s), each above its row of T drawings (B, 4, s, s)."""
    out = []
    for row in range(len(real)):
        out.append([to_picture(x[:3]) for x in real[row]])
        out.append([to_picture(x[row, :3]) for x in drawn])
    return grid(out)


def curves(path: Path, figures: dict[str, list]) -> Path:
    """Plot each list of `figures` over the list "step", None left out, one panel each, as PNG; returns `path`."""
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
