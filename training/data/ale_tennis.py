"""ALE Tennis: real footage of a real game, recorded from the near half court.

The half court is rows 96..191 of the 210x160 picture, kept at native resolution (resampling ruins one-pixel
strokes); the game is shown with pixels 1.6 times wider than tall. RAM and colours give the ground truth **for
scoring only**: nothing here selects or trains on them. Clips are kept by how much the *picture* changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from glass_gym.worlds.ale_tennis import (
    BLUE,
    FEET_ROW,
    FRAMESKIP,
    HEIGHT,
    LINES,
    PINK,
    PIXEL_ASPECT,
    RAM_NEAR_SPRITES,
    RAM_NEAR_X,
    RAM_NEAR_Y,
    SWINGS,
    TOP,
    WIDTH,
)

from .detection import Detections, find_pieces
from .store import DataError, Store, StoreWriter

PLAYER_COLOURS = np.array([BLUE, PINK], np.uint8)


@dataclass
class RecordConfig:
    """Record ALE Tennis."""

    out: Path = Path("data/tennis")
    """folder of the clip store to write"""
    frames: int = 120_000
    """frames to keep"""
    video_length: int = 48
    """frames a video; an episode is cut into videos, and all videos of an episode share a split"""
    moving_share: float = 0.5
    """keep a video if the picture moves in more than this share of its steps ..."""
    still_videos: float = 0.15
    """... and this share of the others"""
    rally: float = 0.85
    """share of the time in which the joystick plays the ball, so that there are swings; else it walks about"""
    far_ball_videos: float = 0.25
    """share of the videos kept of those in which the ball never comes near the near player"""
    frameskip: int = FRAMESKIP
    """game frames a step"""
    held_out: float = 0.1
    """share of the episodes in val, and again in test"""
    seed: int = 0
    """the recording is the same for equal seeds and versions of ale-py"""


def near_colour(picture: np.ndarray) -> int:
    """Index into PLAYER_COLOURS of the near player in the game's picture: the near court's side lines wear it."""
    lines = picture[LINES]
    counts = [(lines == colour).all(-1).sum() for colour in PLAYER_COLOURS]
    return int(np.argmax(counts))


def static_court(frames: np.ndarray) -> np.ndarray:
    """The court without players: per-pixel median over frames (T, H, W, 3) uint8 of one side."""
    return np.median(frames, axis=0).astype(np.uint8)


def player_mask(frames: np.ndarray, court: np.ndarray, colour: np.ndarray, tolerance: float = 48.0) -> np.ndarray:
    """The colour detector: pixels nearer than `tolerance` (RGB distance) to the player's colour, off the lines.

    Works on real and on generated frames, (..., H, W, 3) uint8 -> (..., H, W) bool.
    """
    colour = np.asarray(colour, np.float32)
    near = ((frames.astype(np.float32) - colour) ** 2).sum(-1) < tolerance**2
    line = ((court.astype(np.float32) - colour) ** 2).sum(-1) < tolerance**2
    return near & ~line


class TennisDetector:
    """Finds the near player by colour, off the static court's lines.

    Args:
        courts: (2, H, W, 3) uint8, the static court of each side (written beside the recording).
    """

    least = 25
    plausible = (45, 150)
    """px: real players cover 67..101"""

    def __init__(self, courts: np.ndarray):
        self.courts = courts

    @classmethod
    def of(cls, store: Store) -> TennisDetector:
        """With the courts beside a recording.

        Raises:
            DataError: there are none.
        """
        path = store.root / "courts.npy"
        try:
            return cls(np.load(path, allow_pickle=False))
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: not readable ({error}); record the store again") from None

    def context(self, frames: np.ndarray) -> np.ndarray:
        """(N,) index of the near player's colour: the court's lines wear it."""
        distance = [np.abs(frames.astype(int) - court.astype(int)).sum((1, 2, 3)) for court in self.courts]
        return np.argmin(distance, 0)

    def __call__(self, frames: np.ndarray, context: np.ndarray | None = None) -> Detections:
        """Frames (N, H, W, 3) uint8, and the near player's colour in each (N,)."""
        sides = self.context(frames) if context is None else context
        masks = np.stack(
            [player_mask(f, self.courts[s], PLAYER_COLOURS[s]) for f, s in zip(frames, sides, strict=True)]
        )
        return find_pieces(masks, self.least)


