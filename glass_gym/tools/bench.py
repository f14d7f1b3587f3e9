"""glass-bench: how fast a world runs on this machine.

Frames a second = rows x steps / seconds, warmed up for as long as they are measured, the device synchronised before the
clock stops, resets included.
Three columns as Isaac Lab reports them: step; step + policy; step + policy + learning.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from glass_gym.wrappers import core_of

SWEEP = (1, 4, 16, 64, 256, 1024)
BUNDLED = ("GlassTennis-v1", "GlassSprites-v1", "GlassArm-v0")
MAKES = 50
"""Times that a soak of 10,000 steps makes and closes environments; a shorter one less often."""
LIMIT = 100
"""Time limit of an episode in every measurement."""


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(
        "glass-bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n  glass-bench\n  glass-bench --id GlassSprites-v1 --num-envs 64 256 --seconds 10\n"
        "  glass-bench --device cuda --out bench.json\n"
        "  glass-bench --soak 10000 --num-envs 32\n"
        "  glass-bench --against ../diamond --num-envs 1 64\n"
        "  glass-bench --processes 4 --num-envs 64\n"
        "  glass-bench --fingerprint",
    )
    parser.add_argument("--id", default="GlassTennis-v1", help="environment id (default: GlassTennis-v1)")
    parser.add_argument("--checkpoint", help="a world of your own, for the id Glass-v0")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:i (default: auto)")
    parser.add_argument("--num-envs", type=int, nargs="+", default=list(SWEEP), help=f"rows (default: {SWEEP})")
    parser.add_argument("--seconds", type=float, default=4.0, help="about how long each cell runs (default: 4)")
    parser.add_argument("--precision", default="auto", help="auto, float32 or bfloat16 (default: auto)")
    parser.add_argument("--out", type=Path, default=Path("glass_bench.json"), help="JSON; the Markdown goes beside it")
    parser.add_argument(
        "--fingerprint",
        action="store_true",
        help="instead: a hash of the frames of 100 random steps of seeds 0 to 3, of the bundled worlds (or of --id)",
    )
    parser.add_argument(
        "--soak", type=int, metavar="STEPS", help="instead: so many random steps, watching memory, values and bounds"
    )
    parser.add_argument(
        "--against",
        type=Path,
        metavar="PATH",
        help="instead: a peer's checkout in turns with ours, steps alone (DIAMOND, or another version of glass_gym)",
    )
    parser.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="instead: steps of 1 to N processes at once, each with --num-envs rows",
    )
    arguments = parser.parse_args(argv)
    if arguments.processes is not None and not 1 <= arguments.processes <= 1024:
        parser.error("--processes must lie in 1 to 1024")
    if min(arguments.num_envs) < 1 or not 0 < arguments.seconds < 86400:
        parser.error("--num-envs and --seconds must be positive")
    if arguments.soak is not None and arguments.soak < 1:
        parser.error("--soak takes a number of steps, 1 or more")
    try:
        _run(arguments, BUNDLED if arguments.id == parser.get_default("id") else (arguments.id,))
    except (ValueError, TypeError, OSError, gym.error.Error) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _run(arguments: argparse.Namespace, ids: tuple[str, ...]) -> None:
    if arguments.fingerprint:
        for id in ids:
            print(id, fingerprint(id, **_settings(arguments)))
        return
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(arguments.out.parent, os.W_OK) or arguments.out.is_dir():  # told before minutes are spent
        raise OSError(f"{arguments.out} cannot be written; choose another --out")
    if arguments.against:
        report = against(arguments)
        text = against_text(report)
    elif arguments.processes:
        report = scale(arguments)
        text = scale_text(report)
    elif arguments.soak:
        report = soak(arguments)
        text = soak_text(report)
    else:
        report = measure(arguments)
        text = markdown(report)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    arguments.out.with_suffix(".md").write_text(text)
    print(f"\n{text}\nwritten: {arguments.out} and {arguments.out.with_suffix('.md')}")


def _settings(arguments: argparse.Namespace) -> dict:
    settings = {"device": arguments.device, "precision": arguments.precision}
    return settings | ({"checkpoint": arguments.checkpoint} if arguments.checkpoint else {})


def measure(arguments: argparse.Namespace) -> dict:
    """All cells -> the report."""
    from tqdm import tqdm

    settings = _settings(arguments)
    report = {"id": arguments.id, "checkpoint": arguments.checkpoint, "machine": machine(), "rows": []}
    learns = _has_sb3()
    if not learns:
        print("Stable-Baselines3 is not installed: only steps are measured (pip install 'glass-gym[agents]')")
    kinds = ["step", *(["policy", "learning"] if learns else [])]
    with tqdm(total=len(arguments.num_envs) * len(kinds), unit="cell", file=sys.stderr) as bar:
        for rows in arguments.num_envs:
            line: dict = {"num_envs": rows}
            for kind in kinds:
                bar.set_description(f"{rows} rows, {kind}")
                line |= CELLS[kind](arguments.id, rows, arguments.seconds, settings)
                bar.update()
            report["rows"].append(line)
    report |= {"device": line["device"], "precision": line["precision"], "peak_memory_mb": peak_memory(line["device"])}
    for line in report["rows"]:
        del line["device"], line["precision"]
    return report


def time_steps(id: str, rows: int, seconds: float, settings: dict) -> dict:
    """The vector environment alone, NEXT_STEP, numpy out (on CUDA also torch out)."""
    import gymnasium as gym

    out: dict = {}
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


def time_policy(id: str, rows: int, seconds: float, settings: dict) -> dict:
    """Plus an SB3 CnnPolicy on frames of half size that chooses every action."""
    model = _model(id, rows, settings)
    env = model.get_env()
    observation: list[Any] = [env.reset()]

    def step(_):
        action, _ = model.predict(observation[0], deterministic=False)
        observation[0] = env.step(action)[0]

    timed = _timed(step, seconds, model.device)
    env.close()
    return {"step_policy_fps": round(rows / timed, 1)}


def time_learning(id: str, rows: int, seconds: float, settings: dict) -> dict:
    """Plus PPO's updates (8 steps a row, 4 epochs, minibatches of 256): whole learn() calls."""
    model = _model(id, rows, settings)
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
    """A hash of everything that is seen in random play: what did not change a pixel does not change it.

    It holds on one kind of machine: other kernels round otherwise.

    Args:
        id: of the environment.
        seeds: 0, 1, ...; of the environment and of the actions.
        steps: of each.
        settings: keyword arguments of the environment.

    Returns:
        SHA-256, hexadecimal.
    """
    import gymnasium as gym

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


