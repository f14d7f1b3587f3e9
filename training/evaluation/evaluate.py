"""Measure a world: glass-evaluate tennis tennis --cache data --out evaluation.json

All figures are measured on held-out videos. "Free running" starts from frame 0 and sees no later frame; frame 0 itself
is not scored. The static baseline of LMA's figures is the first foreground, moved by the same shifts and otherwise
unchanged. All figures go to OUT (JSON), contact sheets and curves into its folder; the main figures are printed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from glass_gym.model.config import GlassConfig
from glass_gym.model.glass import Glass, build_gma, build_lma
from glass_gym.worlds.checkpoint import World, load_world, resolve

from ..config import DataOptions
from ..core.command import run_command
from ..core.options import Common, Count, Positional, Positive
from ..core.progress import Bar, say
from ..core.trainer import read_state
from ..data.sources import open_data
from ..data.store import DataError, Store
from ..decoding.footage import reading_of
from ..gma.perceptual import load_features
from .figures import FIGURES, draw_layers
from .metrics.evaluation import Evaluation
from .metrics.held_out import HORIZON, held_out_videos
from .metrics.registry import METRICS
from .tables import markdown


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(DataOptions):
    """Measure a world on held-out videos."""

    checkpoint: Positional[str]  # bundled name, .safetensors file, or a run's gma.pt (GMA figures only)
    data: Positional[str]  # as for training: tennis, wsprites, arm, mouse, a clip store or a folder of videos
    out: Common[Path] = Path("evaluation.json")  # JSON to write; pictures go into its folder
    split: Common[tuple[Literal["train", "val", "test"], ...]] = ("test",)
    """which videos; of little footage, `val test` has more clips"""
    videos: Common[Positive] = 120  # held-out videos to measure on
    rollouts: Common[Positive] = 256  # random-play rollouts
    vgg: Path | None = None  # VGG16 weights (.safetensors): adds feature distances, called VGG-HED
    only: Common[tuple[str, ...]] = ()
    """measure only these parts beside the segmentation: lma, video, codes, transfer, simulator, passport,
    crispness, residue, two_sample, pose_transitions, action_classifier, identity, prior; default: all"""
    learned: bool = False  # add LPIPS and FID (extra `metrics`; downloads their networks)
    seed: Count = 0  # of random play


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    return run_command(EvaluateConfig, run, "glass-evaluate", __doc__ or "", argv)


def run(config: EvaluateConfig) -> int:
    """Measure, write and print; returns 0."""
    path = Path(config.checkpoint) if config.checkpoint.endswith(".pt") else resolve(config.checkpoint)
    world = load_state(path) if path.suffix == ".pt" else load_world(path)
    store = open_data(config.data, dataclasses.replace(config, read=reading_of(config.read, world, path)))
    result = {
        "checkpoint_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "command": " ".join(sys.argv[1:]),
        "seed": config.seed,
        "data": store.source,
        "split": " ".join(config.split),
    } | evaluate(world, store, config)
    config.out.parent.mkdir(parents=True, exist_ok=True)
    config.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(markdown(result))
    print(f"written: {config.out}; pictures are in {config.out.parent}")
    return 0


def evaluate(world: World, store: Store, config: EvaluateConfig) -> dict[str, Any]:
    """All figures as a nested dict; contact sheets are written beside `config.out`.

    Raises:
        DataError: no video is long enough.
        ValueError: `config.only` names an unknown part.
    """
    if unknown := set(config.only) - set(METRICS):
        raise ValueError(f"--only takes {', '.join(METRICS)}, got {', '.join(sorted(unknown))}")
    videos = held_out_videos(store, config.videos, *config.split)
    if not videos:
        raise DataError(f"{store.root}: no video has the {HORIZON + 1} frames of an evaluation clip")
    features = load_features(config.vgg, "cpu")
    e = Evaluation(world, store, videos, features, config.rollouts, config.seed, config.learned, videos[0].split)
    measured = [name for name in METRICS if not config.only or name in config.only]
    with torch.inference_mode(), Bar("evaluation", 1 + len(measured), "part") as bar:
        began = time.monotonic()
        bar.next("layers")
        draw_layers(e, config.out.parent)
        result = dict(e.gma)
        if not len(world.start_frames):
            return result | {"training_minutes": world.provenance["minutes"]}
        minutes = (time.monotonic() - began) / 60
        if minutes > 0.5 and not config.only:
            say(f"the layers took {minutes:.0f} minutes; the other parts take about as long")
        for name in measured:
            bar.next(name)
            result[name] = METRICS[name](e)
            FIGURES.get(name, lambda e, folder: None)(e, config.out.parent)
    return result


def load_state(path: Path) -> World:
    """A run's gma.pt as a world: the averaged GMA, an untrained LMA, no start frames."""
    state = read_state(path, torch.device("cpu"))
    config = GlassConfig.from_dict(state["config"])
    gma = build_gma(config)
    if state["average"].keys() != gma.state_dict().keys():
        raise DataError(f"{path}: not the state of a GMA; give a run's gma.pt, or its world.safetensors")
    gma.load_state_dict(state["average"])
    model = Glass(gma, build_lma(config)).eval()
    return World(model, np.empty((0,)), (1.0, 1.0), (), provenance={"minutes": dict(state["minutes"])})


if __name__ == "__main__":
    sys.exit(main())
