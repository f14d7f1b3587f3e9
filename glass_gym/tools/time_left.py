"""How long a long command will take on this machine, told once, after its first seconds."""

from __future__ import annotations

import time

MEASURED = 20.0  # Seconds of work that are measured before the time is told.


class TimeLeft:
    """Foretells from what was done so far; `goal` is how much there is to do, in any unit."""

    def __init__(self, goal: float):
        self.goal = goal
        self.began: tuple[float, float] | None = None
        self.told = False

    def after(self, done: float) -> tuple[float, float] | None:
        """Call it often; once, when enough was measured, it answers (units a second, minutes that are left)."""
        now = time.monotonic()
        if self.began is None:
            self.began = now, done
        began, before = self.began
        if self.told or now - began < MEASURED or done <= before:
            return None
        self.told = True
        rate = (done - before) / (now - began)
        return rate, max(0.0, self.goal - done) / rate / 60
