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
"""Direction -> signs of (x, y); positive right and down."""
AXES = {name: COMPASS[name] for name in ("stay", "right", "up", "left", "down")}
TABLES = {"compass": COMPASS, "axes": AXES}  # Named tables of global actions.

ARROWS = {"right": 1073741903, "left": 1073741904, "down": 1073741905, "up": 1073741906}
"""SDL's key codes (pygame.K_RIGHT ...); reading the table does not need pygame."""


@dataclass(frozen=True)
class ActionTable:
    """The actions of a world: shifts in px, and local actions, called codes.

    Attributes:
        shifts: (S, 2) float32 px, (right, down). In named tables row 0 is "stay".
        shift_names: S names.
        code_names: K names, by code.
        usual_codes: for each shift, the code that went with it most often in the training data.
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
        """Make the table of a world.

        Args:
            step: (x, y) px of one step along each axis; 0: the agent never moves along that axis.
            code_names: K names.
            shifts: ``"compass"`` ("stay" and 8 directions), ``"axes"`` ("stay" and 4 directions), or a list of (dx, dy)
                px. Named tables leave out directions along an axis whose step is 0.
            shift_scale: multiplies all shifts.
            usual_codes: nine codes, for the directions of COMPASS; None: code 0 for all.

        Returns:
            the table.

        Raises:
            ValueError: the table's name is unknown, a shift is not a pair of finite numbers, the scale is not positive,
                or too large, or `usual_codes` are not nine codes of 0 to K - 1.
        """
        if not is_number(shift_scale) or shift_scale <= 0:
            raise ValueError(f"shift_scale must be a positive number, got {shift_scale!r}")
        scale = float(shift_scale)  # a scalar of numpy would make the table float64
        if isinstance(shifts, str):
            if shifts not in TABLES:
                raise ValueError(
                    f"no shift table called {shifts!r}; there are: {', '.join(TABLES)}, or a list of (dx, dy)"
                )
            goes = np.asarray(step, np.float32) > 0
            possible = {n: d for n, d in TABLES[shifts].items() if not np.asarray(d)[~goes].any()}
            names = tuple(possible)
            table = np.array(list(possible.values()), np.float32) * np.asarray(step, np.float32)
        else:
            table = to_floats(shifts)
            if table.ndim != 2 or table.shape[1] != 2 or not len(table) or not np.isfinite(table).all():
                raise ValueError(f"shifts must be a list of finite (dx, dy) in px, got {shifts!r}")
            names = tuple(f"({dx * scale:g}, {dy * scale:g})" for dx, dy in table.tolist())
        with np.errstate(over="ignore", invalid="ignore"):
            table = table * np.float32(scale)  # numpy 1 would go over to float64
        if not np.isfinite(table).all():
            raise ValueError(f"shift_scale {shift_scale!r} is too large: shifts become infinite")
        usual = [0] * len(COMPASS) if usual_codes is None else list(usual_codes)
        if len(usual) != len(COMPASS) or not all(0 <= int(code) < len(code_names) for code in usual):
            raise ValueError(f"usual_codes must be {len(COMPASS)} codes below {len(code_names)}, got {usual}")
        nearest = nearest_direction(table, step)
        return cls(table, names, tuple(code_names), tuple(int(usual[i]) for i in nearest))

    @property
    def nvec(self) -> tuple[int, int]:
        """The sizes of the MultiDiscrete space, (S, K)."""
        return len(self.shifts), len(self.code_names)

    def describe(self, action) -> str:
        """An action as text, such as "up-right + code 2", or of a shift in px "(1.5, -3.0) px"."""
        if np.asarray(action).dtype.kind == "f":
            return f"({action[0]:.1f}, {action[1]:.1f}) px"
        return f"{self.shift_names[int(action[0])]} + {self.code_names[int(action[1])]}"

    def flatten(self, action) -> np.ndarray:
        """Actions (..., 2) -> indices (...) of the flat action space: shift * K + code."""
        action = np.asarray(action)
        return action[..., 0] * len(self.code_names) + action[..., 1]

    def unflatten(self, index) -> np.ndarray:
        """The inverse of :meth:`flatten`: indices (...) -> actions (..., 2)."""
        return np.stack(np.divmod(np.asarray(index), len(self.code_names)), -1)

    def shift_for(self, right: int, down: int) -> int:
        """The shortest shift whose direction has these signs (-1, 0 or 1); 0 if there is none."""
        fits = np.flatnonzero((np.sign(self.shifts) == (right, down)).all(1))
        return int(fits[np.linalg.norm(self.shifts[fits], axis=1).argmin()]) if len(fits) else 0

    def keys(self) -> dict[tuple[int, ...], np.ndarray]:
        """SDL keys held together -> (shift, code) for gymnasium.utils.play: arrows, and digit k for code k, 0 to 9."""
        out = {}
        for dx, dy in sorted(COMPASS.values()):
            held = [ARROWS["right"]] * (dx > 0) + [ARROWS["left"]] * (dx < 0)
            held += [ARROWS["down"]] * (dy > 0) + [ARROWS["up"]] * (dy < 0)
            shift = self.shift_for(dx, dy)
            if held:  # without a digit the code is the shift's usual one
                out[tuple(held)] = np.array([shift, self.usual_codes[shift]])
            for code in range(min(10, len(self.code_names))):
                out[(*held, ord(str(code)))] = np.array([shift, code])
        return out


def nearest_direction(shifts: np.ndarray, step: Sequence[float]) -> np.ndarray:
    """The row of COMPASS, (S,) int64, nearest to each shift (S, 2) px; an axis with step 0 px is ignored."""
    units = np.asarray(shifts, np.float64) / np.maximum(step, 1e-6) * (np.asarray(step) > 0)
    compass = np.array(list(COMPASS.values()), np.float64)
    compass /= np.maximum(np.linalg.norm(compass, axis=1, keepdims=True), 1)
    length = np.linalg.norm(units, axis=1, keepdims=True)
    units = np.where(length > 1, units / np.maximum(length, 1e-6), units)
    return ((units[:, None] - compass) ** 2).sum(-1).argmin(1)
