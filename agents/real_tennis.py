"""The real game: ALE Tennis, reach a target in the near half court.

The frame is the near half court, rows 96 to 191 of the picture, as in the recordings that the world was trained on. A
step is four game frames.
"""

from __future__ import annotations

import functools

import gymnasium as gym
import numpy as np

from agents.real import RealReach
from glass_gym.worlds.ale_tennis import (
    BLUE,
    FRAMESKIP,
    HEIGHT,
    LINES,
    PINK,
    PIXEL_ASPECT,
    RAM_NEAR_X,
    RAM_NEAR_Y,
    TOP,
    WIDTH,
)

STEP = 4.0  # Distance that the player runs in a step, px.
BODY = (5.6, 79.3)
"""The centre of the player is taken to be (RAM x + 5.6, 79.3 - RAM y) px. In x it is 2.2 or 8.6 px right of RAM's x,
depending on where the player faces, which RAM does not say; 5.6 is about the middle of both."""
AGENT, OPPONENT = PINK, BLUE
"""Colours of the two players. The side lines of a half court have the colour of its player."""
NOTHING, FIRE = 0, 1
RIGHT, LEFT, UP, DOWN = 3, 4, 2, 5
FREE_STEPS = 16  # The beginning of a rally is recorded as a start if the player can then run for so many steps.
WALK = 6  # An episode begins 1 to so many random steps after a recorded start.
STARTS = 32  # Number of starts, recorded from random matches.


class RealTennis(RealReach):
    """Reach the target in ALE Tennis. Controls are ALE's 18 actions.

    An episode begins in a rally in which the agent plays the near court. The game is not stopped for it: balls fly by
    and points end. After a point the players are put back to their places, and stand still until the serve, for which
    the fire button has to be pressed.

    Args:
        starts: number of starts, recorded from random matches of seed `starts_seed`.
        kwargs: see :class:`agents.real.RealReach`.

    Raises:
        ImportError: ale-py is not installed.
    """

    size = (HEIGHT, WIDTH)
    step_px = (STEP, STEP)
    area = (20.0, 24.0, 144.0, 80.0)  # the player can come within the radius of each target
    pixel_aspect = PIXEL_ASPECT
    control_names = (
        "noop fire up right left down up-right up-left down-right down-left up+fire right+fire left+fire down+fire "
        "up-right+fire up-left+fire down-right+fire down-left+fire"
    ).split()

    def __init__(self, starts: int = STARTS, **kwargs):
        super().__init__(**kwargs)
        self.ale = _load()
        self.starts = starts
        self.action_space = gym.spaces.Discrete(18)
        self._screen = np.zeros((210, 160, 3), np.uint8)

    @property
    def position(self) -> np.ndarray:
        """Position of the player of the near court, (2,) float32 px."""
        memory = self.ale.getRAM()
        return np.array([memory[RAM_NEAR_X] + BODY[0], BODY[1] - memory[RAM_NEAR_Y]], np.float32)

    def picture(self) -> np.ndarray:
        """The near half court, (96, 160, 3) uint8."""
        return self._screenshot()[TOP : TOP + HEIGHT].copy()

    def near(self) -> bool:
        """Whether the agent plays the near court, by the colour of its side lines."""
        lines = self._screenshot()[LINES].reshape(-1, 3)
        mine, theirs = ((lines == colour).all(-1).sum() for colour in (AGENT, OPPONENT))
        return bool(mine > theirs)

    def _screenshot(self) -> np.ndarray:
        self.ale.getScreenRGB(self._screen)
        return self._screen

    def act(self, control) -> None:
        """Four frames of the game."""
        for _ in range(FRAMESKIP):
            self.ale.act(int(control))
        if self.ale.game_over():
            self.ale.reset_game()

    def free_to_run(self) -> bool:
        """Whether the player follows the joystick in the next steps. They are only tried: the game is put back."""
        here = self.ale.cloneState()
        free = True
        for turn in range(FREE_STEPS):
            before = self.position
            self.act((RIGHT, UP, LEFT, DOWN)[turn // 2 % 4])
            free = free and STEP - 2 <= np.abs(self.position - before).max() <= 2 * STEP
        self.ale.restoreState(here)
        return free

    def start(self) -> None:
        """A recorded beginning of a rally, and some steps in a random direction."""
        bank = record_starts(self.starts, self.starts_seed)
        self.ale.restoreState(bank[int(self.np_random.integers(len(bank)))])
        control = _direction(self.np_random)
        for _ in range(1 + int(self.np_random.integers(WALK))):  # the screen is drawn by the first
            self.act(control)


def _direction(rng: np.random.Generator) -> int:
    """No move or a direction of the joystick, without the fire button."""
    return int(rng.choice([a for a in range(10) if a != FIRE]))


@functools.cache
def record_starts(count: int, seed: int) -> list:
    """Play random matches, and record beginnings of rallies in which the agent is near and can run for some steps.

    They are ALE states, for any game of this process.
    """
    game = RealTennis()
    rng = np.random.default_rng(seed)
    bank = []
    control = NOTHING
    rested = 0
    while len(bank) < count:
        if rng.random() < 0.15:
            control = _direction(rng)
        before = game.position
        game.act(control if rng.random() >= 0.3 else {NOTHING: FIRE}.get(control, control + 8))
        if np.abs(game.position - before).max() < 1:
            rested += 1
        elif rested >= 10 and game.near() and game.free_to_run():
            bank.append(game.ale.cloneState())
            rested = 0
    return bank


def _load():
    try:
        import ale_py
        from ale_py.roms import get_rom_path
    except ImportError:
        raise ImportError("the real game needs ale-py: pip install -e '.[agents,train]'") from None
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    ale = ale_py.ALEInterface()
    ale.setFloat("repeat_action_probability", 0.0)
    ale.setInt("random_seed", 0)
    ale.loadROM(get_rom_path("tennis"))
    return ale
