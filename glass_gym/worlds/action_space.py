"""The action table: MultiDiscrete([S, K]) = (global shift, local action), with names, pixels and keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from glass_gym.worlds.checks import is_number, to_floats

COMPASS = {
    "stay": (0, 0),
    "right": (1, 0),
    "up-right": (1, -1),
    "up": (0, -1),
    "up-left": (-1, -1),
    "left": (-1, 0),
    "down-left": (-1, 1),
    "down": (0, 1),
    "down-right": (1, 1),
}
AXES = {name: COMPASS[name] for name in ("stay", "right", "up", "left", "down")}
TABLES = {"compass": COMPASS, "axes": AXES}

ARROWS = {"right": 1073741903, "left": 1073741904, "down": 1073741905, "up": 1073741906}
"""SDL's key codes (pygame.K_RIGHT ...), so that nobody needs pygame to read the table."""


@dataclass(frozen=True)
class ActionTable:
    """Shifts in px and local action names.

    Attributes:
        shifts: (S, 2) float32 px, (right, down); row 0 is stay in the named tables.
        shift_names: S names.
        code_names: K names; code 0 is the neutral one.
        usual_codes: for each shift, the local action that went with it most often in the training data.
    """

    shifts: np.ndarray
    shift_names: tuple[str, ...]
    code_names: tuple[str, ...]
    usual_codes: tuple[int, ...]

    @classmethod
    def build(
        cls,
        step: Sequence[float],
        code_names: Sequence[str],
        shifts: Any = "compass",
        shift_scale: float = 1.0,
        usual_codes: Sequence[int] | None = None,
    ) -> ActionTable:
        """From the checkpoint's step length.

        Args:
            step: (x, y) px of one step along each axis, from the training data; 0: the agent never goes that way.
            code_names: K names.
            shifts: ``"compass"`` (9 rows; 3 where the agent has only one axis), ``"axes"`` (5 rows; or 3) or a list of
                (dx, dy) px, used as it is.
            shift_scale: multiplies the step.
            usual_codes: nine codes, for the directions of COMPASS; None: all neutral.

        Returns:
            the table.

        Raises:
            ValueError: an unknown table, or one without finite pairs.
        """
        if not is_number(shift_scale) or shift_scale <= 0:
            raise ValueError(f"shift_scale must be a positive number, got {shift_scale!r}")
        if isinstance(shifts, str):
            if shifts not in TABLES:
                raise ValueError(
                    f"no shift table called {shifts!r}; there are: {', '.join(TABLES)}, or a list of (dx, dy)"
                )
            goes = np.asarray(step, np.float32) > 0
            possible = {n: d for n, d in TABLES[shifts].items() if not np.asarray(d)[~goes].any()}
            names = tuple(possible)
            table = np.array(list(possible.values()), np.float32) * np.asarray(step, np.float32) * shift_scale
        else:
            table = to_floats(shifts)
            if table.ndim != 2 or table.shape[1] != 2 or not len(table) or not np.isfinite(table).all():
                raise ValueError(f"shifts must be a list of finite (dx, dy) in px, got {shifts!r}")
            table = table * shift_scale
            names = tuple(f"({dx:g}, {dy:g})" for dx, dy in table)
        usual = [0] * len(COMPASS) if usual_codes is None else list(usual_codes)
        if len(usual) != len(COMPASS) or not all(0 <= int(code) < len(code_names) for code in usual):
            raise ValueError(f"usual_codes must be {len(COMPASS)} codes below {len(code_names)}, got {usual}")
        nearest = nearest_direction(table, step)
        return cls(table, names, tuple(code_names), tuple(int(usual[i]) for i in nearest))

    @property
    def nvec(self) -> tuple[int, int]:
        """Sizes of the MultiDiscrete space: (S, K)."""
        return len(self.shifts), len(self.code_names)

    def describe(self, action) -> str:
        """An action (shift, code) in words."""
        return f"{self.shift_names[int(action[0])]} + {self.code_names[int(action[1])]}"

    def flatten(self, action) -> np.ndarray:
        """Pairs (..., 2) -> flat indices (...): shift * K + code."""
        action = np.asarray(action)
        return action[..., 0] * len(self.code_names) + action[..., 1]

    def unflatten(self, index) -> np.ndarray:
        """Flat indices (...) -> pairs (..., 2)."""
        return np.stack(np.divmod(np.asarray(index), len(self.code_names)), -1)

    def shift_for(self, right: int, down: int) -> int:
        """The shortest shift whose direction has these signs (-1, 0, 1); without one, 0."""
        fits = np.flatnonzero((np.sign(self.shifts) == (right, down)).all(1))
        return int(fits[np.linalg.norm(self.shifts[fits], axis=1).argmin()]) if len(fits) else 0

    def keys(self) -> dict[tuple[int, ...], np.ndarray]:
        """Keys held together -> (shift, code), as gymnasium.utils.play wants it: arrows (chords are diagonals), digits.

        Digit k + 1 is code k; without a digit the code is the shift's usual one.

        Returns:
            SDL key codes held together -> (shift, code) int64.
        """
        out = {}
        for dx, dy in sorted(COMPASS.values()):
            held = [ARROWS["right"]] * (dx > 0) + [ARROWS["left"]] * (dx < 0)
            held += [ARROWS["down"]] * (dy > 0) + [ARROWS["up"]] * (dy < 0)
            shift = self.shift_for(dx, dy)
            if held:
                out[tuple(held)] = np.array([shift, self.usual_codes[shift]])
            for code in range(min(9, len(self.code_names))):
                out[(*held, ord(str(code + 1)))] = np.array([shift, code])
        return out


def nearest_direction(shifts: np.ndarray, step: Sequence[float]) -> np.ndarray:
    """For each shift (S, 2) px the row of COMPASS nearest to it in units of `step` (x, y) px, 0: no axis; (S,) ints."""
    length = np.asarray(step, np.float64)
    units = np.asarray(shifts, np.float64) / np.maximum(length, 1e-6) * (length > 0)
    compass = np.array(list(COMPASS.values()), np.float64)
    compass /= np.maximum(np.linalg.norm(compass, axis=1, keepdims=True), 1)
    length = np.linalg.norm(units, axis=1, keepdims=True)
    units = np.where(length > 1, units / np.maximum(length, 1e-6), units)
    return ((units[:, None] - compass) ** 2).sum(-1).argmin(1)
