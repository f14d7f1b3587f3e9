"""glass-play: walk through a learned world with the keyboard, or watch an agent do it."""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from glass_gym.env.render import DisplayError, Event, Window
from glass_gym.tensors.convert import index_rows, to_numpy
from glass_gym.worlds.action_space import ARROWS, COMPASS, ActionTable
from glass_gym.wrappers import core_of

if TYPE_CHECKING:
    from glass_gym.env.core import GlassCore
    from glass_gym.play.remote import WebWindow
    from glass_gym.policy import Policy

KEYS = """arrows  walk (two arrows: diagonal)
{}
space   pause           n  one step       r    reset
click   set the target  a  human / agent  + -  speed
v       record video    s  save picture   q    quit
h ?     this help"""
HINT = "arrows walk   {} act   click target   h all keys   q quit"
SPEEDS = (1, 2, 4, 8, 15, 30, 60)
WAYS = {name: COMPASS[name] for name in ARROWS}
SHIFT_KEYS = ("left shift", "right shift")
MESSAGE_SECONDS = 2.5
FILM = 8
"""Steps of a local action's film."""


def digit_keys(codes: int) -> str:
    """The digits of a world of so many local actions."""
    return "1..9 0" if codes > 9 else f"1..{codes}" if codes > 1 else "1"


def digits(codes: int) -> str:
    """Those, and what they do."""
    return f"{digit_keys(codes):<8}local action" + "s" * (codes > 1) + ", with shift: from 11" * (codes > 10)


@dataclass
class Controls:
    """Keys -> (shift, code). A key tapped between two steps counts in the next step, even if it was let go before.

    Attributes:
        held: keys that are down.
        tapped: keys pressed since the last step.
        digit: the digit pressed last.
        ten: the shift key is down: digits count from 10.
    """

    held: set[str] = field(default_factory=set)
    tapped: set[str] = field(default_factory=set)
    digit: str = ""
    ten: bool = False

    def press(self, key: str) -> bool:
        """A key went down. Returns whether it is one of ours."""
        key = key.strip("[]")  # pygame names the number pad's keys "[1]"
        if key in SHIFT_KEYS:
            self.ten = True
            return True
        if key.isdigit():
            key = str((int(key) or 10) + 10 * self.ten)
            self.digit = key
        elif key not in WAYS:
            return False
        self.held.add(key)
        self.tapped.add(key)
        return True

    def release(self, key: str) -> None:
        """A key went up; an empty name lets all go."""
        key = key.strip("[]")
        self.ten = self.ten and key not in SHIFT_KEYS and bool(key)
        self.held = {held for held in self.held if key and held != key and not _same_digit(held, key)}

    def action(self, table: ActionTable, choose: Callable[[int], int] | None = None) -> np.ndarray:
        """(shift, code) of what is held or was tapped; consumes the taps.

        Args:
            table: of the world's actions.
            choose: gives the code of a shift where no digit says one; default: the one that usually goes with it.

        Returns:
            (2,) int64.
        """
        keys = self.held | self.tapped
        self.tapped = set()
        dx, dy = (sum(WAYS[key][axis] for key in keys & set(WAYS)) for axis in (0, 1))
        shift = table.shift_for(dx, dy)
        code = int(self.digit) - 1 if self.digit in keys and self.digit else -1
        if not 0 <= code < len(table.code_names):
            code = choose(shift) if choose else table.usual_codes[shift]
        return np.array([shift, code])


class Recorder:
    """Writes frames to .mp4 or .gif through imageio.

    Args:
        path: the ending decides the format.
        fps: frames a second.
        scale: whole px a frame px.
    """

    def __init__(self, path: Path, fps: float, scale: int = 2):
        import imageio.v2 as iio

        self.path = path
        self.scale = scale
        self.count = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".gif":
            self._writer = iio.get_writer(path, mode="I", duration=1000 / fps, loop=0)
        else:
            self._writer = iio.get_writer(path, fps=fps, macro_block_size=2)

    def add(self, frame: np.ndarray) -> None:
        """One frame (H, W, 3) uint8."""
        self._writer.append_data(frame.repeat(self.scale, 0).repeat(self.scale, 1))
        self.count += 1

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()


