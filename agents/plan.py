"""Planning with copies of states, no training: python -m agents.plan --method cem --out planning.json

A learned world can be copied: `state()` and `set_state()` put the present into many rows of a second, batched world,
which tries action sequences there. Random shooting draws them once; the cross-entropy method (CEM) draws them again
from the shifts of the best. The first action of the best sequence is played, and the plan is made anew.
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
from agents.enjoy import TRAINED
from agents.evaluation_env import WorldEvaluationEnv
from glass_gym.policy import PolicyError, load_policy


class Planner:
    """Acts by trying sequences of shifts in a copy of the world; local codes follow the shifts.

    Args:
        id: the world's id.
        rows: of the env that it acts in.
        samples: sequences tried for each row, in each round.
        horizon: steps of a sequence.
        rounds: 1 is random shooting; more is CEM.
        elite: share of the sequences that the next round is drawn like.
        discount: of a step's reward.
        seed: of the draws.
    """

    def __init__(
        self,
        id: str,
        rows: int,
        samples: int = 32,
        horizon: int = 5,
        rounds: int = 3,
        elite: float = 0.2,
        discount: float = 0.95,
        seed: int = 0,
        **kwargs,
    ):
        self.rows = rows
        self.samples = samples
        self.horizon = horizon
        self.rounds = rounds
        self.elite = max(1, round(elite * samples))
        self.discount = discount
        self.rng = np.random.default_rng(seed)
        self.dream = gym.make_vec(
            id,
            num_envs=rows * samples,
            obs_type="position",
            output="torch",
            max_episode_steps=None,
            autoreset_mode=AutoresetMode.DISABLED,
            **kwargs,
        )
        self.dream.reset(seed=seed)
        table = self.dream.unwrapped.core.table
        self.shifts = len(table.shifts)
        self.usual = np.asarray(table.usual_codes)

    def begin(self, rows=None) -> None:
        """Plans are made anew in every step."""

    def act(self, env: WorldEvaluationEnv) -> np.ndarray:
        """(rows, 2): the first actions of the best sequences."""
        present = env.env.unwrapped.state(np.repeat(np.arange(self.rows), self.samples))
        chances = np.full((self.rows, self.horizon, self.shifts), 1 / self.shifts)
        best = np.zeros((self.rows, self.horizon), int)
        most = np.full(self.rows, -np.inf)
        for _ in range(self.rounds):
            tried = self._draw(chances)  # (rows, samples, horizon)
            value = self._value(present, tried)  # (rows, samples)
            order = np.argsort(-value, axis=1)
            leader = order[:, 0]
            everyone = np.arange(self.rows)
            better = value[everyone, leader] > most
            best[better] = tried[everyone, leader][better]
            most = np.maximum(most, value[everyone, leader])
            chosen = np.take_along_axis(tried, order[:, : self.elite, None], 1)
            counts = np.eye(self.shifts)[chosen].mean(1)  # (rows, horizon, shifts)
            chances = 0.1 / self.shifts + 0.9 * counts
        return np.stack([best[:, 0], self.usual[best[:, 0]]], 1)

    def _draw(self, chances: np.ndarray) -> np.ndarray:
        """Categorical draws, (rows, samples, horizon) int."""
        numbers = self.rng.random((self.rows, self.samples, self.horizon, 1))
        return (numbers > chances.cumsum(-1)[:, None]).sum(-1).clip(max=self.shifts - 1)

    def _value(self, present, tried: np.ndarray) -> np.ndarray:
        """Discounted rewards until arrival, (rows, samples)."""
        self.dream.unwrapped.set_state(present)
        flat = torch.from_numpy(np.stack([tried, self.usual[tried]], -1).reshape(-1, self.horizon, 2))
        value = 0.0
        alive = 1.0
        for t in range(self.horizon):
            _, reward, reached, _, _ = self.dream.step(flat[:, t].contiguous())
            value = value + self.discount**t * reward * alive
            alive = alive * ~reached
        return value.cpu().numpy().reshape(self.rows, self.samples)


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    p = argparse.ArgumentParser(
        "python -m agents.plan", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--env", default="GlassTennis-v1", help="environment id (default: GlassTennis-v1)")
    p.add_argument(
        "--method", choices=("cem", "shooting"), nargs="+", default=["shooting", "cem"], help="default: both"
    )
    p.add_argument("--policy", type=Path, help="a trained policy to compare with (default: the bundled one)")
    p.add_argument("--episodes", type=int, default=50, help="episodes of each (default: 50)")
    p.add_argument("--rows", type=int, default=10, help="episodes side by side (default: 10)")
    p.add_argument(
        "--samples", type=int, default=32, help="sequences a round (default: 32; shooting takes 3 times as many)"
    )
    p.add_argument("--horizon", type=int, default=5, help="steps of a sequence (default: 5)")
    p.add_argument("--seed", type=int, default=50_000)
    p.add_argument("--out", type=Path, default=Path("planning.json"), help="figures; .md goes beside it")
    arguments = p.parse_args(argv)
    try:
        compare(arguments)
    except (PolicyError, ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def compare(arguments: argparse.Namespace) -> dict[str, dict]:
    """Measure planners, the policy, random and greedy play; print and write the table."""
    budget = {"cem": (arguments.samples, 3), "shooting": (3 * arguments.samples, 1)}
    players = {
        name: Planner(arguments.env, arguments.rows, budget[name][0], arguments.horizon, budget[name][1])
        for name in arguments.method
    }
    path = arguments.policy or TRAINED / arguments.env / "ppo.safetensors"
    if arguments.policy or path.is_file():
        players["policy"] = load_policy(path)
    players |= {"random": evaluation.RandomPolicy(), "greedy": evaluation.GreedyPolicy()}
    figures = {}
    for name, player in players.items():
        began = time.perf_counter()
        env = WorldEvaluationEnv(arguments.env, arguments.rows, arguments.seed)
        figures[name] = evaluation.evaluate(env, player, arguments.episodes)
        figures[name]["seconds"] = round(time.perf_counter() - began, 1)
    about = {"env": arguments.env, "samples": arguments.samples, "horizon": arguments.horizon}
    path = evaluation.write(arguments.out, about | {"command": " ".join(sys.argv[1:]), "policies": figures})
    print(evaluation.table(figures) + str(path))
    return figures


if __name__ == "__main__":
    sys.exit(main())
