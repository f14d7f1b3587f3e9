"""Make a world faster: python -m training.world.distil RUN

D, which draws the agent, takes nearly all of the arithmetic of a step. This command trains a narrower D to draw what
the trained one draws: the appearance of any window in the pose of any other (distillation; Hinton et al. 2015,
"Distilling the knowledge in a neural network"). It takes minutes; codes and motion stay the same. RUN is the folder of
a training. The world goes to RUN/distilled, with a picture that compares the drawings of both.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from glass_gym.model.glass import Glass, build_lma
from glass_gym.model.lma import Drawn
from glass_gym.model.pose_model import PoseLMA
from glass_gym.tensors.convert import unpack_layers
from glass_gym.tools.locks import alone
from glass_gym.worlds import sheets
from glass_gym.worlds.checkpoint import load_world, save_world

from ..config import LoopConfig
from ..core.command import run_command
from ..core.options import Positional, Positive
from ..core.progress import Bar
from ..core.stage import Batch, Stage
from ..core.trainer import Interrupted, Trainer, TrainingError
from ..poses.stage import WindowPairs, drawing_losses
from ..windows.windows import WindowSet

SHOWN, COMPARED = 12, 256  # Numbers of window pairs in the picture, and in the printed figures.


@dataclass(frozen=True)
class DistilOptions:
    """Training of the narrow D."""

    iterations: Positive = 3000
    """optimiser steps"""
    batch: Positive = 32
    """pairs of windows per step"""


@dataclass(frozen=True)
class DistilConfig:
    """Make a world faster."""

    run: Positional[Path]
    """folder of a training; its windows-train.npz is used"""
    world: str | None = None
    """name of a bundled world, or a file; default: RUN/world.safetensors"""
    channels: Positive = 32
    """width of D (before: 64); a multiple of 16, else a drawing depends on the batch in bfloat16"""
    resume: bool = False
    """continue a distillation that was stopped"""
    distil: DistilOptions = field(default_factory=DistilOptions)
    loop: LoopConfig = field(default_factory=LoopConfig)


class AnyPairs(WindowPairs):
    """Samples pairs of any two windows of all videos; positions get noise with a standard deviation of 1 px."""

    def batch(self, rng: np.random.Generator, iteration: int) -> Batch:
        """As :meth:`WindowPairs.batch`."""
        batch = super().batch(rng, iteration)
        batch["positions"] += torch.from_numpy(rng.normal(size=batch["positions"].shape).astype(np.float32))
        return batch

    def pairs(self, rng: np.random.Generator) -> np.ndarray:
        """As :meth:`WindowPairs.pairs`."""
        return rng.integers(len(self.windows.layers), size=(self.config.batch, 2)).T


class DistilStage(Stage):
    """Trains a model's D to draw what a wide, trained D draws.

    Args:
        model: the LMA with the narrow D; its other parts are already trained, and stay.
        wide: the D to learn from.
        windows: the windows of the training videos.
        config: schedule.
    """

    name = "distil"
    rate = 2e-3
    model: PoseLMA

    def __init__(self, model: PoseLMA, wide: nn.Module, windows: WindowSet, config: DistilOptions):
        self.model = model
        self.wide = wide
        self.config = config
        self.sampler = AnyPairs(windows, config, model.config.window)

    @property
    def modules(self) -> list[nn.Module]:
        """D alone."""
        return [self.model.decoder]

    def drawn(self, batch: Batch) -> tuple[Drawn, Drawn]:
        """Drawings of a batch by the wide and the narrow D."""
        model = self.model
        seen, other = unpack_layers(batch["layers"]).unbind(1)
        with torch.no_grad():
            appearance, first, *_ = model.start_state(seen)
            inputs = appearance, first, model.pose_codebook.embed(model.encode_poses(other)), batch["positions"]
            wide = self.wide(*inputs)
        return wide, model.decoder(*inputs)

    def losses(self, batch: Batch, iteration: int, generator: torch.Generator) -> dict[str, Tensor]:
        """L_RECU and L_MSK (Sec. 3.2), with the wide D's drawings as target."""
        wide, narrow = self.drawn(batch)
        return drawing_losses(narrow, wide.layer)


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    return run_command(DistilConfig, _locked, "python -m training.world.distil", __doc__ or "", argv)


