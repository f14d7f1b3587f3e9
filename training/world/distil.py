"""Make a world faster: python -m training.world.distil RUN

D, which draws the agent, is nearly all of a step's arithmetic. Once a world is trained, what D has to draw is known:
any window's looks in any other window's pose. So a narrower D learns it from the wide one (distillation; Hinton et al.
2015, "Distilling the knowledge in a neural network"), in minutes; nothing else changes, neither codes nor motion.
RUN is the folder of a training with preset token. The world goes to RUN/slim, with a picture of both D's.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from glass_gym.model.token_glass import PoseLMA
from torch import Tensor, nn
from tqdm import tqdm

from glass_gym.model.glass import build_glass
from glass_gym.model.gma import Drawn
from glass_gym.tools.locks import alone
from glass_gym.worlds.checkpoint import CheckpointError, World, load_world, save_world

from ..core import sheets
from ..core.options import Positive, Rate, Weight, check_options
from ..core.stage import Batch
from ..core.trainer import LoopConfig, Trainer, TrainingError
from ..lma.stage import WindowPairs, drawing_losses
from ..stages import Stage
from ..windows.windows import WindowSet, unpack_layers

try:
    import tyro
except ImportError:
    tyro = None

SHOWN, COMPARED = 12, 256
"""Pairs of windows in the picture, and in the figures."""


@dataclass
class DistilConfig:
    """How the narrow D learns."""

    iterations: Positive = 3000
    """optimiser steps"""
    batch: Positive = 32
    """pairs of windows a step"""
    rate: Rate = 2e-3
    """peak learning rate"""
    mask_weight: Weight = 4.0
    """extra weight of the agent's pixels"""
    mask: Weight = 0.2
    """weight of the mask's cross-entropy, for which nearly nothing is not nothing"""


@dataclass
class SlimConfig:
    """Make a world faster."""

    run: Annotated[Path, tyro.conf.Positional] if tyro else Path
    """folder of a training, with its windows-train.npz"""
    world: str | None = None
    """a bundled world, or a file (default: RUN/world.safetensors)"""
    channels: Positive = 32
    """width of D (64 as it was trained). Multiples of 16: of others, bfloat16 rounds otherwise in a batch than alone"""
    resume: bool = False
    """go on with a run that was stopped"""
    slim: DistilConfig = field(default_factory=DistilConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)


class AnyPairs(WindowPairs):
    """Any two windows of all videos, and where the second one is, to the px or so."""

    def batch(self, rng: np.random.Generator, iteration: int) -> Batch:
        """Random pairs."""
        batch = super().batch(rng, iteration)
        batch["places"] += torch.from_numpy(rng.normal(size=batch["places"].shape).astype(np.float32))
        return batch

    def pairs(self, rng: np.random.Generator) -> np.ndarray:
        """(2, B) int64."""
        return rng.integers(len(self.windows.layers), size=(self.config.batch, 2)).T


