"""Play a policy of the learned world in the real game: python -m agents.transfer --out transfer.json

Plays the same policy in GlassTennis-v0 and in ALE Tennis (agents/real_tennis.py). Random and greedy play are measured
beside it and, with --direct, a policy that was trained in the real game. Writes the figures, and a film of both worlds
side by side. The real game needs ale-py, from the extra `train`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from agents import evaluation
from agents.command import make_parser, run_command
from agents.enjoy import TRAINED
from agents.evaluation_env import WorldEvaluationEnv, make_evaluation_env
from agents.real_tennis import RealEvaluationEnv
from glass_gym.policy import Policy, load_policy

REAL = "RealTennis-v0"
LEARNED = "GlassTennis-v0"


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    p = make_parser("transfer", __doc__)
    add = p.add_argument
    direct = "a policy trained in the real game; left out if there is none (default: the bundled one)"
    add("--policy", type=Path, default=TRAINED / LEARNED / "ppo.safetensors", help="default: the bundled policy")
    add("--direct", type=Path, default=TRAINED / REAL / "ppo.safetensors", help=direct)
    add("--episodes", type=int, default=200, help="episodes of each player (default: 200)")
    add("--n-envs", type=int, default=8, help="games side by side (default: 8)")
    add("--fire-codes", type=int, nargs="*", help="codes (0 to K-1) that press the button (default: all)")
    add("--seed", type=int, default=40_000, help="seed of the first episode (default: 40000)")
    add("--out", type=Path, default=Path("transfer.json"), help="figures; the film is called like it, .gif")
    return run_command(transfer, p.parse_args(argv))


def transfer(arguments: argparse.Namespace) -> None:
    """Measure all players; print and write the figures, and film the policy."""
    policy = load_policy(arguments.policy)
    real = _buttons(policy, arguments.fire_codes)
    play = {
        "learned world": (LEARNED, policy, {}),
        "real game, zero-shot": (REAL, policy, real),
        "real game, random": (REAL, evaluation.RandomPolicy(), real),
        "real game, greedy on RAM": (REAL, evaluation.GreedyPolicy(), real),
    }
    if arguments.direct.is_file():
        direct = load_policy(arguments.direct)
        play["real game, trained in it"] = (REAL, direct, _buttons(direct, arguments.fire_codes))
    figures = {}
    for name, (id, player, kwargs) in play.items():
        env = make_evaluation_env(id, arguments.n_envs, arguments.seed, **kwargs)
        figures[name] = evaluation.evaluate(env, player, arguments.episodes)
        print(f"{name}: {figures[name]['success']:.1%}", flush=True)
    about = {"policy": _named(arguments.policy), "fire_codes": real["fire_codes"], "command": " ".join(sys.argv[1:])}
    print(evaluation.table(figures) + str(evaluation.write(arguments.out, about | {"policies": figures})))
    print(evaluation.save_film(arguments.out.with_suffix(".gif"), side_by_side(policy, real, arguments.seed)))


def _named(policy: Path) -> str:
    """Path of a policy in this checkout; of one from elsewhere only its name."""
    checkout = TRAINED.parent.parent.resolve()
    policy = policy.resolve()
    return str(policy.relative_to(checkout)) if policy.is_relative_to(checkout) else policy.name


def _buttons(policy: Policy, fire_codes: list[int] | None) -> dict[str, Any]:
    """Arguments of the real game: as many local actions as the policy has, and which of them press the fire button."""
    codes = int(policy.model.action_space.nvec[1])
    return {"codes": codes, "fire_codes": tuple(range(codes) if fire_codes is None else fire_codes)}


def side_by_side(policy, real: dict, seed: int, episodes: int = 3, pause: int = 6) -> list[np.ndarray]:
    """Frames of the learned world (left) and the real game (right), from the same starts to the same targets."""
    frames = []
    game = RealEvaluationEnv(1, seed, **real)
    world = WorldEvaluationEnv(LEARNED, 1, seed)
    world.reset()
    for _ in range(episodes):
        game.reset()
        start = game.games[0].frame(shown=False)
        target = game.games[0].target
        world.env.reset(options={"start_frame": start[0].permute(1, 2, 0).numpy(), "target": target})
        shown = [_walk(env, policy) for env in (world, game)]
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
