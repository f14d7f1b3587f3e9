"""Other people's simulators beside ours, in one run (``glass-bench --against PATH``).

A peer is a checkout. It is imported from its path, in a process of its own; none of its code is here. This file is that
process's script, too, so it imports nothing of ours: what `glass_gym` is, the path decides.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

ROUNDS = 5
"""Times that each is measured, in turns."""
WARM = 5
"""Steps before a first round."""

Step = Callable[[], object]


class PeerError(ValueError):
    """A peer that cannot be measured; the message says why."""


def glass_gym_step(rows: int, settings: dict[str, Any]) -> Step:
    """Another version of this package: its vector environment, numpy out."""
    import gymnasium as gym

    import glass_gym  # noqa: F401  (registers the ids)

    settings = dict(settings)
    envs = gym.make_vec(settings.pop("id"), num_envs=rows, max_episode_steps=100, **settings)
    envs.reset(seed=0)
    envs.action_space.seed(0)
    actions = [envs.action_space.sample() for _ in range(64)]
    turn = iter(range(1 << 62))
    return lambda: envs.step(actions[next(turn) % len(actions)])


def diamond_step(rows: int, settings: dict[str, Any]) -> Step:
    """DIAMOND (Alonso et al. 2024): its sampler, 3 denoising steps of frames of 64 x 64 px, untrained weights.

    As shipped in `config/`: 4 frames of the past, 64 channels at each of four sizes; channels last.

    Returns:
        a step of all rows.
    """
    import torch
    from models.diffusion import (  # type: ignore[import-not-found]
        Denoiser,
        DenoiserConfig,
        DiffusionSampler,
        DiffusionSamplerConfig,
        InnerModelConfig,
    )

    device = _device(settings)
    inner = InnerModelConfig(3, 4, 256, [2, 2, 2, 2], [64, 64, 64, 64], [0, 0, 0, 0], 18)
    denoiser = Denoiser(DenoiserConfig(inner, 0.5, 0.3)).to(device).to(memory_format=torch.channels_last).eval()
    sampler = DiffusionSampler(denoiser, DiffusionSamplerConfig(3))
    past = torch.rand(rows, 4, 3, 64, 64, device=device) * 2 - 1
    actions = torch.randint(18, (rows, 4), device=device)

    def step() -> object:
        with torch.no_grad(), _autocast(settings, device):
            frame = sampler.sample(past, actions)[0]
        past[:, :-1] = past[:, 1:].clone()
        past[:, -1] = frame
        return frame.float().cpu()

    return step


PEERS: dict[str, tuple[str, str, Callable[[int, dict[str, Any]], Step]]] = {
    "glass_gym": ("glass_gym/__init__.py", ".", glass_gym_step),
    "diamond": ("src/models/diffusion/denoiser.py", "src", diamond_step),
}
"""By name: a file that tells it, the folder that it imports from, and what makes a step of some rows."""


def kind_of(path: Path) -> str:
    """What a checkout is of.

    Returns:
        a name in PEERS.

    Raises:
        PeerError: nothing that is known here.
    """
    for name, (file, _, _) in PEERS.items():
        if (path / file).is_file():
            return name
    known = ", ".join(f"{name} ({file})" for name, (file, _, _) in PEERS.items())
    raise PeerError(f"{path} is no checkout of a peer that is known here: {known}")


def _device(settings: dict[str, Any]) -> str:
    import torch

    device = settings.get("device", "auto")
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def _autocast(settings: dict[str, Any], device: str) -> Any:
    import torch

    precision = settings.get("precision", "auto")
    if precision == "float32":
        return nullcontext()
    return torch.autocast(torch.device(device).type, torch.bfloat16)


class Runner:
    """A peer in its process, ready to step.

    Args:
        path: of its checkout.
        rows: stepped at once.
        settings: `id`, `device`, `precision`, `checkpoint`, as far as it knows them.
        threads: of torch; 0: its own choice.

    Raises:
        PeerError: it cannot be started.
    """

    def __init__(self, path: Path, rows: int, settings: dict[str, Any], threads: int = 0):
        self.kind = kind_of(path)
        source = (path / PEERS[self.kind][1]).resolve()
        self.process = subprocess.Popen(
            [sys.executable, __file__, self.kind, str(rows), json.dumps(settings)],
            cwd=source,
            env={**os.environ, "PYTHONPATH": str(source)} | ({"OMP_NUM_THREADS": str(threads)} if threads else {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.answer()

    def ask(self, seconds: float) -> None:
        """Let it step for so long."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()

    def answer(self) -> float:
        """Seconds a step (median) of what was asked for, when that is done."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)["seconds"]
        raise PeerError(f"{self.kind} ended with {self.process.wait()}; what it said is above")

    def time(self, seconds: float) -> float:
        """Both."""
        self.ask(seconds)
        return self.answer()

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)


def compare(path: Path, rows: int, seconds: float, settings: dict[str, Any]) -> dict[str, Any]:
    """Ours and a peer, measured in turns.

    Args:
        path: of the peer's checkout.
        rows: stepped at once.
        seconds: that each is stepped for, all rounds together; ours is stepped as long before, as a policy would.
        settings: of :class:`Runner`.

    Returns:
        frames a second of both (medians of the rounds), and their ratio.

    Raises:
        PeerError: the peer is unknown, or ends.
    """
    import numpy as np

    runners = {"ours": Runner(Path(__file__).parents[1], rows, settings)}
    try:
        runners["peer"] = Runner(path, rows, settings)
        for runner in runners.values():
            runner.time(seconds)  # caches fill
        taken: dict[str, list[float]] = {name: [] for name in runners}
        for _ in range(ROUNDS):
            for name, runner in runners.items():
                taken[name].append(runner.time(seconds / ROUNDS))
        ours, peer = (rows / float(np.median(taken[name])) for name in ("ours", "peer"))
    finally:
        for runner in runners.values():
            runner.close()
    return {"num_envs": rows, "peer": runners["peer"].kind, "ours_fps": ours, "peer_fps": peer, "ratio": ours / peer}


def _serve(kind: str, rows: int, settings: dict[str, Any]) -> None:
    """The process: every line of the input is for how many seconds to step."""
    import statistics

    step = PEERS[kind][2](rows, settings)
    for _ in range(WARM):
        step()
    print(json.dumps({"seconds": 0}), flush=True)
    for line in sys.stdin:
        taken = []
        end = time.perf_counter() + float(line)
        while time.perf_counter() < end or not taken:
            began = time.perf_counter()
            step()
            taken.append(time.perf_counter() - began)
        print(json.dumps({"seconds": statistics.median(taken)}), flush=True)


if __name__ == "__main__":
    sys.path.pop(0)  # this file's folder; PYTHONPATH has the peer's
    _serve(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]))
