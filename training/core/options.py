"""Options and their ranges: declared beside each option, checked before any data is opened."""

from __future__ import annotations

import dataclasses
import typing
from typing import Annotated, Any, TypeVar

from annotated_types import BaseMetadata, Ge, Gt, Le, Lt, MinLen

T = TypeVar("T")
try:
    from tyro.conf import Positional
except ImportError:  # commands say so (training.core.command); the library works without
    Positional = Annotated[T, "positional"]

COMMON = "common"
Common = Annotated[T, COMMON]
"""An option that people change: --help shows it. --help-all shows the others, too."""

Count = Annotated[int, Ge(0), Le(10**9)]
Positive = Annotated[int, Ge(1), Le(10**9)]
Share = Annotated[float, Ge(0), Le(1)]
Weight = Annotated[float, Ge(0), Le(1e6)]
Rate = Annotated[float, Gt(0), Le(1)]
Minutes = Annotated[float, Ge(0)]
Pixels = Annotated[int, Ge(1), Le(4096)]

_WORDS = {Ge: "at least {ge}", Gt: "more than {gt}", Le: "at most {le}", Lt: "less than {lt}"}


def check_options(config: Any, prefix: str = "--") -> None:
    """Check all options of a dataclass, and of the dataclasses in it.

    Args:
        config: whose fields' types say their ranges; None and other types are passed.
        prefix: of the options' names.

    Raises:
        ValueError: the first value out of its range, by the option's name.
    """
    types = typing.get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        name = prefix + field.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            check_options(value, f"{name}.")
            continue
        if value is None:
            continue
        for rule in _rules(types[field.name]):
            if isinstance(rule, MinLen):
                if len(value) < rule.min_length:
                    raise ValueError(f"{name} needs at least {rule.min_length} values")
                continue
            for part in value if isinstance(value, (tuple, list)) else (value,):
                if not _holds(rule, part):
                    raise ValueError(f"{name} is {part}, expected {_words(rule)}")


def _rules(kind: Any) -> typing.Iterator[BaseMetadata]:
    """Ranges anywhere in a type: of an option, of its alternatives, of a tuple's parts."""
    if typing.get_origin(kind) is Annotated:
        yield from (rule for rule in kind.__metadata__ if isinstance(rule, BaseMetadata))
    for part in typing.get_args(kind):
        yield from _rules(part)


def _holds(rule: BaseMetadata, value: Any) -> bool:
    match rule:
        case Ge(ge=limit):
            return value >= limit  # type: ignore[operator]
        case Gt(gt=limit):
            return value > limit  # type: ignore[operator]
        case Le(le=limit):
            return value <= limit  # type: ignore[operator]
        case Lt(lt=limit):
            return value < limit  # type: ignore[operator]
    return True


def _words(rule: BaseMetadata) -> str:
    return _WORDS[type(rule)].format(**vars(rule) if hasattr(rule, "__dict__") else dataclasses.asdict(rule))
