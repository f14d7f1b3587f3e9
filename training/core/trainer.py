"""The training loop: stages one after the other, resumable, interruptible, never losing the last good checkpoint."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset

from glass_gym.model.blocks import StagedModel
from glass_gym.tensors.device import pick_device, pick_precision
from glass_gym.worlds.checkpoint import FORMAT_VERSION, write_atomically

from ..config import LoopConfig
from .distributed import Distributed
from .stage import Batch, Sampler, Stage

WEIGHT_DECAY = 1e-6
CLIP = 1.0
"""Largest gradient norm."""
EMA = 0.99
"""Decay of the averaged weights."""
SHEET_MINUTES = 4.0
"""Minutes between sample sheets."""
LARGEST_WEIGHT = 6e4
"""Worlds are stored in float16, which ends at 65,504."""


class TrainingError(RuntimeError):
    """Training cannot go on; the message says what happened and where the last good checkpoint is."""


class Interrupted(Exception):
    """A stage was stopped by a signal or by the time limit; its state is saved."""


def read_state(path: Path, device: torch.device) -> dict[str, Any]:
    """A training state, without running code from the file.

    Raises:
        TrainingError: missing, damaged, or of another version.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        version = int(state["version"])
        state["config"] = json.loads(state["config"])
    except FileNotFoundError:
        raise TrainingError(f"{path}: no such file") from None
    except Exception as error:
        raise TrainingError(f"{path}: not a whole training state ({str(error)[:200]})") from None
    if version != FORMAT_VERSION:
        fix = "upgrade glass_gym" if version > FORMAT_VERSION else "train it again"
        raise TrainingError(f"{path}: version {version}, this glass_gym reads {FORMAT_VERSION}; {fix}")
    return state


class Batches(Dataset):
    """Batch i of a stage, wherever and in whatever order it is asked for.

    Args:
        sampler: of the stage.
        seed: of the run (1) and of the stage (2), and of this process where it is not the first.
        iterations: of the stage.
    """

    def __init__(self, sampler: Sampler, seed: list[int], iterations: int):
        self.sampler = sampler
        self.seed = seed
        self.iterations = iterations

    def __len__(self) -> int:
        return self.iterations

    def __getitem__(self, iteration: int) -> tuple[int, Batch]:
        """The seed of the step's torch generator, and its batch."""
        rng = np.random.default_rng([*self.seed[:3], iteration, *self.seed[3:]])
        return int(rng.integers(2**31)), self.sampler.batch(rng, iteration)


