"""glass-play: play a learned world with the keyboard, or watch a trained agent play it."""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from glass_gym.env.window import DisplayError, Event, Window
from glass_gym.play.recorder import Recorder, video_suffix
from glass_gym.tensors.convert import index_rows, to_numpy
from glass_gym.worlds.action_space import ARROWS, COMPASS, ActionTable
from glass_gym.wrappers import core_of

if TYPE_CHECKING:
    from glass_gym.env.core import GlassCore
    from glass_gym.play.remote import WebWindow
    from glass_gym.policy import Policy

KEYS = """arrows  walk (two arrows: diagonally)
{}
space   pause           n  one step       r    reset
click   set the target  a  human / agent  + -  speed
v       record video    s  save picture   q    quit
h ?     this help"""
HINT = "arrows walk   {} act   click target   h all keys   q quit"
SPEEDS = (1, 2, 4, 8, 15, 30, 60)  # Steps a second that the keys + and - choose from.
ARROW_KEYS = {name: COMPASS[name] for name in ARROWS}
SHIFT_KEYS = ("left shift", "right shift")
MESSAGE_SECONDS = 2.5  # How long a message is shown.
FILM = 8  # Steps in the film of a local action.
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


class Player:
    """The game loop: read events, step the environment, show the frame.

    Args:
        env: a glass_gym environment, made by gym.make with render_mode="rgb_array".
        window: a :class:`glass_gym.env.window.Window` or :class:`glass_gym.play.remote.WebWindow`; None: set it later.
        agent: a trained policy that can play; None: there is none.
        fps: steps a second.
        start_frame: (h, w, 3) uint8, a picture that every episode starts from; None: a random start frame.
        folder: where recordings and pictures are saved.
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
        self.total = self.episodes = self.reached = 0
        self.best: int | None = None
        self.help = False
        self.fps_now = 0.0
        self._message = ""
        self._until = 0.0
        self._once = False
        self._over = False

    def reset(self, seed: int | None = None, picture: np.ndarray | None = None) -> None:
        """Start an episode; from a picture (h, w, 3) uint8, if one is given."""
        options = dict(self.options) if picture is None else {"start_frame": picture}
        _, self.info = self.env.reset(seed=seed, options=options)
        self.steps = 0
        self.last = None
        self._over = False
        if self.agent is not None:
            self.agent.begin()
        self.frame = self.env.render()

    def run(self, max_steps: int | None = None, max_episodes: int | None = None) -> None:
        """Play until the user quits, or for so many steps or episodes."""
        steps, episodes = max_steps or sys.maxsize, max_episodes or sys.maxsize
        while self.running and self.total < steps and self.episodes < episodes:
            self.tick()
        if self.recorder:
            self.record()

    def tick(self) -> None:
        """Handle events, step unless paused, show the frame, and wait until the next one is due."""
        for event in self.window.poll():
            self.handle(event)
        if self.running and (not self.paused or self._once):
            self._once = False
            self.step()
        self.window.show(self.frame, self.lines(), self.page() if self.help else [])
        self.fps_now = self.window.wait(self.fps)

    def step(self) -> None:
        """One step, with the action of the person or the agent. After the end of an episode, reset instead."""
        self.total += 1
        if self._over:
            self.reset()
        else:
            human = self.controls.action(self.table, self.core.choose_code)
            action = self.agent.act(self.core)[0] if self.agent_plays and self.agent else human
            _, _, terminated, truncated, self.info = self.env.step(action)
            self.steps += 1
            self.last = action
            self.frame = self.env.render()
            self._over = terminated or truncated
            if self._over:
                self.episodes += 1
                self._finish(bool(self.info.get("is_success")))
        if recorder := self.recorder:
            self._try("recording stopped", lambda: recorder.add(self.frame))

    def _finish(self, success: bool) -> None:
        """Count an episode that has ended."""
        if not success:
            self.say(f"time is up after {self.steps} steps")
            return
        self.reached += 1
        record = self.best is not None and self.steps < self.best
        self.best = min(self.steps, self.best or self.steps)
        self.say(f"target reached after {self.steps} steps{', your best' if record else ''}")

    def handle(self, event: Event) -> None:
        """Handle one event."""
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
        elif event.kind == "press" and digit_of(event.key) is not None:
            last = len(self.table.code_names) - 1
            if self.controls.code > last:
                self.say(f"no local action {self.controls.code}: this world has 0 to {last}")

    def command(self, key: str) -> None:
        """Handle a key that is not part of an action."""
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
        """Move the target to (x, y) px of the shown frame, which is as wide as the pixel aspect makes it."""
        x, y = place[0] / self.core.world.pixel_aspect, place[1]
        if self.core.task is None:
            self.say("this world has no task, so no target")
        elif 0 <= x <= self.core.width and 0 <= y <= self.core.height:
            self.core.aim((x, y))
            self.info = self.info | index_rows(to_numpy(self.core.infos()), 0)
            self.frame = self.env.render()

    def start_from(self, file: bytes) -> None:
        """Start an episode from a picture, given as the bytes of an image file."""
        from glass_gym.worlds.pictures import read_picture

        try:
            self.reset(picture=read_picture(io.BytesIO(file)))
        except ValueError as error:  # not an image, or no agent in it
            self.say(str(error))

    def record(self, path: Path | None = None) -> None:
        """Start or stop recording."""
        if recorder := self.recorder:
            self.recorder = None
            if not self._try("the recording is not whole", recorder.close):
                return
            self.say(f"recorded {recorder.count} frames: {recorder.path}")
            print(self._message)
            return

        path = path or self._path(video_suffix())

        def start() -> None:
            self.recorder = Recorder(path, self.fps)
            self.recorder.add(self.frame)

        if self._try("nothing is recorded", start):
            self.say(f"recording to {path}")

    def say(self, text: str) -> None:
        """Show a message for MESSAGE_SECONDS."""
        self._message = text
        self._until = time.monotonic() + MESSAGE_SECONDS

    def lines(self) -> list[str]:
        """The three lines of text below the frame."""
        who = "agent" if self.agent_plays else "you"
        what = self.table.describe(self.last) if self.last is not None else "-"
        state = "PAUSED" if self.paused else ("REC" if self.recorder else "")
        distance = f"distance {self.info['distance']:5.1f}   " if "distance" in self.info else ""
        limit = self.env.get_wrapper_attr("spec").max_episode_steps
        step = f"{limit - self.steps:3d} steps left" if limit else f"step {self.steps:3d}"
        best = f", best {self.best} steps" if self.best is not None else ""
        score = f"{distance}reached {self.reached}{best}   " if self.core.task is not None else ""
        hint = HINT.format(digit_keys(len(self.table.code_names)))
        message = f"{self._message}   h all keys" if time.monotonic() < self._until else hint
        counts = f"{step}   {score}{self.fps_now:4.1f}/{self.fps:g} fps"
        return [f"{who}: {what}   {state}", counts, message]

    def page(self) -> list[str]:
        """The help: all keys, and the local actions of this world by the number of their key."""
        all_names = self.table.code_names
        names = [f"{k}  {name}" for k, name in enumerate(all_names[: 2 * DIGITS])]
        width = max(map(len, names))
        rows = ["   ".join(name.ljust(width) for name in names[at : at + 3]) for at in range(0, len(names), 3)]
        if len(all_names) > 2 * DIGITS:
            rows.append(f"{2 * DIGITS}..{len(all_names) - 1} have no key")
        chosen = "drawn from the world's prior" if self.core.simulator.has_prior else "the usual one of the direction"
        return [
            *KEYS.format(digits(len(all_names))).splitlines(),
            "",
            "local actions of this world:",
            *rows,
            f"without a digit, the local action is {chosen}",
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
            count += 1
        return path

    def _try(self, what: str, do) -> bool:
        """Run something that writes a file; if it fails (full disk, no encoder), show a message and go on playing."""
        try:
            do()
            return True
        except (OSError, ValueError, ImportError, RuntimeError) as error:
            self.recorder = None
            self.say(f"{what}: {error}")
            print(f"{what}: {error}", file=sys.stderr)
            return False


def films_of(core: GlassCore) -> list[np.ndarray]:
    """A film (FILM, s, s, 3) uint8 of each local action, from the state of row 0, which stays; centred on the agent."""
    count = len(core.table.code_names)
    state = core.state.world.rows(torch.zeros(count, dtype=torch.long, device=core.device))
    side = min(core.height, core.width, 4 * core.world.config.agent_radius)
    corner = np.array(core.state.position[0].tolist()) - side / 2
    x, y = corner.clip(0, (core.width - side, core.height - side)).round().astype(int)
    still = torch.from_numpy(core.table.shifts[:1]).to(core.device).expand(count, -1)
    frames = []
    for _ in range(FILM):
        state = core.simulator.step(state, still, torch.arange(count, device=core.device))
        frames.append(core.simulator.frames(state)[:, y : y + side, x : x + side])
    return list(to_numpy(torch.stack(frames, 1)))


EPILOG = f"""keys:
{KEYS.format(digits(2 * DIGITS))}