class Player:
    """The loop: events in, steps, frames out. One tick is one screen refresh.

    Args:
        env: made by gym.make with render_mode="rgb_array"; any glass_gym id.
        window: where it is shown; None: set it before :meth:`run`.
        agent: a :class:`glass_gym.policy.Policy`, or None.
        fps: steps a second.
        start_frame: start every episode from this picture.
        folder: where recordings and pictures go.
    """

    def __init__(
        self,
        env: Any,
        window: Window | None = None,
        agent: Policy | None = None,
        fps: float = 15,
        start_frame: np.ndarray | None = None,
        folder: Path = Path("."),
    ):
        self.env = env
        self.agent = agent
        self.fps = fps
        self.folder = folder
        self.window: Any = window
        self.core = core_of(env)
        self.table = self.core.table
        self.options = {} if start_frame is None else {"start_frame": start_frame}
        self.controls = Controls()
        self.running = True
        self.paused = False
        self.agent_plays = agent is not None
        self.recorder: Recorder | None = None
        self.total = 0
        self.episodes = 0
        self.reached = 0
        self.best: int | None = None
        self.help = False
        self.fps_now = 0.0
        self._message = ""
        self._until = 0.0
        self._once = False
        self._over = False

    def reset(self, seed: int | None = None, picture: np.ndarray | None = None) -> None:
        """Start an episode; from a picture, if there is one."""
        options = dict(self.options) if picture is None else {"start_frame": picture}
        _, self.info = self.env.reset(seed=seed, options=options)
        self.steps = 0
        self.value = 0.0
        self.last = None
        self._over = False
        if self.agent is not None:
            self.agent.begin()
        self.frame = self.env.render()

    def run(self, max_steps: int | None = None, max_episodes: int | None = None) -> None:
        """Until the user quits, or after so many steps or episodes."""
        steps = max_steps or sys.maxsize
        episodes = max_episodes or sys.maxsize
        while self.running and self.total < steps and self.episodes < episodes:
            self.tick()
        if self.recorder:
            self.record()

    def tick(self) -> None:
        """Handle events, step unless paused, show the newest frame, wait for the next."""
        for event in self.window.poll():
            self.handle(event)
        if self.running and (not self.paused or self._once):
            self._once = False
            self.step()
        self.window.show(self.frame, self.lines(), self.page() if self.help else [])
        self.fps_now = self.window.wait(self.fps)

    def step(self) -> None:
        """One step of the world by whoever plays; an episode that is over starts anew instead."""
        self.total += 1
        if self._over:
            self.reset()
        else:
            human = self.controls.action(self.table, self.core.choose_code)
            action = self.agent.act(self.core)[0] if self.agent_plays and self.agent else human
            _, reward, terminated, truncated, self.info = self.env.step(action)
            self.steps = self.steps + 1
            self.value = self.value + reward
            self.last = action
            self.frame = self.env.render()
            self._over = terminated or truncated
            if self._over:
                self.episodes += 1
                self._finish(bool(self.info.get("is_success")))
        if recorder := self.recorder:
            self._try("recording stopped", lambda: recorder.add(self.frame))

    def _finish(self, success: bool) -> None:
        """Count an episode that is over."""
        if not success:
            self.say(f"time is up after {self.steps} steps")
            return
        self.reached += 1
        record = self.best is not None and self.steps < self.best
        self.best = min(self.steps, self.best or self.steps)
        self.say(f"arrived after {self.steps} steps{', your best' if record else ''}")

    def handle(self, event: Event) -> None:
        """One event."""
        if event.kind == "quit":
            self.running = False
        elif event.kind == "release":
            self.controls.release(event.key)
        elif event.kind == "click":
            self.aim(event.place)
        elif event.kind == "speed":
            self.fps = min(max(event.place[0], SPEEDS[0]), SPEEDS[-1])
        elif event.kind == "picture":
            self.start_from(event.file)
        elif event.kind == "press" and not self.controls.press(event.key):
            self.command(event.key)
        elif event.kind == "press" and event.key.strip("[]").isdigit():
            codes = len(self.table.code_names)
            if int(self.controls.digit) > codes:
                self.say(f"{self.controls.digit}: no such local action, this world has {codes} (1..{codes})")

    def command(self, key: str) -> None:
        """Keys that are not actions."""
        if key in ("q", "escape"):
            self.running = False
        elif key == "space":
            self.paused = not self.paused
        elif key == "n":
            self.paused = self._once = True
        elif key == "r":
            self.reset()
        elif key in ("h", "?", "f1"):
            self.help = not self.help
        elif key == "a":
            if self.agent is None:
                self.say("no agent loaded; start glass-play with --agent policy.safetensors")
            else:
                self.agent_plays = not self.agent_plays
                self.agent.begin()
        elif key == "v":
            self.record()
        elif key == "s":
            path = self._path(".png")
            if self._try("no picture was saved", lambda: self._save(path)):
                self.say(f"saved {path}")
        elif key in ("+", "=", "[+]"):
            self.fps = min((s for s in SPEEDS if s > self.fps), default=SPEEDS[-1])
        elif key in ("-", "[-]"):
            self.fps = max((s for s in SPEEDS if s < self.fps), default=SPEEDS[0])

    def aim(self, place: tuple[float, float]) -> None:
        """Move the target to a place in the shown frame."""
        x = place[0] / self.core.world.pixel_aspect
        y = place[1]
        if self.core.task is None:
            self.say("this world has no task, so no target")
        elif 0 <= x <= self.core.width and 0 <= y <= self.core.height:
            self.core.aim((x, y))
            self.info = self.info | index_rows(to_numpy(self.core.infos()), 0)
            self.frame = self.env.render()

    def start_from(self, file: bytes) -> None:
        """Start an episode from a picture, an image file's bytes."""
        from glass_gym.worlds.pictures import read_picture

        try:
            self.reset(picture=read_picture(io.BytesIO(file)))
        except ValueError as error:  # none that can be read, or no agent in it
            self.say(str(error))

    def record(self, path: Path | None = None) -> None:
        """Start or stop recording."""
        if self.recorder:
            recorder = self.recorder
            self.recorder = None
            recorder.close()
            self.say(f"recorded {recorder.count} frames: {recorder.path}")
            print(self._message)
            return

        path = path or self._path(_video_suffix())

        def start() -> None:
            self.recorder = Recorder(path, self.fps)
            self.recorder.add(self.frame)

        if self._try("nothing is recorded", start):
            self.say(f"recording to {path}")

    def say(self, text: str) -> None:
        """A line that the window shows for a while."""
        self._message = text
        self._until = time.monotonic() + MESSAGE_SECONDS

    def lines(self) -> list[str]:
        """The text below the frame."""
        who = "agent" if self.agent_plays else "you"
        what = self.table.describe(self.last) if self.last is not None else "-"
        state = "PAUSED" if self.paused else ("REC" if self.recorder else "")
        distance = f"distance {self.info['distance']:5.1f}   " if "distance" in self.info else ""
        limit = self.env.get_wrapper_attr("spec").max_episode_steps
        step = f"{limit - self.steps:3d} steps left" if limit else f"step {self.steps:3d}"
        best = f", best {self.best} steps" if self.best is not None else ""
        score = f"{distance}reached {self.reached}{best}   " if self.core.task is not None else ""
        hint = HINT.format(digit_keys(len(self.table.code_names)))
        told = f"{self._message}   h all keys" if time.monotonic() < self._until else hint
        counts = f"{step}   {score}{self.fps_now:4.1f}/{self.fps:g} fps"
        return [f"{who}: {what}   {state}", counts, told]

    def page(self) -> list[str]:
        """All keys, and what the digits do in this world."""
        names = [f"{n}  {name}" for n, name in enumerate(self.table.code_names[:20], 1)]
        width = max(map(len, names))
        rows = ["   ".join(name.ljust(width) for name in names[at : at + 3]) for at in range(0, len(names), 3)]
        return [
            *KEYS.format(digits(len(self.table.code_names))).splitlines(),
            "",
            "local actions of this world:",
            *rows,
            "no digit: what usually goes with the step",
        ]

    def _save(self, path: Path) -> None:
        import imageio.v3 as iio

        path.parent.mkdir(parents=True, exist_ok=True)
        iio.imwrite(path, self.frame)

    def _path(self, suffix: str) -> Path:
        path = self.folder / f"glass_play-{time.strftime('%Y%m%d-%H%M%S')}{suffix}"
        count = 1
        while path.exists():
            path = path.with_stem(f"{path.stem.split('_v')[0]}_v{count}")
            count = count + 1
        return path

    def _try(self, what: str, do) -> bool:
        """Files fail (full disk, no encoder): say so and play on."""
        try:
            do()
            return True
        except (OSError, ValueError, ImportError, RuntimeError) as error:
            self.recorder = None
            self.say(f"{what}: {error}")
            print(f"{what}: {error}", file=sys.stderr)
            return False


