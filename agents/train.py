"""Train a policy in a learned world with Stable-Baselines3: python -m agents.train --algo ppo --env GlassTennis-v1

Flags are RL Zoo's. The run folder LOG_FOLDER/ALGO/ENV_N gets TensorBoard events, checkpoints (last.zip,
best_model.zip), the best policy without pickle (policy.safetensors), its evaluation (evaluation.json, .md) and a film
of its best episode. Ctrl-C stops and saves; --resume goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from agents import evaluation
from agents.evaluation_env import make_evaluation_env
from agents.options import (
    OFF_POLICY,
    USUAL_OBSERVATION,
    AgentError,
    changes_of,
    checked,
    hyperparameters,
    is_batched,
    make_env,
    make_model,
    runs_of,
)
from glass_gym.policy import ALGORITHMS, Policy, model_class, read_zip, save_policy
from glass_gym.tools.locks import alone
from glass_gym.tools.time_left import TimeLeft
from glass_gym.worlds.checkpoint import write_atomically
from glass_gym.worlds.checks import without_folders

EVALUATION_SEED, CHOICE_SEED, FINAL_SEED = 10_000, 15_000, 20_000
"""added to --seed: of the evaluations while training, of the choice of a policy, of the final figures"""
EXAMPLES = """examples:
  python -m agents.train --algo ppo --env GlassTennis-v1
  python -m agents.train --algo ppo --env GlassSprites-v1 --obs-type position -n 100000
  python -m agents.train --algo dqn --env GlassTennis-v1 --obs-type position       (with hindsight: HER)
  python -m agents.train --algo ppo --env Glass-v0 --env-kwargs checkpoint:runs/mine/world.safetensors
  python -m agents.train --algo ppo --env RealTennis-v0                            (the real game, for comparison)
  python -m agents.train --algo ppo --env GlassTennis-v1 --resume"""


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = argparse.ArgumentParser(
        "python -m agents.train",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--algo", default="ppo", choices=list(ALGORITHMS), help="algorithm (default: ppo)")
    p.add_argument("--env", default="GlassTennis-v1", help="environment id (default: GlassTennis-v1)")
    p.add_argument(
        "--obs-type", choices=("frame", "position", "dict"), help="what the policy sees (default: frame; dqn: position)"
    )
    p.add_argument("-n", "--n-timesteps", type=count, help="steps of all rows together (default: hyperparams)")
    p.add_argument("--n-envs", type=count, help="rows (default: hyperparams)")
    p.add_argument("-f", "--log-folder", type=Path, default=Path("logs"), help="where runs go (default: logs)")
    p.add_argument(
        "-i", "--trained-agent", type=Path, help="start from this SB3 zip (it is unpickled: trust its source)"
    )
    p.add_argument("--resume", action="store_true", help="go on with the newest run of this algorithm and id")
    p.add_argument("--seed", type=from_0, default=0, help="of everything random (default: 0)")
    p.add_argument("--eval-freq", type=int, default=50_000, help="steps between evaluations; -1: none (default: 50000)")
    p.add_argument("--eval-episodes", type=count, default=64, help="episodes of each (default: 64)")
    p.add_argument("--n-eval-envs", type=count, default=64, help="rows of the evaluation (default: 64)")
    p.add_argument(
        "--final-episodes",
        type=from_0,
        default=1000,
        help="episodes of the last evaluation (default: 1000)",
    )
    p.add_argument("--save-minutes", type=minutes, default=3.0, help="minutes between checkpoints (default: 3)")
    p.add_argument("--max-minutes", type=minutes, default=float("inf"), help="stop, resumable, after this time")
    p.add_argument("--save-replay-buffer", action="store_true", help="off-policy: save the replay buffer too (large)")
    p.add_argument(
        "-params", "--hyperparams", nargs="+", default=[], metavar="KEY:VALUE", help="change hyperparameters"
    )
    p.add_argument(
        "--env-kwargs", nargs="+", default=[], metavar="KEY:VALUE", help="change the environment's arguments"
    )
    p.add_argument("-conf", "--conf-file", type=Path, help="RL Zoo's (default: agents/hyperparams/ALGO.yml)")
    p.add_argument(
        "--device", default="auto", help="of the policy: auto, cpu, cuda (the world's: --env-kwargs device:cuda)"
    )
    p.add_argument("--verbose", type=int, default=0, help="SB3's (default: 0)")
    p.add_argument(
        "-tb", "--tensorboard-log", type=Path, help="where TensorBoard's events go (default: the run folder)"
    )
    p.add_argument("--log-interval", type=count, default=10, help="updates between TensorBoard's points (default: 10)")
    p.add_argument("--num-threads", type=int, default=-1, help="of torch (default: torch's own choice)")
    p.add_argument(
        "-P", "--progress", action=argparse.BooleanOptionalAction, default=True, help="progress bar (default: yes)"
    )
    return p


def from_0(text: str) -> int:
    """An option that counts, from 0."""
    if not 0 <= int(text) < 1 << 31:
        raise argparse.ArgumentTypeError(f"{text} is not in 0 to {(1 << 31) - 1}")
    return int(text)


def count(text: str) -> int:
    """An option that counts, from 1."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return from_0(text)