def body_column(mask: np.ndarray, position: np.ndarray) -> float:
    """Where the body stands in a Tennis sprite, px from RAM x: 1 or 9, for the sprite is mirrored in its frame.

    Which of them is read from the densest columns: body and legs are above each other, the racket is held out to the
    side. How far apart they are is the game's own: when he turns round, RAM x jumps by 8 if he stands and by 4 if he
    walks, which he does at 4 px a step.
    """
    x = int(position[0])
    feet = int(position[1])
    rows = mask[max(0, feet - 24) : feet + 1, max(0, x - 8) : x + 28].sum(0)
    if not rows.any():
        return 5.0
    dense = np.convolve(rows, np.ones(3), "same").argmax() + max(0, x - 8)
    return 9.0 if dense - x > 5 else 1.0


BALL, SHADOW = (236, 236, 236), (74, 74, 74)
"""Colours of the ball and of its shadow on the ground."""
NEAR_BALL = 16
"""The ball is near a player within this, px."""


class Joystick:
    """A player with inertia who sees the picture: holds a direction, and for most of the time runs after the ball.

    He wears pink, and plays the ball's shadow, which is where the ball will be hit: so there are rallies, and swings of
    both players. For the rest of the time he walks about, sometimes stands, sometimes presses fire.

    Args:
        rng: of his whims.
        rally: share of the time in which he plays the ball.
        courts: (210, 160, 3) uint8, the empty picture by the near player's colour; without them he walks about.
    """

    DIRECTIONS = {  # noqa: RUF012 - (dx, dy) -> (ALE action, the same with fire)
        (0, 0): (0, 1),
        (0, -1): (2, 10),
        (1, 0): (3, 11),
        (-1, 0): (4, 12),
        (0, 1): (5, 13),
        (1, -1): (6, 14),
        (-1, -1): (7, 15),
        (1, 1): (8, 16),
        (-1, 1): (9, 17),
    }

    def __init__(self, rng: np.random.Generator, rally: float = 0.0, courts: dict[int, np.ndarray] | None = None):
        self.rng = rng
        self.rally = rally
        self.courts = courts
        self.direction = (0, 0)
        self.playing = False

    def __call__(self, picture: np.ndarray) -> int:
        """The ALE action that follows a picture (210, 160, 3) uint8."""
        if self.rng.random() < 0.12:
            self.direction = tuple(int(v) for v in self.rng.integers(-1, 2, 2))
            self.playing = self.courts is not None and self.rng.random() < self.rally
        fire = self.rng.random() < 0.15
        if self.playing:
            return self.DIRECTIONS[self._toward_ball(picture) or self.direction][1]
        return self.DIRECTIONS[self.direction][int(fire)]

    def _toward_ball(self, picture: np.ndarray) -> tuple[int, int] | None:
        """Where to push to meet the ball; None while there is none."""
        assert self.courts is not None
        shadow = np.argwhere(_are(picture, SHADOW))
        me = np.argwhere(_are(picture, PINK) & ~_are(self.courts[near_colour(picture)], PINK))
        if not len(shadow) or not len(me):
            return None
        dx = shadow[:, 1].mean() - me[:, 1].mean()
        dy = shadow[:, 0].mean() - me[:, 0].max()
        return int(np.sign(dx)) * (abs(dx) > 4), int(np.sign(dy)) * (3 < abs(dy) < 40)


