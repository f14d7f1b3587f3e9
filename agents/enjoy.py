"""Watch a trained policy in a window, or measure it: python -m agents.enjoy --env GlassTennis-v0

It plays the policy given by --trained-agent, else that of the newest run in --folder, else the one that comes with this
repository.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from pathlib import Path

import gymnasium as gym

import glass_gym  # noqa: F401  (registers the ids)
from agents import evaluation
from agents.command import TRAINED, make_parser, run_command
from agents.evaluation_env import make_evaluation_env
from agents.options import AgentError, changes_of, check_id, runs_of
from glass_gym.env.window import Window
from glass_gym.play.player import Player
from glass_gym.policy import ALGORITHMS, load_policy, policy_header
from glass_gym.wrappers import core_of

EXAMPLES = """examples:
  python -m agents.enjoy --env GlassTennis-v0
  python -m agents.enjoy --env GlassSprites-v0 --algo ppo -f logs --no-render --n-episodes 1000
  python -m agents.enjoy --env GlassTennis-v0 --env-kwargs task:perform
  python -m agents.enjoy --env GlassTennis-v0 --record best.gif --no-render"""


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    p = make_parser("enjoy", __doc__, EXAMPLES)
    add = p.add_argument
    add("--algo", default="ppo", choices=list(ALGORITHMS), help="algorithm (default: ppo)")
    add("--env", default="GlassTennis-v0", help="environment id (default: GlassTennis-v0)")
    add("-f", "--folder", type=Path, default=Path("logs"), help="where runs are (default: logs)")
    add("--exp-id", type=int, default=0, help="number of the run (default: the newest)")
    add("--load-best", action="store_true", help="best_model.zip of the run instead of policy.safetensors")
    add("-i", "--trained-agent", type=Path, help="a policy: .safetensors, or .zip (unpickled: trust its source)")
    add("--no-render", action="store_true", help="open no window; measure the policy and print a table")
    add("--n-episodes", type=int, default=100, help="episodes to show or to measure (default: 100)")
    add("--n-envs", type=int, default=16, help="environments side by side while it is measured (default: 16)")
    add("--record", type=Path, help="measure, and write a film of the best episode, .gif or .mp4")
    add("--stochastic", action="store_true", help="draw actions instead of taking the most likely one")
    add("--out", type=Path, help="measure, and write the figures as JSON")
    add("--seed", type=int, default=30_000, help="seed of the first episode (default: 30000)")
    add("--env-kwargs", nargs="+", default=[], metavar="KEY:VALUE", help="arguments of the environment to change")
    return run_command(enjoy, p.parse_args(argv))


def enjoy(arguments: argparse.Namespace) -> None:
    """Show the policy in a window, or measure it."""
    check_id(arguments.env)
    path = find_policy(arguments)
    print(f"policy: {path}")
    if not arguments.no_render:
        watch(arguments, path)
        if not (arguments.out or arguments.record):
            return
    policy = load_policy(path, arguments.algo)
    policy.deterministic = not arguments.stochastic
    kwargs = changes_of(arguments.env_kwargs)
    figures = evaluation.compare(
        lambda: make_evaluation_env(arguments.env, arguments.n_envs, arguments.seed, **kwargs),
        policy,
        arguments.n_episodes,
        arguments.record,
    )
    print(evaluation.table(figures), end="")
    if arguments.out:
        made = policy_header(path)["provenance"] if path.suffix == ".safetensors" else {}
        about = {key: made[key] for key in ("timesteps", "minutes") if key in made}
        about |= {"env": arguments.env, "policy": str(path), "command": " ".join(sys.argv[1:])}
        print(evaluation.write(arguments.out, about | {"policies": figures}))


def watch(arguments: argparse.Namespace, path: Path) -> None:
    """Show `--n-episodes` episodes in a window; DisplayError: none can be opened."""
    kwargs = changes_of(arguments.env_kwargs)
    with gym.make(arguments.env, **kwargs | {"render_mode": "rgb_array"}) as env:
        policy = load_policy(path, arguments.algo, core_of(env))
        policy.deterministic = not arguments.stochastic
        player = Player(env, None, policy)
        player.reset(arguments.seed)
        with closing(Window(player.frame.shape[:2], f"{path.name}: {arguments.env}", lines=3)) as player.window:
            player.run(max_episodes=arguments.n_episodes)
        print(f"{player.reached} of {player.episodes} targets reached")


def find_policy(arguments: argparse.Namespace) -> Path:
    """The file of the policy that the options name; AgentError: there is none."""
    if arguments.trained_agent:
        return arguments.trained_agent
    runs = runs_of(arguments.folder, arguments.algo, arguments.env)
    if arguments.exp_id:
        runs = {number: run for number, run in runs.items() if number == arguments.exp_id}
    names = ["best_model.zip"] if arguments.load_best else ["policy.safetensors", "best_model.zip", "last.zip"]
    for run in reversed(runs.values()):
        for name in names:
            if (run / name).is_file():
                return run / name
    task = changes_of(arguments.env_kwargs).get("task")
    bundled = TRAINED / arguments.env / f"{arguments.algo}{f'-{task}' if task else ''}.safetensors"
    if bundled.is_file() and not arguments.exp_id:
        return bundled
    raise AgentError(
        f"no policy of {arguments.algo} for {arguments.env} in {arguments.folder} or {TRAINED}; train one: "
        f"python -m agents.train --algo {arguments.algo} --env {arguments.env}"
    )


if __name__ == "__main__":
    sys.exit(main())
