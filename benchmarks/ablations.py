"""Ablations of GMA (Tables 1 and 2 of the paper): python -m benchmarks.ablations wsprites --sheets DIR

Each row changes one loss or one part. It trains M, N, P_f and P_b for the same number of steps as every other row, then
measures them on held-out videos. Finished rows are kept in OUT/rows; OUT/ablation.json holds them all. If you stop the
command, run it again: finished rows are skipped, and the unfinished one continues from its checkpoint.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from glass_gym.model.config import preset
from glass_gym.model.glass import GMA_PARTS, Glass, build_gma, build_lma
from glass_gym.worlds.checkpoint import write_atomically
from training.config import DataOptions, GmaConfig, LoopConfig
from training.core.command import run_command
from training.core.options import Common, Positional, Positive
from training.core.reporter import Reporter
from training.core.trainer import Interrupted, Trainer
from training.data.sources import open_with_progress
from training.data.store import DataError, Store, Video
from training.evaluation import tables
from training.evaluation.metrics.held_out import HORIZON, analyse
from training.gma.perceptual import load_features
from training.gma.stage import GmaStage


@dataclass(frozen=True)
class Row:
    """One experiment: what differs from the first row."""

    what: str
    weights: dict[str, float] = field(default_factory=dict)  # of losses
    schedule: dict[str, Any] = field(default_factory=dict)  # attributes of the stage
    batch: int = 8
    architecture: str = "pose"
    paper_parts: tuple[str, ...] = ()  # parts of the paper's GMA that replace the architecture's own


ROWS = {
    "gma-base": Row("all losses of the paper but L_VGG, default GMA"),
    "gma-no-recf": Row("without L_RECF", {"rec_f": 0.0}),
    "gma-no-recb": Row("without L_RECB", {"rec_b": 0.0}),
    "gma-no-recj": Row("without L_RECJ", {"rec_j": 0.0}),
    "gma-no-bin": Row("without L_BIN", {"binary": 0.0}),
    "gma-no-size": Row("without L_SIZE", {"size": 0.0}),
    "gma-idle": Row("with our loss of idle mask pixels", {"idle": 0.5}),
    "gma-regressor": Row(
        "P_f, P_b as regressors (Fig. 9) instead of correlation", paper_parts=("shift_foreground", "shift_background")
    ),
    "gma-vgg": Row("with L_VGG", {"vgg": 0.01}),
    "gma-paper": Row(
        "the paper's GMA, with its loss weights, learning rate and batch size",
        {"rec_j": 1.0, "size": 0.1},
        {"binary_ramp": 0, "rate": 4e-4},
        batch=4,
        architecture="paper",
    ),
}
BASE = {"vgg": 0.0, "idle": 0.0}  # Weights of every row, unless it has its own.
THETA = 0.06
COLUMNS = {
    "mIoU": "segmentation/miou",
    "bg error px": "background_shift/mean",
    "fg error px": "foreground_shift_pairwise/mean",
    "angle accuracy": "foreground_shift_pairwise/angle_accuracy",
    "steps": "iterations",
    "minutes": "minutes",
}


@dataclass(frozen=True, kw_only=True)
class AblationConfig(DataOptions):
    """Train and measure the rows of the ablation table, one by one."""

    data: Positional[str]  # as for training; it needs true masks (wsprites)
    out: Common[Path] = Path("runs/ablation")  # folder of rows, checkpoints and ablation.json
    rows: Common[tuple[str, ...]] = tuple(ROWS)  # which rows, in this order
    iterations: Common[Positive] = 400  # optimiser steps of a row
    videos: Common[Positive] = 64  # held-out videos to measure on
    vgg: Common[Path | None] = None  # VGG16 weights (.safetensors); gma-vgg is skipped without them
    loop: LoopConfig = field(default_factory=LoopConfig)


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit status: 3 if it was stopped, and can be resumed."""
    return run_command(AblationConfig, run, "python -m benchmarks.ablations", __doc__ or "", argv)