def minutes(text: str) -> float:
    """An option in minutes."""
    if not float(text) >= 0:
        raise argparse.ArgumentTypeError(f"{text} is less than 0 minutes")
    return float(text)


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    arguments = parser().parse_args(argv)
    try:
        return 0 if train(arguments) else 3
    except (AgentError, ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


@dataclass
class Plan:
    """What a run does; kept in its folder, so that --resume does the same."""

    algo: str
    env: str
    obs_type: str
    steps: int
    rows: int
    seed: int
    settings: dict
    env_kwargs: dict

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Plan:
        """From the hyperparameters and the command line."""
        obs_type = arguments.obs_type or USUAL_OBSERVATION.get(arguments.algo, "frame")
        changes = changes_of(arguments.hyperparams)
        settings = hyperparameters(arguments.env, arguments.algo, obs_type, changes, arguments.conf_file)
        spread = {"stagger": True} if arguments.algo not in OFF_POLICY and is_batched(arguments.env) else {}
        asked = changes_of(arguments.env_kwargs)
        env_kwargs = spread | settings.get("env_kwargs", {}) | {"obs_type": obs_type} | asked
        steps = arguments.n_timesteps or settings["n_timesteps"]
        rows = arguments.n_envs or settings.get("n_envs", 8)
        return cls(arguments.algo, arguments.env, obs_type, steps, rows, arguments.seed, settings, env_kwargs)

    @classmethod
    def read(cls, folder: Path, steps: int | None) -> Plan:
        """Of a run; `steps`: another goal.

        Raises:
            AgentError: damaged.
        """
        file = folder / "plan.json"
        try:
            plan = cls(**json.loads(file.read_text()))
            checked(plan.settings)
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise AgentError(f"{file}: cannot be read ({error}); start a new run without --resume") from None
        return replace(plan, steps=steps or plan.steps)

    def make_env(self, rows: int, seed: int, **changes):
        """The VecEnv."""
        return make_env(self.env, rows, seed, self.settings.get("env_wrapper"), **self.env_kwargs | changes)


def train(arguments: argparse.Namespace) -> bool:
    """Train; returns False if it was interrupted (saved; --resume goes on)."""
    folder = run_folder(arguments.log_folder, arguments.algo, arguments.env, arguments.resume)
    with alone(folder):
        return _train(arguments, folder)


def _train(arguments: argparse.Namespace, folder: Path) -> bool:
    plan = Plan.read(folder, arguments.n_timesteps) if arguments.resume else Plan.of(arguments)
    model = _model(plan, arguments, folder)
    text = json.dumps(asdict(plan), indent=1)
    write_atomically(folder / "plan.json", lambda part: part.write_text(text))
    clock = _Clock(folder, arguments, plan.steps)
    clock.save(model)
    print(f"{plan.algo} in {plan.env} ({plan.obs_type}), {plan.steps:,} steps of {plan.rows} rows -> {folder}")
    left = plan.steps - model.num_timesteps * arguments.resume
    stopped = False
    try:
        if left > 0:
            model.learn(
                left,
                callback=_callbacks(plan, arguments, folder, clock),
                reset_num_timesteps=not arguments.resume,
                log_interval=arguments.log_interval,
                progress_bar=arguments.progress,
            )
    except KeyboardInterrupt:
        stopped = True
    clock.save(model)
    if stopped or clock.out_of_time:
        print(f"stopped and saved after {model.num_timesteps:,} steps: {folder / 'last.zip'}. Go on with --resume")
        return False
    model.env.close()
    finish(plan, arguments, model, folder, clock.minutes)
    return True


def _model(plan: Plan, arguments: argparse.Namespace, folder: Path):
    """A new model, a given one, or the run's last."""
    if arguments.num_threads > 0:
        import torch

        torch.set_num_threads(arguments.num_threads)
    common = {
        "env": plan.make_env(plan.rows, plan.seed),
        "device": arguments.device,
        "verbose": arguments.verbose,
        "tensorboard_log": str(arguments.tensorboard_log or folder / "tensorboard"),
    }
    source = folder / "last.zip" if arguments.resume else arguments.trained_agent
    if source is None:
        return make_model(plan.algo, plan.settings, **common, seed=plan.seed)
    try:
        model = model_class(plan.algo).load(source, **common)
    except Exception as error:  # SB3 lets zip, pickle, JSON and torch errors through
        raise AgentError(f"{source}: not a {plan.algo} model for this environment ({error})") from None
    buffer = folder / "replay_buffer.pkl"
    if arguments.resume and buffer.is_file():
        model.load_replay_buffer(buffer)
    return model


def _callbacks(plan: Plan, arguments: argparse.Namespace, folder: Path, clock: _Clock) -> list:
    """Checkpoints and time; evaluations, of which the best policy is kept."""
    from stable_baselines3.common.callbacks import ConvertCallback, EvalCallback

    callbacks: list = [ConvertCallback(lambda locals_, _: clock.step(locals_["self"]))]
    if arguments.eval_freq > 0:
        changes = {"stagger": False} if "stagger" in plan.env_kwargs else {}
        evaluations = {
            "eval_env": plan.make_env(arguments.n_eval_envs, plan.seed + EVALUATION_SEED, **changes),
            "n_eval_episodes": arguments.eval_episodes,
            "eval_freq": max(1, arguments.eval_freq // plan.rows),
        }
        keep = ConvertCallback(lambda *_: clock.keep_best(evaluation))
        evaluation = EvalCallback(callback_on_new_best=keep, log_path=str(folder), verbose=0, **evaluations)
        evaluation.best_mean_reward = clock.best
        callbacks.append(evaluation)
    return callbacks


def finish(plan: Plan, arguments: argparse.Namespace, model, folder: Path, minutes: float) -> None:
    """Export the better of the best and the last policy, evaluate it, film its best episode."""

    def env(rows: int, seed: int):
        return make_evaluation_env(plan.env, rows, plan.seed + seed, **plan.env_kwargs)

    chosen = model
    best = folder / "best_model.zip"
    if best.is_file() and arguments.final_episodes > 0:
        count = max(1, arguments.final_episodes // 4)
        rows = min(arguments.n_eval_envs, count)
        rivals = [model, read_zip(best, plan.algo)]
        returns = [evaluation.evaluate(env(rows, CHOICE_SEED), Policy(m), count)["return"] for m in rivals]
        chosen = rivals[int(returns[1] > returns[0])]
    about = {
        "env": plan.env,
        "obs_type": plan.obs_type,
        "timesteps": model.num_timesteps,
        "minutes": round(minutes, 2),
        "seed": plan.seed,
        "command": " ".join(without_folders(sys.argv[1:])),
    }
    path = save_policy(folder / "policy.safetensors", chosen, plan.algo, about)
    print(f"policy: {path}. Watch it: python -m agents.enjoy --env {plan.env} --trained-agent {path}")
    if arguments.final_episodes > 0:
        rows = min(arguments.n_eval_envs, arguments.final_episodes)
        figures = evaluation.compare(
            lambda: env(rows, FINAL_SEED), Policy(chosen), arguments.final_episodes, folder / "best_episode.gif"
        )
        evaluation.write(folder / "evaluation.json", {"algo": plan.algo, **about, "policies": figures})
        print(evaluation.table(figures) + f"{folder / 'evaluation.json'}, {folder / 'best_episode.gif'}")


def run_folder(log_folder: Path, algorithm: str, id: str, resume: bool) -> Path:
    """LOG_FOLDER/ALGO/ID_N: the newest for --resume, else one that does not exist yet.

    Raises:
        AgentError: nothing to resume.
    """
    parent = Path(log_folder) / algorithm
    newest = max(runs_of(log_folder, algorithm, id), default=0)
    folder = parent / f"{id}_{newest if resume else newest + 1}"
    if resume and not (folder / "last.zip").is_file():
        raise AgentError(f"{parent}: no run of {id} with a last.zip to resume; leave --resume out to start")
    return folder


class _Clock:
    """Saves every few minutes and stops in time. What it writes is whole at any moment."""

    def __init__(self, folder: Path, arguments: argparse.Namespace, goal: int):
        self.folder = folder
        self.arguments = arguments
        self.time_left = TimeLeft(goal)
        self.began = self.saved = time.monotonic()
        self.out_of_time = False
        self.before = 0.0
        self.best = -math.inf
        if arguments.resume:
            with contextlib.suppress(OSError, ValueError, TypeError, KeyError):  # it is only told
                told = json.loads((folder / "progress.json").read_text())
                self.before, self.best = float(told["minutes"]), float(told["best_mean_reward"])

    @property
    def minutes(self) -> float:
        """Of training, evaluations included, all sessions."""
        return self.before + (time.monotonic() - self.began) / 60

    def step(self, model) -> bool:
        """After every step; False stops."""
        now = time.monotonic()
        self._tell_time(model.num_timesteps)
        if now - self.saved > self.arguments.save_minutes * 60:
            self.save(model)
            self.saved = now
        self.out_of_time = (now - self.began) / 60 > self.arguments.max_minutes
        return not self.out_of_time

    def _tell_time(self, steps: int) -> None:
        if told := self.time_left.after(steps):
            left = self.time_left.goal - steps
            print(f"{told[0]:,.0f} steps a second on this machine: {left:,} more take about {told[1]:.0f} minutes")

    def save(self, model) -> None:
        """last.zip, and the replay buffer where it is asked for."""
        self._write("last.zip", model.save)
        if self.arguments.save_replay_buffer and hasattr(model, "save_replay_buffer"):
            self._write("replay_buffer.pkl", model.save_replay_buffer)
        self._tell()

    def keep_best(self, evaluation) -> bool:
        """best_model.zip, of an evaluation that was better than those before."""
        self._write("best_model.zip", evaluation.model.save)
        self.best = float(evaluation.best_mean_reward)
        self._tell()
        return True

    def _write(self, name: str, save) -> None:
        def write(part: Path) -> None:
            with part.open("wb") as file:  # SB3 would give a path another suffix
                save(file)

        write_atomically(self.folder / name, write)

    def _tell(self) -> None:
        text = json.dumps({"minutes": self.minutes, "best_mean_reward": self.best})
        write_atomically(self.folder / "progress.json", lambda part: part.write_text(text))


if __name__ == "__main__":
    sys.exit(main())
