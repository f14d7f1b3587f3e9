"""The training loop: stages one after the other, resumable, interruptible, never losing the last good checkpoint."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Gt, Lt
from glass_gym.versions import FORMAT_VERSION, upgrade_config, upgrade_weights
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset

from glass_gym.model.config import GlassConfig
from glass_gym.model.glass import Glass
from glass_gym.tensors.device import pick_device, pick_precision
from glass_gym.worlds.checkpoint import write_atomically

from .distributed import Distributed
from .options import Count, Minutes, Weight
from .stage import Batch, Sampler, Stage

GMA_FIELDS = ("architecture", "height", "width", "mask_channels", "foreground_range", "background_range", "scene")
"""What GMA's weights depend on; the other fields of a config are LMA's ..."""
PRIOR_FIELDS = ("prior_channels",)
"""... or the prior's ..."""
CODE_FIELDS = {"token": ("codes", "quantiser", "psi_channels", "bilinear_channels", "code_channels", *PRIOR_FIELDS)}
"""... or only those of an architecture's last stage: what was trained before it is of use."""
UNTRAINED_FIELDS = ("hole",)
"""No weight depends on them."""

LARGEST_WEIGHT = 6e4
"""Worlds are stored in float16, which ends at 65,504."""


class TrainingError(RuntimeError):
    """Training cannot go on; the message says what happened and where the last good checkpoint is."""


@dataclass
class LoopConfig:
    """How long, how often, where."""

    seed: Count = 0
    """of everything random; batches follow from (seed, stage, iteration)"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:i"""
    workers: Count | None = None
    """processes that make batches; default: 2 beside a GPU, else none"""
    bf16: bool | None = None
    """bfloat16 autocast for the networks; losses, FFTs and shifts stay in float32. Default: where it is faster
    (glass_gym.simulator.pick_precision)"""
    weight_decay: Weight = 1e-6
    clip: Annotated[float, Gt(0)] = 1.0
    """largest gradient norm"""
    ema: Annotated[float, Ge(0), Lt(1)] = 0.99
    """decay of the averaged weights, which are what is evaluated and exported"""
    save_minutes: Minutes = 3.0
    """minutes between checkpoints"""
    sheet_minutes: Minutes = 4.0
    """minutes between sample sheets"""
    max_minutes: Minutes = math.inf
    """stop (saved, resumable) after this time"""