def _are(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Which pixels of (H, W, 3) have a colour: (H, W) bool."""
    return (picture[..., 0] == colour[0]) & (picture[..., 1] == colour[1]) & (picture[..., 2] == colour[2])


def ball_is_near(frames: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """(T,) bool: the ball or its shadow is within reach of the near player, in frames (T, H, W, 3) with his masks."""
    out = np.zeros(len(frames), bool)
    for t, (frame, mask) in enumerate(zip(frames, masks, strict=True)):
        ball = np.argwhere(_are(frame, BALL) | _are(frame, SHADOW))
        player = np.argwhere(mask)
        if len(ball) and len(player):
            out[t] = (np.abs(ball.mean(0) - player.mean(0)) < NEAR_BALL).all()
    return out


def record(config: RecordConfig, progress=lambda kept: None) -> Path:
    """Play episodes until `config.frames` frames are kept, and write them as a clip store.

    Labels: `position` (N, 2) float32, the near player's x and feet row in crop pixels from RAM; `swing` (N,) uint8,
    whether the near player's sprite is one of a swing, from RAM; `colour` (N,) uint8; `episode` (N,) int32; masks from
    :func:`player_mask`.
    """
    import ale_py
    import gymnasium as gym

    gym.register_envs(ale_py)
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    rng = np.random.default_rng(config.seed)
    env = gym.make("ALE/Tennis-v5", frameskip=config.frameskip, repeat_action_probability=0.0, full_action_space=True)
    writer = StoreWriter(config.out, HEIGHT, WIDTH, PIXEL_ASPECT, "ALE Tennis, near half court", "tennis")
    courts = _record_courts(env, config.seed)
    episode = 0
    while writer.frames < config.frames:
        split = _split_of(episode, config.held_out)
        player = Joystick(rng, config.rally, courts)
        for stretch in _near_stretches(env, player, int(rng.integers(2**31))):
            for begin in range(0, len(stretch.frames) - config.video_length + 1, config.video_length):
                window = slice(begin, begin + config.video_length)
                frames = stretch.frames[window]
                moving = _moves(frames).mean() > config.moving_share
                if not moving and rng.random() >= config.still_videos:
                    continue
                masks = player_mask(frames, near_half(courts[stretch.colour]), PLAYER_COLOURS[stretch.colour])
                if rng.random() >= config.far_ball_videos and not ball_is_near(frames, masks).any():
                    continue
                ram = stretch.ram[window]
                writer.add(
                    f"e{episode:04d}_{writer.frames:07d}",
                    split,
                    frames,
                    masks,
                    position=np.stack([ram[:, 1], FEET_ROW - ram[:, 0]], 1).astype(np.float32),
                    swing=ram[:, 2].astype(np.uint8),
                    colour=np.full(len(frames), stretch.colour, np.uint8),
                    episode=np.full(len(frames), episode, np.int32),
                )
                progress(writer.frames)
        episode += 1
    env.close()
    np.save(config.out / "courts.npy", np.stack([near_half(courts[0]), near_half(courts[1])]))
    writer.close()
    return config.out


def _split_of(episode: int, held_out: float) -> str:
    """Whole episodes are held out: every n-th for val, the one after for test."""
    period = max(2, round(1 / held_out))
    return {1: "val", 2: "test"}.get(episode % period, "train")


def _moves(frames: np.ndarray, pixels: int = 30) -> np.ndarray:
    """(T-1,) bool: more pixels changed than the ball and its shadow can (they cover under 20)."""
    return (frames[1:] != frames[:-1]).any(-1).sum((1, 2)) > pixels


@dataclass
class _Stretch:
    colour: int
    frames: np.ndarray  # (T, H, W, 3)
    ram: np.ndarray  # (T, 3) y, x, whether he swings
    pictures: np.ndarray | None = None  # (T, 210, 160, 3), where asked for


def near_half(picture: np.ndarray) -> np.ndarray:
    """The near half court of the game's picture."""
    return picture[TOP : TOP + HEIGHT]


def _near_stretches(env, player: Joystick, seed: int, whole: bool = False):
    """One episode, cut where the players change ends; with `whole` pictures."""
    observation, _ = env.reset(seed=seed)
    pictures = []
    ram = []
    colour = None
    done = False

    def stretch() -> _Stretch:
        frames = np.stack([near_half(p) for p in pictures])
        return _Stretch(colour, frames, np.array(ram), np.stack(pictures) if whole else None)

    while not done:
        now = near_colour(observation)
        if colour is not None and now != colour and pictures:
            yield stretch()
            pictures = []
            ram = []
        colour = now
        pictures.append(observation)
        memory = env.unwrapped.ale.getRAM()
        swings = any(int(memory[byte]) in SWINGS for byte in RAM_NEAR_SPRITES)
        ram.append((int(memory[RAM_NEAR_Y]), int(memory[RAM_NEAR_X]), int(swings)))
        observation, _, terminated, truncated, _ = env.step(player(observation))
        done = terminated or truncated
    if pictures:
        yield stretch()


def _record_courts(env, seed: int) -> dict[int, np.ndarray]:
    """The empty picture of the game by the near player's colour, from throw-away episodes."""
    seen: dict[int, list[np.ndarray]] = {0: [], 1: []}
    walk = Joystick(np.random.default_rng(seed + 1))
    for attempt in range(5):
        for stretch in _near_stretches(env, walk, seed + 1 + attempt, whole=True):
            seen[stretch.colour].extend(stretch.pictures[::4])
        if all(len(pictures) > 200 for pictures in seen.values()):
            break
    return {colour: static_court(np.stack(pictures[:2000])) for colour, pictures in seen.items()}
