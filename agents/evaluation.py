"""Measure a policy: success rate, steps, return; random and greedy play are measured beside it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
from tabulate import tabulate

from agents.evaluation_env import EvaluationEnv
from glass_gym.play.recorder import Recorder
from glass_gym.tools.time_left import TimeLeft

FILMED = 4  # Environments that are filmed to find the best episode.
Z = 1.959964  # 97.5 % quantile of the normal distribution, for 95 % intervals.


class RandomPolicy:
    """A lower bound: uniformly random actions."""

    def __init__(self, seed: int = 0):
        self.rng = np.random.default_rng(seed)

    def begin(self, rows=None) -> None:
        """Nothing is kept between episodes."""

    def act(self, env: EvaluationEnv) -> np.ndarray:
        """Actions, (B, 2)."""
        return self.rng.integers(0, env.table.nvec, (env.rows, 2))


class GreedyPolicy:
    """An upper bound: knows the positions of agent and target, and walks straight to the target."""

    def begin(self, rows=None) -> None:
        """Nothing is kept between episodes."""

    def act(self, env: EvaluationEnv) -> np.ndarray:
        """Actions, (B, 2): the shift that ends nearest to the target; the code that the task wants, or a usual one."""
        after = env.position()[:, None] + env.table.shifts  # (B, S, 2)
        shift = np.linalg.norm(after - env.heading()[:, None], axis=-1).argmin(1)
        wanted = env.wanted_codes()
        return np.stack([shift, np.asarray(env.table.usual_codes)[shift] if wanted is None else wanted], 1)


def confidence(successes: int, count: int) -> tuple[float, float]:
    """The 95 % confidence interval of a rate (Wilson 1927)."""
    rate = successes / count
    middle = rate + Z**2 / (2 * count)
    half = Z * math.sqrt(rate * (1 - rate) / count + (Z / (2 * count)) ** 2)
    scale = 1 + Z**2 / count
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def evaluate(env: EvaluationEnv, policy, episodes: int = 1000, film: int = 0) -> dict:
    """Play episodes with `policy.begin(rows)` and `policy.act(env)` -> figures, see :func:`summary`.

    Each of the B environments plays the same number of episodes (or one more) to their ends. Otherwise short episodes,
    which are mostly successful, would be counted more often. Long evaluations say after some seconds how many minutes
    are left. With `film` the first so many environments are filmed, and `film` holds the frames of the best episode.
    """

    def pictures():
        return enumerate(env.pictures()[:film] if film else ())

    quota = np.full(env.rows, episodes // env.rows) + (np.arange(env.rows) < episodes % env.rows)
    env.reset()
    policy.begin()
    fewest = env.fewest_steps()
    steps = np.zeros(env.rows, int)
    value = np.zeros(env.rows)
    kept = []
    time_left = TimeLeft(episodes)
    best = (-math.inf, [])
    films = {row: [frame] for row, frame in pictures()}
    while (quota > 0).any():
        reward, reached, ended = env.step(policy.act(env))
        value = value + reward
        steps = steps + 1
        for row, frame in pictures():
            films[row].append(frame)
        done = reached | ended | (steps >= env.limit)
        if not done.any():
            continue
        for row in np.flatnonzero(done):
            if quota[row] > 0:
                kept.append((bool(reached[row]), int(steps[row]), int(fewest[row]), float(value[row])))
                quota[row] -= 1
            if row in films and value[row] > best[0]:
                best = (value[row], films[row])
        if told := time_left.after(len(kept)):
            speed = f"{60 * told[0]:,.0f} episodes a minute on this machine"
            print(f"{speed}: about {told[1]:.0f} minutes left", flush=True)
        env.reset(done)
        policy.begin(done)
        fewest[done] = env.fewest_steps()[done]
        steps[done] = 0
        value[done] = 0
        films |= {row: [frame] for row, frame in pictures() if done[row]}
    return summary(kept) | ({"film": best[1]} if film else {})


def compare(make_env, policy, episodes: int, film: Path | None = None) -> dict[str, dict]:
    """Figures of a policy, of random and of greedy play, each in an environment of its own; `film`: of the policy."""
    figures = {}
    for name, player in {"policy": policy, "random": RandomPolicy(), "greedy": GreedyPolicy()}.items():
        figures[name] = evaluate(make_env(), player, episodes, FILMED if film and name == "policy" else 0)
        if frames := figures[name].pop("film", None):
            save_film(film, frames)
    return figures


def summary(kept: list[tuple[bool, int, int, float]]) -> dict:
    """Figures of episodes; each is (target reached, steps, fewest possible steps, return).

    `success` is the rate, `success_95` its 95 % interval. `steps` (mean) and `steps_ratio` (over the fewest possible,
    both summed) are of successful episodes, `fewest_steps` and `return` (means) of all.
    """
    reached, steps, fewest, returns = (np.array(column) for column in zip(*kept, strict=True))
    walked = reached & (fewest > 0)
    low, high = confidence(int(reached.sum()), len(reached))
    nothing = not walked.any()
    return {
        "episodes": len(kept),
        "success": round(float(reached.mean()), 4),
        "success_95": [round(low, 4), round(high, 4)],
        "steps_ratio": None if nothing else round(float(steps[walked].sum() / fewest[walked].sum()), 3),
        "steps": None if nothing else round(float(steps[walked].mean()), 2),
        "fewest_steps": round(float(fewest.mean()), 2),
        "return": round(float(returns.mean()), 3),
    }


def table(rows: dict[str, dict]) -> str:
    """Figures by name, as a Markdown table."""
    cells = []
    for name, row in rows.items():
        low, high = row["success_95"]
        ratio, steps = ("-" if row[key] is None else f"{row[key]:.2f}" for key in ("steps_ratio", "steps"))
        interval = f"{low:.1%} to {high:.1%}"
        cells.append(
            (name, f"{row['success']:.1%}", interval, ratio, steps, f"{row['return']:.2f}", f"{row['episodes']:,}")
        )
    headers = ("policy", "success", "95 %", "steps over fewest", "steps", "return", "episodes")
    align = ("left", "right", "left", "right", "right", "right", "right")
    return tabulate(cells, headers, tablefmt="github", disable_numparse=True, colalign=align) + "\n"


def write(path: Path, figures: dict) -> Path:
    """Write figures as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return path


def save_film(path: Path, frames: list[np.ndarray], fps: int = 12, scale: int = 2) -> Path:
    """Write an episode as .gif or .mp4; the last frame is held for a second."""
    recorder = Recorder(path, fps, scale)
    for frame in [*frames, *frames[-1:] * fps]:
        recorder.add(frame)
    recorder.close()
    return path
