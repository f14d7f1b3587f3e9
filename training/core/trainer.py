"""The training loop: runs stages one after the other; it can be interrupted and resumed."""

from __future__ import annotations

import contextlib
import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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
CLIP = 1.0  # Gradients are clipped to this norm.
EMA = 0.99  # Decay of the exponential moving average of the weights.
SAVE_MINUTES, SHEET_MINUTES = 3.0, 4.0  # Minutes between checkpoints, and between sample sheets.
WORKERS = 2  # Processes that make batches beside a GPU; batches do not depend on it.
LARGEST_WEIGHT = 6e4  # Weights must be smaller: worlds are stored in float16, whose largest number is 65,504.


class TrainingError(RuntimeError):
    """Training cannot continue; the message says why, and what to do."""


class Interrupted(Exception):
    """A stage was stopped by a signal or the time limit; its state is saved."""


def read_state(path: Path, device: torch.device) -> dict[str, Any]:
    """Read a training state (gma.pt, lma.pt) to a device; no code from the file is run.

    Raises:
        TrainingError: the file is missing, damaged, or of another version.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        version = int(state["version"])
        state["config"] = json.loads(state["config"])
        if missing := {"stage", "iteration", "finished", "minutes", "model", "average", "optimiser"} - state.keys():
            raise ValueError(f"without {', '.join(sorted(missing))}")
    except FileNotFoundError:
        raise TrainingError(f"{path}: no such file") from None
    except Exception as error:
        raise TrainingError(f"{path}: not a whole training state ({str(error)[:200]})") from None
    if version != FORMAT_VERSION:
        fix = "upgrade glass_gym" if version > FORMAT_VERSION else "train it again"
        raise TrainingError(f"{path}: version {version}, this glass_gym reads {FORMAT_VERSION}; {fix}")
    return state


class Batches(Dataset):
    """The batches of a stage as a dataset: batch i is the same in any worker and in any order.

    Args:
        sampler: makes the batches.
        seed: three numbers: the run's seed and two of the stage; a fourth in every process but the first.
        iterations: length of the dataset.
    """

    def __init__(self, sampler: Sampler, seed: list[int], iterations: int):
        self.sampler = sampler
        self.seed = seed
        self.iterations = iterations

    def __len__(self) -> int:
        return self.iterations

    def __getitem__(self, iteration: int) -> tuple[int, Batch]:
        """The seed of the step's torch generator, and the batch."""
        rng = np.random.default_rng([*self.seed[:3], iteration, *self.seed[3:]])
        return int(rng.integers(2**31)), self.sampler.batch(rng, iteration)


