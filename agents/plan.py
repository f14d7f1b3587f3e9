"""Plan with copies of states, without training: python -m agents.plan --method cem --out planning.json

`state()` and `set_state()` copy the present state of a learned world into many environments of a second, batched world.
The planner tries action sequences there. Random shooting draws them once; the cross-entropy method (CEM) draws them
several times, each time from the distribution of the best so far. The planner plays the first action of the best
sequence, and plans anew in the next step.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from agents import evaluation
from agents.command import TRAINED, make_parser, run_command
from agents.evaluation_env import WorldEvaluationEnv
from glass_gym.policy import load_policy

ELITE = 0.2  # share of the sequences that the distribution of the next round is estimated from
DISCOUNT = 0.95  # of rewards, for each step


class Planner:
    """Tries sequences of shifts in a copy of the world; each shift comes with the code that is most frequent for it.

    Args:
        id: the world's id.
        rows: B, the number of environments that it acts in.
        samples: sequences tried for each of them, in each round.
        horizon: steps of a sequence.
        rounds: 1 is random shooting; more is CEM.
        kwargs: of the id.
    """

    def __init__(self, id: str, rows: int, samples: int = 32, horizon: int = 5, rounds: int = 3, **kwargs):
        self.rows = rows
        self.samples = samples
        self.horizon = horizon
        self.rounds = rounds
        self.elite = max(1, round(ELITE * samples))
        self.rng = np.random.default_rng(0)
        self.dream = gym.make_vec(
            id,
            num_envs=rows * samples,
            obs_type="position",
            output="torch",
            max_episode_steps=None,
            autoreset_mode=AutoresetMode.DISABLED,
            **kwargs,
        )
        self.dream.reset(seed=0)
        table = self.dream.unwrapped.core.table
        self.shifts = len(table.shifts)
        self.usual = np.asarray(table.usual_codes)

    def begin(self, rows=None) -> None:
        """Nothing is kept between steps."""

    def act(self, env: WorldEvaluationEnv) -> np.ndarray:
        """The first actions of the best sequences, (B, 2)."""
        present = env.env.unwrapped.state(np.repeat(np.arange(self.rows), self.samples))
        probabilities = np.full((self.rows, self.horizon, self.shifts), 1 / self.shifts)
        best = np.zeros((self.rows, self.horizon), int)
        most = np.full(self.rows, -np.inf)
        for _ in range(self.rounds):
            tried = self._draw(probabilities)  # (B, samples, horizon)
            value = self._value(present, tried)  # (B, samples)
            order = np.argsort(-value, axis=1)
            leader = order[:, 0]
            everyone = np.arange(self.rows)
            better = value[everyone, leader] > most
            best[better] = tried[everyone, leader][better]
            most = np.maximum(most, value[everyone, leader])
            chosen = np.take_along_axis(tried, order[:, : self.elite, None], 1)
            counts = np.eye(self.shifts)[chosen].mean(1)  # (B, horizon, shifts)
            probabilities = 0.1 / self.shifts + 0.9 * counts
        return np.stack([best[:, 0], self.usual[best[:, 0]]], 1)

    def _draw(self, probabilities: np.ndarray) -> np.ndarray:
        """Draw indices of shifts, (B, samples, horizon) int."""
        numbers = self.rng.random((self.rows, self.samples, self.horizon, 1))
        return (numbers > probabilities.cumsum(-1)[:, None]).sum(-1).clip(max=self.shifts - 1)

    def _value(self, present, tried: np.ndarray) -> np.ndarray:
        """Discounted rewards until arrival, (B, samples)."""
        self.dream.unwrapped.set_state(present)
        flat = torch.from_numpy(np.stack([tried, self.usual[tried]], -1).reshape(-1, self.horizon, 2))
        value = 0.0
        alive = 1.0
        for t in range(self.horizon):
            _, reward, reached, _, _ = self.dream.step(flat[:, t].contiguous())
            value = value + DISCOUNT**t * reward * alive
            alive = alive * ~reached
        return value.cpu().numpy().reshape(self.rows, self.samples)


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    p = make_parser("plan", __doc__)
    add = p.add_argument
    add("--env", default="GlassTennis-v0", help="environment id (default: GlassTennis-v0)")
    add("--method", choices=("cem", "shooting"), nargs="+", default=["shooting", "cem"], help="default: both")
    add("--policy", type=Path, help="a trained policy to compare with (default: the bundled one)")
    add("--episodes", type=int, default=50, help="episodes of each player (default: 50)")
    add("--n-envs", type=int, default=10, help="episodes side by side (default: 10)")
    add("--samples", type=int, default=32, help="sequences a round (default: 32; shooting takes 3 times as many)")
    add("--horizon", type=int, default=5, help="steps of a sequence (default: 5)")
    add("--seed", type=int, default=50_000, help="seed of the first episode (default: 50000)")
    add("--out", type=Path, default=Path("planning.json"), help="figures (default: planning.json)")
    return run_command(compare, p.parse_args(argv))


def compare(arguments: argparse.Namespace) -> None:
    """Measure the planners, a policy, random and greedy play; print and write the figures."""
    path = arguments.policy or TRAINED / arguments.env / "ppo.safetensors"
    policy = {"policy": load_policy(path)} if arguments.policy or path.is_file() else {}
    budget = {"cem": (arguments.samples, 3), "shooting": (3 * arguments.samples, 1)}
    players = {
        name: Planner(arguments.env, arguments.n_envs, budget[name][0], arguments.horizon, budget[name][1])
        for name in arguments.method
    }
    players |= policy | {"random": evaluation.RandomPolicy(), "greedy": evaluation.GreedyPolicy()}
    figures = {}
    for name, player in players.items():
        began = time.perf_counter()
        env = WorldEvaluationEnv(arguments.env, arguments.n_envs, arguments.seed)
        figures[name] = evaluation.evaluate(env, player, arguments.episodes)
        figures[name]["seconds"] = round(time.perf_counter() - began, 1)
    about = {"env": arguments.env, "samples": arguments.samples, "horizon": arguments.horizon}
    path = evaluation.write(arguments.out, about | {"command": " ".join(sys.argv[1:]), "policies": figures})
    print(evaluation.table(figures) + str(path))


if __name__ == "__main__":
    sys.exit(main())