def _locked(config: DistilConfig) -> int:
    if not config.run.is_dir():
        raise TrainingError(f"{config.run}: no such folder; give that of a training (glass-train --out)")
    with alone(config.run / "distilled"):
        try:
            distil(config)
        except Interrupted as stop:
            print(f"\n{stop}. Continue with the same command and --resume")
            return 3
    return 0


def distil(config: DistilConfig) -> Path:
    """Train a narrow D, and write the world that has it.

    Returns:
        the new world's file.

    Raises:
        Interrupted: stopped by a signal or the time limit; the state is saved.
        TrainingError: the run has no pose model or no windows; or its distillation has to be resumed.
        CheckpointError: the world cannot be read.
        ValueError: the windows have another version.
    """
    out = config.run / "distilled"
    world = load_world(config.world or config.run / "world.safetensors")
    if not isinstance(world.model.lma, PoseLMA):
        raise TrainingError(f"{config.run}: a world of architecture {world.config.architecture}; this needs pose")
    if world.config.library:
        raise TrainingError(f"{config.run}: its agent is drawn from stored windows; there is no D to make narrower")
    path = config.run / "windows-train.npz"
    if not path.exists():
        raise TrainingError(f"{path}: no such file; give the folder of the training that made the world")
    windows = WindowSet.load(path)
    narrow = with_decoder(world.model.lma, config.channels)
    trainer = Trainer(narrow, out / "distil.pt", config.loop)
    stage = DistilStage(narrow, world.model.lma.decoder.to(trainer.device), windows, config.distil)
    if config.resume:
        trainer.load()
    elif trainer.state_file.exists():
        raise TrainingError(f"{trainer.state_file} exists; add --resume to continue it, or remove {out}")
    with Bar("distil", config.distil.iterations) as bar:

        def step(stage: Stage, iteration: int, terms: dict[str, float]) -> None:
            if not bar.done and iteration:  # resumed
                bar.start(iteration)
            bar.update()
            bar.tell(", ".join(f"{key}={value:.5f}" for key, value in terms.items()))

        trainer.run(stage, step)
    _compare(stage, trainer, out)
    about = world.provenance | {"minutes": {**world.provenance.get("minutes", {}), **trainer.minutes}}
    model = Glass(world.model.gma, trainer.average.cpu())
    path = save_world(out / "world.safetensors", replace(world, model=model, provenance=about))
    print(f"world: {path}")
    return path


def with_decoder(lma: PoseLMA, channels: int) -> PoseLMA:
    """A copy of a model whose D is new, untrained, and `channels` wide."""
    narrow = build_lma(lma.config.replace(decoder_channels=channels))
    assert isinstance(narrow, PoseLMA)
    kept = {key: value for key, value in lma.state_dict().items() if not key.startswith("decoder.")}
    narrow.load_state_dict(kept, strict=False)
    return narrow


@torch.no_grad()
def _compare(stage: DistilStage, trainer: Trainer, out: Path) -> None:
    """Compare the drawings of both D's, in printed figures and in distilled.png."""
    config = replace(stage.config, batch=COMPARED)
    sampler = AnyPairs(stage.sampler.windows, config, stage.model.config.window)
    batch = {key: value.to(trainer.device) for key, value in sampler.batch(np.random.default_rng(0), 0).items()}
    stage.model.eval()
    with trainer.autocast():
        wide, narrow = (drawn.layer.cpu() for drawn in stage.drawn(batch))
    there = torch.stack([wide[:, 3] > 0.5, narrow[:, 3] > 0.5])
    union = there.any(0)
    off = (wide - narrow)[:, :3].square().mean(1)[union].mean().sqrt() * 127.5
    sizes = [sum(p.numel() for p in part.parameters()) / 1e6 for part in (stage.wide, stage.model.decoder)]
    print(
        f"weights of D: {sizes[0]:.2f} -> {sizes[1]:.2f} million; the drawn agent differs by {off:.1f} of 255 "
        f"(root mean square), silhouettes overlap by {there.all(0).sum() / union.sum():.3f}"
    )
    rows = [[sheets.to_picture(layer[:3]) for layer in layers[:SHOWN]] for layers in (wide, narrow)]
    print(f"picture (wide above, narrow below): {sheets.save_picture(out / 'distilled.png', sheets.grid(rows))}")


if __name__ == "__main__":
    sys.exit(main())