class Trainer:
    """Runs the stages of one model, and writes its state.

    Args:
        model: the model to train; it is moved to the device.
        state_file: where the state is written, and resumed from.
        config: options of the loop.
        processes: default: this process, or those that a launcher started.
        minutes: minutes of training spent before, by stage; they count for `max_minutes`.
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
        self.workers = WORKERS if self.device.type == "cuda" else 0
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
        """The model with averaged weights, which is evaluated and exported."""
        return self._averaged.module

    def autocast(self) -> torch.autocast:
        """The autocast context for the networks."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.machine["bf16"])

    @property
    def machine(self) -> dict[str, Any]:
        """The options device and bf16, as resolved for this machine."""
        bf16 = self.config.bf16
        if bf16 is None:
            bf16 = pick_precision("auto", self.device) == torch.bfloat16
        return {"device": str(self.device), "bf16": bf16}

    def load(self) -> None:
        """Load the state file; the next :meth:`run` continues from it.

        Raises:
            TrainingError: there is no state, or it is damaged or of a model with other sizes.
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

    def start_from(self, path: Path) -> tuple[list[str], str]:
        """Load the weights of another run's finished stages, up to the first whose shapes differ from this model's.

        Returns:
            names of the stages that were loaded, which count as finished; and what differs in the next, "" if nothing.

        Raises:
            TrainingError: the state file `path` is missing or damaged, or of another architecture or frame size.
        """
        state = read_state(path, self.device)
        ours = self.model.config.to_dict()
        for name in ("architecture", "height", "width"):
            if state["config"][name] != ours[name]:
                raise TrainingError(
                    f"{path}: its {name} is {state['config'][name]}, not {ours[name]}; use the same options and data"
                )
        taken: list[str] = []
        differs = ""
        for stage in state["finished"]:
            parts = self.model.stages[stage] if stage in self.model.stages else ("",)
            theirs, own = (_weights_of(parts, weights) for weights in (state["model"], self.model.state_dict()))
            shapes = [{k: tuple(v.shape) for k, v in weights.items()} for weights in (theirs, own)]
            if odd := sorted(k for k in {**shapes[0], **shapes[1]} if shapes[0].get(k) != shapes[1].get(k)):
                differs = f"{stage}: {odd[0]} is {shapes[0].get(odd[0])}, not {shapes[1].get(odd[0])}"
                break
            for model, name in ((self.model, "model"), (self.average, "average")):
                model.load_state_dict(_weights_of(parts, state[name]), strict=False)
            taken.append(stage)
        self.finished = taken
        return taken, differs

    def save(self, stage: str, iteration: int, optimiser: torch.optim.Optimizer | None, owner=None) -> None:
        """Write the state: to a temporary file, which is then renamed. Only the main process writes.

        Args:
            stage: name of the last stage that was run.
            iteration: its next step.
            optimiser: None between stages.
            owner: the stage itself, if it is not finished.

        Raises:
            TrainingError: weights are too large for a checkpoint; the previous state is kept.
            CheckpointError: the disk is full or not writable; the previous state is kept.
        """
        if not self.processes.is_main:
            return
        self._check_weights()
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

    def _check_weights(self) -> None:
        """Raise a TrainingError if a weight is too large for a checkpoint."""
        for model in (self.model, self.average):
            for name, value in model.state_dict().items():
                if value.is_floating_point() and value.numel() and not value.abs().max() < LARGEST_WEIGHT:
                    raise TrainingError(
                        f"{name} has grown to {float(value.abs().max()):.1g}: training has gone wrong. {self._kept()}. "
                        "Take another --loop.seed, then --resume"
                    )

    def _kept(self) -> str:
        return f"last good checkpoint: {self.state_file}" if self.state_file.exists() else "nothing was saved yet"

    def run(
        self,
        stage: Stage,
        on_step: Callable[[Stage, int, dict[str, float]], None] = lambda stage, iteration, terms: None,
        on_sheet: Callable[[Stage], None] = lambda stage: None,
    ) -> None:
        """Train a stage to its end; skip it if it has no iterations, or was finished before.

        Args:
            stage: the stage.
            on_step: called after every step with (stage, step, loss terms).
            on_sheet: called every SHEET_MINUTES with the stage, to write a sample sheet.

        Raises:
            Interrupted: stopped by a signal or the time limit; the state is saved.
            TrainingError: a loss is not finite, or weights are too large for a checkpoint.
        """
        if stage.iterations <= 0 or stage.name in self.finished:
            return
        modules = stage.modules
        for module in self.model.children():
            chosen = any(module is m for m in modules)
            module.train(chosen).requires_grad_(chosen)
        parameters = [p for module in modules for p in module.parameters()]
        optimiser = torch.optim.AdamW(parameters, lr=stage.rate, weight_decay=WEIGHT_DECAY, fused=True)
        first = self._resumed(stage, optimiser)
        self._averaged.n_averaged.fill_(first)
        losses = self.processes.losses(stage)
        began = saved = sheeted = time.monotonic()
        spent = self.minutes.get(stage.name, 0.0)
        with _signals(self._request_stop):
            for iteration, (seed, batch) in enumerate(self._batches(stage, first), first):
                terms = self._step(stage, losses, iteration, seed, batch, optimiser)
                on_step(stage, iteration, terms)
                now = time.monotonic()
                self.minutes[stage.name] = spent + (now - began) / 60
                out_of_time = sum(self.minutes.values()) >= self.config.max_minutes
                if self.processes.any(self._stop or out_of_time):
                    self.save(stage.name, iteration + 1, optimiser, stage)
                    raise Interrupted(f"stopped and saved: {self.state_file}")
                if now - saved > SAVE_MINUTES * 60:
                    self.save(stage.name, iteration + 1, optimiser, stage)
                    saved = time.monotonic()
                if now - sheeted > SHEET_MINUTES * 60:
                    on_sheet(stage)
                    sheeted = time.monotonic()
        self.finished.append(stage.name)
        self.model.load_state_dict(self.average.state_dict())  # the next stage starts from the averaged weights
        self.save(stage.name, stage.iterations, None)

    def _resumed(self, stage: Stage, optimiser: torch.optim.Optimizer) -> int:
        """The step to start with: where the loaded state stopped in this stage, or 0."""
        state = self._resume
        self._resume = None
        if not state or state["stage"] != stage.name:
            return 0
        optimiser.load_state_dict(state["optimiser"])
        if kept := state.get("stage_state"):
            stage.load_state_dict(kept)
        return int(state["iteration"])

    def _batches(self, stage: Stage, first: int) -> DataLoader:
        """Seeds and batches of the steps from `first` on, prefetched if there are workers."""
        rank = [self.processes.rank] * (self.processes.rank > 0)
        seed = [self.config.seed, len(stage.name), sum(map(ord, stage.name)), *rank]
        return DataLoader(
            Batches(stage.sampler, seed, stage.iterations),
            batch_size=None,
            sampler=range(first, stage.iterations),
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
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
    ) -> dict[str, float]:
        """One optimiser step; returns the values of the loss terms."""
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed + (1 << 32))  # for dropout; seeded each step, so that a resumed run repeats it
        for group in optimiser.param_groups:
            group["lr"] = stage.rate * schedule(iteration, stage.iterations)
        stage.prepare(iteration, generator)
        batch = {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}
        with self.autocast():
            terms = losses(batch, iteration, generator)
        loss: Tensor = torch.stack([term.float() for term in terms.values()]).sum()
        if not math.isfinite(loss.item()):
            values = {k: float(v.detach()) for k, v in terms.items()}
            raise TrainingError(
                f"loss is not finite at {stage.name} iteration {iteration}: {values}; {self._kept()}. "
                "Take another --loop.seed or add --loop.bf16 False, then --resume"
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(optimiser.param_groups[0]["params"], CLIP)
        optimiser.step()
        self._averaged.update_parameters(self.model)
        for kept, now in zip(self.average.codebooks(), self.model.codebooks(), strict=True):
            kept.copy_(now)  # a codebook is a moving average already
        return {k: float(v.detach()) for k, v in terms.items()}

    @torch.no_grad()
    def _lerp(self, averaged: list[Tensor], now: list[Tensor], count: Tensor) -> None:
        """Update the averages: of floating-point tensors in place by EMA; counters are copied."""
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
    """Factor on the peak learning rate: a linear warm-up of `warm_up` steps, times a cosine from 1 to 0.05."""
    share = iteration / max(1, iterations)
    return min(1.0, (iteration + 1) / warm_up) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * share)))


@contextlib.contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    """A context in which SIGINT and SIGTERM call `stop`, to end after the step; a second SIGINT interrupts at once."""
    old = {}

    def handle(number, frame):
        stop()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    with contextlib.suppress(ValueError):  # signals can be handled in the main thread only
        for number in (signal.SIGINT, signal.SIGTERM):
            old[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
