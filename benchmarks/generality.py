"""Footage that glass-train was not tuned on: python -m benchmarks.generality --out runs/generality

It records six worlds from simulators that pip installs (benchmarks/recorded.py), trains each with `glass-train FOLDER`
and no other option, and compares the result with the true masks, which only this command sees. OUT gets a folder for
each world (its videos, run and report.html), a GIF of each, and generality.json.

With --real DIR, the footage is your own: each folder in DIR holds videos of one world. There are no true masks; the
drawn agent is compared with real held-out windows. Films of footage that may not be passed on stay with you.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

import glass_gym  # noqa: F401  (registers the ids)
from benchmarks.recorded import WORLDS, record_world
from glass_gym.worlds.checkpoint import load_world
from glass_gym.worlds.fetch_reach import middle_of
from glass_gym.wrappers import AutoLocalAction
from training.config import DataOptions, ReadConfig, TrainConfig
from training.core.command import run_command
from training.core.options import Positive
from training.core.run import filled, read_choices
from training.data.sources import open_data
from training.data.store import Store, frames_to_tensor
from training.evaluation import tables
from training.evaluation.evaluate import EvaluateConfig, evaluate
from training.evaluation.metrics.animation import squared
from training.evaluation.metrics.errors import iou
from training.evaluation.metrics.evaluation import Evaluation
from training.evaluation.metrics.held_out import HORIZON
from training.footage.survey import NoWorldError
from training.train import train
from training.windows.steps import step_length

STEP = 10  # The drawn agent is compared with the real one after so many free-running steps.
FILM_WIDTH = 320  # Px; wider frames are reduced in films.
ROLLOUTS = 256  # Rollouts of random play: of 64, a single one would be a third of the 5 % that may fail.
AT_LEAST = {"agent_iou": 0.8, "present_at_100": 0.95}
AT_MOST = {"step_error": 0.1, "error_over_static": 0.6}
REAL = ("lma", "simulator", "crispness", "two_sample", "pose_transitions", "residue")
"""What is measured of real footage (:mod:`training.evaluation.evaluate`)."""
COLUMNS = {
    "agent_iou": "agent IoU",
    "step_error": "error of the step length",
    "error_over_static": f"error / static, step {STEP}",
    "present_at_100": "present at step 100",
}
"""What a world is judged by; a world works if it meets all of AT_LEAST and AT_MOST."""


@dataclass(frozen=True)
class GeneralityConfig:
    """Train worlds on footage that the command was not tuned on, and score them."""

    out: Path = Path("runs/generality")  # a folder for each world, and generality.json
    real: Path | None = None  # a folder of folders of videos, instead of recorded worlds
    worlds: tuple[str, ...] = ()  # which worlds, or which folders of --real; default: all
    videos: Positive = 80  # videos to record of each
    scored_videos: Positive = 24  # held-out videos to score
    only_score: bool = False  # score worlds that are trained already; train none


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit status: 3 if it was stopped, and can be resumed."""
    return run_command(GeneralityConfig, run, "python -m benchmarks.generality", __doc__ or "", argv)


