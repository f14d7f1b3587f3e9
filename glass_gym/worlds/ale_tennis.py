"""ALE Tennis as both the recordings and the real game see it: where the near court is, and what its bytes mean."""

from __future__ import annotations

TOP, HEIGHT, WIDTH = 96, 96, 160
"""The near half court: rows 96..191 of the 210x160 picture, at native resolution."""
PIXEL_ASPECT = 1.6
"""Displayed width of a pixel over its height."""
FRAMESKIP = 4
"""Game frames a step."""
BLUE, PINK = (117, 128, 240), (240, 128, 128)
"""The players' colours; the side lines of the near court wear the near player's."""
RAM_NEAR_Y, RAM_NEAR_X = 25, 27
"""RAM bytes of the near player's place; his feet are in row 189 - RAM[25] of the picture."""
RAM_NEAR_SPRITES = 36, 38
"""RAM bytes of the two halves of the near player's sprite ..."""
SWINGS = (74, 91, 108)
"""... and their values in a swing; others stand and walk."""
FEET_ROW = 189 - TOP
LINES = slice(TOP + 20, TOP + 80)
"""Rows in which the near court's side lines are counted."""
