"""The process that steps a simulator for benchmarks.peers: python peer_process.py KIND ROWS SETTINGS

It runs in the peer's checkout and imports nothing of ours, so that `import glass_gym` finds the checkout's version.
Each line of the input says for how many seconds to step; the answer is the median time of a step, in seconds.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

WARM = 5  # Steps before the first measurement.

Step = Callable[[], object]


def glass_gym_step(rows: int, settings: dict[str, Any]) -> Step:
    """A version of this package: its vector environment with NumPy frames."""
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
    """DIAMOND (Alonso et al. 2024): its sampler with 3 denoising steps of 64 x 64 px frames, untrained weights.

    Sizes are those of its `config/`: 4 past frames, 64 channels at each of four resolutions; channels last.
    """
    import torch
    from models.diffusion import (  # type: ignore[import-not-found]
        Denoiser,
        DenoiserConfig,
        DiffusionSampler,
        DiffusionSamplerConfig,
        InnerModelConfig,
    )

    device = settings.get("device", "auto")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    bf16 = settings.get("precision", "auto") != "float32"
    inner = InnerModelConfig(3, 4, 256, [2, 2, 2, 2], [64, 64, 64, 64], [0, 0, 0, 0], 18)
    denoiser = Denoiser(DenoiserConfig(inner, 0.5, 0.3)).to(device).to(memory_format=torch.channels_last).eval()
    sampler = DiffusionSampler(denoiser, DiffusionSamplerConfig(3))
    past = torch.rand(rows, 4, 3, 64, 64, device=device) * 2 - 1
    actions = torch.randint(18, (rows, 4), device=device)

    def step() -> object:
        with torch.no_grad(), torch.autocast(torch.device(device).type, torch.bfloat16) if bf16 else nullcontext():
            frame = sampler.sample(past, actions)[0]
        past[:, :-1] = past[:, 1:].clone()
        past[:, -1] = frame
        return frame.float().cpu()

    return step


PEERS: dict[str, tuple[str, str, Callable[[int, dict[str, Any]], Step]]] = {
    "glass_gym": ("glass_gym/__init__.py", ".", glass_gym_step),
    "diamond": ("src/models/diffusion/denoiser.py", "src", diamond_step),
}
"""By name: a file that its checkout has, the folder to import from, and a function that returns a step of all rows."""


def serve(kind: str, rows: int, settings: dict[str, Any]) -> None:
    """Warm up, then answer every line of the input."""
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
    serve(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]))
