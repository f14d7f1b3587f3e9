"""A soak test: python -m benchmarks.soak --steps 10000 --num-envs 32

It takes many random steps, then makes and closes five environments up to 50 times. It stops with an error if a value is
not finite, or an agent or a frame is out of bounds. Memory, open files and threads are recorded on the way: they should
stay constant.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from tqdm import tqdm

from glass_gym.tools import bench
from glass_gym.wrappers import core_of

EVERY = 500  # Steps between two records of what the process holds.
MAKES = 50
"""How often a soak of 10,000 steps makes and closes the five environments; shorter ones less often in proportion."""


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = bench.world_parser("python -m benchmarks.soak", __doc__ or "", (32,), "glass_soak.json")
    parser.add_argument("--steps", type=int, default=10_000, help="of each row (default: 10000)")
    return bench.run_benchmark(parser, argv, soak)


def soak(arguments: argparse.Namespace) -> None:
    """Step one vector environment, make and close others; write and print the report. ValueError: a value that is not
    finite, or something out of bounds; the message names the step."""
    if arguments.steps < 1:
        raise ValueError(f"--steps takes 1 or more, got {arguments.steps}")
    bench.check_writable(arguments.out)
    id, settings = bench.env_of(arguments)
    rows = arguments.num_envs[0]
    envs = gym.make_vec(id, num_envs=rows, max_episode_steps=bench.LIMIT, **settings)
    core = core_of(envs)
    size = torch.tensor([core.width, core.height], device=core.device)
    envs.reset(seed=0)
    envs.action_space.seed(0)
    stepped, made = {}, {}
    episodes = 0
    began = time.perf_counter()
    for step in tqdm(range(1, arguments.steps + 1), unit="step"):
        frames, reward, terminated, truncated, infos = envs.step(envs.action_space.sample())
        world = core.state.world
        finite = all(bool(x.isfinite().all()) for x in (world.layer, world.position, *world.memory))
        if not (finite and np.isfinite(reward).all() and np.isfinite(infos["distance"]).all()):
            raise ValueError(f"step {step}: a value is not finite")
        inside = bool(((world.position >= 0) & (world.position <= size)).all())
        if not inside or frames.shape != envs.observation_space.shape or frames.dtype != np.uint8:
            raise ValueError(f"step {step}: an agent or a frame is out of bounds")
        episodes += int((terminated | truncated).sum())
        if step % EVERY == 0:
            stepped[step] = resources()
    speed = round(rows * arguments.steps / (time.perf_counter() - began), 1)
    envs.close()
    makes = max(1, min(MAKES, MAKES * arguments.steps // 10_000))
    for number in tqdm(range(1, makes + 1), unit="round"):
        make_and_close(id, settings)
        if number % max(1, makes // 10) == 0:
            made[number] = resources()
    report = {"id": id, "num_envs": rows, "steps": arguments.steps, "episodes": episodes, "machine": bench.machine()}
    report |= {"fps": speed, "steps_took": stepped, "makes_took": made}
    bench.write_report(report, text_of(report), arguments.out)


def make_and_close(id: str, settings: dict[str, Any]) -> None:
    """Make, step and close five environments of different kinds."""
    made: list[Any] = [gym.make(id, obs_type=kind, render_mode="rgb_array", **settings) for kind in ("frame", "dict")]
    made += [gym.make_vec(id, num_envs=4, **settings), gym.make_vec(id, num_envs=2, output="torch", **settings)]
    made.append(gym.make(id, obs_type="position", **settings))
    for env in made:
        env.reset(seed=0)
        env.step(env.action_space.sample())
    for env in made:
        env.close()


def resources() -> dict[str, float]:
    """What this process holds: memory in MB and, on Linux, open files and threads. Elsewhere memory is the peak."""
    if not Path("/proc/self/statm").exists():
        return {"resident_mb": bench.peak_memory("cpu")}
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return {
        "resident_mb": round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1),
        "open_files": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
    }


def text_of(report: dict[str, Any]) -> str:
    """The report in words."""
    out = f"{report['id']}: {report['steps']:,} random steps of {report['num_envs']} rows ({report['episodes']:,} "
    out += "episodes), all values finite, all agents inside\n"
    for what, kind in (("steps", "steps_took"), ("rounds of making five environments", "makes_took")):
        if len(report[kind]) > 1:
            (first, before), *_, (last, after) = report[kind].items()
            held = [f"{name.replace('_', ' ')} {before[name]:.0f}, {after[name]:.0f}" for name in before]
            out += f"- after {first} and {last} {what}: {'; '.join(held)}\n"
    return out


if __name__ == "__main__":
    sys.exit(main())
