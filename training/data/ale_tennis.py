"""ALE Tennis: footage of the game, recorded from the near half court.

The half court is rows 96 to 191 of the 210x160 picture, at native resolution, since resampling ruins one-pixel strokes;
pixels are displayed 1.6 times wider than tall. Labels come from RAM and colours and are for scoring only: nothing is
trained on them, and videos are selected by the picture.
"""

from __future__ import annotations

from collections.abc import Iterator
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

    out: Path = Path("data/tennis")  # folder of the clip store to write
    frames: int = 120_000  # number of frames to record
    video_length: int = 48  # frames per video; an episode is cut into videos, which are all in the same split
    moving_share: float = 0.5  # a video counts as moving if the picture changes in more than this share of its steps
    still_videos: float = 0.15  # share of the other videos that are kept
    rally: float = 0.85  # share of the time in which the player goes for the ball; else it walks at random
    far_ball_videos: float = 0.25  # share that is kept of the videos in which the ball never comes near the player
    frameskip: int = FRAMESKIP  # game frames per step
    held_out: float = 0.1  # share of the episodes in val, and the same in test
    seed: int = 0  # equal seeds and versions of ale-py give equal recordings


def near_colour(picture: np.ndarray) -> int:
    """Index into PLAYER_COLOURS of the near player, in a picture (210, 160, 3): the near side lines have its colour."""
    return int(np.argmax([_are(picture[LINES], colour).sum() for colour in PLAYER_COLOURS]))


def player_mask(frames: np.ndarray, court: np.ndarray, colour: np.ndarray, tolerance: float = 48.0) -> np.ndarray:
    """Frames (..., H, W, 3) uint8 -> pixels (..., H, W) of the player's colour that are not lines of the empty court.

    The frames may be real or generated. `tolerance` is the largest RGB distance to `colour` (3,).
    """
    colour = np.asarray(colour, np.float32)
    near = ((frames.astype(np.float32) - colour) ** 2).sum(-1) < tolerance**2
    line = ((court.astype(np.float32) - colour) ** 2).sum(-1) < tolerance**2
    return near & ~line


class TennisDetector:
    """Finds the near player by colour; `courts` (2, H, W, 3) uint8 are the empty court for each colour of his."""

    least = 25
    plausible = (45, 150)  # px; real players cover 67 to 101 px

    def __init__(self, courts: np.ndarray):
        self.courts = courts

    @classmethod
    def of(cls, store: Store) -> TennisDetector:
        """A detector with the courts that :func:`record` wrote to the store's folder; DataError: they are missing."""
        path = store.root / "courts.npy"
        try:
            return cls(np.load(path, allow_pickle=False))
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: not readable ({error}); record the store again") from None

    def context(self, frames: np.ndarray) -> np.ndarray:
        """Index (N,) of the near player's colour in each frame, from the more similar court."""
        distance = [np.abs(frames.astype(int) - court.astype(int)).sum((1, 2, 3)) for court in self.courts]
        return np.argmin(distance, 0)

    def __call__(self, frames: np.ndarray, context: np.ndarray | None = None) -> Detections:
        """As :meth:`Detector.__call__`; the extra input is the index of the near player's colour."""
        sides = self.context(frames) if context is None else context
        pairs = zip(frames, sides, strict=True)
        masks = [player_mask(frame, self.courts[side], PLAYER_COLOURS[side]) for frame, side in pairs]
        return find_pieces(np.stack(masks), self.least)


def body_column(mask: np.ndarray, position: np.ndarray) -> float:
    """The body's column in the player's sprite, px from RAM x: 1 or 9, since the sprite is mirrored in its box.

    We take the side of the densest columns of the player's mask (H, W): body and legs are above each other, the racket
    is held to the side. The distance of 8 px is the game's: when the player turns round, RAM x jumps by 8 if he stands,
    and by 4 if he walks, which he does at 4 px a step.
    """
    x, feet = (int(v) for v in position)
    rows = mask[max(0, feet - 24) : feet + 1, max(0, x - 8) : x + 28].sum(0)
    if not rows.any():
        return 5.0
    dense = np.convolve(rows, np.ones(3), "same").argmax() + max(0, x - 8)
    return 9.0 if dense - x > 5 else 1.0


BALL, SHADOW = (236, 236, 236), (74, 74, 74)  # Colours of the ball and of its shadow on the ground.
NEAR_BALL = 16  # The ball is near the player if its distance along both axes is below this, px.


class Joystick:
    """A scripted player, pink, that sees the picture: it goes for the ball, or holds random directions.

    It goes for the ball's shadow, which is where the ball can be hit, and presses fire, so there are rallies and swings
    of both players. For the rest of the time it walks or stands, and sometimes presses fire.

    Args:
        rng: for its random choices.
        rally: share of the time in which it goes for the ball.
        courts: (210, 160, 3) uint8, the empty picture, by the near player's colour; None: it never goes for the ball.
    """

    WAYS = ((0, -1), (1, 0), (-1, 0), (0, 1), (1, -1), (-1, -1), (1, 1), (-1, 1))
    DIRECTIONS = {(0, 0): (0, 1)} | {way: (n, n + 8) for n, way in enumerate(WAYS, 2)}  # (dx, dy) -> action, with fire

    def __init__(self, rng: np.random.Generator, rally: float = 0.0, courts: dict[int, np.ndarray] | None = None):
        self.rng = rng
        self.rally = rally
        self.courts = courts
        self.direction = (0, 0)
        self.playing = False

    def __call__(self, picture: np.ndarray) -> int:
        """Choose the ALE action after a picture (210, 160, 3) uint8."""
        if self.rng.random() < 0.12:
            self.direction = tuple(int(v) for v in self.rng.integers(-1, 2, 2))
            self.playing = self.courts is not None and self.rng.random() < self.rally
        fire = self.rng.random() < 0.15
        if self.playing:
            return self.DIRECTIONS[self._toward_ball(picture) or self.direction][1]
        return self.DIRECTIONS[self.direction][int(fire)]

    def _toward_ball(self, picture: np.ndarray) -> tuple[int, int] | None:
        """The direction (dx, dy) toward the ball's shadow, each -1, 0 or 1; None if there is no shadow or player."""
        assert self.courts is not None
        shadow = np.argwhere(_are(picture, SHADOW))
        me = np.argwhere(_are(picture, PINK) & ~_are(self.courts[near_colour(picture)], PINK))
        if not len(shadow) or not len(me):
            return None
        dx = shadow[:, 1].mean() - me[:, 1].mean()
        dy = shadow[:, 0].mean() - me[:, 0].max()
        return int(np.sign(dx)) * (abs(dx) > 4), int(np.sign(dy)) * (3 < abs(dy) < 40)


