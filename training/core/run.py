"""A training run: its folder, its options, and the choices that were made for it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glass_gym.worlds.checkpoint import write_atomically

from .distributed import Distributed
from .progress import say

if TYPE_CHECKING:
    from ..config import TrainConfig

GIVEN = "given"  # A reason that begins so belongs to an option that the user passed.
CORRECTED = "corrected"  # A reason that begins so belongs to an option that was changed while training.

QUICK = {
    "gma.iterations": 0.3,
    "pose.iterations": 0.3,
    "lma.iterations": 0.3,
    "window_frames": 1 / 3,
    "report_videos": 1 / 3,
    "report_rollouts": 1 / 3,
}
"""Share of what is chosen that --quick leaves; the refine stage follows GMA."""


class RunError(ValueError):
    """A run folder that cannot be used; the message names the file and the fix."""


class Run:
    """The options of a run; those that were not given are chosen while it runs.

    Each choice is printed with its reason and kept in choices.json. config.json holds the options as they are used.

    Attributes:
        given: the options as given; None marks an option that is to be chosen.
        values, why: choices and their reasons, by the options' names, such as "gma.theta".
        machine: options of the loop as resolved for this machine, for config.json.

    Args:
        config: becomes `given`.
        processes: that train together.
        keep: whether choices are read from the folder and written to it.

    Raises:
        RunError: a damaged choices.json.
    """

    def __init__(self, config: TrainConfig, processes: Distributed, keep: bool = True):
        self.given = config
        self.out = Path(config.out)
        self.choices_file = self.out / "choices.json"
        self.processes = processes
        self.values: dict[str, Any] = {}
        self.why: dict[str, str] = {}
        self.machine: dict[str, Any] = {}
        self._keeps = keep
        self._holds = False
        self.reload()

    @property
    def config(self) -> TrainConfig:
        """The options as given, completed by the choices made so far, and corrected."""
        return filled(self.given, self.values, always={n for n, why in self.why.items() if why.startswith(CORRECTED)})

    def reload(self) -> None:
        """Read choices.json: choices of another process or of an interrupted run.

        A run that starts anew drops options that are not given any more, and all choices of another kind of run.
        """
        if not self._keeps:
            return
        values, why = read_choices(self.choices_file, None if self.given.resume else self._kind)
        for name, value in values.items():
            dropped = why.get(name, "").startswith(GIVEN) and not self.is_given(name) and not self.given.resume
            if not dropped:
                self.values[name], self.why[name] = self._used(name, value, why.get(name, ""))

    @property
    def _kind(self) -> list[Any]:
        """What choices depend on."""
        given = self.given
        read = json.loads(json.dumps(dataclasses.asdict(given.read)))
        return [given.architecture, given.choose, given.quick, given.data, given.agent, read]

    def is_given(self, name: str) -> bool:
        """Whether the user passed an option, now or when the run began."""
        return _lookup(self.given, name) is not None or self.why.get(name, "").startswith(GIVEN)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Save the choices of the block at its end: all or none."""
        self._holds = True
        yield
        self._holds = False
        self.save()

    def choose(self, name: str, value: Any, why: str) -> Any:
        """Choose an option, unless it was given; print and save the choice.

        Args:
            name: the option's, such as "gma.theta"; or that of another fact that later stages need.
            value: the suggestion; `quick` takes its share of it.
            why: the reason, in one line.

        Returns:
            the value to use: the option as given, else the suggestion.
        """
        if (less := self.shortened(name, value)) != value:
            value, why = less, f"{why}; {less / value:.2g} of the usual {value:,}, for --quick"
        value, why = self._used(name, value, why)
        self.values[name] = value
        self.why[name] = why
        if self.processes.is_main:
            say(f"  {name} = {_plain(value)}: {why}")
        self.save()
        return value

    def shortened(self, name: str, value: Any) -> Any:
        """An amount of work; with `quick` a share of it (QUICK), as far as it has one."""
        return max(1, round(value * QUICK[name])) if self.given.quick and name in QUICK and value else value

    def _used(self, name: str, value: Any, why: str) -> tuple[Any, str]:
        """Value and reason of a choice; those of the given option, where there is one."""
        given = _lookup(self.given, name)
        if given is None or why.startswith(CORRECTED):
            return value, why
        return given, why if why.startswith(GIVEN) else f"{GIVEN}; suggested was {_plain(value)}: {why}"

    def save(self) -> None:
        """Write choices.json and config.json, in the main process only."""
        if not self.processes.is_main or self._holds or not self._keeps:
            return
        choices = json.dumps({"kind": self._kind, "values": self.values, "why": self.why}, indent=1)
        used = dataclasses.asdict(self.config)
        used["loop"] |= self.machine
        config = json.dumps(used, default=str, indent=1)
        write_atomically(self.choices_file, lambda part: part.write_text(choices, encoding="utf-8"))
        write_atomically(self.out / "config.json", lambda part: part.write_text(config, encoding="utf-8"))


def read_choices(path: Path, kind: list[Any] | None = None) -> tuple[dict[str, Any], dict[str, str]]:
    """Values and reasons of a choices.json; both empty if there is no such file, or it is of another `kind` of run.

    Raises:
        RunError: a damaged file.
    """
    if not path.exists():
        return {}, {}
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        if kind is not None and known.get("kind", kind) != kind:
            return {}, {}
        return dict(known["values"]), dict(known["why"])
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: not a whole record of choices ({error}); delete it to choose again") from None


def filled(config: Any, values: Mapping[str, Any], prefix: str = "", always: Collection[str] = ()) -> Any:
    """A copy of a dataclass, nested ones included: fields that are None get `values[prefix + name]`, where present.

    Those whose names are in `always` get it whatever they are.
    """
    changes = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        name = prefix + field.name
        if dataclasses.is_dataclass(value):
            changes[field.name] = filled(value, values, f"{name}.", always)
        elif (value is None or name in always) and values.get(name) is not None:
            chosen = values[name]
            changes[field.name] = tuple(chosen) if isinstance(chosen, list) else chosen
    return dataclasses.replace(config, **changes)


def _lookup(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part, None)
    return config


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return "x".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
