"""A training run: its folder, its options, and what was chosen for it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glass_gym.worlds.checkpoint import write_atomically

from .distributed import Distributed

if TYPE_CHECKING:
    from ..config import TrainConfig


class RunError(ValueError):
    """A run folder that cannot be used; the message names the file and the fix."""


class Run:
    """The options of a run, of which those that nobody gave are chosen on the way.

    Each choice is printed with its reason and kept in choices.json; config.json holds the options as they are used.

    Args:
        config: as given; None marks an option that is to be chosen.
        processes: that train together.

    Raises:
        RunError: a damaged choices.json.
    """

    def __init__(self, config: TrainConfig, processes: Distributed):
        self.given = config
        self.out = Path(config.out)
        self.processes = processes
        self.values: dict[str, Any] = {}
        self.why: dict[str, str] = {}
        self.reload()

    @property
    def choices_file(self) -> Path:
        """Where choices are kept."""
        return self.out / "choices.json"

    @property
    def config(self) -> TrainConfig:
        """The options with what was chosen so far."""
        return filled(self.given, self.values)

    def reload(self) -> None:
        """Take over what another process, or an earlier run, has chosen."""
        values, why = read_choices(self.choices_file)
        self.values |= values
        self.why |= why

    def choose(self, name: str, value: Any, why: str) -> Any:
        """Choose an option, unless it was given; print and keep it.

        Args:
            name: of the option, such as "gma.theta"; or of another fact that later stages need.
            value: what the footage suggests.
            why: the reason, in a line.

        Returns:
            the value that is used.
        """
        given = _lookup(self.given, name)
        if given is not None and name not in self.values:
            why = f"given; suggested was {_plain(value)}: {why}"
        if given is not None:
            value = given
        self.values[name] = value
        self.why[name] = why
        print(f"  {name} = {_plain(value)}: {why}")
        if self.processes.is_main:
            self.save()
        return value

    def save(self) -> None:
        """Write choices.json and config.json."""
        choices = json.dumps({"values": self.values, "why": self.why}, indent=1)
        used = json.dumps(dataclasses.asdict(self.config), default=str, indent=1)
        write_atomically(self.choices_file, lambda part: part.write_text(choices))
        write_atomically(self.out / "config.json", lambda part: part.write_text(used))


def read_choices(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Values and reasons of a choices.json; nothing where there is no such file.

    Raises:
        RunError: a damaged file.
    """
    if not path.exists():
        return {}, {}
    try:
        known = json.loads(path.read_text())
        return dict(known["values"]), dict(known["why"])
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: not a whole record of choices ({error}); delete it to choose again") from None


def filled(config: Any, values: Mapping[str, Any], prefix: str = "") -> Any:
    """A copy of a dataclass whose fields that are None take chosen values, by dotted names."""
    changes = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        name = prefix + field.name
        if dataclasses.is_dataclass(value):
            changes[field.name] = filled(value, values, f"{name}.")
        elif value is None and values.get(name) is not None:
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
