"""The real game, ALE Tennis, as an environment like ``GlassTennis-v0``: reach a target in the near half court.

Spaces, target, reward and time limit are those of the learned world, so a policy plays in both without any change. The
frame is the near half court, rows 96 to 191 of the picture, as in the recordings that the world was trained on. A step
is four game frames. A shift is a direction of the joystick; chosen codes press the fire button, the others nothing.
"""

from __future__ import annotations

import functools

import gymnasium as gym
import numpy as np
import torch

from glass_gym.tasks import ReachTask, Scene
from glass_gym.tensors.convert import to_numpy
from glass_gym.tensors.observe import observed_frames
from glass_gym.worlds.action_space import ActionTable
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
from glass_gym.worlds.pictures import stretch

STEP = 4.0  # Distance that the player runs in a step, px.
JOYSTICK = (0, 3, 6, 2, 7, 4, 9, 5, 8)  # ALE's actions in the order of the shifts: stay, right, up-right, up, ...
FIRE = (1, 11, 14, 10, 15, 12, 17, 13, 16)  # The same, with the fire button.
BODY = (5.6, 79.3)
"""The centre of the player is taken to be (RAM x + 5.6, 79.3 - RAM y) px. In x it is 2.2 or 8.6 px right of RAM's x,
depending on where the player faces, which RAM does not say; 5.6 is about the middle of both."""
TARGET_AREA = (20, 24, 144, 80)  # left, top, right, bottom, px; the player can come within the radius of each target
AGENT, OPPONENT = PINK, BLUE
"""Colours of the two players. The side lines of a half court have the colour of its player."""
FREE_STEPS = 16  # The beginning of a rally is recorded as a start if the player can then run for so many steps.
WALK = 6  # An episode begins 1 to so many random steps after a recorded start.
LIMIT = 100  # Time limit of an episode, steps.
EVALUATION_STARTS = 1  # `starts_seed` of evaluations. Policies train with 0, on the starts of other matches.


class RealTennis(gym.Env):
    """Reach the target in ALE Tennis.

    An episode begins in a rally in which the agent plays the near court. The game is not stopped for it: balls fly by
    and points end. After a point the players are put back to their places, and stand still until the serve.

    Args:
        codes: K, the number of local actions of the learned world.
        fire_codes: codes (0 to K-1) that press the fire button. The button serves; without it the game stands still
            when the agent has to serve.
        starts: number of starts, recorded from random matches.
        starts_seed: seed of these matches.
        obs_type, frame_size, channels_first, reward, target_radius, render_mode: as in the learned world.

    Raises:
        ImportError: ale-py is not installed.
        ValueError: no such `obs_type`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}  # noqa: RUF012

    def __init__(
        self,
        codes: int = 4,
        fire_codes: tuple[int, ...] = (),
        obs_type: str = "frame",
        frame_size: tuple[int, int] | None = None,
        reward: str = "dense",
        target_radius: float = 6.0,
        starts: int = 32,
        starts_seed: int = 0,
        channels_first: bool = True,
        render_mode: str | None = "rgb_array",
    ):
        self.ale = _load()
        self.table = ActionTable.build((STEP, STEP), tuple(f"code {k}" for k in range(codes)), "compass", 1.0)
        scene = Scene(HEIGHT, WIDTH, 0.0, self.table.shifts, TARGET_AREA)
        self.task = ReachTask(scene, reward=reward, target_radius=target_radius, target_margin=0.0)
        self.fire_codes = set(fire_codes)
        self.obs_type = obs_type
        self.frame_size = frame_size
        self.channels_first = channels_first
        self.starts = (starts, starts_seed)
        self.render_mode = render_mode
        self.action_space = gym.spaces.MultiDiscrete(self.table.nvec)
        size = frame_size or (HEIGHT, WIDTH)
        frame = gym.spaces.Box(0, 255, (3, *size) if channels_first else (*size, 3), np.uint8)
        limits = np.array([WIDTH, HEIGHT] * 2, np.float32)
        position = gym.spaces.Box(-limits, 2 * limits, dtype=np.float32)
        spaces = {"frame": frame, "position": position, "dict": gym.spaces.Dict(frame=frame, position=position)}
        if obs_type not in spaces:
            raise ValueError(f"obs_type must be one of {', '.join(spaces)}, got {obs_type!r}")
        self.observation_space = spaces[obs_type]
        self._screen = np.zeros((210, 160, 3), np.uint8)

    # --- the game --------------------------------------------------------------------------------------------------

    @property
    def position(self) -> np.ndarray:
        """Position of the player of the near court, (2,) float32 px."""
        memory = self.ale.getRAM()
        return np.array([memory[RAM_NEAR_X] + BODY[0], BODY[1] - memory[RAM_NEAR_Y]], np.float32)

    def near(self) -> bool:
        """Whether the agent plays the near court, by the colour of its side lines."""
        lines = self._screenshot()[LINES].reshape(-1, 3)
        mine, theirs = ((lines == colour).all(-1).sum() for colour in (AGENT, OPPONENT))
        return bool(mine > theirs)

    def _screenshot(self) -> np.ndarray:
        self.ale.getScreenRGB(self._screen)
        return self._screen

    def act(self, shift: int, fire: bool) -> None:
        """Hold a direction of the joystick for a step, with the fire button or without."""
        for _ in range(FRAMESKIP):
            self.ale.act((FIRE if fire else JOYSTICK)[shift])

    def free_to_run(self) -> bool:
        """Whether the player follows the joystick in the next steps. They are only tried: the game is put back."""
        here = self.ale.cloneState()
        free = True
        for turn in range(FREE_STEPS):
            before = self.position
            self.act((1, 3, 5, 7)[turn // 2 % 4], False)
            free = free and STEP - 2 <= np.abs(self.position - before).max() <= 2 * STEP
        self.ale.restoreState(here)
        return free

    # --- the environment -------------------------------------------------------------------------------------------

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Start an episode in a rally. Options: `target`, (x, y) px; without it the target is random."""
        super().reset(seed=seed)
        bank = record_starts(*self.starts)
        self.ale.restoreState(bank[int(self.np_random.integers(len(bank)))])
        shift = int(self.np_random.integers(9))
        for _ in range(1 + int(self.np_random.integers(WALK))):  # the screen is drawn by the first
            self.act(shift, False)
        numbers = torch.from_numpy(self.np_random.random((1, self.task.draws)))
        drawn = self.task.sample(numbers, torch.from_numpy(self.position)[None], {})["target"][0].numpy()
        self.target = np.asarray((options or {}).get("target", drawn), np.float32)
        return self._observation(), self._info()

    def step(self, action):
        """One step under (shift index, code): four frames of the game."""
        shift, code = (int(v) for v in action)
        before = self.position
        self.act(shift, code in self.fire_codes)
        if self.ale.game_over():
            self.ale.reset_game()
        before, after = (torch.from_numpy(place)[None] for place in (before, self.position))
        outcome = self.task.step(before, after, self._goal)
        return self._observation(), outcome.reward.item(), outcome.terminated.item(), False, self._info()

    @property
    def _goal(self) -> dict[str, torch.Tensor]:
        """The task's state, a batch of one."""
        return {"target": torch.from_numpy(self.target)[None]}

    def _info(self) -> dict:
        position = self.position
        distance = float(np.linalg.norm(position - self.target))
        return {
            "agent_position": position,
            "target": self.target.copy(),
            "distance": distance,
            "is_success": distance < self.task.radius,
        }

    def frame(self, shown: bool = True) -> torch.Tensor:
        """The near half court, (1, 3, 96, 160) uint8, with the target drawn in it or without."""
        court = torch.from_numpy(self._screenshot()[TOP : TOP + HEIGHT].copy()).permute(2, 0, 1)[None]
        return self.task.draw(court, self._goal) if shown else court

    def observe(self, obs_type: str, frame_size=None, channels_first: bool = False, shown: bool = True):
        """As :meth:`glass_gym.env.core.GlassCore.observe`, a batch of one."""
        position = np.concatenate([self.position, self.target])[None]
        if obs_type == "position":
            return position
        frame = to_numpy(observed_frames(self.frame(shown), frame_size, channels_first))
        return frame if obs_type == "frame" else {"frame": frame, "position": position}

    def _observation(self):
        seen = self.observe(self.obs_type, self.frame_size, self.channels_first)
        return {key: value[0] for key, value in seen.items()} if isinstance(seen, dict) else seen[0]

    def render(self) -> np.ndarray:
        """The near half court with the target, stretched to square pixels, (96, 256, 3) uint8."""
        return stretch(to_numpy(self.frame())[0].transpose(1, 2, 0), PIXEL_ASPECT)