examples:
  glass-play                                              the Tennis world
  glass-play GlassSprites-v0 --scale 5                    another world, frames five times as large
  glass-play --checkpoint runs/mine/world.safetensors     a world of your own
  glass-play --image photo.png --free                     start from a picture, without a target
  glass-play --agent agents/trained/GlassTennis-v0/ppo.safetensors --record agent.mp4
  glass-play --web --port 8000                            in a browser"""


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(
        "glass-play",
        description="Play a learned world with the keyboard: walk to the target, act, start from any picture.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EPILOG,
    )
    add = parser.add_argument
    ids = "GlassTennis-v0, GlassSprites-v0, GlassArm-v0, or an id of your own"
    add("id", nargs="?", help=f"{ids} (default: GlassTennis-v0, or Glass-v0 with --checkpoint)")
    add("--checkpoint", metavar="FILE", help="a world of your own, .safetensors, for the id Glass-v0")
    picture = "start from this picture; it is cropped and resized to the world's frame"
    add("--image", type=Path, metavar="FILE", help=picture)
    add("--free", action="store_true", help="no target: just walk around")
    trust = "(a zip is unpickled, which can run code: load only zips that you trust)"
    policy = f"watch this policy play: .safetensors, or a .zip of Stable-Baselines3 {trust}"
    add("--agent", type=Path, metavar="FILE", help=policy)
    add("--algo", default="ppo", help="algorithm of a .zip: ppo or dqn (default: ppo)")
    add("--record", type=Path, metavar="FILE", help="record from the start, to a .mp4 or .gif file")
    folder = "where the keys v and s save recordings and pictures (default: the current folder)"
    add("--folder", type=Path, default=Path("."), help=folder)
    add("--fps", type=float, default=15, help="steps a second (default: 15)")
    add("--scale", type=int, help="enlarge frames so many times (default: as large as the screen allows)")
    add("--seed", type=int, help="seed of the first episode")
    add("--steps", type=int, help="quit after so many steps")
    limit = "time limit of an episode (default: none; with --agent, that of the id)"
    add("--max-episode-steps", type=int, help=limit)
    web = "play in a browser instead of a window, for machines without a screen; prints the address"
    add("--web", action="store_true", help=f"{web} (needs pip install 'glass-gym[web]')")
    host = "with --web: the interface to listen on; 0.0.0.0 lets other machines connect (default: 127.0.0.1)"
    add("--host", default="127.0.0.1", help=host)
    add("--port", type=int, default=0, help="with --web: the port (default: a free one)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:i (default: auto)")
    arguments = parser.parse_args(argv)
    if not 0 <= arguments.port < 1 << 16:
        parser.error(f"--port must be between 0 and 65535, got {arguments.port}")
    if not arguments.fps > 0:
        parser.error(f"--fps must be positive, got {arguments.fps}")
    try:
        play(arguments)
    except (DisplayError, ImportError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def web_window(player: Player, title: str, host: str = "127.0.0.1", port: int = 0) -> WebWindow:
    """Serve a page for a player that has been reset; DisplayError: a package is missing, or the port is taken."""
    from glass_gym.play.remote import WebWindow

    about = {"codes": player.table.code_names, "films": films_of(player.core), "agent": player.agent is not None}
    return WebWindow(player.frame.shape[:2], title, **about, fps=player.fps, host=host, port=port)


def _window(player: Player, title: str, arguments: argparse.Namespace) -> Any:
    """The window of a player: on the screen, or with --web in a browser."""
    if not arguments.web:
        return Window(player.frame.shape[:2], title, arguments.scale, lines=3)
    window = web_window(player, title, arguments.host, arguments.port)
    print(f"open {window.url}\n(anybody with this address can play or watch; Ctrl-C ends)", flush=True)
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
    limit = arguments.max_episode_steps or (None if arguments.agent else -1)  # -1: no time limit
    if limit:
        kwargs["max_episode_steps"] = limit
    name = arguments.id or ("Glass-v0" if arguments.checkpoint else "GlassTennis-v0")
    try:
        env = gym.make(name, **kwargs)
    except (gym.error.Error, TypeError) as error:
        known = ", ".join(sorted(key for key in gym.registry if key.startswith("Glass")))
        raise ValueError(f"{name}: {error}. Worlds here: {known}") from None
    try:
        core_of(env)
    except TypeError:
        raise ValueError(f"{name} is not a glass_gym world; use gymnasium.utils.play for other environments") from None
    with env:
        agent = load_policy(arguments.agent, arguments.algo, core_of(env)) if arguments.agent else None
        picture = read_picture(arguments.image) if arguments.image else None
        player = Player(env, None, agent, arguments.fps, picture, arguments.folder)
        player.reset(arguments.seed)
        with closing(_window(player, f"glass-play: {name}", arguments)) as player.window:
            if arguments.record:
                player.record(arguments.record)
            player.run(arguments.steps)
        print(f"{player.total} steps, {player.reached} of {player.episodes} targets reached")


if __name__ == "__main__":
    sys.exit(main())
