"""Train a policy in a learned world with Stable-Baselines3: python -m agents.train --algo ppo --env GlassTennis-v0

The options are RL Zoo's. A run writes into the folder LOG_FOLDER/ALGO/ENV_N: checkpoints (last.zip, best_model.zip),
the best policy without pickle (policy.safetensors), its evaluation (evaluation.json), a film of its best episode and
TensorBoard events. Ctrl-C stops and saves the run; --resume continues it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import shlex
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from agents import evaluation
from agents.command import make_parser, run_command
from agents.evaluation_env import make_evaluation_env
from agents.options import (
    DEFAULT_OBSERVATION,
    AgentError,
    changes_of,
    checked,
    hyperparameters,
    is_batched,
    make_env,
    make_model,
    pairs_of,
    runs_of,
)
from glass_gym.policy import ALGORITHMS, Policy, model_class, read_zip, save_policy
from glass_gym.tools.locks import alone
from glass_gym.tools.time_left import TimeLeft
from glass_gym.worlds.checkpoint import write_atomically
from glass_gym.worlds.checks import without_folders

EVALUATION_SEED, CHOICE_SEED, FINAL_SEED = 10_000, 15_000, 20_000
"""Added to --seed: for evaluations during training, for the choice of the best policy, for the final figures."""
EXAMPLES = """examples:
  python -m agents.train --algo ppo --env GlassTennis-v0
  python -m agents.train --algo ppo --env GlassSprites-v0 --obs-type position -n 100000
  python -m agents.train --algo dqn --env GlassTennis-v0 --obs-type position       (with hindsight replay, HER)
  python -m agents.train --algo sac --env GlassTennis-v0                           (shifts in px)
  python -m agents.train --algo ppo --env GlassTennis-v0 --obs-type position --env-kwargs task:perform
  python -m agents.train --algo ppo --env Glass-v0 --env-kwargs checkpoint:runs/mine/world.safetensors
  python -m agents.train --algo ppo --env RealTennis-v0                            (the real game, for comparison)
  python -m agents.train --algo ppo --env GlassTennis-v0 --resume"""


def at_least(least: int, kind: type = int):
    """The type of an option that is a number of at least `least`."""

    def read(text: str):
        if not least <= kind(text) < 1 << 31:
            raise argparse.ArgumentTypeError(f"{text} is not in {least} to {(1 << 31) - 1}")
        return kind(text)

    read.__name__ = kind.__name__
    return read


count, from_0, minutes = at_least(1), at_least(0), at_least(0, float)


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = make_parser("train", __doc__, EXAMPLES)
    add = p.add_argument
    add("--algo", default="ppo", choices=list(ALGORITHMS), help="algorithm (default: ppo)")
    add("--env", default="GlassTennis-v0", help="environment id (default: GlassTennis-v0)")
    add(
        "--obs-type",
        choices=("frame", "position", "dict"),
        help="what it observes (default: frame; dqn, sac: position)",
    )
    add("-n", "--n-timesteps", type=count, help="steps of all environments together (default: hyperparams)")
    add("--n-envs", type=count, help="environments side by side (default: hyperparams)")
    add("-f", "--log-folder", type=Path, default=Path("logs"), help="where runs are written (default: logs)")
    add("-i", "--trained-agent", type=Path, help="start from this SB3 zip (it is unpickled: trust its source)")
    add("--resume", action="store_true", help="continue the newest run of this algorithm and id")
    add("--seed", type=from_0, default=0, help="seed of all random numbers (default: 0)")
    add("--eval-freq", type=int, default=50_000, help="steps between evaluations; -1: none (default: 50000)")
    add("--eval-episodes", type=count, default=64, help="episodes of each evaluation (default: 64)")
    add("--n-eval-envs", type=count, default=64, help="environments side by side in it (default: 64)")
    add("--final-episodes", type=from_0, default=1000, help="episodes of the last evaluation; 0: none (default: 1000)")
    add("--save-minutes", type=minutes, default=3.0, help="minutes between checkpoints (default: 3)")
    add("--max-minutes", type=minutes, default=float("inf"), help="stop and save the run after this time")
    add("--save-replay-buffer", action="store_true", help="dqn, sac: save the replay buffer too (large)")
    add("-params", "--hyperparams", nargs="+", default=[], metavar="KEY:VALUE", help="hyperparameters to change")
    add("--env-kwargs", nargs="+", default=[], metavar="KEY:VALUE", help="arguments of the environment to change")
    add("-conf", "--conf-file", type=Path, help="RL Zoo's format (default: agents/hyperparams/ALGO.yml)")
    add("--device", default="auto", help="of the policy: auto, cpu, cuda (for the world: --env-kwargs device:cuda)")
    add("--verbose", type=int, default=0, help="as in SB3 (default: 0)")
    add("-tb", "--tensorboard-log", type=Path, help="folder of TensorBoard events (default: in the run folder)")
    add("--log-interval", type=count, default=10, help="updates between TensorBoard points (default: 10)")
    add("--num-threads", type=int, default=-1, help="threads of torch (default: its own choice)")
    add("-P", "--progress", action=argparse.BooleanOptionalAction, default=True, help="progress bar (default: yes)")
    return p


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    return run_command(train, parser().parse_args(argv))


@dataclass
class Plan:
    """What a run does. It is written into the run folder, so that --resume does the same."""

    algo: str
    env: str
    obs_type: str
    n_timesteps: int
    n_envs: int
    seed: int
    settings: dict
    env_kwargs: dict

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Plan:
        """The plan of a hyperparameter file and the command line."""
        obs_type = arguments.obs_type or DEFAULT_OBSERVATION[arguments.algo]
        changes = changes_of(arguments.hyperparams)
        settings = hyperparameters(arguments.env, arguments.algo, obs_type, changes, arguments.conf_file)
        # stagger starts the episodes at different ages, so that a rollout of PPO holds all parts of an episode
        ages = {"stagger": True} if arguments.algo == "ppo" and is_batched(arguments.env) else {}
        asked = changes_of(arguments.env_kwargs)
        env_kwargs = ages | settings.get("env_kwargs", {}) | {"obs_type": obs_type} | asked
        n_timesteps = arguments.n_timesteps or settings["n_timesteps"]
        n_envs = arguments.n_envs or settings.get("n_envs", 8)
        return cls(arguments.algo, arguments.env, obs_type, n_timesteps, n_envs, arguments.seed, settings, env_kwargs)

    @classmethod
    def read(cls, folder: Path, n_timesteps: int | None) -> Plan:
        """The plan of a run folder, with `n_timesteps` if not None; AgentError: plan.json is damaged."""
        file = folder / "plan.json"
        try:
            plan = cls(**json.loads(file.read_text(encoding="utf-8")))
            checked(plan.settings)
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise AgentError(f"{file}: cannot be read ({error}); start a new run without --resume") from None
        return replace(plan, n_timesteps=n_timesteps or plan.n_timesteps)

    def make_env(self, n_envs: int, seed: int, **changes):
        """A VecEnv for SB3."""
        return make_env(self.env, n_envs, seed, self.settings.get("env_wrapper"), **self.env_kwargs | changes)


def train(arguments: argparse.Namespace) -> int:
    """Train; returns the exit status: 0, or 3 if the run was stopped before its end and saved."""
    folder = run_folder(arguments.log_folder, arguments.algo, arguments.env, arguments.resume)
    with alone(folder):
        return _train(arguments, folder)


def _train(arguments: argparse.Namespace, folder: Path) -> int:
    plan = Plan.read(folder, arguments.n_timesteps) if arguments.resume else Plan.of(arguments)
    model = _model(plan, arguments, folder)
    text = json.dumps(asdict(plan), indent=1)
    write_atomically(folder / "plan.json", lambda part: part.write_text(text, encoding="utf-8"))
    progress = _Progress(folder, arguments, plan.n_timesteps)
    progress.save(model)
    size = f"{plan.n_timesteps:,} steps in {plan.n_envs} environments"
    print(f"{plan.algo} in {plan.env} ({plan.obs_type}), {size} -> {folder}")
    left = plan.n_timesteps - model.num_timesteps * arguments.resume
    stopped = False
    try:
        if left > 0:
            model.learn(
                left,
                callback=_callbacks(plan, arguments, folder, progress),
                reset_num_timesteps=not arguments.resume,
                log_interval=arguments.log_interval,
                progress_bar=arguments.progress,
            )
    except KeyboardInterrupt:
        stopped = True
    progress.save(model)
    if stopped or progress.out_of_time:
        print(f"stopped and saved after {model.num_timesteps:,} steps: {folder / 'last.zip'}. Continue with --resume")
        return 3
    model.env.close()
    finish(plan, arguments, model, folder, progress.minutes)
    return 0


def _model(plan: Plan, arguments: argparse.Namespace, folder: Path):
    """A new model, the given one (--trained-agent), or the run's last (--resume)."""
    if arguments.num_threads > 0:
        import torch

        torch.set_num_threads(arguments.num_threads)
    common = {
        "env": plan.make_env(plan.n_envs, plan.seed),
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


def _callbacks(plan: Plan, arguments: argparse.Namespace, folder: Path, progress: _Progress) -> list:
    """Callbacks that save checkpoints, stop in time, evaluate, and keep the best policy."""
    from stable_baselines3.common.callbacks import ConvertCallback, EvalCallback

    callbacks: list = [ConvertCallback(lambda locals_, _: progress.step(locals_["self"]))]
    if arguments.eval_freq > 0:
        changes = {"stagger": False} if "stagger" in plan.env_kwargs else {}
        evaluations = {
            "eval_env": plan.make_env(arguments.n_eval_envs, plan.seed + EVALUATION_SEED, **changes),
            "n_eval_episodes": arguments.eval_episodes,
            "eval_freq": max(1, arguments.eval_freq // plan.n_envs),
        }
        keep = ConvertCallback(lambda *_: progress.keep_best(evaluation))
        evaluation = EvalCallback(callback_on_new_best=keep, log_path=str(folder), verbose=0, **evaluations)
        evaluation.best_mean_reward = progress.best
        callbacks.append(evaluation)
    return callbacks


def finish(plan: Plan, arguments: argparse.Namespace, model, folder: Path, minutes: float) -> None:
    """Write the better of the last and the best policy, evaluate it, and film its best episode."""

    def env(rows: int, seed: int):
        return make_evaluation_env(plan.env, rows, plan.seed + seed, **plan.env_kwargs)

    chosen = model
    best = folder / "best_model.zip"
    if best.is_file() and arguments.final_episodes > 0:
        episodes = max(1, arguments.final_episodes // 4)
        rows = min(arguments.n_eval_envs, episodes)
        candidates = [model, read_zip(best, plan.algo)]
        returns = [evaluation.evaluate(env(rows, CHOICE_SEED), Policy(m), episodes)["return"] for m in candidates]
        chosen = candidates[int(returns[1] > returns[0])]
    about = {
        "env": plan.env,
        "obs_type": plan.obs_type,
        "timesteps": model.num_timesteps,
        "minutes": round(minutes, 2),
        "seed": plan.seed,
        "command": " ".join(without_folders(sys.argv[1:])),
    }
    path = save_policy(folder / "policy.safetensors", chosen, plan.algo, about)
    print(f"policy: {path}. Watch it:\n  {watch_command(plan, path)}")
    if arguments.final_episodes > 0:
        rows = min(arguments.n_eval_envs, arguments.final_episodes)
        figures = evaluation.compare(
            lambda: env(rows, FINAL_SEED), Policy(chosen), arguments.final_episodes, folder / "best_episode.gif"
        )
        evaluation.write(folder / "evaluation.json", {"algo": plan.algo, **about, "policies": figures})
        print(evaluation.table(figures) + f"{folder / 'evaluation.json'}, {folder / 'best_episode.gif'}")


def watch_command(plan: Plan, policy: Path) -> str:
    """The command that shows a trained policy in the plan's world, to be pasted into a shell."""
    changed = {key: value for key, value in plan.env_kwargs.items() if key not in ("obs_type", "stagger", "output")}
    kwargs = f" --env-kwargs {pairs_of(changed)}" if changed else ""
    return f"python -m agents.enjoy --env {plan.env} --trained-agent {shlex.quote(str(policy))}{kwargs}"


def run_folder(log_folder: Path, algorithm: str, id: str, resume: bool) -> Path:
    """The folder LOG_FOLDER/ALGO/ID_N of a new run, or of the newest (--resume; AgentError: there is none)."""
    parent = Path(log_folder) / algorithm
    newest = max(runs_of(log_folder, algorithm, id), default=0)
    folder = parent / f"{id}_{newest if resume else newest + 1}"
    if resume and not (folder / "last.zip").is_file():
        raise AgentError(f"{parent}: no run of {id} with a last.zip to resume; leave --resume out to start")
    return folder


class _Progress:
    """Saves a run every few minutes, stops it in time, and counts its minutes. Files are replaced atomically."""

    def __init__(self, folder: Path, arguments: argparse.Namespace, goal: int):
        self.folder = folder
        self.arguments = arguments
        self.time_left = TimeLeft(goal)
        self.began = self.saved = time.monotonic()
        self.out_of_time = False
        self.before = 0.0
        self.best = -math.inf
        if arguments.resume:
            with contextlib.suppress(OSError, ValueError, TypeError, KeyError):  # a damaged file resets only these
                told = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
                self.before, self.best = float(told["minutes"]), float(told["best_mean_reward"])

    @property
    def minutes(self) -> float:
        """Minutes of training with its evaluations, over all sessions of the run."""
        return self.before + (time.monotonic() - self.began) / 60

    def step(self, model) -> bool:
        """Called after every step; False stops the training."""
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
            print(f"{told[0]:,.0f} steps a second on this machine: the other {left:,} take about {told[1]:.0f} minutes")

    def save(self, model) -> None:
        """Write last.zip, and the replay buffer if --save-replay-buffer asks for it."""
        self._write("last.zip", model.save)
        if self.arguments.save_replay_buffer and hasattr(model, "save_replay_buffer"):
            self._write("replay_buffer.pkl", model.save_replay_buffer)
        self._tell()

    def keep_best(self, evaluation) -> bool:
        """Write best_model.zip after an evaluation that was better than all before."""
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
        write_atomically(self.folder / "progress.json", lambda part: part.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(main())