@functools.cache
def record_starts(count: int, seed: int) -> list:
    """Play random matches, and record beginnings of rallies in which the agent is near and can run for some steps.

    They are ALE states, for any game of this process.
    """
    game = RealTennis()
    rng = np.random.default_rng(seed)
    bank = []
    shift = 0
    rested = 0
    while len(bank) < count:
        if game.ale.game_over():
            game.ale.reset_game()
        if rng.random() < 0.15:
            shift = int(rng.integers(9))
        before = game.position
        game.act(shift, rng.random() < 0.3)
        if np.abs(game.position - before).max() < 1:
            rested += 1
        elif rested >= 10 and game.near() and game.free_to_run():
            bank.append(game.ale.cloneState())
            rested = 0
    return bank


class RealEvaluationEnv:
    """B games for :func:`agents.evaluation.evaluate`, game i with seed + i. `kwargs` are those of :class:`RealTennis`.

    They start from other matches than those of training.
    """

    limit = LIMIT
    action = "discrete"

    def __init__(self, rows: int, seed: int = 0, **kwargs):
        self.games = [RealTennis(**{"starts_seed": EVALUATION_STARTS, **kwargs}) for _ in range(rows)]
        self.rows = rows
        self.table = self.games[0].table
        self.action_space = gym.spaces.MultiDiscrete(self.table.nvec)
        self.position_space = gym.spaces.Box(-np.inf, np.inf, (4,), np.float32)  # of the agent and of the target
        self._seed: int | None = seed

    def reset(self, mask=None) -> None:
        for row, game in enumerate(self.games):
            if mask is None or mask[row]:
                game.reset(seed=None if self._seed is None else self._seed + row)
        self._seed = None

    def step(self, actions):
        played = [game.step(action) for game, action in zip(self.games, actions, strict=True)]
        reward, reached = (np.array([step[i] for step in played]) for i in (1, 2))
        return reward, reached, reached

    def observe(self, *args, **kwargs):
        return np.concatenate([game.observe(*args, **kwargs) for game in self.games])

    def position(self) -> np.ndarray:
        return np.stack([game.position for game in self.games])

    def heading(self) -> np.ndarray:
        return np.stack([game.target for game in self.games])

    def wanted_codes(self) -> None:
        return None

    def fewest_steps(self) -> np.ndarray:
        return self.games[0].task.fewest_steps(self.position(), {"target": self.heading()})

    def pictures(self) -> np.ndarray:
        return np.stack([game.render() for game in self.games])


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


if "RealTennis-v0" not in gym.registry:
    gym.register("RealTennis-v0", entry_point="agents.real_tennis:RealTennis", max_episode_steps=LIMIT)
