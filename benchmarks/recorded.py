"""Footage of other simulators, with the agent's true mask, for benchmarks.generality.

Videos are .mp4 files in a folder, as a user's would be. The true masks lie beside that folder and serve scoring only.
Each world needs the package that it comes from, see :data:`WORLDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from glass_gym.play.recorder import Mp4Writer
from glass_gym.worlds.fetch_reach import NEEDS
from training.data import arm

Episode = tuple[np.ndarray, ...]
"""Frames (T, H, W, 3) uint8 and true masks (T, H, W) bool. For an agent that the frame's edge cuts, its mask does not
tell how it moves; then also the position (T, 2) px of a part that is whole."""
Recorder = Callable[[int, int], Iterator[Episode]]  # Called with the number of videos and a seed.


@dataclass(frozen=True)
class RecordedWorld:
    """A world to record."""

    about: str  # what it tests
    needs: str  # what to install with pip
    record: Recorder
    fps: int = 15  # of the videos


def palette_mask(frames: np.ndarray, colours: list[tuple[int, int, int]], near: int = 8) -> np.ndarray:
    """Pixels of frames (T, H, W, 3) that differ from one of the colours by at most `near` a channel: (T, H, W) bool."""
    return np.any([(np.abs(frames.astype(int) - colour) <= near).all(-1) for colour in colours], axis=0)


def largest_piece(masks: np.ndarray) -> np.ndarray:
    """The largest connected piece of each mask (T, H, W): other objects may have the agent's colours."""
    from scipy import ndimage

    out = np.zeros_like(masks)
    for t, mask in enumerate(masks):
        pieces, count = ndimage.label(ndimage.binary_dilation(mask, iterations=2))
        if count:
            sizes = ndimage.sum_labels(mask, pieces, np.arange(1, count + 1))
            out[t] = mask & (pieces == 1 + int(sizes.argmax()))
    return out


def _held_actions(rng: np.random.Generator, actions: list[Any], low: int, high: int) -> Iterator[Any]:
    while True:
        action = actions[rng.integers(len(actions))]
        yield from [action] * int(rng.integers(low, high))


def tiles(videos: int, seed: int) -> Iterator[Episode]:
    """MiniGrid: a triangle on an empty board turns, and moves forward by a tile (32 px)."""
    import gymnasium
    import minigrid  # noqa: F401

    env = gymnasium.make("MiniGrid-Empty-8x8-v0", render_mode="rgb_array", highlight=False, max_steps=10**6)
    for video in range(videos):
        rng = np.random.default_rng([seed, video])
        env.reset(seed=int(rng.integers(2**31)))
        env.unwrapped.agent_pos = tuple(rng.integers(1, 7, 2))  # type: ignore[attr-defined]
        env.unwrapped.agent_dir = int(rng.integers(4))  # type: ignore[attr-defined]
        frames = []
        over = False
        while not over and len(frames) < 60:
            frames.append(np.asarray(env.render()))
            over = env.step(rng.choice([0, 1, 2, 2, 2]))[2]
        if len(frames) >= 8:
            stack = np.stack(frames)
            yield stack, palette_mask(stack, [(255, 0, 0)], 60)


def lander(videos: int, seed: int) -> Iterator[Episode]:
    """LunarLander: a body that falls, rotates and hovers; every tenth action is random."""
    import gymnasium

    env = gymnasium.make("LunarLander-v3", render_mode="rgb_array")
    for video in range(videos):
        rng = np.random.default_rng([seed, video])
        state, _ = env.reset(seed=int(rng.integers(2**31)))
        goal, hover = rng.uniform(-0.6, 0.6), rng.uniform(0.4, 1.0)
        frames, masks = [], []
        for step in range(240):
            if step % 30 == 0:
                goal, hover = rng.uniform(-0.6, 0.6), rng.uniform(0.3, 1.1)
            x, y, vx, vy, angle, spin = state[:6]
            tilt = np.clip(0.5 * (x - goal) + vx, -0.4, 0.4)
            turn = 0.5 * (tilt - angle) - spin
            lift = 0.5 * (hover - y) - 0.5 * vy
            action = 2 if lift > abs(turn) and lift > 0.05 else 3 if turn < -0.05 else 1 if turn > 0.05 else 0
            state, _, over, _, _ = env.step(action if rng.random() < 0.9 else int(rng.integers(4)))
            if step % 3 == 0:
                frames.append(np.asarray(env.render()))
                masks.append(_lander_mask(env.unwrapped, *frames[-1].shape[:2]))
            if over:
                break
        if len(frames) >= 8:
            yield np.stack(frames), np.stack(masks)


