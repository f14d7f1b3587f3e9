"""Checks of values that users pass."""

from __future__ import annotations

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
    real = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    return real and bool(np.isfinite(value))


def without_folders(arguments: Iterable[str]) -> list[str]:
    """A command's arguments as stored in published files: of each path only the last part is kept."""
    return [re.sub(r"[^=:,]*[/\\](?=[^/\\])", "", argument.rstrip("/\\")) for argument in arguments]
