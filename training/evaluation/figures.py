"""Contact sheets and curves of an evaluation, one function for each metric that has one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from glass_gym.worlds.sheets import grid, save_picture, to_picture, with_labels

from ..core.sheets import curves, layers_sheet
from ..gma.stage import sample_pairs
from .metrics.evaluation import Evaluation
from .metrics.pose_transitions import HELD

RED, GREEN = np.array([255, 0, 0]), np.array([0, 255, 0])


def _rows(count: int, *clips: torch.Tensor) -> list[list[np.ndarray]]:
    """`count` clips of each (N, T, 4, h, w), evenly spread, as rows of pictures: those of the same index together."""
    chosen = np.linspace(0, len(clips[0]) - 1, count).astype(int)
    return [[to_picture(x[:3]) for x in clip[n]] for n in chosen for clip in clips]


def draw_layers(e: Evaluation, folder: Path) -> None:
    """layers.png (Fig. 8)."""
    save_picture(folder / "layers.png", layers_sheet(e.model.gma, sample_pairs(e.store, e.split)))


def draw_animation(e: Evaluation, folder: Path) -> None:
    """free_running.png: real foregrounds above, drawn ones below."""
    drawn = torch.cat([e.clips.layers[:, :1], e.rolled_out.free], 1)
    save_picture(folder / "free_running.png", grid(_rows(8, e.clips.layers, drawn)))


def draw_video(e: Evaluation, folder: Path) -> None:
    """reconstruction.png: every third real frame above, the drawn one below."""
    drawn, real = e.reconstruction
    chosen = range(0, len(drawn), max(1, len(drawn) // 5))[:6]
    rows = [list(frames[n][::3]) for n in chosen for frames in (real, drawn)]
    save_picture(folder / "reconstruction.png", grid(rows, scale=1))


def draw_codes(e: Evaluation, folder: Path) -> None:
    """local_actions.png: each code 12 times, three agents a code; last, three real clips (Figs. 16-18)."""
    agents = [len(e.code_clips[0]) * n // 3 for n in range(3)]
    rows = [row for clips in e.code_clips for row in _rows(3, clips[agents])]
    sheet = grid([*rows, *_rows(3, e.clips.layers[:, : len(rows[0])])])
    labels = [f"{k}: {name}" for k, name in enumerate(e.world.code_names)]
    save_picture(folder / "local_actions.png", with_labels(sheet, [*labels, "real clips"]))


def draw_transfer(e: Evaluation, folder: Path) -> None:
    """transfer.png: a clip above; below, its actions from another first frame (Figs. 5, 11, 12)."""
    t = e.transferred
    drawn = torch.cat([t.target[:, :1], t.drawn], 1)
    save_picture(folder / "transfer.png", grid(_rows(min(4, len(drawn)), t.donor, drawn)))


def draw_simulator(e: Evaluation, folder: Path) -> None:
    """curves.png, after_N_random_steps.png, and global_actions.png: each direction from four starts (Figs. 7, 13-15),
    the agent before in red, after four steps in green."""
    probe = e.probe
    start = probe.start_at(probe.simulator.width / 2).rows(torch.linspace(0, len(probe.start) - 1, 4).long())
    rows = [[frame] for frame in probe.simulator.frames(start).numpy()]
    old = probe.silhouettes(start)
    for name in probe.table.shift_names:
        after = probe.hold(start, [name] * 4, code=0)[-1]
        new = probe.silhouettes(after)
        for n, picture in enumerate(probe.simulator.frames(after).numpy().astype(np.float32)):
            picture[old[n]] = 0.4 * picture[old[n]] + 0.6 * RED
            picture[new[n]] = 0.6 * picture[new[n]] + 0.4 * GREEN
            rows[n].append(picture.astype(np.uint8))
    save_picture(folder / "global_actions.png", grid(rows, scale=1))
    curves(folder / "curves.png", e.play.figures["curves"])
    for step, frames in e.play.frames.items():
        picture = grid([list(frames[i : i + 4]) for i in range(0, len(frames), 4)], scale=1)
        save_picture(folder / f"after_{step}_random_steps.png", picture)


def draw_crispness(e: Evaluation, folder: Path) -> None:
    """held_arrows.png: four starts, 12 steps right, 12 left under the prior; below, real clips that do."""
    middle = e.probe.start_at(e.probe.simulator.width / 2).rows(torch.linspace(0, len(e.probe.start) - 1, 4).long())
    states = [middle, *e.probe.hold(middle, ["right"] * HELD + ["left"] * HELD)]
    rows = [[to_picture(state.layer[n, :3]) for state in states] for n in range(len(middle))]
    across = e.clips.shifts[:, :HELD, 0].sum(1)
    for rightward, leftward in zip(across.argsort(descending=True)[:4], across.argsort()[:4], strict=True):
        real = torch.cat([e.clips.layers[rightward, : HELD + 1], e.clips.layers[leftward, 1 : HELD + 1]])
        rows.append([to_picture(x[:3]) for x in real])
    save_picture(folder / "held_arrows.png", grid(rows))


FIGURES: dict[str, Callable[[Evaluation, Path], None]] = {
    "lma": draw_animation,
    "video": draw_video,
    "codes": draw_codes,
    "transfer": draw_transfer,
    "simulator": draw_simulator,
    "crispness": draw_crispness,
}
"""Pictures of the metrics of the same name."""