class SlimStage(Stage):
    """Trains the model's D to draw what a wide one draws.

    Args:
        model: all but its D is trained.
        wide: the D to learn from.
        windows: of the training videos.
        config: weights and schedule.
    """

    name = "slim"
    model: PoseLMA

    def __init__(self, model: PoseLMA, wide: nn.Module, windows: WindowSet, config: DistilConfig):
        self.model = model
        self.wide = wide
        self.config = config
        self.sampler = AnyPairs(windows, config, model.config.window)

    @property
    def modules(self) -> list[nn.Module]:
        """D alone."""
        return [self.model.lma.decoder]

    def drawn(self, batch: Batch) -> tuple[Drawn, Drawn]:
        """What the wide D and the narrow one draw."""
        model = self.model
        seen, other = unpack_layers(batch["layers"]).unbind(1)
        with torch.no_grad():
            looks, first, *_ = model.lma.start_state(seen)
            asked = looks, first, model.lma.pose_codebook.embed(model.lma.encode_poses(other)), batch["places"]
            wide = self.wide(*asked)
        return wide, model.lma.decoder(*asked)

    def losses(self, batch: Batch, iteration: int, generator: torch.Generator) -> dict[str, Tensor]:
        """L_RECU and L_MSK, as the wide D's own, of what the wide one draws."""
        wide, narrow = self.drawn(batch)
        return drawing_losses(narrow, wide.layer, self.config)


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    if tyro is None:
        print("training needs tyro: pip install 'glass-gym[train]'", file=sys.stderr)
        return 2
    config = tyro.cli(SlimConfig, args=argv, prog="python -m training.world.distil", description=__doc__)
    try:
        check_options(config)
        if not config.run.is_dir():
            raise TrainingError(
                f"{config.run}: no such folder; give that of a training (python -m training.train --out)"
            )
        with alone(config.run / "slim"):
            return 0 if slim(config) else 3
    except (TrainingError, CheckpointError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def slim(config: SlimConfig) -> bool:
    """Run the command's work. Returns False if it was interrupted (saved; --resume goes on).

    Raises:
        TrainingError: no run of preset token, or one to go on with.
        CheckpointError: the world cannot be read.
        ValueError: windows of another version.
    """
    out = config.run / "slim"
    world = load_world(config.world or config.run / "world.safetensors")
    if not isinstance(world.model, PoseLMA):
        raise TrainingError(f"{config.run}: a world of preset {world.config.architecture}; only token's D is made anew")
    path = config.run / "windows-train.npz"
    if not path.exists():
        raise TrainingError(f"{path}: no such file; give the folder of the training that the world came from")
    windows = WindowSet.load(path)
    trainer = Trainer(narrowed(world.model, config.channels), out, config.loop)
    wide = world.model.lma.decoder.to(trainer.device)
    stage = SlimStage(trainer.model, wide, windows, config.slim)  # type: ignore[arg-type]
    if config.resume:
        trainer.load()
    elif trainer.state_file.exists():
        raise TrainingError(f"{trainer.state_file} exists; add --resume to continue it, or remove {out}")
    with tqdm(total=config.slim.iterations, desc="slim", mininterval=2.0) as bar:

        def step(stage: Stage, iteration: int, terms: dict[str, float]) -> None:
            bar.update(iteration + 1 - bar.n)
            bar.set_postfix({key: f"{value:.5f}" for key, value in terms.items()}, refresh=False)

        if not trainer.run(stage, step):
            print(f"\nstopped and saved: {trainer.state_file}. Continue with the same command and --resume")
            return False
    _tell(stage, trainer, out)
    about = world.provenance | {"minutes": {**world.provenance.get("minutes", {}), **trainer.minutes}}
    made: World = replace(world, model=trainer.average.cpu(), provenance=about)
    print(f"world: {save_world(out / 'world.safetensors', made)}")
    return True


def narrowed(model: PoseLMA, channels: int) -> PoseLMA:
    """A model whose D has another width, and draws nothing yet; all else is the model's own."""
    narrow = build_glass(model.config.replace(decoder_channels=channels))
    assert isinstance(narrow, PoseLMA)
    kept = {key: value for key, value in model.state_dict().items() if not key.startswith("decoder.")}
    narrow.load_state_dict(kept, strict=False)
    return narrow


@torch.no_grad()
def _tell(stage: SlimStage, trainer: Trainer, out: Path) -> None:
    """How the narrow D's drawings differ from the wide one's, in figures and in a picture."""
    config = replace(stage.config, batch=COMPARED)
    sampler = AnyPairs(stage.sampler.windows, config, stage.model.config.window)
    batch = {key: value.to(trainer.device) for key, value in sampler.batch(np.random.default_rng(0), 0).items()}
    stage.model.eval()
    with trainer.autocast():
        wide, narrow = (drawn.layer.cpu() for drawn in stage.drawn(batch))
    there = torch.stack([wide[:, 3] > 0.5, narrow[:, 3] > 0.5])
    union = there.any(0)
    off = (wide - narrow)[:, :3].square().mean(1)[union].mean().sqrt() * 127.5
    sizes = [sum(p.numel() for p in part.parameters()) / 1e6 for part in (stage.wide, stage.model.lma.decoder)]
    print(
        f"weights of D: {sizes[0]:.2f} -> {sizes[1]:.2f} million; the drawn agent differs by {off:.1f} of 255 "
        f"(root mean square), silhouettes overlap by {there.all(0).sum() / union.sum():.3f}"
    )
    rows = [[sheets.to_picture(layer[:3]) for layer in layers[:SHOWN]] for layers in (wide, narrow)]
    print(
        f"picture (the wide D above, the narrow one below): {sheets.save_picture(out / 'slim.png', sheets.grid(rows))}"
    )


if __name__ == "__main__":
    sys.exit(main())