def read_state(path: Path, device: torch.device) -> dict[str, Any]:
    """A training state, of this version or an earlier one, without running code from the file.

    Raises:
        TrainingError: missing, damaged, newer, or of an experiment that exists no more.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        version = int(state["version"])
        if version <= FORMAT_VERSION:
            state["config"] = upgrade_config(json.loads(state["config"]), version)
            for part in ("model", "average"):
                state[part] = upgrade_weights(state[part], version)
    except FileNotFoundError:
        raise TrainingError(f"{path}: no such file") from None
    except Exception as error:
        raise TrainingError(f"{path}: not a whole training state ({str(error)[:200]})") from None
    if version > FORMAT_VERSION:
        raise TrainingError(f"{path}: version {version} is newer than {FORMAT_VERSION}; upgrade")
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
    """Runs stages over one model.

    Args:
        model: the model under training.
        out: run folder: state.pt, TensorBoard events and sample sheets.
        config: :class:`LoopConfig`.
        processes: that train together; by default this one alone, or those that a launcher started.
    """

    def __init__(self, model: Glass, out: Path, config: LoopConfig, processes: Distributed | None = None):
        self.processes = processes or Distributed(config.device)
        self.device = pick_device(self.processes.device(config.device))
        self.model = model.to(self.device, memory_format=torch.channels_last)
        self._averaged = AveragedModel(self.model, multi_avg_fn=self._lerp, use_buffers=True)
        self.average.eval().requires_grad_(False)
        self.out = Path(out)
        self.config = config
        self.out.mkdir(parents=True, exist_ok=True)
        self.finished: list[str] = []
        self.minutes: dict[str, float] = {}
        self._resume: dict[str, Any] | None = None
        self._stop = False

    @property
    def average(self) -> Glass:
        """The averaged weights, which are what is evaluated and exported."""
        return self._averaged.module

    def autocast(self) -> torch.autocast:
        """The precision of the networks."""
        bf16 = self.config.bf16
        if bf16 is None:
            bf16 = pick_precision("auto", self.device) == torch.bfloat16
        return torch.autocast(self.device.type, torch.bfloat16, enabled=bf16)

    @property
    def state_file(self) -> Path:
        """The resumable state."""
        return self.out / "state.pt"

    def load(self) -> None:
        """Take up where `state.pt` left off.

        Raises:
            TrainingError: no state, a damaged one, or one of another model.
        """
        path = self.state_file
        if not path.exists():
            raise TrainingError(f"{path}: nothing to resume; leave --resume out to start")
        state = read_state(path, self.device)
        other = self._differences(state)
        if set(other) - set(PRIOR_FIELDS):
            raise TrainingError(f"{path}: was trained with another model config ({other}); use the same options")
        self._take(state, without_prior=bool(other))
        self.minutes = dict(state["minutes"])
        self._resume = state

    def start_from(self, path: Path) -> None:
        """Take weights and finished stages from another run. If LMA's sizes differ, the stages before it are taken.

        Which those are depends on what differs: GMA, and a vocabulary of poses where only the local actions differ.

        Raises:
            TrainingError: no such file, a damaged one, or one whose GMA does not fit either.
        """
        if not path.exists():
            raise TrainingError(f"{path}: no such file; --init takes the state.pt of another run")
        state = read_state(path, self.device)
        other = self._differences(state)
        if self._other_gma(other):
            raise TrainingError(f"{path}: its GMA is another ({other}); use the same options")
        if not set(other) - set(PRIOR_FIELDS):
            self._take(state, without_prior=bool(other))
            return
        if "gma" not in state["finished"]:
            raise TrainingError(f"{path}: its LMA is another ({other}), and its GMA is not finished")
        taken = [name for name in ("gma", "refine") if name in state["finished"]]
        if not set(other) - set(CODE_FIELDS.get(self.model.config.architecture, ())):
            taken = [name for name in state["finished"] if name not in ("lma", "prior")]
        parts = {part for name in taken for part in self.model.stages[name]}
        for model, key in ((self.model, "model"), (self.average, "average")):
            weights = {k: v for k, v in state[key].items() if k.split(".")[0] in parts}
            model.load_state_dict(weights, strict=False)
        self.finished = taken
        what = " and ".join("GMA" if name == "gma" else name for name in taken if name != "refine")
        print(f"{path}: only {what} is taken, since its LMA is another ({other})")

    def with_model(self, model: Glass) -> Trainer:
        """A trainer over a model of other sizes, with the weights of the stages that are finished; it is saved."""
        other = Trainer(model, self.out, self.config, self.processes)
        parts = {part for name in self.finished for part in self.model.stages[name]}
        for theirs, ours in ((other.model, self.model), (other.average, self.average)):
            weights = {k: v for k, v in ours.state_dict().items() if k.split(".")[0] in parts}
            theirs.load_state_dict(weights, strict=False)
        other.finished = list(self.finished)
        other.minutes = dict(self.minutes)
        other.save(self.finished[-1], 0, None)
        return other

    def _other_gma(self, other: dict[str, str]) -> bool:
        """Whether fields that differ change GMA; lean and token have the same."""
        fields = set(other) & set(GMA_FIELDS)
        return bool(fields) and not (
            fields == {"architecture"} and other["architecture"] in ("lean, not token", "token, not lean")
        )

    def _take(self, state: dict[str, Any], without_prior: bool) -> None:
        """Weights and finished stages; the prior's too, unless the state has none, or one of another size."""
        for model, name in ((self.model, "model"), (self.average, "average")):
            weights = {k: v for k, v in state[name].items() if not (without_prior and k.startswith("prior."))}
            model.load_state_dict(weights, strict=not without_prior)
        self.finished = [name for name in state["finished"] if not (without_prior and name == "prior")]

    def _differences(self, state: dict[str, Any]) -> dict[str, str]:
        """Fields of a state's config that weights depend on and that differ from this model's: "theirs, not ours"."""
        theirs = GlassConfig.from_dict(state["config"]).to_dict()
        ours = self.model.config.to_dict()
        return {
            key: f"{theirs[key]}, not {ours[key]}"
            for key in ours
            if theirs[key] != ours[key] and key not in UNTRAINED_FIELDS
        }

    def save(self, stage: str, iteration: int, optimiser: torch.optim.Optimizer | None, owner=None) -> None:
        """Write the state to a temporary file, then rename; `owner`: the stage under way.

        Raises:
            TrainingError: weights that no checkpoint can hold; the state before is kept.
            CheckpointError: the disk is full or not writable; the state before is kept.
        """
        if not self.processes.is_main:
            return
        self._check_weights(stage)
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

    def _check_weights(self, stage: str) -> None:
        for model in (self.model, self.average):
            for name, value in model.state_dict().items():
                if value.is_floating_point() and value.numel() and not value.abs().max() < LARGEST_WEIGHT:
                    raise TrainingError(
                        f"{name} has grown to {float(value.abs().max()):.1g}: training has gone wrong. {self._kept()}. "
                        f"Lower --{stage}.rate, then --resume"
                    )

    def _kept(self) -> str:
        return f"last good checkpoint: {self.state_file}" if self.state_file.exists() else "nothing was saved yet"

    def run(
        self,
        stage: Stage,
        on_step: Callable[[Stage, int, dict[str, float]], None] = lambda stage, iteration, terms: None,
        on_sheet: Callable[[Stage], None] = lambda stage: None,
    ) -> bool:
        """Train one stage to its end; a stage of no iterations or one finished before is skipped.

        Args:
            stage: what is trained.
            on_step: called after every step, with its loss terms.
            on_sheet: called every few minutes.

        Returns:
            False if interrupted (saved and resumable).

        Raises:
            TrainingError: a loss that is not finite.
        """
        if stage.iterations <= 0 or stage.name in self.finished:
            return True
        modules = stage.modules
        for module in self.model.children():
            chosen = any(module is m for m in modules)
            module.train(chosen).requires_grad_(chosen)
        parameters = [p for module in modules for p in module.parameters()]
        optimiser = torch.optim.AdamW(
            parameters, lr=stage.config.rate, weight_decay=self.config.weight_decay, fused=True
        )
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
                    return False
                if now - saved > self.config.save_minutes * 60:
                    self.save(stage.name, iteration + 1, optimiser, stage)
                    saved = time.monotonic()
                if now - sheeted > self.config.sheet_minutes * 60:
                    on_sheet(stage)
                    sheeted = time.monotonic()
        self.finished.append(stage.name)
        self.model.load_state_dict(self.average.state_dict())  # the next stage stands on the averaged weights
        self.save(stage.name, stage.iterations, None)
        return True

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
                f"Lower --{stage.name}.rate or add --loop.no-bf16, then --resume"
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, self.config.clip)
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
            torch._foreach_lerp_(averaged, now, 1 - min(self.config.ema, (1 + number) / (10 + number)))
        else:
            torch._foreach_copy_(averaged, now)

    def _request_stop(self) -> None:
        self._stop = True


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
