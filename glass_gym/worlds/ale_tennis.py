"""ALE Tennis, for the recordings and for playing the real game: the picture of the near court, and the bytes of RAM."""

from __future__ import annotations

TOP, HEIGHT, WIDTH = 96, 96, 160
"""The near half of the court: rows 96 to 191 of the 210x160 screen, at native resolution."""
PIXEL_ASPECT = 1.6  # Displayed width of a pixel over its height.
FRAMESKIP = 4  # Game frames per step.
BLUE, PINK = (117, 128, 240), (240, 128, 128)
"""RGB colours of the players; the side lines of the near court have the near player's colour."""
RAM_NEAR_Y, RAM_NEAR_X = 25, 27
"""RAM bytes of the near player's position; the player's feet are in row 189 - RAM[25] of the screen."""
RAM_NEAR_SPRITES = 36, 38  # RAM bytes of the two halves of the near player's sprite.
SWINGS = (74, 91, 108)  # Values of these bytes in a swing; others are standing and walking.
FEET_ROW = 189 - TOP
LINES = slice(TOP + 20, TOP + 80)  # Rows in which the near court's side lines are counted.
