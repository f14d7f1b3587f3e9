"""Contact sheets and curves of an evaluation, one function for each of its parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ..core.sheets import curves, grid, layers_sheet, save_picture, to_picture
from ..gma.stage import sample_pairs
from .metrics.evaluation import Evaluation
from .metrics.probe import SimulatorProbe

RED = np.array([255, 0, 0])
GREEN = np.array([0, 255, 0])
HELD = 12
"""Steps of a held arrow."""


def draw_layers(e: Evaluation, folder: Path) -> None:
    """layers.png (Fig. 8)."""
    save_picture(folder / "layers.png", layers_sheet(e.model.gma, sample_pairs(e.store, e.split)))


def draw_animation(e: Evaluation, folder: Path) -> None:
    """free_running.png: real foregrounds above, drawn ones below."""
    layers = e.clips.layers
    rows = []
    for n in np.linspace(0, len(layers) - 1, 8).astype(int):
        rows.append([to_picture(x[:3]) for x in layers[n]])
        rows.append([to_picture(layers[n, 0, :3])] + [to_picture(x[:3]) for x in e.rolled_out.free[n]])
    save_picture(folder / "free_running.png", grid(rows))


def draw_video(e: Evaluation, folder: Path) -> None:
    """reconstruction.png: every third real frame above, the drawn one below."""
    drawn, real = e.reconstruction
    rows = []
    for n in range(0, len(drawn), max(1, len(drawn) // 5)):
        if len(rows) < 12:
            rows += [list(real[n][::3]), list(drawn[n][::3])]
    save_picture(folder / "reconstruction.png", grid(rows, scale=1))


def draw_codes(e: Evaluation, folder: Path) -> None:
    """local_actions.png: each code 12 times on the spot, three agents a code; three real clips last (Figs. 16-18)."""
    rows = []
    for clip in e.code_clips:
        for n in (0, len(clip) // 3, 2 * len(clip) // 3):
            rows.append([to_picture(x[:3]) for x in clip[n]])
    for n in np.linspace(0, len(e.clips.layers) - 1, 3).astype(int):
        rows.append([to_picture(x[:3]) for x in e.clips.layers[n, : len(rows[0])]])
    save_picture(folder / "local_actions.png", grid(rows))


def draw_transfer(e: Evaluation, folder: Path) -> None:
    """transfer.png: a clip above, its actions from another first frame below (Figs. 5, 11, 12)."""
    t = e.transferred
    rows = []
    for n in np.linspace(0, len(t.donor) - 1, min(4, len(t.donor))).astype(int):
        rows.append([to_picture(x[:3]) for x in t.donor[n]])
        rows.append([to_picture(t.target[n, 0, :3])] + [to_picture(x[:3]) for x in t.drawn[n]])
    save_picture(folder / "transfer.png", grid(rows))


def draw_simulator(e: Evaluation, folder: Path) -> None:
    """global_actions.png, curves.png, after_N_random_steps.png."""
    save_picture(folder / "global_actions.png", global_actions(e.probe))
    curves(folder / "curves.png", e.play.figures["curves"])
    for step, frames in e.play.frames.items():
        picture = grid([list(frames[i : i + 4]) for i in range(0, len(frames), 4)], scale=1)
        save_picture(folder / f"after_{step}_random_steps.png", picture)


def draw_crispness(e: Evaluation, folder: Path) -> None:
    """held_arrows.png: four starts, right 12 times and left 12 times, no digit pressed; real clips that do, below."""
    middle = e.probe.placed(e.probe.simulator.width / 2).rows(torch.linspace(0, len(e.probe.start) - 1, 4).long())
    states = [middle, *e.probe.hold(middle, ["right"] * HELD + ["left"] * HELD)]
    rows = [[to_picture(state.layer[n, :3]) for state in states] for n in range(len(middle))]
    across = e.clips.shifts[:, :HELD, 0].sum(1)
    for rightward, leftward in zip(across.argsort(descending=True)[:4], across.argsort()[:4], strict=True):
        real = torch.cat([e.clips.layers[rightward, : HELD + 1], e.clips.layers[leftward, 1 : HELD + 1]])
        rows.append([to_picture(x[:3]) for x in real])
    save_picture(folder / "held_arrows.png", grid(rows))


def global_actions(probe: SimulatorProbe, steps: int = 4) -> np.ndarray:
    """Each direction from a few starts (Figs. 7, 13-15): the agent before in red, after in green."""
    start = probe.placed(probe.simulator.width / 2).rows(torch.linspace(0, len(probe.start) - 1, 4).long())
    rows = [[frame] for frame in probe.simulator.frames(start).numpy()]
    for name in probe.table.shift_names:
        after = probe.go(start, [(name, 0)] * steps)
        frames = probe.simulator.frames(after).numpy()
        old = probe.silhouettes(start)
        new = probe.silhouettes(after)
        for n, row in enumerate(rows):
            picture = frames[n].astype(np.float32)
            picture[old[n]] = 0.4 * picture[old[n]] + 0.6 * RED
            picture[new[n]] = 0.6 * picture[new[n]] + 0.4 * GREEN
            row.append(picture.astype(np.uint8))
    return grid(rows, scale=1)


FIGURES: dict[str, Callable[[Evaluation, Path], None]] = {
    "lma": draw_animation,
    "video": draw_video,
    "codes": draw_codes,
    "transfer": draw_transfer,
    "simulator": draw_simulator,
    "crispness": draw_crispness,
}
"""Pictures of the metrics of the same name."""