def run(config: AblationConfig) -> int:
    """Train and measure all rows that are not finished; returns the exit status."""
    if unknown := set(config.rows) - set(ROWS):
        raise ValueError(f"no rows called {', '.join(sorted(unknown))}; there are: {', '.join(ROWS)}")
    store = open_with_progress(config.data, config)
    videos = [v for v in store.videos if v.split == "test" and v.length > HORIZON][: config.videos]
    if not videos or not store.has_masks:
        raise DataError(f"{store.root}: ablations need true masks and test videos of more than {HORIZON} frames")
    end = time.monotonic() + 60 * config.loop.max_minutes
    files = {name: config.out / "rows" / f"{name}.json" for name in ROWS}
    status = 0
    for name in tqdm([n for n in config.rows if not files[n].exists()], desc="rows", unit="row"):
        if ROWS[name].weights.get("vgg") and config.vgg is None:
            print(f"{name}: skipped, it needs --vgg", file=sys.stderr)
            continue
        try:
            measured = train_and_measure(name, config, store, videos, (end - time.monotonic()) / 60)
        except Interrupted:
            status = 3
            break
        text = json.dumps(measured, indent=1) + "\n"
        write_atomically(files[name], lambda part, text=text: part.write_text(text, encoding="utf-8"))
    finished = [json.loads(file.read_text(encoding="utf-8")) for file in files.values() if file.exists()]
    head = {"data": store.source, "command": " ".join(sys.argv[1:]), "test_videos": len(videos)}
    out = config.out / "ablation.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(head | {"rows": finished}, indent=1) + "\n", encoding="utf-8")
    print(f"{table(finished)}\nwritten: {out}")
    if status:
        print("stopped; run the same command to continue")
    return status


def train_and_measure(
    name: str, config: AblationConfig, store: Store, videos: list[Video], minutes_left: float
) -> dict[str, Any]:
    """A row of ROWS: how it was trained, and its figures; Interrupted: stopped or out of time, with its state saved."""
    row = ROWS[name]
    torch.manual_seed(config.loop.seed)
    options = GmaConfig(iterations=config.iterations, batch=row.batch, theta=THETA)
    sizes = preset(row.architecture, store.height, store.width, window=64, agent_radius=24, codes=6)
    gma = build_gma(sizes, **{part: GMA_PARTS["paper"][part] for part in row.paper_parts})
    trainer = Trainer(gma, config.out / name / "gma.pt", config.loop)
    if trainer.state_file.exists():
        trainer.load()
    allowed = minutes_left + sum(trainer.minutes.values())
    trainer.config = dataclasses.replace(config.loop, max_minutes=allowed)
    features = load_features(config.vgg, trainer.device) if row.weights.get("vgg") else None
    stage = GmaStage(gma, store, options, features)
    stage.weights |= BASE | row.weights
    vars(stage).update(row.schedule)
    Reporter(config.out / name, (stage.name,)).run(trainer, stage)
    average = trainer.average.cpu().eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):  # the paper's: 13 s a video in float32
        figures, _ = analyse(Glass(average, build_lma(sizes)), store, videos, clips=False, codes=False)
    about = {"name": name, "seed": config.loop.seed, "minutes": sum(trainer.minutes.values())}
    return about | {"iterations": options.iterations} | figures | {"row": dataclasses.asdict(row)}


def table(rows: list[dict[str, Any]]) -> str:
    """Measured rows as a Markdown table; rows that are not in ROWS are left out."""
    return tables.table([_cells(row) for row in rows if row["name"] in ROWS], ("row", "what", *COLUMNS)) + "\n"


def _cells(row: dict[str, Any]) -> list[Any]:
    found = {path: tables.value(row, path) for path in COLUMNS.values()}
    exact = {path: f"{x:.{1 if path == 'minutes' else 3}f}" for path, x in found.items() if isinstance(x, float)}
    return [row["name"], ROWS[row["name"]].what, *(found | exact).values()]


if __name__ == "__main__":
    sys.exit(main())
