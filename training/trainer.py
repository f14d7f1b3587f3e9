"""The training loop: stages one after the other, resumable, interruptible, never losing the last good checkpoint."""

from __future__ import annotations

import json
import math
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from glass_gym.checkpoint import write_atomically
from glass_gym.config import GlassConfig
from glass_gym.glass import Glass
from glass_gym.simulator import pick_device
from training.team import Team

STATE_VERSION = 1


class TrainingError(RuntimeError):
    """Training cannot go on; the message says what happened and where the last good checkpoint is."""


@dataclass
class LoopConfig:
    """How long, how often, where."""

    seed: int = 0
    """of everything random; batches follow from (seed, stage, iteration)"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:i"""
    bf16: bool = True
    """bfloat16 autocast for the networks; losses, FFTs and shifts stay in float32"""
    weight_decay: float = 1e-6
    clip: float = 1.0
    """largest gradient norm"""
    ema: float = 0.99
    """decay of the averaged weights, which are what is evaluated and exported"""
    save_minutes: float = 3.0
    """minutes between checkpoints"""
    sheet_minutes: float = 4.0
    """minutes between sample sheets"""
    max_minutes: float = math.inf
    """stop (saved, resumable) after this time"""


def read_state(path: Path, device: torch.device) -> dict:
    """A training state, without running code from the file.

    Raises:
        TrainingError: missing, damaged, or newer.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        version = state["version"]
    except FileNotFoundError:
        raise TrainingError(f"{path}: nothing to resume; leave --resume out to start") from None
    except Exception as error:
        raise TrainingError(f"{path}: not a whole training state ({str(error)[:200]})") from None
    if version > STATE_VERSION:
        raise TrainingError(f"{path}: version {version} is newer than {STATE_VERSION}; upgrade")
    return state


class Trainer:
    """Runs stages over one model.

    Args:
        model: the model under training.
        out: run folder: state.pt, TensorBoard events and sample sheets.
        config: :class:`LoopConfig`.
        team: the processes that train together; by default this one alone, or those that a launcher started.
    """

    def __init__(self, model: Glass, out: Path, config: LoopConfig, team: Team | None = None):
        self.team = team or Team(config.device)
        self.device = pick_device(self.team.device(config.device))
        self.model = model.to(self.device, memory_format=torch.channels_last)
        self.average = Glass(model.config).to(self.device, memory_format=torch.channels_last)
        self.average.load_state_dict(model.state_dict())
        self.average.eval().requires_grad_(False)
        self.out, self.config = Path(out), config
        self.out.mkdir(parents=True, exist_ok=True)
        self.finished: list[str] = []
        self.minutes: dict[str, float] = {}
        self._resume: dict | None = None
        self._stop = False

    @property
    def state_file(self) -> Path:
        """The resumable state."""
        return self.out / "state.pt"

    def load(self, path: Path | None = None) -> None:
        """Take up where `state.pt` (or the state at `path`) left off.

        Raises:
            TrainingError: no state, a damaged one, or one of another model.
        """
        path = path or self.state_file
        state = read_state(path, self.device)
        if GlassConfig.from_dict(json.loads(state["config"])) != self.model.config:
            raise TrainingError(f"{path}: was trained with another model config; use the same options")
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.finished = list(state["finished"])
        self.minutes = dict(state["minutes"])
        self._resume = state

    def save(self, stage: str, iteration: int, optimiser: torch.optim.Optimizer | None, owner=None) -> None:
        """Write the state to a temporary file, then rename; `owner`: the stage, if it has a state of its own."""
        if not self.team.first:
            return
        state = {
            "version": STATE_VERSION, "config": json.dumps(self.model.config.to_dict()), "stage": stage,
            "iteration": iteration, "finished": self.finished, "minutes": self.minutes,
            "model": self.model.state_dict(), "average": self.average.state_dict(),
            "optimiser": optimiser.state_dict() if optimiser else {},
            "stage_state": owner.state_dict() if hasattr(owner, "state_dict") else {},
        }  # fmt: skip
        write_atomically(self.state_file, lambda part: torch.save(state, part))

    def run(self, stage, on_step=lambda stage, iteration, terms: None, on_sheet=lambda stage: None) -> bool:
        """Train one stage to its end; a stage of no iterations or one finished before is skipped.

        Returns:
            False if interrupted (saved and resumable).

        Raises:
            TrainingError: a loss that is not finite.
        """
        if stage.iterations <= 0 or stage.name in self.finished:
            return True
        boxes = stage.boxes
        parameters = [p for box in boxes for p in box.parameters()]
        for box in self.model.children():
            inside = any(box is b for b in boxes)
            box.train(inside).requires_grad_(inside)
        optimiser = torch.optim.AdamW(parameters, lr=stage.config.rate, weight_decay=self.config.weight_decay)
        first = 0
        if self._resume and self._resume["stage"] == stage.name:
            optimiser.load_state_dict(self._resume["optimiser"])
            first = int(self._resume["iteration"])
            if state := self._resume.get("stage_state"):
                stage.load_state_dict(state)
        self._resume = None
        losses = self.team.losses(stage)
        began = saved = sheeted = time.monotonic()
        spent = self.minutes.get(stage.name, 0.0)
        with _Signals(self._request_stop):
            for iteration in range(first, stage.iterations):
                terms = self._step(stage, losses, iteration, optimiser, parameters)
                on_step(stage, iteration, terms)
                now = time.monotonic()
                self.minutes[stage.name] = spent + (now - began) / 60
                out_of_time = sum(self.minutes.values()) >= self.config.max_minutes
                if self.team.any(self._stop or out_of_time):
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

    def _step(self, stage, losses, iteration: int, optimiser, parameters: list[nn.Parameter]) -> dict[str, float]:
        seed = [self.config.seed, len(stage.name), sum(map(ord, stage.name)), iteration]
        rng = np.random.default_rng(seed + [self.team.rank] * (self.team.rank > 0))
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        for group in optimiser.param_groups:
            group["lr"] = stage.config.rate * schedule(iteration, stage.iterations)
        stage.prepare(iteration, generator)
        batch = {k: v.to(self.device, non_blocking=True) for k, v in stage.batch(rng, iteration).items()}
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bf16):
            terms = losses(batch, iteration, generator)
        loss: Tensor = torch.stack([term.float() for term in terms.values()]).sum()
        if not math.isfinite(loss.item()):
            values = {k: float(v.detach()) for k, v in terms.items()}
            where = f"last good checkpoint: {self.state_file}" if self.state_file.exists() else "nothing was saved yet"
            raise TrainingError(
                f"loss is not finite at {stage.name} iteration {iteration}: {values}; {where}. "
                f"Lower --{stage.name}.rate or leave out --loop.bf16, then --resume"
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, self.config.clip)
        optimiser.step()
        self._average(min(self.config.ema, (1 + iteration) / (10 + iteration)))
        return {k: float(v.detach()) for k, v in terms.items()}

    @torch.no_grad()
    def _average(self, decay: float) -> None:
        """Parameters and batch statistics are averaged; the codebook, itself an average, is copied."""
        theirs = [p for p in self.model.parameters() if p.requires_grad]
        mine = [a for a, p in zip(self.average.parameters(), self.model.parameters(), strict=True) if p.requires_grad]
        torch._foreach_lerp_(mine, theirs, 1 - decay)
        for (name, a), b in zip(self.average.named_buffers(), self.model.buffers(), strict=True):
            if a.is_floating_point() and not name.startswith("quantiser"):
                a.lerp_(b, 1 - decay)
            else:
                a.copy_(b)

    def _request_stop(self) -> None:
        self._stop = True


def schedule(iteration: int, iterations: int, warm_up: int = 50) -> float:
    """Warm-up, then a cosine from 1 to 0.05."""
    share = iteration / max(1, iterations)
    return min(1.0, (iteration + 1) / warm_up) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * share)))


class _Signals:
    """SIGINT and SIGTERM ask for a stop after the current step; a second SIGINT interrupts at once."""

    def __init__(self, stop):
        self.stop, self.old = stop, {}

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
