"""Progress bar, logged curves and sample sheets of a run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glass_gym.tools.time_left import TimeLeft
from glass_gym.worlds import sheets

from .progress import Bar, say
from .stage import Stage
from .trainer import Trainer


class Reporter:
    """Shows the progress of a run.

    Args:
        out: the run's folder; sheets go to its `samples`, TensorBoard's events to its `tensorboard`.
        order: names of all stages; those that are left are printed.
        silent: print and write nothing; for all processes but the first.
        log: where losses and sheets are logged, ``"tensorboard"``, ``"wandb"`` or ``"none"``. Steps are counted from
            the first stage on.
    """

    def __init__(self, out: Path, order: Sequence[str], silent: bool = False, log: str = "tensorboard"):
        self.out = out
        self.order = list(order)
        self.silent = silent
        self.bar = Bar("")
        self.smooth: dict[str, float] = {}
        self.time_left = TimeLeft(0)
        self.tracker: Any = None
        self.before = 0  # steps of the stages before
        if not silent and log != "none":
            from accelerate import PartialState
            from accelerate.tracking import LOGGER_TYPE_TO_CLASS

            PartialState()  # trackers ask it which process they are in
            where = {"tensorboard": {"run_name": "tensorboard", "logging_dir": str(out)}}
            where["wandb"] = {"run_name": "glass_gym", "name": out.name, "dir": str(out)}
            self.tracker = LOGGER_TYPE_TO_CLASS[log](**where[log])
            getattr(self.tracker, "start", lambda: None)()  # Accelerate before 1.8 starts it at once

    def run(self, trainer: Trainer, stage: Stage, on_step=lambda stage, iteration, terms: None) -> None:
        """Run a stage, and show its progress; arguments and errors as in :meth:`Trainer.run`."""
        self.smooth = {}
        self.time_left = TimeLeft(stage.iterations)

        def step(stage: Stage, iteration: int, terms: dict[str, float]) -> None:
            if not self.silent:
                self._step(trainer, stage, iteration, terms)
            on_step(stage, iteration, terms)

        if stage.iterations and stage.name not in trainer.finished:
            with Bar(stage.name, stage.iterations) as self.bar:
                trainer.run(stage, step, lambda stage: self._sheet(trainer, stage))
        self.before += stage.iterations

    def close(self) -> None:
        """End the log."""
        if self.tracker is not None:
            self.tracker.finish()

    def _step(self, trainer: Trainer, stage: Stage, iteration: int, terms: dict[str, float]) -> None:
        if not self.smooth and iteration:  # resumed
            self.bar.start(iteration)
        self.bar.update()
        if (told := self.time_left.after(iteration)) is not None:
            left = self.order[self.order.index(stage.name) + 1 :] if stage.name in self.order else []
            then = f"; then: {', '.join(left)}" if left else ""
            speed = f"{told[0]:.2g} steps a second on this machine, about {told[1]:.0f} minutes more"
            say(f"{stage.name}: {speed}{then}")
        for key, value in terms.items():
            self.smooth[key] = value if key not in self.smooth else 0.95 * self.smooth[key] + 0.05 * value
        if iteration % 20 == 0:
            self.bar.tell(", ".join(f"{k}={v:.4f}" for k, v in self.smooth.items()))
            if self.tracker is not None:
                self.tracker.log(
                    {f"{stage.name}/{key}": value for key, value in terms.items()}, self.before + iteration
                )
        if iteration + 1 == stage.iterations:
            self._sheet(trainer, stage, final=True)

    def _sheet(self, trainer: Trainer, stage: Stage, final: bool = False) -> None:
        """Write a sample sheet of the averaged weights."""
        if self.silent:
            return
        done = stage.iterations if final else int(self.bar.done)
        with trainer.autocast():
            picture = stage.sheet(trainer.average, done)
        if picture is None:
            return
        name = "final" if final else time.strftime("%H%M%S")
        sheets.save_picture(self.out / "samples" / f"{stage.name}-{name}.png", picture)
        if self.tracker is not None:
            layout = {"dataformats": "NHWC"} if self.tracker.name == "tensorboard" else {}
            self.tracker.log_images({stage.name: picture[None]}, self.before + done, **layout)


def logged_curves(out: Path) -> dict[str, list[tuple[int, float]]]:
    """The loss curves in the TensorBoard events of run folder `out` ({} without): by name, lists of (step, value)."""
    if not (out / "tensorboard").exists():
        return {}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / "tensorboard"), {"scalars": 400, "images": 1})
    events.Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}
