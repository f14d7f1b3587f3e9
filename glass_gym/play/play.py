"""glass-play: play a learned world with the keyboard, or watch a trained agent play it."""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glass_gym.env.window import DisplayError, Window
from glass_gym.play.controls import DIGITS, KEYS, digits
from glass_gym.play.player import Player, films_of
from glass_gym.wrappers import core_of

if TYPE_CHECKING:
    from glass_gym.play.remote import WebWindow

EPILOG = f"""keys:
{KEYS.format(digits(2 * DIGITS))}

examples:
  glass-play                                              the Tennis world
  glass-play GlassSprites-v0 --scale 5                    another world, frames five times as large
  glass-play GlassSprites-v0 --task perform               do at the target what the film in the corner shows
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
    ids = "GlassTennis-v0, GlassSprites-v0, GlassArm-v0, GlassMouse-v0, or an id of your own"
    add("id", nargs="?", help=f"{ids} (default: GlassTennis-v0, or Glass-v0 with --checkpoint)")
    add("--checkpoint", metavar="FILE", help="a world of your own, .safetensors, for the id Glass-v0")
    picture = "start from this picture; it is cropped and resized to the world's frame"
    add("--image", type=Path, metavar="FILE", help=picture)
    task = "what to do: reach, collect, perform, match, follow, maze, or a task of your own, module:name"
    add("--task", metavar="NAME", help=f"{task} (default: reach)")
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
    add("--device", default="auto", help="auto, cpu, cuda, cuda:i or mps (default: auto)")
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
    if arguments.task:
        kwargs["task"] = arguments.task
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