def films_of(core: GlassCore) -> list[np.ndarray]:
    """What each local action does where row 0 is: (FILM, s, s, 3) uint8 each, about the agent. Nothing is changed."""
    count = len(core.table.code_names)
    state = core.state.world.rows(torch.zeros(count, dtype=torch.long, device=core.device))
    side = min(core.height, core.width, 4 * core.world.config.agent_radius)
    limits = [core.width - side, core.height - side]
    x, y = (
        round(min(max(float(v) - side / 2, 0), most)) for v, most in zip(core.state.position[0], limits, strict=True)
    )
    still = torch.from_numpy(core.table.shifts[:1]).to(core.device).expand(count, -1)
    frames = []
    for _ in range(FILM):
        state = core.simulator.step(state, still, torch.arange(count, device=core.device))
        frames.append(core.simulator.frames(state)[:, y : y + side, x : x + side])
    return list(to_numpy(torch.stack(frames, 1)))


def _same_digit(held: str, key: str) -> bool:
    """Whether a held local action came from this digit, with the shift key or without."""
    return held.isdigit() and key.isdigit() and int(held) % 10 == int(key)


def _video_suffix() -> str:
    """.mp4 where imageio has ffmpeg, else .gif."""
    from importlib.util import find_spec

    return ".mp4" if find_spec("imageio_ffmpeg") else ".gif"


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(
        "glass-play",
        description="Walk through a learned world.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"keys:\n{KEYS.format(digits(20))}\n\nexamples:\n  glass-play\n  glass-play GlassSprites-v1 --scale 5\n"
        "  glass-play --checkpoint runs/mine/world.safetensors --free\n  glass-play --image photo.png\n"
        "  glass-play --agent agents/trained/GlassTennis-v1/ppo.safetensors --record best.mp4",
    )
    parser.add_argument("id", nargs="?", help="environment id (default: GlassTennis-v1, or Glass-v0 with --checkpoint)")
    parser.add_argument("--checkpoint", help="a world of your own (.safetensors), for the id Glass-v0")
    parser.add_argument("--image", type=Path, help="start from this picture; cropped and resized to the world's frame")
    parser.add_argument("--free", action="store_true", help="no target: roam freely")
    parser.add_argument(
        "--agent",
        type=Path,
        help="a policy: .safetensors (only data), or Stable-Baselines3's .zip (it is unpickled, "
        "which can run code: trust its source)",
    )
    parser.add_argument("--algo", default="ppo", help="of a .zip: ppo, a2c, dqn, recurrent_ppo, qrdqn (default: ppo)")
    parser.add_argument("--record", type=Path, metavar="FILE", help="record from the start, .mp4 or .gif")
    parser.add_argument("--folder", type=Path, default=Path("."), help="for recordings and pictures (default: here)")
    parser.add_argument("--fps", type=float, default=15, help="steps a second (default: 15)")
    parser.add_argument("--scale", type=int, help="screen px a frame px (default: fits the screen)")
    parser.add_argument("--seed", type=int, help="of the first episode")
    parser.add_argument("--steps", type=int, help="quit after so many steps")
    parser.add_argument(
        "--max-episode-steps",
        type=int,
        help="time limit of an episode (default: none; the id's with --agent)",
    )
    parser.add_argument(
        "--web",
        action="store_true",
        help="in a browser instead of a window, for a machine without a screen; prints the address "
        "(pip install 'glass-gym[web]')",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="--web: where to listen; 0.0.0.0 lets other machines in (default: 127.0.0.1)",
    )
    parser.add_argument("--port", type=int, default=0, help="--web: default: any that is free")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:i (default: auto)")
    arguments = parser.parse_args(argv)
    if not 0 <= arguments.port < 1 << 16:
        parser.error(f"--port must lie in 0..65535, got {arguments.port}")
    if not arguments.fps > 0:
        parser.error(f"--fps must be positive, got {arguments.fps}")
    try:
        play(arguments)
    except (DisplayError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def web_window(player: Player, title: str, host: str = "127.0.0.1", port: int = 0) -> WebWindow:
    """The page of a player that has been reset; arguments as :class:`glass_gym.play.remote.WebWindow` takes them.

    Returns:
        it, served.

    Raises:
        DisplayError: a package is missing, or the port is taken.
    """
    from glass_gym.play.remote import WebWindow

    about = {"codes": player.table.code_names, "films": films_of(player.core), "agent": player.agent is not None}
    return WebWindow(player.frame.shape[:2], title, **about, fps=player.fps, host=host, port=port)


def _window(player: Player, title: str, arguments: argparse.Namespace) -> Any:
    """On the screen, or in a browser."""
    size = player.frame.shape[:2]
    if not arguments.web:
        return Window(size, title, arguments.scale, lines=3)
    window = web_window(player, title, arguments.host, arguments.port)
    print(f"open {window.url}\n(whoever has this address may play or watch; Ctrl-C ends)", flush=True)
    return window


def play(arguments: argparse.Namespace) -> None:
    """Open the window and play until the user quits."""
    import gymnasium as gym

    import glass_gym  # noqa: F401  (registers the ids)
    from glass_gym.policy import load_policy
    from glass_gym.worlds.pictures import read_picture

    kwargs = {"render_mode": "rgb_array", "device": arguments.device}
    if arguments.checkpoint:
        kwargs["checkpoint"] = arguments.checkpoint
    if arguments.free:
        kwargs["task"] = None
    limit = arguments.max_episode_steps or (None if arguments.agent else -1)  # -1: gym.make leaves the limit out
    if limit:
        kwargs["max_episode_steps"] = limit
    name = arguments.id or ("Glass-v0" if arguments.checkpoint else "GlassTennis-v1")
    try:
        env = gym.make(name, **kwargs)
    except (gym.error.Error, TypeError) as error:
        known = ", ".join(sorted(key for key in gym.registry if key.startswith("Glass")))
        raise ValueError(f"{name}: {error}. Worlds here: {known}") from None
    try:
        core_of(env)
    except TypeError:
        raise ValueError(f"{name} is not a glass_gym world; for others there is gymnasium.utils.play") from None
    window = None
    try:
        agent = load_policy(arguments.agent, arguments.algo, core_of(env)) if arguments.agent else None
        picture = read_picture(arguments.image) if arguments.image else None
        player = Player(env, None, agent, arguments.fps, picture, arguments.folder)
        player.reset(arguments.seed)
        window = player.window = _window(player, f"glass-play: {name}", arguments)
        if arguments.record:
            player.record(arguments.record)
        player.run(arguments.steps)
        print(f"{player.total} steps, {player.reached} of {player.episodes} targets reached")
    finally:
        if window:
            window.close()
        env.close()


if __name__ == "__main__":
    sys.exit(main())