class Trainer:
    """Runs the stages of one model.

    Args:
        model: under training.
        state_file: the resumable state.
        config: how long, how often, where.
        processes: that train together; by default this one alone, or those that a launcher started.
        minutes: spent so far, by stage.
    """

    def __init__(
        self,
        model: StagedModel,
        state_file: Path,
        config: LoopConfig,
        processes: Distributed | None = None,
        minutes: dict[str, float] | None = None,
    ):
        self.processes = processes or Distributed(config.device)
        self.device = pick_device(self.processes.device(config.device))
        self.model = model.to(self.device, memory_format=torch.channels_last)
        self._averaged = AveragedModel(self.model, multi_avg_fn=self._lerp, use_buffers=True)
        self.average.eval().requires_grad_(False)
        self.state_file = Path(state_file)
        self.state_file.parent.mkdir(parents=True, exist_ok=True)
        self.config = config
        self.finished: list[str] = []
        self.minutes = dict(minutes or {})
        self._resume: dict[str, Any] | None = None
        self._stop = False

    @property
    def average(self) -> Any:
        """The averaged weights, which are what is evaluated and exported."""
        return self._averaged.module

    def autocast(self) -> torch.autocast:
        """The precision of the networks."""
        bf16 = self.config.bf16
        if bf16 is None:
            bf16 = pick_precision("auto", self.device) == torch.bfloat16
        return torch.autocast(self.device.type, torch.bfloat16, enabled=bf16)

    def load(self) -> None:
        """Take up where the state file left off.

        Raises:
            TrainingError: no state, a damaged one, or one of another model.
        """
        if not self.state_file.exists():
            raise TrainingError(f"{self.state_file}: nothing to resume; leave --resume out to start")
        state = read_state(self.state_file, self.device)
        ours = self.model.config.to_dict()
        if other := {k: f"{v}, not {ours.get(k)}" for k, v in state["config"].items() if v != ours.get(k)}:
            raise TrainingError(f"{self.state_file}: was trained with other sizes ({other}); use the same options")
        for model, name in ((self.model, "model"), (self.average, "average")):
            model.load_state_dict(state[name])
        self.finished = list(state["finished"])
        self.minutes |= state["minutes"]
        self._resume = state

    def start_from(self, path: Path) -> list[str]:
        """Take the finished stages of another run, as far as their weights have the sizes of this model's.

        Returns:
            the stages that were taken.

        Raises:
            TrainingError: no such file, or a damaged one.
        """
        state = read_state(path, self.device)
        taken: list[str] = []
        for stage in state["finished"]:
            parts = self.model.stages[stage] if stage in self.model.stages else ("",)
            theirs, ours = (_weights_of(parts, weights) for weights in (state["model"], self.model.state_dict()))
            if {k: v.shape for k, v in theirs.items()} != {k: v.shape for k, v in ours.items()}:
                break
            for model, name in ((self.model, "model"), (self.average, "average")):
                model.load_state_dict(_weights_of(parts, state[name]), strict=False)
            taken.append(stage)
        self.finished = taken
        return taken

    def save(self, stage: str, iteration: int, optimiser: torch.optim.Optimizer | None, owner=None) -> None:
        """Write the state to a temporary file, then rename it; `owner` is the stage under way.

        Raises:
            TrainingError: weights that no checkpoint can hold; the state before is kept.
            CheckpointError: the disk is full or not writable; the state before is kept.
        """
        if not self.processes.is_main:
            return
        self._check_weights(owner.options if owner else stage)
        state = {
            "version": FORMAT_VERSION,
            "config": json.dumps(self.model.config.to_dict()),
            "stage": stage,
            "iteration": iteration,
            "finished": self.finished,
            "minutes": self.minutes,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": optimiser.state_dict() if optimiser else {},
            "stage_state": owner.state_dict() if owner else {},
        }
        write_atomically(self.state_file, lambda part: torch.save(state, part))

    def _check_weights(self, options: str) -> None:
        for model in (self.model, self.average):
            for name, value in model.state_dict().items():
                if value.is_floating_point() and value.numel() and not value.abs().max() < LARGEST_WEIGHT:
                    raise TrainingError(
                        f"{name} has grown to {float(value.abs().max()):.1g}: training has gone wrong. {self._kept()}. "
                        f"Lower --{options}.rate, then --resume"
                    )

    def _kept(self) -> str:
        return f"last good checkpoint: {self.state_file}" if self.state_file.exists() else "nothing was saved yet"

    def run(
        self,
        stage: Stage,
        on_step: Callable[[Stage, int, dict[str, float]], None] = lambda stage, iteration, terms: None,
        on_sheet: Callable[[Stage], None] = lambda stage: None,
    ) -> None:
        """Train one stage to its end; a stage of no iterations or one finished before is skipped.

        Args:
            stage: what is trained.
            on_step: called after every step, with its loss terms.
            on_sheet: called every few minutes.

        Raises:
            Interrupted: stopped by a signal or the time limit; the state is saved.
            TrainingError: a loss that is not finite.
        """
        if stage.iterations <= 0 or stage.name in self.finished:
            return
        modules = stage.modules
        for module in self.model.children():
            chosen = any(module is m for m in modules)
            module.train(chosen).requires_grad_(chosen)
        parameters = [p for module in modules for p in module.parameters()]
        optimiser = torch.optim.AdamW(parameters, lr=stage.config.rate, weight_decay=WEIGHT_DECAY, fused=True)
        first = self._resumed(stage, optimiser)
        self._averaged.n_averaged.fill_(first)
        losses = self.processes.losses(stage)
        began = saved = sheeted = time.monotonic()
        spent = self.minutes.get(stage.name, 0.0)
        with _Signals(self._request_stop):
            for iteration, (seed, batch) in enumerate(self._batches(stage, first), first):
                terms = self._step(stage, losses, iteration, seed, batch, optimiser, parameters)
                on_step(stage, iteration, terms)
                now = time.monotonic()
                self.minutes[stage.name] = spent + (now - began) / 60
                out_of_time = sum(self.minutes.values()) >= self.config.max_minutes
                if self.processes.any(self._stop or out_of_time):
                    self.save(stage.name, iteration + 1, optimiser, stage)
                    raise Interrupted(f"stopped and saved: {self.state_file}")
                if now - saved > self.config.save_minutes * 60:
                    self.save(stage.name, iteration + 1, optimiser, stage)
                    saved = time.monotonic()
                if now - sheeted > SHEET_MINUTES * 60:
                    on_sheet(stage)
                    sheeted = time.monotonic()
        self.finished.append(stage.name)
        self.model.load_state_dict(self.average.state_dict())  # the next stage stands on the averaged weights
        self.save(stage.name, stage.iterations, None)

    def _resumed(self, stage: Stage, optimiser: torch.optim.Optimizer) -> int:
        """The stage's first iteration: where it was left, or 0."""
        state = self._resume
        self._resume = None
        if not state or state["stage"] != stage.name:
            return 0
        optimiser.load_state_dict(state["optimiser"])
        if kept := state.get("stage_state"):
            stage.load_state_dict(kept)
        return int(state["iteration"])

    def _batches(self, stage: Stage, first: int) -> DataLoader:
        """Seeds and batches of the iterations that are left, made ahead by workers where there are some."""
        rank = [self.processes.rank] * (self.processes.rank > 0)
        seed = [self.config.seed, len(stage.name), sum(map(ord, stage.name)), *rank]
        cuda = self.device.type == "cuda"
        workers = self.config.workers if self.config.workers is not None else 2 * cuda
        return DataLoader(
            Batches(stage.sampler, seed, stage.iterations),
            batch_size=None,
            sampler=range(first, stage.iterations),
            num_workers=workers,
            pin_memory=cuda,
            persistent_workers=False,
        )

    def _step(
        self,
        stage: Stage,
        losses: Callable[..., dict[str, Tensor]],
        iteration: int,
        seed: int,
        batch: Batch,
        optimiser: torch.optim.Optimizer,
        parameters: list[nn.Parameter],
    ) -> dict[str, float]:
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed + (1 << 32))  # of dropout, another stream; so a resumed run goes on as it would have
        for group in optimiser.param_groups:
            group["lr"] = stage.config.rate * schedule(iteration, stage.iterations)
        stage.prepare(iteration, generator)
        batch = {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}
        with self.autocast():
            terms = losses(batch, iteration, generator)
        loss: Tensor = torch.stack([term.float() for term in terms.values()]).sum()
        if not math.isfinite(loss.item()):
            values = {k: float(v.detach()) for k, v in terms.items()}
            raise TrainingError(
                f"loss is not finite at {stage.name} iteration {iteration}: {values}; {self._kept()}. "
                f"Lower --{stage.options}.rate or add --loop.bf16 False, then --resume"
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, CLIP)
        optimiser.step()
        self._averaged.update_parameters(self.model)
        for kept, now in zip(self.average.codebooks(), self.model.codebooks(), strict=True):
            kept.copy_(now)  # a codebook that moves by averages is averaged already
        return {k: float(v.detach()) for k, v in terms.items()}

    @torch.no_grad()
    def _lerp(self, averaged: list[Tensor], now: list[Tensor], count: Tensor) -> None:
        """Parameters and batch statistics are averaged over the steps; what is counted is copied."""
        if averaged[0].is_floating_point():
            number = int(count)
            torch._foreach_lerp_(averaged, now, 1 - min(EMA, (1 + number) / (10 + number)))
        else:
            torch._foreach_copy_(averaged, now)

    def _request_stop(self) -> None:
        self._stop = True


def _weights_of(parts: Sequence[str], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in weights.items() if name.split(".")[0] in parts}


def schedule(iteration: int, iterations: int, warm_up: int = 50) -> float:
    """Warm-up, then a cosine from 1 to 0.05."""
    share = iteration / max(1, iterations)
    return min(1.0, (iteration + 1) / warm_up) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * share)))


class _Signals:
    """SIGINT and SIGTERM ask for a stop after the current step; a second SIGINT interrupts at once."""

    def __init__(self, stop):
        self.stop = stop
        self.old = {}

    def __enter__(self):
        def handle(number, frame):
            self.stop()
            signal.signal(signal.SIGINT, signal.default_int_handler)

        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self.old[number] = signal.signal(number, handle)
        except ValueError:  # not the main thread: nobody to ask
            pass

    def __exit__(self, *_):
        for number, handler in self.old.items():
            signal.signal(number, handler)
