"""The keys of the player: which there are, and the actions that they make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from glass_gym.worlds.action_space import ARROWS, COMPASS, ActionTable

KEYS = """arrows  walk (two arrows: diagonally)
{}
space   pause           n  one step       r    reset
click   set the target  a  human / agent  + -  speed
v       record video    s  save picture   q    quit
h ?     this help
gamepad stick walks, button k plays local action k"""
HINT = "arrows walk   {} act   click target   h all keys   q quit"
ARROW_KEYS = {name: COMPASS[name] for name in ARROWS}
SHIFT_KEYS = ("left shift", "right shift")
DIGITS = 10  # Local actions with a digit key; as many more have one together with the shift key.


def plain_key(key: str) -> str:
    """A key's name in pygame without the brackets of the number pad: "[3]" is "3"."""
    return key[1:-1] if len(key) == 3 and key[0] + key[2] == "[]" else key


def digit_of(key: str) -> int | None:
    """The number on a digit key, by its name in pygame; None for other keys."""
    key = plain_key(key)
    return int(key) if len(key) == 1 and key in "0123456789" else None


def digit_keys(codes: int) -> str:
    """The digit keys of a world with so many local actions: key k plays local action k."""
    return f"0..{min(codes, DIGITS) - 1}" if codes > 1 else "0"


def digits(codes: int) -> str:
    """The line about digit keys in the help."""
    more = f", with shift: {DIGITS}..{min(codes, 2 * DIGITS) - 1}" if codes > DIGITS else ""
    return f"{digit_keys(codes):<8}the local action with that number{more}"


@dataclass
class Controls:
    """The keys that make an action. A key that goes down and up between two steps still counts in the next step."""

    held: set[str] = field(default_factory=set)  # keys that are down: names of arrows, and numbers of local actions
    tapped: set[str] = field(default_factory=set)  # those that were pressed since the last step
    code: int = -1  # the local action pressed last; -1: none yet
    ten: bool = False  # the keyboard's shift key is down: digits count from 10

    def press(self, key: str) -> bool:
        """A key, by its name in pygame, went down. Returns whether it belongs to an action."""
        key = plain_key(key)
        if key in SHIFT_KEYS:
            self.ten = True
            return True
        digit = digit_of(key)
        if digit is not None:
            self.code = digit + DIGITS * self.ten
            key = str(self.code)
        elif key not in ARROW_KEYS:
            return False
        self.held.add(key)
        self.tapped.add(key)
        return True

    def release(self, key: str) -> None:
        """A key went up; an empty name releases all keys."""
        if not key:
            self.held = set()
            self.ten = False
            return
        key = plain_key(key)
        self.ten = self.ten and key not in SHIFT_KEYS
        digit = digit_of(key)  # the shift key may have changed since it went down
        self.held -= {key} if digit is None else {str(digit), str(digit + DIGITS)}

    def action(self, table: ActionTable, choose: Callable[[int], int] | None = None) -> np.ndarray:
        """The action (shift, code) of the keys; forgets the taps. Default code: choose(shift), or the usual one."""
        keys = self.held | self.tapped
        self.tapped = set()
        dx, dy = (sum(ARROW_KEYS[key][axis] for key in keys & set(ARROW_KEYS)) for axis in (0, 1))
        shift = table.shift_for(dx, dy)
        code = self.code if str(self.code) in keys else -1
        if not 0 <= code < len(table.code_names):
            code = choose(shift) if choose else table.usual_codes[shift]
        return np.array([shift, code])
