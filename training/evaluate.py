"""Measure a world: python -m training.evaluate tennis tennis --cache data --out evaluation.json

Everything is measured on held-out videos. Free running means from frame 0, without frame 0; the frozen player (the
first foreground, moved by the same shifts and otherwise unchanged) is the baseline of every LMA figure. Tables go to
OUT (JSON) and beside it (Markdown), contact sheets and curves into its folder.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch

from glass_gym.checkpoint import CheckpointError, World, load_world, resolve
from glass_gym.config import GlassConfig
from glass_gym.glass import Glass
from training import sheets
from training.data.clips import open_data
from training.data.store import DataError, Store
from training.metrics import instrument
from training.metrics.animation import animate, global_actions, local_actions, reconstruct, transfer
from training.metrics.held_out import HORIZON, analyse
from training.metrics.instrument import Instrument
from training.perceptual import load_features
from training.trainer import TrainingError, read_state

try:
    import tyro
except ImportError:
    tyro = None


@dataclass
class EvaluateConfig:
    """Measure a world on held-out videos."""

    checkpoint: Annotated[str, tyro.conf.Positional] if tyro else str
    """bundled name, .safetensors file, or a run's state.pt (GMA figures only)"""
    data: Annotated[str, tyro.conf.Positional] if tyro else str
    """as for training: tennis, wsprites, a clip store or a folder of videos"""
    out: Path = Path("evaluation.json")
    """JSON to write; tables in Markdown go beside it (.md), pictures into its folder"""
    cache: Path = Path("data")
    sheets: Path | None = None
    """W-Sprites: folder of LPC sheets; default: built-in characters"""
    background: Path | None = None
    """W-Sprites: as for training, when its data is not generated yet"""
    split: str = "test"
    videos: int = 120
    """held-out videos to measure on"""
    rollouts: int = 256
    """random-play rollouts"""
    vgg: Path | None = None
    """VGG16 weights (.safetensors): adds feature distances, called VGG-HED"""
    only: tuple[Literal["lma", "video", "codes", "transfer", "simulator"], ...] = ()
    """measure only these parts beside the segmentation; default: all"""
    learned: bool = False
    """add LPIPS and FID (extra `metrics`; downloads their networks)"""
    seed: int = 0


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    if tyro is None:
        print("evaluation needs tyro: pip install 'glass-gym[train]'", file=sys.stderr)
        return 2
    config = tyro.cli(EvaluateConfig, args=argv, prog="python -m training.evaluate", description=__doc__)
    try:
        path = Path(config.checkpoint) if config.checkpoint.endswith(".pt") else resolve(config.checkpoint)
        world = load_state(path) if path.suffix == ".pt" else load_world(path)
        store = open_data(config.data, config.cache, sheets=config.sheets, background=config.background)
        result = evaluate(world, store, config)
    except (CheckpointError, DataError, TrainingError, ImportError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    result = {"checkpoint_sha256": digest, "command": " ".join(sys.argv[1:]), "seed": config.seed,
              "data": store.source, "split": config.split} | result  # fmt: skip
    config.out.parent.mkdir(parents=True, exist_ok=True)
    config.out.write_text(json.dumps(result, indent=1) + "\n")
    config.out.with_suffix(".md").write_text(markdown(result))
    print(markdown(result))
    print(f"written: {config.out}, {config.out.with_suffix('.md')}, pictures in {config.out.parent}")
    return 0


def evaluate(world: World, store: Store, config: EvaluateConfig) -> dict:
    """All figures as a nested dict; sheets are written beside `config.out`."""
    videos = [v for v in store.videos if v.split == config.split and v.length > HORIZON] or [
        v for v in store.videos if v.length > HORIZON
    ]
    if not videos:
        raise DataError(f"{store.root}: no video has the {HORIZON + 1} frames of an evaluation clip")
    videos = videos[:: max(1, len(videos) // config.videos)][: config.videos]
    result: dict = {}
    folder = config.out.parent
    features = load_features(config.vgg, "cpu")
    with torch.inference_mode():
        sheets.save_picture(folder / "layers.png", sheets.layers_sheet(world.model, store, config.split))
        clips = analyse(world, store, videos, result)
        if not len(world.start_frames):
            return result | {"training_minutes": world.provenance["minutes"]}
        tool = Instrument.build(world, store, features)
        wanted = config.only or ("lma", "video", "codes", "transfer", "simulator")
        if "lma" in wanted or "video" in wanted:
            result["lma"], free = animate(world, clips, folder)
        if "video" in wanted:
            result["video"] = reconstruct(tool, store, clips, free, folder, config.learned)
        if "codes" in wanted:
            result["codes"] = local_actions(tool, clips, folder)
        if "transfer" in wanted:
            result["transfer"] = transfer(world, clips, folder)
        if "simulator" in wanted:
            result["simulator"] = simulate(tool, store, videos, config)
    return result


def simulate(tool: Instrument, store: Store, videos, config: EvaluateConfig) -> dict:
    """The simulator as an instrument, with its sheets."""
    folder = config.out.parent
    out = {
        "starts": len(tool.start), "detectors_on_real_video": instrument.floor(tool, store, videos),
        "right": instrument.walk_right(tool), "cycle": instrument.cycle(tool),
        "random_play": instrument.random_play(tool, config.rollouts, config.seed, folder),
    }  # fmt: skip
    sheets.save_picture(folder / "global_actions.png", global_actions(tool))
    sheets.curves(folder / "curves.png", out["random_play"]["curves"])
    return out


def load_state(path: Path) -> World:
    """A run's averaged weights, without what only an exported world has."""
    state = read_state(path, torch.device("cpu"))
    model = Glass(GlassConfig.from_dict(json.loads(state["config"])))
    model.load_state_dict(state["average"])
    return World(model.eval(), np.empty((0,)), (1.0, 1.0), (), provenance={"minutes": dict(state["minutes"])})


def markdown(result: dict, depth: int = 2) -> str:
    """Nested figures as Markdown tables."""
    lines = []
    plain = {k: v for k, v in result.items() if not isinstance(v, dict)}
    if plain:
        lines += ["| what | value |", "|---|---|"]
        lines += [f"| {k} | {f'{v:.4g}' if isinstance(v, float) else v} |" for k, v in plain.items()]
    for key, value in result.items():
        if isinstance(value, dict):
            lines += ["", f"{'#' * min(6, depth)} {key}", "", markdown(value, depth + 1)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
