"""Numbers that users give: what they are, before anything is done with them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np


def to_floats(value: Any) -> np.ndarray:
    """What was given for numbers, as float32 of any shape; one NaN where it holds none."""
    try:
        return np.asarray(value, np.float32)
    except (TypeError, ValueError):
        return np.array(np.nan, np.float32)


def is_number(value: Any) -> bool:
    """Whether it is one finite real number; bool is none."""
    real = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    return real and bool(np.isfinite(value))


def without_folders(arguments: Iterable[str]) -> list[str]:
    """A command's arguments for a file that is given away: paths keep their last names only."""
    return [re.sub(r"[^=:,]*[/\\](?=[^/\\])", "", argument.rstrip("/\\")) for argument in arguments]