def _lander_mask(env: Any, height: int, width: int) -> np.ndarray:
    """The polygons of the lander and its legs as drawn, (H, W) bool."""
    picture = Image.new("1", (width, height))
    draw = ImageDraw.Draw(picture)
    for body in (env.lander, *env.legs):
        for fixture in body.fixtures:
            corners = [body.transform * corner for corner in fixture.shape.vertices]
            draw.polygon([(30 * x, height - 30 * y) for x, y in corners], fill=1, outline=1)
    return np.asarray(picture)


def racing(videos: int, seed: int) -> Iterator[Episode]:
    """CarRacing: the camera follows the car, which stays in one place of the frame."""
    import gymnasium

    env = gymnasium.make("CarRacing-v3", render_mode="rgb_array", continuous=False)
    for video in range(videos):
        rng = np.random.default_rng([seed, video])
        env.reset(seed=int(rng.integers(2**31)))
        held = _held_actions(rng, [0, 1, 2, 3, 3], 2, 8)
        frames = []
        for step in range(170):
            env.step(next(held))
            if step >= 50 and step % 2 == 0:
                frames.append(np.asarray(env.render()))
        stack = np.stack(frames)
        yield stack, palette_mask(stack, [(204, 0, 0)], 30)


def _atari(name: str, colours: list[tuple[int, int, int]], actions: list[str], rows: slice) -> Recorder:
    """An Atari game, of which some rows of the screen are kept; the agent has the given colours."""

    def record(videos: int, seed: int) -> Iterator[Episode]:
        import ale_py
        import gymnasium

        gymnasium.register_envs(ale_py)
        env = gymnasium.make(f"ALE/{name}-v5", render_mode="rgb_array", frameskip=4)
        meanings = env.unwrapped.get_action_meanings()  # type: ignore[attr-defined]
        known = [meanings.index(a) for a in actions]
        for video in range(videos):
            rng = np.random.default_rng([seed, video])
            env.reset(seed=int(rng.integers(2**31)))
            held = _held_actions(rng, known, 3, 14)
            frames = []
            for step in range(110):
                screen, _, over, _, info = env.step(next(held))
                if step >= 30:
                    frames.append(np.asarray(screen)[rows])
                if over or info.get("lives", 1) == 0:
                    break
            if len(frames) >= 16:
                stack = np.stack(frames)
                yield stack, largest_piece(palette_mask(stack, colours))

    return record


WALK = ["NOOP", "RIGHT", "LEFT", "RIGHT", "LEFT", "UP", "DOWN"]
WORLDS: dict[str, RecordedWorld] = {
    "tiles": RecordedWorld("a grid world: jumps of a whole tile", "minigrid", tiles, 6),
    "lander": RecordedWorld("an agent that rotates freely", "gymnasium[box2d]", lander),
    "kangaroo": RecordedWorld(
        "an animated walker among other moving things",
        "ale-py",
        _atari("Kangaroo", [(223, 183, 85)], [*WALK, "RIGHTFIRE", "LEFTFIRE"], np.s_[24:184]),
    ),
    "montezuma": RecordedWorld(
        "an animated walker and climber beside a rolling skull",
        "ale-py",
        _atari("MontezumaRevenge", [(228, 111, 111), (200, 72, 72), (210, 182, 86)], WALK, np.s_[46:190]),
    ),
    "arm": RecordedWorld("a shaded arm that is attached to the edge", NEEDS, arm.videos),
    "racing": RecordedWorld("a camera that follows the agent", "gymnasium[box2d]", racing),
}


def record_world(name: str, out: Path, videos: int, seed: int = 0, progress=lambda: None) -> None:
    """Record a world of :data:`WORLDS`: `out`/videos/000.mp4 ... and `out`/truth.npz (masks as packed bits)."""
    folder = out / "videos"
    folder.mkdir(parents=True, exist_ok=True)
    truth = {}
    fps = WORLDS[name].fps
    for index, (frames, masks, *moving) in enumerate(WORLDS[name].record(videos, seed)):
        frames = frames[:, : frames.shape[1] // 2 * 2, : frames.shape[2] // 2 * 2]
        masks = masks[:, : frames.shape[1], : frames.shape[2]]
        # full chroma resolution: at half of it, the edge of an agent 8 px wide is off by 1 px from its true mask
        with closing(Mp4Writer(folder / f"{index:03d}.mp4", fps, "yuv444p", crf="10")) as film:
            for frame in frames:
                film.append_data(frame)
        truth[f"{index:03d}"] = np.packbits(masks, axis=-1)
        truth["width"] = np.array(frames.shape[2])
        if moving:
            truth[f"{index:03d}.moving"] = moving[0]
        progress()
    np.savez_compressed(out / "truth.npz", **truth)
