"""Ranges of options: declared in their types, checked before any data is opened."""

from __future__ import annotations

import dataclasses
import operator
import types
import typing
from typing import Annotated, Any, TypeVar

from annotated_types import BaseMetadata, Ge, Gt, Le, MinLen

T = TypeVar("T")
try:
    from tyro.conf import Positional
except ImportError:  # commands need tyro and say so; the library works without it
    Positional = Annotated[T, "positional"]

COMMON = "common"
Common = Annotated[T, COMMON]  # An option that --help shows; --help-all shows the others, too.

Count = Annotated[int, Ge(0), Le(10**9)]
Positive = Annotated[int, Ge(1), Le(10**9)]
Weight = Annotated[float, Ge(0), Le(1e6)]
Minutes = Annotated[float, Ge(0)]
Pixels = Annotated[int, Ge(1), Le(4096)]

_RULES = {Ge: ("ge", operator.ge, "at least"), Gt: ("gt", operator.gt, "more than"), Le: ("le", operator.le, "at most")}
"""For each kind of range: the attribute with its limit, the comparison, and words for the error."""


def check_options(config: Any, prefix: str = "--") -> None:
    """Check all options of a dataclass, and of the dataclasses in it.

    Args:
        config: the types of its fields declare ranges (`Annotated`); None, and fields without a range, pass.
        prefix: of the options' names in errors.

    Raises:
        ValueError: a value is of another type, or out of its range; the message names the option.
    """
    kinds = typing.get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        name = prefix + field.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            check_options(value, f"{name}.")
            continue
        if value is None:
            continue
        if not _fits(value, kinds[field.name]):
            raise ValueError(f"{name} is {value!r:.80}, which is of another type than this option")
        for rule in _rules(kinds[field.name]):
            if isinstance(rule, MinLen):
                if len(value) < rule.min_length:
                    raise ValueError(f"{name} needs at least {rule.min_length} values")
                continue
            attribute, holds, words = _RULES[type(rule)]
            limit = getattr(rule, attribute)
            for part in value if isinstance(value, (tuple, list)) else (value,):
                if not holds(part, limit):
                    raise ValueError(f"{name} is {part}, expected {words} {limit}")


def _fits(value: Any, kind: Any) -> bool:
    """Whether numbers, texts, flags, and tuples of them are of a type; values of other types pass."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return _fits(value, parts[0])
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is tuple:
        if not isinstance(value, (tuple, list)):
            return False
        items = parts[:1] * len(value) if parts[-1] is ... else parts
        return len(items) == len(value) and all(map(_fits, value, items))
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    return kind not in (bool, str, type(None)) or isinstance(value, kind)


def _rules(kind: Any) -> typing.Iterator[BaseMetadata]:
    """All ranges in a type: its own, those of its alternatives, those of a tuple's items."""
    if typing.get_origin(kind) is Annotated:
        yield from (rule for rule in kind.__metadata__ if isinstance(rule, BaseMetadata))
    for part in typing.get_args(kind):
        yield from _rules(part)
