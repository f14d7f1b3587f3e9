"""The action table: MultiDiscrete([S, K]) = (global shift, local action), with names, pixels and keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

COMPASS = {
    "stay": (0, 0), "right": (1, 0), "up-right": (1, -1), "up": (0, -1), "up-left": (-1, -1),
    "left": (-1, 0), "down-left": (-1, 1), "down": (0, 1), "down-right": (1, 1),
}  # fmt: skip
AXES = {name: COMPASS[name] for name in ("stay", "right", "up", "left", "down")}
TABLES = {"compass": COMPASS, "axes": AXES}


@dataclass(frozen=True)
class ActionTable:
    """Shifts in px and local action names.

    Attributes:
        shifts: (S, 2) float32 px, (right, down); row 0 is stay.
        shift_names: S names.
        code_names: K names; code 0 is the neutral one.
    """

    shifts: np.ndarray
    shift_names: tuple[str, ...]
    code_names: tuple[str, ...]
    keys: dict[str, tuple[int, int]] = field(default_factory=dict)

    @classmethod
    def build(
        cls, step: Sequence[float], code_names: Sequence[str], shifts="compass", shift_scale: float = 1.0
    ) -> ActionTable:
        """From the checkpoint's step length.

        Args:
            step: (x, y) px of one step along each axis, from the training data.
            code_names: K names.
            shifts: ``"compass"`` (9 rows), ``"axes"`` (5 rows) or a list of (dx, dy) px, used as it is.
            shift_scale: multiplies the step.

        Raises:
            ValueError: an unknown table, or one without finite pairs.
        """
        if not np.isfinite(shift_scale) or shift_scale <= 0:
            raise ValueError(f"shift_scale must be a positive number, got {shift_scale}")
        if isinstance(shifts, str):
            if shifts not in TABLES:
                raise ValueError(
                    f"no shift table called {shifts!r}; there are: {', '.join(TABLES)}, or a list of (dx, dy)"
                )
            names = tuple(TABLES[shifts])
            table = np.array(list(TABLES[shifts].values()), np.float32) * np.asarray(step, np.float32) * shift_scale
        else:
            table = np.asarray(shifts, np.float32)
            if table.ndim != 2 or table.shape[1] != 2 or not len(table) or not np.isfinite(table).all():
                raise ValueError(f"shifts must be a list of finite (dx, dy) in px, got {shifts!r}")
            table = table * shift_scale
            names = tuple(f"({dx:g}, {dy:g})" for dx, dy in table)
        return cls(table, names, tuple(code_names))

    @property
    def nvec(self) -> tuple[int, int]:
        """Sizes of the MultiDiscrete space: (S, K)."""
        return len(self.shifts), len(self.code_names)

    def describe(self, action) -> str:
        """An action (shift, code) in words."""
        return f"{self.shift_names[int(action[0])]} + {self.code_names[int(action[1])]}"
