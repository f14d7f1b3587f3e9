"""Play a policy of a learned world in the real environment: python -m agents.transfer --env RealArm-v0

Plays the same policy in the learned world and in the real environment (agents/real.py), where it acts through the map
of agents.ground. Random and greedy play are measured beside it and, where there is one, a policy that was trained in
the real environment. Writes the figures, and a film of both side by side. --ranks measures instead whether success in
the world predicts success outside: of policies from the given one to random play.

ALE Tennis needs ale-py, from the extra `train`; the arm needs gymnasium-robotics 'mujoco<3.4'.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from agents import evaluation
from agents.command import TRAINED, make_parser, run_command
from agents.evaluation_env import WorldEvaluationEnv, make_evaluation_env
from agents.ground import learned_id
from agents.real import REAL, RealEvaluationEnv
from glass_gym.policy import load_policy

SHARES = (0.0, 0.5, 0.7, 0.8, 0.86, 0.92, 0.96, 1.0)
"""Shares of random actions of the policies that are ranked."""
EXAMPLES = """examples:
  python -m agents.transfer                                   (GlassTennis-v0's policy in ALE Tennis)
  python -m agents.transfer --env RealArm-v0 --out arm.json   (GlassArm-v0's policy in MuJoCo)
  python -m agents.transfer --ranks --out ranks.json"""


class Mixture:
    """A policy that plays uniformly random actions with a probability."""

    def __init__(self, policy, share: float, seed: int = 0):
        self.policy = policy
        self.random = evaluation.RandomPolicy(seed)
        self.share = share

    def begin(self, rows=None) -> None:
        """New episodes begin."""
        self.policy.begin(rows)

    def act(self, env) -> np.ndarray:
        """Actions, (B, 2)."""
        swapped = self.random.rng.random(env.rows) < self.share
        drawn = self.random.act(env)
        return drawn if swapped.all() else np.where(swapped[:, None], drawn, self.policy.act(env))


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    p = make_parser("transfer", __doc__, EXAMPLES)
    add = p.add_argument
    add("--env", default="RealTennis-v0", choices=list(REAL), help="real environment (default: RealTennis-v0)")
    add("--policy", type=Path, help="default: the bundled policy of the learned world")
    add("--direct", type=Path, help="a policy trained in the real environment (default: the bundled one, if any)")
    add("--ground", type=Path, help="map to the real controls, of agents.ground (default: the bundled one)")
    add("--ranks", action="store_true", help="rank correlation of policies that play more and more random actions")
    add("--episodes", type=int, default=200, help="episodes of each player (default: 200)")
    add("--n-envs", type=int, default=8, help="environments side by side (default: 8)")
    add("--seed", type=int, default=40_000, help="seed of the first episode (default: 40000)")
    add("--out", type=Path, default=Path("transfer.json"), help="figures; the film is called like it, .gif")
    return run_command(transfer, p.parse_args(argv))


def transfer(arguments: argparse.Namespace) -> None:
    """Measure all players; print and write the figures, and film the policy."""
    learned = learned_id(arguments.env)
    path = arguments.policy or TRAINED / learned / "ppo.safetensors"
    policy = load_policy(path)
    kwargs = {} if arguments.ground is None else {"ground": arguments.ground}

    def measured(id: str, player) -> dict:
        env = make_evaluation_env(id, arguments.n_envs, arguments.seed, **(kwargs if id in REAL else {}))
        if player is policy:
            policy.check(env.core if isinstance(env, WorldEvaluationEnv) else env)
        return evaluation.evaluate(env, player, arguments.episodes)

    about = {"env": arguments.env, "policy": _named(path), "command": " ".join(sys.argv[1:])}
    if arguments.ranks:
        both = learned, arguments.env
        print(rank(arguments.out, about, policy, lambda player: [measured(id, player) for id in both]))
        return
    play = {
        "learned world": (learned, policy),
        "real, zero-shot": (arguments.env, policy),
        "real, random": (arguments.env, evaluation.RandomPolicy()),
        "real, greedy on the true position": (arguments.env, evaluation.GreedyPolicy()),
    }
    direct = arguments.direct or TRAINED / arguments.env / "ppo.safetensors"
    if arguments.direct or direct.is_file():
        play["real, trained in it"] = (arguments.env, load_policy(direct))
    figures = {}
    for name, player in play.items():
        figures[name] = measured(*player)
        print(f"{name}: {figures[name]['success']:.1%}", flush=True)
    print(evaluation.table(figures) + str(evaluation.write(arguments.out, about | {"policies": figures})))
    film = side_by_side(arguments.env, policy, arguments.seed, **kwargs)
    print(evaluation.save_film(arguments.out.with_suffix(".gif"), film))


def rank(out: Path, about: dict, policy, measure) -> str:
    """Add to a JSON file, such as a world's passport, how ranks of policies in the world predict those outside.

    Args:
        out: the file; it gets the entry `outside`.
        about: what is measured.
        policy: the best of the policies.
        measure: player -> figures in the world and outside.
    """
    from scipy.stats import spearmanr

    rows = []
    for share in SHARES:
        pair = measure(Mixture(policy, share))
        rows.append({"random": share, **{where: pair[i]["success"] for i, where in enumerate(("world", "outside"))}})
        print(", ".join(f"{name} {value:.1%}" for name, value in rows[-1].items()), flush=True)
    found = float(spearmanr(*([row[where] for row in rows] for where in ("world", "outside"))).statistic)
    known = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
    outside = about | {"episodes": pair[0]["episodes"], "rank_correlation": round(found, 3), "policies": rows}
    evaluation.write(out, known | {"outside": outside})
    return f"rank correlation {found:.3f}: {out}"


def _named(policy: Path) -> str:
    """Path of a policy in this checkout; of one from elsewhere only its name."""
    checkout = TRAINED.parent.parent.resolve()
    policy = policy.resolve()
    return str(policy.relative_to(checkout)) if policy.is_relative_to(checkout) else policy.name


def side_by_side(id: str, policy, seed: int, episodes: int = 3, pause: int = 6, **kwargs) -> list[np.ndarray]:
    """Frames of the learned world (left) and the real one (right), from the same starts to the same targets."""
    frames = []
    real = RealEvaluationEnv(id, 1, seed, **kwargs)
    world = WorldEvaluationEnv(learned_id(id), 1, seed)
    world.reset()
    for _ in range(episodes):
        real.reset()
        world.env.reset(options={"start_frame": real.reals[0].picture(), "target": real.reals[0].target})
        shown = [_walk(env, policy) for env in (world, real)]
        for t in range(max(map(len, shown)) + pause):
            pair = [film[min(t, len(film) - 1)] for film in shown]
            frames.append(np.concatenate([pair[0], np.full_like(pair[0][:, :4], 255), pair[1]], 1))
    return frames


def _walk(env, policy) -> list[np.ndarray]:
    policy.begin()
    frames = [env.pictures()[0]]
    reached = False
    steps = 0
    while not reached and steps < env.limit:
        reached = bool(env.step(policy.act(env))[1][0])
        frames.append(env.pictures()[0])
        steps += 1
    return frames


if __name__ == "__main__":
    sys.exit(main())