def soak(arguments: argparse.Namespace) -> dict:
    """Many random steps of the first --num-envs rows, then five environments made and closed up to 50 times.

    Returns:
        the report: memory, open files and threads by step and by round, episodes, frames a second.

    Raises:
        ValueError: a value that is not finite, or an agent outside its bounds; the message names the step.
    """
    import gymnasium as gym
    from tqdm import tqdm

    rows = arguments.num_envs[0]
    envs = gym.make_vec(arguments.id, num_envs=rows, max_episode_steps=LIMIT, **_settings(arguments))
    core = core_of(envs)
    frames, _ = envs.reset(seed=0)
    envs.action_space.seed(0)
    used = {}
    ends = 0
    began = time.perf_counter()
    for step in tqdm(range(1, arguments.soak + 1), unit="step", file=sys.stderr):
        frames, reward, terminated, truncated, infos = envs.step(envs.action_space.sample())
        world = core.state.world
        whole = all(bool(x.isfinite().all()) for x in (world.layer, world.position, *world.memory))
        if not (whole and np.isfinite(reward).all() and np.isfinite(infos["distance"]).all()):
            raise ValueError(f"step {step}: a value is not finite")
        place = world.position
        size = torch.tensor([core.width, core.height], device=core.device)
        inside = bool(((place >= 0) & (place <= size)).all())
        if not inside or frames.shape != envs.observation_space.shape or frames.dtype != np.uint8:
            raise ValueError(f"step {step}: an agent or a frame is out of bounds")
        ends += int((terminated | truncated).sum())
        if step % 500 == 0:
            used[step] = resources()
    seconds = time.perf_counter() - began
    envs.close()
    made = {}
    makes = max(1, min(MAKES, MAKES * arguments.soak // 10_000))
    for number in tqdm(range(1, makes + 1), unit="round", file=sys.stderr):
        _make_and_close(arguments.id, **_settings(arguments))
        if number % max(1, makes // 10) == 0:
            made[number] = resources()
    return {
        "id": arguments.id,
        "num_envs": rows,
        "steps": arguments.soak,
        "episodes": ends,
        "machine": machine(),
        "fps": round(rows * arguments.soak / seconds, 1),
        "steps_took": used,
        "makes_took": made,
    }


def against(arguments: argparse.Namespace) -> dict:
    """Ours and a peer in turns, for each number of rows.

    Returns:
        the report.

    Raises:
        PeerError: no peer that is known, or one that ends.
    """
    from tqdm import tqdm

    from benchmarks.peers import compare

    settings = {"id": arguments.id} | _settings(arguments)
    rows = [
        compare(arguments.against, n, arguments.seconds, settings) for n in tqdm(arguments.num_envs, file=sys.stderr)
    ]
    return {"id": arguments.id, "against": str(arguments.against), "machine": machine(), "rows": rows}


def against_text(report: dict) -> str:
    """Its table."""
    lines = [f"{report['id']} and {report['rows'][0]['peer']}, in turns, frames a second", ""]
    lines += ["| rows | ours | the peer | ours over the peer |", "|---:|---:|---:|---:|"]
    for row in report["rows"]:
        lines.append(f"| {row['num_envs']:,} | {row['ours_fps']:,.0f} | {row['peer_fps']:,.1f} | {row['ratio']:.1f} |")
    return "\n".join(lines) + "\n"


def scale(arguments: argparse.Namespace) -> dict:
    """Steps of 1, 2, 4, ... processes at once, each one's share of the cores."""
    from tqdm import tqdm

    from benchmarks.peers import Runner

    rows = arguments.num_envs[0]
    settings = {"id": arguments.id} | _settings(arguments)
    counts = sorted({*(1 << i for i in range(arguments.processes.bit_length())), arguments.processes})
    cores = machine()["cores"]
    lines = []
    for count in tqdm(counts, unit="count", file=sys.stderr):
        threads = max(1, cores // count)
        runners = [Runner(Path(__file__).parents[1], rows, settings, threads) for _ in range(count)]
        for _ in range(2):  # caches fill in the first
            for runner in runners:
                runner.ask(arguments.seconds)
            taken = [runner.answer() for runner in runners]
        lines.append({"processes": count, "threads": threads, "fps": round(sum(rows / t for t in taken), 1)})
        for runner in runners:
            runner.close()
    return {"id": arguments.id, "num_envs": rows, "machine": machine(), "rows": lines}


def scale_text(report: dict) -> str:
    """Its table."""
    lines = [f"{report['id']}, {report['num_envs']} rows a process, {report['machine']['cores']} cores", ""]
    lines += ["| processes | threads each | frames a second |", "|---:|---:|---:|"]
    lines += [f"| {row['processes']} | {row['threads']} | {row['fps']:,.0f} |" for row in report["rows"]]
    return "\n".join(lines) + "\n"


def _make_and_close(id: str, **settings: Any) -> None:
    """Five environments, as people make them."""
    import gymnasium as gym

    made: list[Any] = [gym.make(id, obs_type=kind, render_mode="rgb_array", **settings) for kind in ("frame", "dict")]
    made += [gym.make_vec(id, num_envs=4, **settings), gym.make_vec(id, num_envs=2, output="torch", **settings)]
    made.append(gym.make(id, obs_type="position", **settings))
    for env in made:
        env.reset(seed=0)
        env.step(env.action_space.sample())
    for env in made:
        env.close()


def soak_text(report: dict) -> str:
    """What a soak says."""
    out = (
        f"{report['id']}: {report['steps']:,} random steps of {report['num_envs']} rows ({report['episodes']:,} "
        "episodes), all values finite, all agents inside\n"
    )
    for what, kind in (("steps", "steps_took"), ("times five environments made and closed", "makes_took")):
        took = report[kind]
        if len(took) > 1:
            (first, before), *_, (last, after) = took.items()
            words = [f"{name.replace('_', ' ')} {before[name]:.0f} then {after[name]:.0f}" for name in before]
            out += f"- after {first} and {last} {what}: {', '.join(words)}\n"
    return out


CELLS = {"step": time_steps, "policy": time_policy, "learning": time_learning}


def _model(id: str, rows: int, settings: dict) -> Any:
    from stable_baselines3 import PPO

    from glass_gym.sb3 import GlassVecEnv
    from glass_gym.wrappers.vector import DownscaleFrame

    def halve(env):
        core = core_of(env)
        return DownscaleFrame(env, (max(36, core.height // 2), max(36, core.width // 2)))

    env = GlassVecEnv(id, rows, wrappers=[halve], stagger=True, max_episode_steps=LIMIT, **settings)
    device = core_of(env.env).device
    batch = min(256, 8 * rows)
    return PPO("CnnPolicy", env, n_steps=8, batch_size=batch, n_epochs=4, device=device, seed=0)


def _timed(step, seconds: float, device: torch.device) -> float:
    """Seconds a step: the median over rounds of at least a fifth of the time, after as long a warm-up."""
    rounds = []
    count = 0
    warm = time.perf_counter() + seconds
    while time.perf_counter() < warm or count < 3:  # layers are kept (glass_gym/drawn.py): the first steps are slower
        step(count)
        count = count + 1
    _wait(device)
    began = time.perf_counter()
    while time.perf_counter() - began < seconds or not rounds:
        start = time.perf_counter()
        steps = 0
        while time.perf_counter() - start < seconds / 5 or not steps:
            step(count)
            count = count + 1
            steps = steps + 1
        _wait(device)
        rounds.append((time.perf_counter() - start) / steps)
    return float(np.median(rounds))


def _wait(device: torch.device) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def resources() -> dict[str, float]:
    """What this process holds: resident memory (MB), and where the system tells, open files and threads."""
    out = {"resident_mb": resident_memory()}
    if Path("/proc/self/fd").exists():
        out["open_files"] = len(os.listdir("/proc/self/fd"))
        out["threads"] = len(os.listdir("/proc/self/task"))
    return out


def _has_sb3() -> bool:
    from importlib.util import find_spec

    return find_spec("stable_baselines3") is not None


def machine() -> dict:
    """What the figures were measured on."""
    from glass_gym import __version__

    out = {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "glass_gym": __version__,
    }
    if torch.cuda.is_available():
        out["gpu"] = torch.cuda.get_device_name()
    return out


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def peak_memory(device: str) -> float:
    """MB: of the GPU's allocations, or of this process."""
    if device.startswith("cuda"):
        return round(torch.cuda.max_memory_allocated() / 1e6, 1)
    try:
        import resource
    except ImportError:  # Windows has no such module
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e6 if sys.platform == "darwin" else 1e3), 1)


def resident_memory() -> float:
    """MB that this process holds now (Linux; elsewhere the peak)."""
    status = Path("/proc/self/statm")
    if status.exists():
        return round(int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)
    return peak_memory("cpu")


COLUMNS = {
    "num_envs": "rows",
    "step_numpy_fps": "step",
    "step_torch_fps": "step, torch out",
    "step_policy_fps": "step + policy",
    "step_policy_learning_fps": "step + policy + learning",
    "step_ms": "ms a step",
}


def markdown(report: dict) -> str:
    """The report as a table."""
    where = report["machine"]
    on = where.get("gpu") if report["device"].startswith("cuda") else f"{where['cores']} cores of {where['processor']}"
    names = [key for key in COLUMNS if key in report["rows"][0]]
    lines = [
        f"{report['id']} on {on} ({report['precision']}, torch {where['torch']}), frames a second; "
        f"peak memory {report['peak_memory_mb']:.0f} MB",
        "",
        "| " + " | ".join(COLUMNS[key] for key in names) + " |",
        "|" + "---:|" * len(names),
    ]
    for row in report["rows"]:
        cells = [
            f"{row[key]:,}" if key == "num_envs" else f"{row[key]:,.{1 if key == 'step_ms' else 0}f}" for key in names
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
