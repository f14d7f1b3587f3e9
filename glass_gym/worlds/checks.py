"""Checks of values that users pass."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

import numpy as np


def to_floats(value: Any) -> np.ndarray:
    """A value as float32 array of any shape; a single NaN if it is not numeric."""
    try:
        return np.asarray(value, np.float32)
    except (TypeError, ValueError):
        return np.array(np.nan, np.float32)


def is_number(value: Any) -> bool:
    """Whether a value is one finite real number; bool is not."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False


def check_choice(name: str, value: Any, allowed: Iterable[str | None]) -> None:
    """ValueError: the value of an option is none of those that are allowed."""
    allowed = tuple(allowed)
    if not isinstance(value, (str, type(None))) or value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def check_flags(**flags: Any) -> None:
    """ValueError: an option that is on or off is neither True nor False; "False" would be true."""
    for name, value in flags.items():
        if not isinstance(value, (bool, np.bool_)):
            raise ValueError(f"{name} must be True or False, got {value!r}")


def without_folders(arguments: Iterable[str]) -> list[str]:
    """A command's arguments as stored in published files: of each path only the last part is kept."""
    return [re.sub(r"[^=:,]*[/\\](?=[^/\\])", "", argument.rstrip("/\\")) for argument in arguments]