def run(config: GeneralityConfig) -> int:
    """Record, train and score; returns the exit status."""
    known = tuple(WORLDS)
    if config.real is not None:
        if not config.real.is_dir():
            raise ValueError(f"{config.real}: no such folder; --real takes one with a folder of videos for each world")
        known = tuple(sorted(path.name for path in config.real.iterdir() if path.is_dir()))
    if unknown := set(config.worlds) - set(known):
        raise ValueError(f"no worlds called {', '.join(sorted(unknown))}; there are: {', '.join(known)}")
    results: dict[str, Any] = {}
    for name in config.worlds or known:
        root, checkpoint = config.out / name, config.out / name / "run" / "world.safetensors"
        videos = root / "videos" if config.real is None else config.real / name
        if config.real is None and not (root / "truth.npz").exists():
            try:
                with tqdm(total=config.videos, desc=f"recording {name}", unit="video") as bar:
                    record_world(name, root, config.videos, progress=bar.update)
            except ImportError as error:
                raise ValueError(f"{name} needs pip install {WORLDS[name].needs} ({error})") from None
        results[name] = {"about": WORLDS[name].about} if config.real is None else {}
        if not checkpoint.exists() and not config.only_score:
            resume = (root / "run" / "gma.pt").exists()
            options = TrainConfig(data=str(videos), out=root / "run", cache=root / "cache", resume=resume)
            try:
                if status := train(options):
                    return status
            except NoWorldError as error:
                results[name]["stopped"] = str(error).removeprefix(f"{options.data}: ").partition(". --force")[0]
        if checkpoint.exists():
            store = open_run(root, videos)
            if config.real is None:
                results[name] |= score(root, store, config.scored_videos)
            else:
                measured = EvaluateConfig(
                    checkpoint=str(checkpoint), data=str(videos), out=root / "evaluation.json",
                    split=("val", "test"), videos=config.scored_videos, only=REAL,
                )  # fmt: skip
                results[name] |= evaluate(load_world(checkpoint), store, measured)
            film(checkpoint, store, config.out / f"{name}.gif")
        (config.out / "generality.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    shown = markdown(results) if config.real is None else real_markdown(results)
    print(f"{shown}\nwritten: {config.out / 'generality.json'}; a film of each world is beside it")
    return 0


def open_run(root: Path, videos: Path) -> Store:
    """The videos as the run in `root` has read them."""
    values, _ = read_choices(root / "run" / "choices.json")
    return open_data(videos, DataOptions(cache=root / "cache", read=filled(ReadConfig(), values, "read.")))


@torch.inference_mode()
def score(root: Path, store: Store, count: int = 24) -> dict[str, Any]:
    """Compare a world with the truth of its footage, on `count` held-out videos; `root` holds truth.npz and run/."""
    world = load_world(root / "run" / "world.safetensors")
    held = store.held_out[:count]
    skip = read_choices(root / "run" / "choices.json")[0].get("read.skip") or 0
    truth = Truth(root / "truth.npz", store, skip)
    found = []
    for video in held:
        masks = truth.masks(video.name)[: video.length]
        frames = frames_to_tensor(store.frames[video.start : video.start + video.length])
        drawn = torch.cat([world.model.gma.mask(part) for part in frames.split(32)])[:, 0] > 0.5
        seen = masks.any((1, 2))
        found.append(iou(drawn.numpy()[seen], masks[seen]))
    # the world's step is measured on all videos, so the true one is, too
    true_step = step_length([truth.moves(v.name)[: v.length - 1] for v in store.videos], store.rate)
    errors = [abs(a - b) / b for a, b in zip(world.step, true_step, strict=True) if b > 0]
    out: dict[str, Any] = {
        "frame": [store.height, store.width],
        "codes": world.config.codes,
        "agent_iou": float(np.concatenate(found).mean()),
        "step": list(world.step),
        "true_step": list(true_step),
        "step_error": max(errors, default=None),
        "training_minutes": sum(world.provenance["minutes"].values()),
    }
    if long := [v for v in held if v.length > HORIZON]:
        e = Evaluation(world, store, long, rollouts=ROLLOUTS, split=long[0].split)
        real = e.clips.layers[:, STEP]
        static = e.clips.static(world.model.lma.view.follows)[:, STEP - 1]
        out["error_over_static"] = squared(e.rolled_out.free[:, STEP - 1], real) / squared(static, real)
        out["present_at_100"] = e.play.figures["present"]["step_100"]
    return out


def film(checkpoint: Path, store: Store, path: Path, rows: int = 3, steps: int = 60) -> None:
    """A GIF: held-out footage above; below, the world from the same first frames, random shifts held 2 to 6 steps."""
    import imageio.v3 as iio

    held = store.held_out
    env = AutoLocalAction(gym.make("Glass-v0", checkpoint=checkpoint, task=None, max_episode_steps=steps + 1))
    columns = []
    every = math.ceil(store.width / FILM_WIDTH)
    for row, video in enumerate(sorted(held, key=lambda v: -v.length)[:rows]):
        real = store.frames[video.start + np.minimum(np.arange(steps), video.length - 1)]
        rng = np.random.default_rng(row)
        played = [env.reset(seed=row, options={"start_frame": real[0]})[0]]
        while len(played) < steps:
            shift = int(rng.integers(env.action_space.n))
            played += [env.step(shift)[0] for _ in range(int(rng.integers(2, 7)))]
        columns.append(np.concatenate([real, np.stack(played[:steps])], 1)[:, ::every, ::every])
    iio.imwrite(path, np.concatenate(columns, 2), duration=100, loop=0)


class Truth:
    """True masks of :func:`benchmarks.recorded.record_world`'s truth.npz at the frame size and rate of a store of the
    videos, which leaves out `skip` frames between two."""

    def __init__(self, path: Path, store: Store, skip: int):
        self.size, self.every = (store.width, store.height), skip + 1
        with np.load(path, allow_pickle=False) as file:
            self.known = dict(file)

    def _recorded(self, name: str) -> np.ndarray:
        bits = np.unpackbits(self.known[name], axis=-1, count=int(self.known["width"]))
        return bits[:: self.every]

    def masks(self, name: str) -> np.ndarray:
        """(T, H, W) bool."""
        bits = self._recorded(name)
        if bits.shape[:0:-1] == self.size:
            return bits.astype(bool)
        return np.stack([np.asarray(Image.fromarray(b * 255).resize(self.size, Image.BOX)) > 127 for b in bits])

    def moves(self, name: str) -> np.ndarray:
        """(T - 1, 2) px of the store: moves of the recorded part, or else of the centre of the mask's bounding box."""
        bits = self._recorded(name)
        if f"{name}.moving" in self.known:
            centres = self.known[f"{name}.moving"][:: self.every]
        else:
            centres = np.stack([middle_of(mask) for mask in bits])
        moves = np.diff(centres, axis=0) * (np.array(self.size) / bits.shape[:0:-1])
        return moves[~np.isnan(moves).any(1)]


def misses(result: dict[str, Any]) -> list[str]:
    """The figures of a world that miss their aim."""
    known = {name: value for name, value in result.items() if value is not None}
    low = [name for name, aim in AT_LEAST.items() if known.get(name, aim) < aim]
    return low + [name for name, aim in AT_MOST.items() if known.get(name, aim) > aim]


def markdown(results: dict[str, Any]) -> str:
    """The table of generality.json, and why worlds are missing in it."""
    rows = []
    for name, r in results.items():
        missed = misses(r)
        known = {key: r[key] for key in COLUMNS if r.get(key) is not None}
        figures = {key: f"{x:.2f}{' (missed)' if key in missed else ''}" for key, x in known.items()}
        minutes = f"{r['training_minutes']:.0f}" if "training_minutes" in r else None
        rows.append([name, r["about"], *map(figures.get, COLUMNS), minutes])
    heads = ("world", "what it tests", *COLUMNS.values(), "minutes")
    return tables.table(rows, heads) + _missing(results, "agent_iou")


def real_markdown(results: dict[str, Any]) -> str:
    """The figures of real footage, and why worlds are missing among them."""
    measured = {name: r for name, r in results.items() if "lma" in r}
    return tables.captioned(measured) + _missing(results, "lma")


def _missing(results: dict[str, Any], figure: str) -> str:
    """Why worlds lack a figure, a line each, below a table."""
    lines = [
        f"- {name}: {'the survey stops: ' + r['stopped'] if 'stopped' in r else 'not trained'}."
        for name, r in results.items()
        if figure not in r
    ]
    return "\n".join(["", "", *lines]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