def _are(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Pixels of (H, W, 3) that have a colour: (H, W) bool."""
    return (picture[..., 0] == colour[0]) & (picture[..., 1] == colour[1]) & (picture[..., 2] == colour[2])


def ball_is_near(frames: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Whether ball or shadow are near the near player, in frames (T, H, W, 3) with his masks (T, H, W): (T,) bool."""
    out = np.zeros(len(frames), bool)
    for t, (frame, mask) in enumerate(zip(frames, masks, strict=True)):
        ball = np.argwhere(_are(frame, BALL) | _are(frame, SHADOW))
        player = np.argwhere(mask)
        if len(ball) and len(player):
            out[t] = (np.abs(ball.mean(0) - player.mean(0)) < NEAR_BALL).all()
    return out


def record(config: RecordConfig, progress=lambda kept: None) -> Path:
    """Play episodes until `config.frames` frames are kept, write them as a clip store, and return its folder.

    Labels: `position` (N, 2) float32, the near player's x and feet row from RAM, px in the frame; `swing` (N,) uint8,
    whether the near player swings, from RAM; `colour` (N,) uint8, the index of his colour; `episode` (N,) int32. Masks
    come from :func:`player_mask`. `progress` is called with the number of frames kept.
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
        for side, pictures, rams in _near_stretches(env, player, int(rng.integers(2**31))):
            for begin in range(0, len(pictures) - config.video_length + 1, config.video_length):
                window = slice(begin, begin + config.video_length)
                frames = np.stack([near_half(picture) for picture in pictures[window]])
                moving = _moves(frames).mean() > config.moving_share
                if not moving and rng.random() >= config.still_videos:
                    continue
                masks = player_mask(frames, near_half(courts[side]), PLAYER_COLOURS[side])
                if rng.random() >= config.far_ball_videos and not ball_is_near(frames, masks).any():
                    continue
                ram = np.array(rams[window])
                writer.add(
                    f"e{episode:04d}_{writer.frames:07d}",
                    split,
                    frames,
                    masks,
                    position=np.stack([ram[:, 1], FEET_ROW - ram[:, 0]], 1).astype(np.float32),
                    swing=ram[:, 2].astype(np.uint8),
                    colour=np.full(len(frames), side, np.uint8),
                    episode=np.full(len(frames), episode, np.int32),
                )
                progress(writer.frames)
        episode += 1
    env.close()
    np.save(config.out / "courts.npy", np.stack([near_half(courts[0]), near_half(courts[1])]))
    writer.close()
    return config.out


def _split_of(episode: int, held_out: float) -> str:
    """The split of an episode: every n-th is val, the one after it test, the others train."""
    period = max(2, round(1 / held_out))
    return {1: "val", 2: "test"}.get(episode % period, "train")


def _moves(frames: np.ndarray, pixels: int = 30) -> np.ndarray:
    """(T - 1,) bool: more pixels changed than ball and shadow cover (under 20)."""
    return (frames[1:] != frames[:-1]).any(-1).sum((1, 2)) > pixels


def near_half(picture: np.ndarray) -> np.ndarray:
    """The rows of the near half court of a picture (210, 160, 3)."""
    return picture[TOP : TOP + HEIGHT]


def _near_stretches(env, player: Joystick, seed: int) -> Iterator[tuple[int, list, list]]:
    """Play one episode, and cut it where the players change ends.

    Yields:
        the near player's colour; pictures (210, 160, 3); for each picture y, x and whether the near player swings.
    """
    observation, _ = env.reset(seed=seed)
    colour, pictures, rams = near_colour(observation), [], []
    done = False
    while not done:
        if (now := near_colour(observation)) != colour:
            yield colour, pictures, rams
            colour, pictures, rams = now, [], []
        pictures.append(observation)
        memory = env.unwrapped.ale.getRAM()
        swings = any(int(memory[byte]) in SWINGS for byte in RAM_NEAR_SPRITES)
        rams.append((int(memory[RAM_NEAR_Y]), int(memory[RAM_NEAR_X]), int(swings)))
        observation, _, terminated, truncated, _ = env.step(player(observation))
        done = terminated or truncated
    yield colour, pictures, rams


def _record_courts(env, seed: int) -> dict[int, np.ndarray]:
    """The picture without players, the median, by the near player's colour, from episodes that are not kept."""
    seen: dict[int, list[np.ndarray]] = {0: [], 1: []}
    walk = Joystick(np.random.default_rng(seed + 1))
    for attempt in range(5):
        for colour, pictures, _ in _near_stretches(env, walk, seed + 1 + attempt):
            seen[colour].extend(pictures[::4])
        if all(len(pictures) > 200 for pictures in seen.values()):
            break
    return {colour: np.median(pictures[:2000], axis=0).astype(np.uint8) for colour, pictures in seen.items()}
