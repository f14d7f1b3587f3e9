"""The paper's experiments, one change at a time: python -m benchmarks.ablations wsprites --sheets DIR --out runs/ablation

A resumable queue. Every row is a short training at the same stated budget and its measurement; it is written to
OUT/rows/NAME.json as soon as it is done, and the table (OUT/ablation.md, OUT/ablation.json) is written again. Run the
same command to go on after an interruption: finished rows stay, the unfinished one continues from its checkpoint.

GMA rows (Tables 1 and 2) train M, N, P_f, P_b on frames. LMA rows (Table 3, Fig. 4, ours, CADDY) share one static GMA
and work on its windows (or whole frames) reduced by two, so that a row converges within its budget on two cores.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm
from training.stages import GmaConfig, GmaStage, PaperConfig, PaperStage, Stage

from benchmarks.ablations.rows import ROWS, STEPS, Row, tables
from glass_gym.model.config import preset
from glass_gym.model.glass import Glass, build_glass
from glass_gym.tools.time_left import TimeLeft
from glass_gym.worlds.checkpoint import write_atomically
from training.core.trainer import LoopConfig, Trainer, TrainingError
from training.data.sources import DataOptions, open_data, source_of
from training.data.store import DataError, Store, frames_to_tensor
from training.evaluation.evaluate import load_state
from training.evaluation.metrics.actions import mutual_information, usage
from training.evaluation.metrics.evaluation import roll_out
from training.evaluation.metrics.held_out import HORIZON, Clips, analyse
from training.evaluation.metrics.segmentation import iou
from training.gma.perceptual import load_features
from training.windows.tracking import track
from training.windows.windows import MARGIN, WindowSet, cut_windows, pack_layers, pack_windows, unpack_layers

try:
    import tyro
except ImportError:
    tyro = None

SCALE = 2
"""LMA rows see windows and frames reduced by this."""


@dataclass(kw_only=True)
class AblateConfig(DataOptions):
    """Train and measure the rows of the ablation tables, one by one."""

    data: Annotated[str, tyro.conf.Positional] if tyro else str
    """as for training; needs labels (W-Sprites)"""
    out: Path = Path("runs/ablation")
    """folder of the queue"""
    rows: tuple[str, ...] = tuple(ROWS)
    """which rows, in this order; default: all"""
    gma: Path | None = None
    """state.pt whose GMA the LMA rows stand on; default: the one of gma-base"""
    vgg: Path | None = None
    """VGG16 weights; needed by gma-vgg, which is skipped without"""
    gma_iterations: int = 400
    lma_iterations: int = 350
    """optimiser steps of a row; steps, and frames a step, are the equal budget (minutes are told beside them)"""
    lma_frames: int = 64
    """frames drawn a step in LMA rows"""
    videos: int = 64
    """held-out videos to measure on"""
    max_minutes: float = float("inf")
    """stop (resumable) after this time"""
    loop: LoopConfig = field(default_factory=LoopConfig)


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    if tyro is None:
        print("ablation needs tyro: pip install 'glass-gym[train]'", file=sys.stderr)
        return 2
    config = tyro.cli(AblateConfig, args=argv, prog="python -m benchmarks.ablations", description=__doc__)
    try:
        if unknown := set(config.rows) - set(ROWS):
            raise TrainingError(f"no rows called {', '.join(sorted(unknown))}; there are: {', '.join(ROWS)}")
        store = open_data(config.data, config)
        finished = Queue(config, store).run()
    except (DataError, TrainingError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0 if finished else 3


class Queue:
    """The rows of one folder over one store."""

    def __init__(self, config: AblateConfig, store: Store):
        self.config = config
        self.store = store
        (config.out / "rows").mkdir(parents=True, exist_ok=True)
        self.began = time.monotonic()
        self._cut: dict[str, WindowSet] = {}
        videos = [v for v in store.videos if v.split == "test" and v.length > HORIZON]
        labelled = videos and source_of(store).local_actions(store, videos[0]) is not None
        if not labelled or not store.has_masks:
            raise DataError(f"{store.root}: ablations need held-out videos with masks and local_action labels")
        self.videos = videos[: config.videos]

    def result(self, name: str) -> Path:
        """Where a finished row is written."""
        return self.config.out / "rows" / f"{name}.json"

    def run(self) -> bool:
        """All rows that are not finished; False if interrupted or out of time (resumable)."""
        names = [name for name in self.config.rows if not self.result(name).exists()]
        time_left = TimeLeft(len(names))
        for done, name in enumerate(tqdm(names, desc="rows", unit="row")):
            if told := time_left.after(done):
                tqdm.write(f"{len(names) - done} more rows take about {told[1]:.0f} minutes on this machine")
            row = ROWS[name]
            if row.gma.get("perceptual") and self.config.vgg is None:
                print(f"{name}: left out, it needs --vgg", file=sys.stderr)
                continue
            measured = self._gma(row) if name.startswith("gma") else self._lma(row)
            if measured is None:
                print(f"\nstopped; run the same command to go on. Finished rows: {self.config.out / 'rows'}")
                return False
            measured = {"name": name, "table": row.table, "what": row.what, "seed": self.config.loop.seed} | measured
            measured["switches"] = row.switches
            write_atomically(
                self.result(name), lambda part, m=measured: part.write_text(json.dumps(m, indent=1) + "\n")
            )
            self.write_tables()
        print(f"tables: {self.write_tables()}")
        return True

    def write_tables(self) -> Path:
        """ablation.json and ablation.md from the finished rows."""
        rows = [json.loads(self.result(n).read_text()) for n in ROWS if self.result(n).exists()]
        out = self.config.out / "ablation.json"
        head = {"data": self.store.source, "command": " ".join(sys.argv[1:]), "test_videos": len(self.videos)}
        out.write_text(json.dumps(head | {"rows": rows}, indent=1) + "\n")
        out.with_suffix(".md").write_text(tables(rows))
        return out.with_suffix(".md")

    # --- rows --------------------------------------------------------------------------------------------------

    def _train(self, row: Row, model: Glass, stage: Stage, folder: Path) -> Trainer | None:
        """Run a row's stage; None if interrupted."""
        left = self.config.max_minutes - (time.monotonic() - self.began) / 60
        trainer = Trainer(model, folder, dataclasses.replace(self.config.loop, max_minutes=left))
        if trainer.state_file.exists():
            trainer.load()
            trainer.config.max_minutes = left + sum(trainer.minutes.values())
        bar = tqdm(total=stage.iterations, desc=row.name, leave=False, mininterval=5.0)

        def step(_, iteration, terms):
            bar.n = iteration + 1
            bar.update(0)

        done = trainer.run(stage, step)
        bar.close()
        return trainer if done else None

    def _gma(self, row: Row) -> dict | None:
        torch.manual_seed(self.config.loop.seed)
        gma = GmaConfig(
            **({"iterations": self.config.gma_iterations, "theta": 0.06, "perceptual": 0.0, "idle": 0.0} | row.gma)
        )
        changes = {"window": 64, "agent_radius": 24, "codes": 6} | row.config
        model = build_glass(preset(row.preset, self.store.height, self.store.width, **changes), **row.parts)
        features = load_features(self.config.vgg, "cpu") if gma.perceptual else None
        trainer = self._train(row, model, GmaStage(model, self.store, gma, features), self.config.out / row.name)
        if trainer is None:
            return None
        result: dict = {"minutes": sum(trainer.minutes.values()), "iterations": gma.iterations}
        model = trainer.average.cpu().eval()
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):  # paper()'s: 13 s a video in float32
            figures, _ = analyse(model, self.store, self.videos, clips=False)
        return result | figures

    @functools.cached_property
    def base(self) -> Glass:
        """The GMA that the LMA rows stand on."""
        return load_state(self.config.gma or self.config.out / "gma-base" / "state.pt").model

    @functools.cached_property
    def clips(self) -> Clips:
        """The held-out clips that the LMA rows are measured on."""
        with torch.inference_mode():
            clips = analyse(self.base, self.store, self.videos, codes=False)[1]
        assert clips is not None
        return clips

    def _data(self, kind: str) -> WindowSet:
        """Training windows or frames, reduced; kept on disk."""
        if kind in self._cut:
            return self._cut[kind]
        path = self.config.out / f"data-{kind}.npz"
        if not path.exists():
            videos = [v for v in self.store.videos if v.split == "train"]
            if kind == "window":
                full = self.config.out / "windows-train.npz"
                with tqdm(total=len(videos), desc="tracking the agent", unit="video") as bar, torch.inference_mode():
                    windows = (
                        WindowSet.load(full)
                        if full.exists()
                        else cut_windows(self.base, self.store, videos, lambda done: bar.update(1))
                    )
                made = reduce_windows(windows)
            else:
                made = whole_frames(self.base if kind == "whole" else None, self.store, videos)
            made.save(path)
        self._cut[kind] = WindowSet.load(path)
        return self._cut[kind]

    def _lma(self, row: Row) -> dict | None:
        torch.manual_seed(self.config.loop.seed)
        settings = {
            "iterations": self.config.lma_iterations,
            "frames": self.config.lma_frames,
            "jitter": 1,
            "continuous": self.config.lma_iterations // 3,
            "horizons": (2, 4, 8, STEPS),
        } | row.lma
        lma = PaperConfig(**(settings | ({"rate": 4e-4} if row.preset == "paper" else {})))
        height = self.store.height // SCALE
        width = self.store.width // SCALE
        changes = {"codes": 6, "window": 32, "agent_radius": 12} | row.config
        model = build_glass(preset(row.preset, height, width, **changes), **row.parts)
        windows = self._data(row.data)
        trainer = self._train(row, model, PaperStage(model, windows, lma), self.config.out / row.name)
        if trainer is None:
            return None
        result = {
            "minutes": sum(trainer.minutes.values()),
            "iterations": lma.iterations,
            "parameters": sum(p.numel() for m in model.modules_of("lma") for p in m.parameters()),
        }
        with torch.inference_mode():
            return result | self._measure(row, trainer.average.cpu().eval())

    def _measure(self, row: Row, model: Glass) -> dict:
        """Codes against labels, and free-running quality, on held-out clips."""
        clips = self.clips
        if row.data == "window":
            layers = F.avg_pool2d(clips.layers.flatten(0, 1), SCALE).unflatten(0, clips.layers.shape[:2])
            shifts = clips.shifts / SCALE
            masks = F.avg_pool2d(clips.true_masks.flatten(0, 1), SCALE).unflatten(0, clips.layers.shape[:2]) > 0.5
        else:
            layers, shifts, masks = whole_clips(None if row.data == "frame" else self.base, self.store, clips)
        parts = [roll_out(model, a, b) for a, b in zip(layers.split(16), shifts.split(16), strict=True)]
        codes, free, once = (torch.cat([getattr(p, name) for p in parts]) for name in ("codes", "free", "one_step"))
        flat = codes.numpy().ravel()
        out = {"usage": usage(flat, model.config.codes)}
        out |= mutual_information(flat, clips.labels.ravel(), clips.groups.ravel(), shifts.numpy().reshape(-1, 2))
        static = dataclasses.replace(clips, layers=layers, shifts=shifts).static(model.lma.view.follows)
        for step in (1, 5, STEPS):
            at = step - 1
            error = (free[:, at, :3] - layers[:, step, :3]).square().mean()
            base = (static[:, at, :3] - layers[:, step, :3]).square().mean()
            out[f"mse_over_static_step_{step}"] = float(error / base)
        real = masks[:, 1:, 0]
        for name, drawn in (("free", free), ("one_step", once)):
            if row.data == "frame":
                drawn = masks_of(self.base, drawn)
            else:
                drawn = drawn[:, :, 3] > 0.5
            both = iou(drawn[:, :STEPS].flatten(0, 1).numpy(), real[:, :STEPS].flatten(0, 1).numpy())
            out[f"miou_re_{name}"] = float(both.mean())
        still = static[:, :, 3] > 0.5
        if row.data != "frame":
            both = iou(still[:, :STEPS].flatten(0, 1).numpy(), real[:, :STEPS].flatten(0, 1).numpy())
            out["miou_re_static"] = float(both.mean())
        return out


