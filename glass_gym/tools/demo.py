"""glass-demo: a scripted walk and random play in a world, written as a GIF and a contact sheet."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from glass_gym.worlds.action_space import ActionTable

SCRIPT = (("right", 8), ("up", 4), ("left", 8), ("down", 4), ("stay", 4))
"""The scripted walk: names of shifts, and the number of steps of each."""


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(
        "glass-demo",
        description="Play a world by itself: a scripted walk, then each local action, then random actions.\n"
        "Writes world.gif, the film, and contact_sheet.png, 48 of its frames.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n  glass-demo\n  glass-demo --checkpoint sprites --out sprites_demo\n"
        "  glass-demo --checkpoint runs/mine/world.safetensors --steps 200 --seed 3",
    )
    add = parser.add_argument
    world = "a bundled world (tennis, sprites, arm, mouse) or a .safetensors file (default: tennis)"
    add("--checkpoint", default="tennis", metavar="WORLD", help=world)
    add("--out", type=Path, default=Path("glass_demo"), help="output folder (default: glass_demo)")
    add("--steps", type=int, default=60, help="steps of random play (default: 60)")
    add("--seed", type=int, default=0, help="of start frame, target and random play (default: 0)")
    arguments = parser.parse_args(argv)
    if arguments.steps < 0 or arguments.seed < 0:
        parser.error("--steps and --seed must be at least 0")
    from glass_gym.worlds.checkpoint import CheckpointError

    try:
        demonstrate(arguments.checkpoint, arguments.out, arguments.steps, arguments.seed)
    except (CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def demonstrate(checkpoint: str, out: Path, steps: int, seed: int) -> None:
    """Play a world, write OUT/world.gif and OUT/contact_sheet.png, and print a summary."""
    import gymnasium as gym
    import imageio.v3 as iio

    import glass_gym  # noqa: F401  (registers the ids)
    from glass_gym.wrappers import core_of

    env = gym.make("Glass-v0", checkpoint=checkpoint, render_mode="rgb_array", max_episode_steps=10**6)
    out.mkdir(parents=True, exist_ok=True)
    core = core_of(env)
    table = core.table
    walk = scripted_actions(table)
    rng = np.random.default_rng(seed)
    play = [tuple(int(rng.integers(n)) for n in table.nvec) for _ in range(steps)]
    env.reset(seed=seed)
    frames = [np.asarray(env.render())]
    reached = 0
    began = time.perf_counter()
    for shift, code in tqdm(walk + play, desc="world", unit="step"):
        code = core.choose_code(shift) if code is None else code
        _, _, terminated, _, _ = env.step(np.array([shift, code]))
        frames.append(np.asarray(env.render()))
        if terminated:
            reached += 1
            env.reset()
    seconds = time.perf_counter() - began
    gif = out / "world.gif"
    sheet = out / "contact_sheet.png"
    large = np.stack(frames).repeat(2, 1).repeat(2, 2)
    film = iio.imwrite("<bytes>", large, extension=".gif", duration=1000 / env.metadata["render_fps"], loop=0)
    gif.write_bytes(film)
    sheet.write_bytes(iio.imwrite("<bytes>", contact_sheet(frames), extension=".png"))
    print(f"world      {checkpoint}: {len(table.shifts)} shifts x {len(table.code_names)} local actions")
    print(f"played     {len(walk)} scripted and {len(play)} random steps, {reached} targets reached")
    print(f"speed      {(len(walk) + len(play)) / seconds:.0f} frames a second, one environment, rendering included")
    print(f"written    {gif}\n           {sheet}")


def scripted_actions(table: ActionTable) -> list[tuple[int, int | None]]:
    """The scripted walk, with code None (the world chooses it), then every local action four times while staying."""
    walk = [(table.shift_names.index(name), None) for name, count in SCRIPT for _ in range(count)]
    return [*walk, *((0, code) for code in range(len(table.code_names)) for _ in range(4))]


def contact_sheet(frames: list[np.ndarray], columns: int = 6, rows: int = 8) -> np.ndarray:
    """A grid (rows * H, columns * W, 3) uint8 of frames (H, W, 3), evenly spaced in time."""
    chosen = [frames[i] for i in np.linspace(0, len(frames) - 1, columns * rows).astype(int)]
    return np.concatenate([np.concatenate(chosen[r * columns : (r + 1) * columns], 1) for r in range(rows)], 0)


if __name__ == "__main__":
    sys.exit(main())
