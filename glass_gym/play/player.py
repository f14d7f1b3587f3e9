"""The player: the game loop between an environment and a window."""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from glass_gym.env.window import Event, Window
from glass_gym.play.controls import DIGITS, HINT, KEYS, Controls, digit_keys, digit_of, digits
from glass_gym.play.recorder import Recorder, video_suffix
from glass_gym.tensors.convert import index_rows, to_numpy
from glass_gym.wrappers import core_of

if TYPE_CHECKING:
    from glass_gym.env.core import GlassCore
    from glass_gym.policy import Policy

SPEEDS = (1, 2, 4, 8, 15, 30, 60)  # Steps a second that the keys + and - choose from.
MESSAGE_SECONDS = 2.5  # How long a message is shown.
FILM = 8  # Steps in the film of a local action.


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
            chosen = self.agent.act(self.core)[0] if self.agent_plays and self.agent else np.asarray(human)
            action = self.core.encode_actions(chosen[None])[0]
            _, _, terminated, truncated, self.info = self.env.step(action)
            self.steps += 1
            self.last = chosen
            self.frame = self.env.render()
            self._over = terminated or truncated
            if self._over:
                self.episodes += 1
                self._finish(bool(self.info.get("is_success")))
        if recorder := self.recorder:
            self._try("recording stopped", lambda: recorder.add(self.frame, self.action))

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
            self.recorder.add(self.frame, self.action)

        if self._try("nothing is recorded", start):
            self.say(f"recording to {path}")

    def say(self, text: str) -> None:
        """Show a message for MESSAGE_SECONDS."""
        self._message = text
        self._until = time.monotonic() + MESSAGE_SECONDS

    @property
    def action(self) -> str:
        """The last action, by its names."""
        return self.table.describe(self.last) if self.last is not None else "-"

    def lines(self) -> list[str]:
        """The three lines of text below the frame."""
        who = "agent" if self.agent_plays else "you"
        state = "PAUSED" if self.paused else ("REC" if self.recorder else "")
        distance = f"distance {self.info['distance']:5.1f}   " if "distance" in self.info else ""
        limit = self.env.get_wrapper_attr("spec").max_episode_steps
        step = f"{limit - self.steps:3d} steps left" if limit else f"step {self.steps:3d}"
        best = f", best {self.best} steps" if self.best is not None else ""
        score = f"{distance}reached {self.reached}{best}   " if self.core.task is not None else ""
        hint = HINT.format(digit_keys(len(self.table.code_names)))
        message = f"{self._message}   h all keys" if time.monotonic() < self._until else hint
        counts = f"{step}   {score}{self.fps_now:4.1f}/{self.fps:g} fps"
        return [f"{who}: {self.action}   {state}", counts, message]

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
