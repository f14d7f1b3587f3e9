"""glass-bench: how fast a world runs on this machine.

Each column adds one part of training a policy:
  step                      the vector environment alone, frames as NumPy arrays ("torch out": as tensors on the device)
  step + policy             a Stable-Baselines3 CnnPolicy chooses each action, on frames of half the size
  step + policy + learning  whole PPO.learn() calls: 8 steps a row, 4 epochs, minibatches of 256
The last two columns need Stable-Baselines3 (pip install 'glass-gym[agents]').

Speeds are frames per second: rows x steps / seconds, resets included. A row is one environment of the vector
environment; more rows are faster in all and slower each. Every cell runs for --seconds to warm up, and then for as long
to be measured. Speeds differ between machines, also of one kind: compare figures of one machine only.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import platform
import re
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from tabulate import tabulate
from tqdm import tqdm

import glass_gym
from glass_gym.wrappers import core_of

BUNDLED = ("GlassTennis-v0", "GlassSprites-v0", "GlassArm-v0", "GlassMouse-v0")
SWEEP = (1, 4, 16, 64, 256, 1024)
LIMIT = 100  # Time limit of an episode in every measurement, steps.
COLUMNS = {
    "num_envs": "rows",
    "step_numpy_fps": "step",
    "step_torch_fps": "step, torch out",
    "step_policy_fps": "step + policy",
    "step_policy_learning_fps": "step + policy + learning",
    "step_ms": "ms a step",
}
EXAMPLES = """examples:
  glass-bench                                                  all columns of GlassTennis-v0, 1 to 1024 rows; minutes
  glass-bench --id GlassSprites-v0 --num-envs 64 --seconds 10  one row of the table, measured for longer
  glass-bench --checkpoint runs/mine/world.safetensors         a world of your own
  glass-bench --device cuda --out bench.json                   on a GPU
  glass-bench --fingerprint                                    has a change moved a pixel? run it before and after"""


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = world_parser("glass-bench", f"{__doc__}\n{EXAMPLES}", SWEEP, "glass_bench.json")
    what = """instead: print a SHA-256 of the frames of 100 random steps of seeds 0 to 3, for each bundled world, or for
        the one that is given. Equal hashes on one machine mean that no pixel has changed; other machines round
        differently"""
    parser.add_argument("--seconds", type=float, default=4.0, help="how long a cell is measured (default: 4)")
    parser.add_argument("--fingerprint", action="store_true", help=what)
    return run_benchmark(parser, argv, lambda a: print_fingerprints(a) if a.fingerprint else report_speed(a))


def world_parser(prog: str, about: str, rows: tuple[int, ...], out: str) -> argparse.ArgumentParser:
    """A parser of the options that all benchmarks have; `rows` and `out` are defaults."""
    parser = argparse.ArgumentParser(prog, description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--id", help=f"environment id (default: {BUNDLED[0]}, or Glass-v0 with --checkpoint)")
    add("--checkpoint", help="a world of your own: a .safetensors file")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:i or mps (default: auto)")
    add("--precision", default="auto", help="auto, float32 or bfloat16 (default: auto)")
    add("--num-envs", type=int, nargs="+", default=list(rows), help=f"rows (default: {' '.join(map(str, rows))})")
    add("--out", type=Path, default=Path(out), help=f"JSON to write (default: {out})")
    return parser


def run_benchmark(
    parser: argparse.ArgumentParser, argv: list[str] | None, work: Callable[[argparse.Namespace], None]
) -> int:
    """Parse the options and do the work; returns the exit status, 1 after an error that is told in one line."""
    arguments = parser.parse_args(argv)
    if min(arguments.num_envs) < 1 or not 0 < getattr(arguments, "seconds", 1) < 86400:
        parser.error("--num-envs and --seconds must be positive")
    try:
        work(arguments)
    except (ValueError, TypeError, OSError, gym.error.Error) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def env_of(arguments: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """The id of the environment, and its keyword arguments."""
    settings = {"device": arguments.device, "precision": arguments.precision}
    if arguments.checkpoint:
        settings["checkpoint"] = arguments.checkpoint
    return arguments.id or ("Glass-v0" if arguments.checkpoint else BUNDLED[0]), settings


def check_writable(out: Path) -> None:
    """Check, before minutes are spent, that a file can be written; OSError: it cannot."""
    out.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(out.parent, os.W_OK) or out.is_dir():
        raise OSError(f"{out} cannot be written; choose another --out")


def write_report(report: dict[str, Any], text: str, out: Path) -> None:
    """Write a report as JSON, and print its text."""
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"\n{text}\nwritten: {out}")


def print_fingerprints(arguments: argparse.Namespace) -> None:
    """A line for each bundled world, or one for the world that is given."""
    id, settings = env_of(arguments)
    for each in (id,) if arguments.id or arguments.checkpoint else BUNDLED:
        print(each, fingerprint(each, **settings))


def report_speed(arguments: argparse.Namespace) -> None:
    """Measure all cells, write the report and print its table."""
    check_writable(arguments.out)
    cells: list[Callable[..., dict[str, Any]]] = [time_steps, time_policy, time_learning]
    if find_spec("stable_baselines3") is None:
        print("Stable-Baselines3 is not installed: only steps are measured (pip install 'glass-gym[agents]')")
        cells = cells[:1]
    id, settings = env_of(arguments)
    lines = []
    with tqdm(total=len(arguments.num_envs) * len(cells), unit="cell", file=sys.stderr) as bar:
        for rows in arguments.num_envs:
            line: dict[str, Any] = {"num_envs": rows}
            for cell in cells:
                bar.set_description(f"{rows} rows, {cell.__name__.removeprefix('time_')}")
                line |= cell(id, rows, arguments.seconds, settings)
                bar.update()
            used = {key: line.pop(key) for key in ("device", "precision")}
            lines.append(line)
    report = {"id": id, "checkpoint": arguments.checkpoint, "machine": machine(), "rows": lines} | used
    report["peak_memory_mb"] = peak_memory(used["device"])
    write_report(report, markdown(report), arguments.out)


def time_steps(id: str, rows: int, seconds: float, settings: dict[str, Any]) -> dict[str, Any]:
    """Frames per second of the vector environment alone, NumPy and torch output; ms a step; device and precision."""
    out: dict[str, Any] = {}
    for output in ("numpy", "torch"):
        envs = gym.make_vec(id, num_envs=rows, output=output, stagger=True, max_episode_steps=LIMIT, **settings)
        core = core_of(envs)
        envs.reset(seed=0)
        envs.action_space.seed(0)
        actions = [envs.action_space.sample() for _ in range(16)]
        if output == "torch":
            actions = [torch.from_numpy(a).to(core.device) for a in actions]
        timed = _timed(lambda step, envs=envs, actions=actions: envs.step(actions[step % 16]), seconds, core.device)
        out[f"step_{output}_fps"] = round(rows / timed, 1)
        if output == "numpy":
            out["step_ms"] = round(1000 * timed, 2)
        envs.close()
    return out | {"device": str(core.device), "precision": str(core.simulator.precision).removeprefix("torch.")}


def time_policy(id: str, rows: int, seconds: float, settings: dict[str, Any]) -> dict[str, Any]:
    """Frames per second with a policy that chooses every action."""
    model = _ppo(id, rows, settings)
    env = model.get_env()
    observation: list[Any] = [env.reset()]

    def step(_: int) -> None:
        action, _ = model.predict(observation[0], deterministic=False)
        observation[0] = env.step(action)[0]

    timed = _timed(step, seconds, model.device)
    env.close()
    return {"step_policy_fps": round(rows / timed, 1)}


def time_learning(id: str, rows: int, seconds: float, settings: dict[str, Any]) -> dict[str, Any]:
    """Frames per second of whole learn() calls."""
    model = _ppo(id, rows, settings)
    batch = model.n_steps * rows
    model.learn(batch)  # warm up
    began = time.perf_counter()
    frames = 0
    while time.perf_counter() - began < seconds:
        model.learn(batch, reset_num_timesteps=False)
        frames += batch
    _wait(model.device)
    speed = frames / (time.perf_counter() - began)
    model.get_env().close()
    return {"step_policy_learning_fps": round(speed, 1)}


def fingerprint(id: str, seeds: int = 4, steps: int = 100, **settings: Any) -> str:
    """SHA-256, hexadecimal, of all frames of random play: `steps` for each of so many seeds."""
    frames = hashlib.sha256()
    for seed in range(seeds):
        env = gym.make(id, max_episode_steps=-1, **settings)
        frames.update(env.reset(seed=seed)[0].tobytes())
        rng = np.random.default_rng(seed)
        sizes = core_of(env).table.nvec
        for _ in range(steps):
            frame, _, terminated, _, _ = env.step(rng.integers(0, sizes))
            frames.update(frame.tobytes())
            if terminated:
                frames.update(env.reset()[0].tobytes())
        env.close()
    return frames.hexdigest()


def _ppo(id: str, rows: int, settings: dict[str, Any]) -> Any:
    from stable_baselines3 import PPO

    from glass_gym.sb3 import GlassVecEnv
    from glass_gym.wrappers.vector import DownscaleFrame

    def halve(env: Any) -> Any:
        core = core_of(env)
        return DownscaleFrame(env, (max(36, core.height // 2), max(36, core.width // 2)))

    env = GlassVecEnv(id, rows, wrappers=[halve], stagger=True, max_episode_steps=LIMIT, **settings)
    batch = min(256, 8 * rows)
    return PPO("CnnPolicy", env, n_steps=8, batch_size=batch, n_epochs=4, device=core_of(env.env).device, seed=0)


def _timed(step: Callable[[int], object], seconds: float, device: torch.device) -> float:
    """Seconds a step: the median over rounds of at least a fifth of the time, after as long a warm-up."""
    count = itertools.count()

    def one_round(seconds: float, least: int) -> float:
        start, steps = time.perf_counter(), 0
        while time.perf_counter() - start < seconds or steps < least:
            step(next(count))
            steps += 1
        _wait(device)
        return (time.perf_counter() - start) / steps

    one_round(seconds, 3)  # the first steps are slower: the DecoderCache is empty
    began = time.perf_counter()
    rounds = [one_round(seconds / 5, 1)]
    while time.perf_counter() - began < seconds:
        rounds.append(one_round(seconds / 5, 1))
    return float(np.median(rounds))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def machine() -> dict[str, Any]:
    """What figures are measured on: processor, cores, versions, GPU."""
    out = {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "glass_gym": glass_gym.__version__,
    }
    if torch.cuda.is_available():
        out["gpu"] = torch.cuda.get_device_name()
    return out


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*:(.*)", info.read_text(encoding="utf-8"), re.MULTILINE) if info.exists() else []
    return names[0].strip() if names else platform.processor() or platform.machine()


def peak_memory(device: str) -> float:
    """Peak memory in MB: of the GPU's allocations, or of this process."""
    if device.startswith("cuda"):
        return round(torch.cuda.max_memory_allocated() / 1e6, 1)
    try:
        import resource
    except ImportError:  # Windows has no such module
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e6 if sys.platform == "darwin" else 1e3), 1)


def markdown(report: dict[str, Any]) -> str:
    """The report as a table, with a line above that says what was measured, and where."""
    where = report["machine"]
    on = where.get("gpu") if report["device"].startswith("cuda") else f"{where['cores']} cores of {where['processor']}"
    names = [key for key in COLUMNS if key in report["rows"][0]]
    formats = {"num_envs": ",", "step_ms": ",.1f"}
    cells = [[f"{row[key]:{formats.get(key, ',.0f')}}" for key in names] for row in report["rows"]]
    heads = [COLUMNS[key] for key in names]
    table = tabulate(cells, heads, tablefmt="github", disable_numparse=True, colalign=("right",) * len(names))
    about = f"{report['id']} on {on} ({report['precision']}, torch {where['torch']}), frames per second; "
    return f"{about}peak memory {report['peak_memory_mb']:.0f} MB\n\n{table}\n"


if __name__ == "__main__":
    sys.exit(main())