def reduce_windows(windows: WindowSet) -> WindowSet:
    """Windows averaged over SCALE x SCALE pixels; their margin stays MARGIN of the smaller pixels where it can."""
    side = windows.layers.shape[-1] - 2 * MARGIN
    wanted = side // SCALE + 2 * MARGIN
    layers = []
    for part in np.array_split(windows.layers, max(1, len(windows.layers) // 2048)):
        small = F.avg_pool2d(unpack_layers(torch.from_numpy(part)), SCALE)
        border = (wanted - small.shape[-1]) // 2
        layers.append(pack_layers(F.pad(small, (border,) * 4)).numpy())
    return WindowSet(
        np.concatenate(layers),
        windows.position / SCALE,
        windows.starts,
        windows.lengths,
        windows.height // SCALE,
        windows.width // SCALE,
    )


@torch.inference_mode()
def whole_frames(model: Glass | None, store: Store, videos) -> WindowSet:
    """Whole reduced frames as "windows": foregrounds and masks of `model`, or raw frames with a full mask (None)."""
    with tqdm(total=len(videos), desc="whole frames", leave=False) as bar:
        return pack_windows(
            store,
            videos,
            lambda frames: _whole(model, frames),
            store.height // SCALE,
            store.width // SCALE,
            lambda done: bar.update(1),
        )


def _whole(model: Glass | None, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    if model is None:
        small = F.avg_pool2d(frames, SCALE)
        return torch.cat([small, torch.ones_like(small[:, :1])], 1), torch.zeros(len(frames), 2)
    with torch.autocast("cpu", torch.bfloat16):
        tracked = track(model, frames)
    return F.avg_pool2d(torch.cat([frames * tracked.masks, tracked.masks], 1).float(), SCALE), tracked.position / SCALE


def whole_clips(model: Glass | None, store: Store, clips):
    """The held-out clips as whole reduced frames: layers, shifts, true masks."""
    layers = []
    shifts = []
    masks = []
    for start in clips.starts:
        span = slice(start, start + HORIZON + 1)
        stack, position = _whole(model, frames_to_tensor(store.frames[span]))
        layers.append(stack)
        shifts.append(position.diff(dim=0))
        truth = torch.from_numpy(store.masks(span.start, span.stop))[:, None].float()
        masks.append((F.avg_pool2d(truth, SCALE) if model is not None else truth) > 0.5)
    return torch.stack(layers), torch.stack(shifts), torch.stack(masks)


def masks_of(model: Glass, drawn: torch.Tensor) -> torch.Tensor:
    """M on generated reduced frames (N, T, 4, h, w), enlarged to what M knows -> (N, T, H, W) bool."""
    out = []
    for part in drawn[:, :, :3].flatten(0, 1).split(32):
        large = F.interpolate(part, scale_factor=float(SCALE), mode="bilinear")
        out.append(model.gma.mask(large)[:, 0] > 0.5)
    return torch.cat(out).unflatten(0, drawn.shape[:2])
