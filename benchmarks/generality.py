"""Does the one command work on worlds that nobody tuned it for? python -m benchmarks.generality --out runs/generality

Records six worlds from packages that pip brings (training/data/recorded.py says which), trains each with
`python -m training.train FOLDER` and no other option, and scores what came of it against the truth, which only the
scoring sees. OUT gets a folder a world (its videos, run and report.html), a film of each, generality.json and
generality.md.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from PIL import Image
from tabulate import tabulate
from tqdm import tqdm

from glass_gym.worlds.checkpoint import load_world
from glass_gym.wrappers import AutoLocalAction
from training import train
from training.data.arm import middle_of
from training.data.layout import ReadConfig
from training.data.recorded import WORLDS, record_world
from training.data.sources import DataOptions, open_data
from training.data.store import Store, frames_to_tensor
from training.evaluation.metrics.animation import squared
from training.evaluation.metrics.evaluation import Evaluation
from training.evaluation.metrics.held_out import HORIZON
from training.evaluation.metrics.segmentation import iou
from training.footage.choices import Choices
from training.footage.survey import NoWorldError
from training.windows.steps import step_length

try:
    import tyro
except ImportError:
    tyro = None

STEP = 10
"""Free steps after which the drawn agent is compared."""
ROLLOUTS = 256
"""Of random play: of 64, a row more or less is half of what may be missed."""
BARS = {"agent_iou": 0.8, "step_error": 0.1, "error_over_static": 0.6, "present_at_100": 0.95}
"""What a world that works reaches: at least, at most, at most, at least."""


@dataclass
class GeneralityConfig:
    """Train worlds that nobody tuned the command for, and score them."""

    out: Path = Path("runs/generality")
    """a folder a world, and the tables"""
    worlds: tuple[str, ...] = tuple(WORLDS)
    """which"""
    videos: int = 80
    """to record of each"""
    only_score: bool = False
    """score worlds that were trained before"""
    videos_used: int = 24
    """videos that are scored"""


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    if tyro is None:
        print("this needs tyro: pip install 'glass-gym[train]'", file=sys.stderr)
        return 2
    config = tyro.cli(GeneralityConfig, args=argv, prog="python -m benchmarks.generality", description=__doc__)
    if unknown := set(config.worlds) - set(WORLDS):
        print(f"error: no worlds called {', '.join(sorted(unknown))}; there are: {', '.join(WORLDS)}", file=sys.stderr)
        return 1
    results: dict[str, Any] = {}
    for name in config.worlds:
        root = config.out / name
        videos = root / "videos"
        if not (root / "truth.npz").exists():
            try:
                with tqdm(total=config.videos, desc=f"recording {name}", unit="video") as bar:
                    record_world(name, root, config.videos, progress=lambda done, bar=bar: bar.update(1))
            except ImportError as error:
                print(f"error: {name} needs pip install {WORLDS[name].needs} ({error})", file=sys.stderr)
                return 1
        results[name] = {"about": WORLDS[name].about}
        run = root / "run"
        trained = (run / "world.safetensors").exists()
        if not trained and not config.only_score:
            options = train.TrainConfig(
                data=str(videos), out=run, cache=root / "cache", resume=(run / "state.pt").exists()
            )
            try:
                if not (trained := train.train(options)):
                    return 3
            except NoWorldError as error:
                results[name]["stopped"] = str(error).removeprefix(f"{videos}: ").partition(". --force")[0]
        if trained:
            results[name] |= score(root, config.videos_used)
            film(root, config.out / f"{name}.gif")
        (config.out / "generality.json").write_text(json.dumps(results, indent=1) + "\n")
        (config.out / "generality.md").write_text(markdown(results))
    print(markdown(results))
    return 0


@torch.inference_mode()
def score(root: Path, count: int = 24) -> dict[str, Any]:
    """A world's run against the truth of its footage.

    Args:
        root: holds videos/, truth.npz, cache/ and run/.
        count: held-out videos.
    """
    world = load_world(root / "run" / "world.safetensors")
    choices = Choices.load(root / "run" / "choices.json")
    read = choices.reading(ReadConfig())
    store = open_data(root / "videos", DataOptions(cache=root / "cache", read=read))
    truth = Truth(root / "truth.npz", store, choices.values.get("read.skip", 0))
    held = [v for v in store.videos if v.split != "train"][:count]
    found = []
    for video in held:
        masks = truth.masks(video.name)[: video.length]
        frames = frames_to_tensor(store.frames[video.start : video.start + video.length])
        drawn = torch.cat([world.model.gma.mask(part) for part in frames.split(32)])[:, 0] > 0.5
        seen = masks.any((1, 2))
        found.append(iou(drawn.numpy()[seen], masks[seen]))
    # of all videos, as the world's own: a few held-out ones have other habits
    true_step = step_length(np.concatenate([truth.moves(v.name)[: v.length - 1] for v in store.videos]))
    axes = [(a, b) for a, b in zip(world.step, true_step, strict=True) if b > 0]
    out: dict[str, Any] = {
        "frame": [store.height, store.width],
        "codes": world.config.codes,
        "agent_iou": float(np.concatenate(found).mean()),
        "step": list(world.step),
        "true_step": list(true_step),
        "step_error": max(abs(a - b) / b for a, b in axes) if axes else None,
        "training_minutes": sum(world.provenance["minutes"].values()),
    }
    videos = [v for v in held if v.length > HORIZON]
    if videos:
        e = Evaluation(world, store, videos, rollouts=ROLLOUTS, split=videos[0].split)
        real = e.clips.layers[:, STEP]
        static = e.clips.static(world.model.lma.view.follows)[:, STEP - 1]
        out["error_over_static"] = squared(e.rolled_out.free[:, STEP - 1], real) / squared(static, real)
        out["present_at_100"] = e.play.figures["present"]["step_100"]
    return out


def film(root: Path, path: Path, rows: int = 3, steps: int = 60) -> None:
    """Held-out footage (above), and the world from the same first frames under random, held arrows (below)."""
    import imageio.v3 as iio

    checkpoint = root / "run" / "world.safetensors"
    read = Choices.load(root / "run" / "choices.json").reading(ReadConfig())
    store = open_data(root / "videos", DataOptions(cache=root / "cache", read=read))
    held = sorted((v for v in store.videos if v.split != "train"), key=lambda v: -v.length)[:rows]
    env = AutoLocalAction(gym.make("Glass-v0", checkpoint=checkpoint, task=None, max_episode_steps=steps + 1))
    columns = []
    for row, video in enumerate(held):
        real = store.frames[video.start + np.minimum(np.arange(steps), video.length - 1)]
        rng = np.random.default_rng(row)
        played = [env.reset(seed=row, options={"start_frame": real[0]})[0]]
        while len(played) < steps:
            shift = int(rng.integers(env.action_space.n))
            played += [env.step(shift)[0] for _ in range(int(rng.integers(2, 7)))]
        columns.append(np.concatenate([real, np.stack(played[:steps])], 1))
    iio.imwrite(path, np.concatenate(columns, 2), duration=100, loop=0)


class Truth:
    """True masks at the size and rate that a store has.

    Args:
        path: truth.npz, as :func:`training.data.recorded.record_world` writes it.
        store: made of the videos.
        skip: frames that it leaves out.
    """

    def __init__(self, path: Path, store: Store, skip: int):
        self.size = (store.width, store.height)
        self.skip = skip
        with np.load(path, allow_pickle=False) as file:
            self.width = int(file["width"])
            self.packed = {name: file[name] for name in file.files if name != "width"}

    def masks(self, name: str) -> np.ndarray:
        """(T, H, W) bool."""
        bits = np.unpackbits(self.packed[name], axis=-1, count=self.width)[:: self.skip + 1]
        if bits.shape[:0:-1] == self.size:
            return bits.astype(bool)
        return np.stack([np.asarray(Image.fromarray(b * 255).resize(self.size, Image.BOX)) > 127 for b in bits])

    def moves(self, name: str) -> np.ndarray:
        """(T - 1, 2) px of the store, of the centre of the true mask's box, which turns with the agent's pose.

        An agent that the frame's edge cuts brings its own truth: its box does not move with it.
        """
        bits = np.unpackbits(self.packed[name], axis=-1, count=self.width)[:: self.skip + 1]
        scale = np.array(self.size) / np.array(bits.shape[:0:-1])
        if f"{name}.moving" in self.packed:
            centres = self.packed[f"{name}.moving"][:: self.skip + 1]
        else:
            centres = np.stack([middle_of(mask) for mask in bits])
        moves = np.diff(centres, axis=0) * scale
        return moves[~np.isnan(moves).any(1)]


def works(result: dict[str, Any]) -> dict[str, bool]:
    """Which bars a world reaches."""
    least = {"agent_iou", "present_at_100"}
    return {
        name: (result[name] >= bar if name in least else result[name] <= bar)
        for name, bar in BARS.items()
        if result.get(name) is not None
    }


def markdown(results: dict[str, Any]) -> str:
    """The table."""
    rows = []
    stopped = []
    for name, r in results.items():
        if "agent_iou" not in r:
            rows.append([name, r["about"], *"-" * len(BARS), "-"])
            stopped.append(f"- {name} is stopped by the look at the footage: {r.get('stopped', 'not trained')}.")
            continue
        reached = works(r)
        cells = [f"{r[key]:.2f}{'' if reached[key] else ' (missed)'}" if key in reached else "-" for key in BARS]
        rows.append([name, r["about"], *cells, f"{r['training_minutes']:.0f}"])
    heads = (
        "world",
        "what it tests",
        "agent IoU",
        "step off by",
        "error / static, step 10",
        "present at 100",
        "minutes",
    )
    table = tabulate(rows, heads, tablefmt="github", disable_numparse=True)
    return "\n".join([table, *(["", *stopped] if stopped else []), ""])


if __name__ == "__main__":
    sys.exit(main())
