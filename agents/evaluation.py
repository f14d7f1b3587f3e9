"""How good is a policy: success, steps over the fewest possible, return; with random and greedy play beside it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
from scipy.stats import binomtest
from tabulate import tabulate

from agents.evaluation_env import EvaluationEnv
from glass_gym.play.play import Recorder
from glass_gym.tools.time_left import TimeLeft

FILMED = 4
"""rows that are filmed for the best episode"""


class RandomPolicy:
    """The floor: uniform actions."""

    def __init__(self, seed: int = 0):
        self.rng = np.random.default_rng(seed)

    def begin(self, rows=None) -> None:
        """Nothing to forget."""

    def act(self, env: EvaluationEnv) -> np.ndarray:
        """(rows, 2)."""
        return self.rng.integers(0, env.table.nvec, (env.rows, 2))


class GreedyPolicy:
    """The ceiling: walks straight to where the task is, knowing both places."""

    def begin(self, rows=None) -> None:
        """Nothing to forget."""

    def act(self, env: EvaluationEnv) -> np.ndarray:
        """(rows, 2): the shift that ends nearest to the target, with the code that usually goes with it."""
        after = env.position()[:, None] + env.table.shifts  # (rows, S, 2)
        shift = np.linalg.norm(after - env.heading()[:, None], axis=-1).argmin(1)
        usual = np.asarray(env.table.usual_codes)
        return np.stack([shift, usual[shift]], 1)


def confidence(successes: int, count: int) -> tuple[float, float]:
    """The 95 % confidence interval of a rate (Wilson 1927)."""
    interval = binomtest(successes, count).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def evaluate(env: EvaluationEnv, policy, episodes: int = 1000, film: int = 0) -> dict:
    """Play episodes; where that takes long, how long is told after the first seconds.

    Every row plays equally many (or one more) to their end, so that short episodes are not favoured.

    Args:
        policy: has `begin(rows)` and `act(env)`.
        episodes: how many.
        film: keep the frames of the first so many rows' episodes; the best one is returned as `film`.

    Returns:
        `success`, its 95 % interval, `steps_ratio` (steps of successful episodes over the fewest
        possible, both summed), `steps` (mean of successful ones), `return`, `episodes`.
    """
    quota = np.full(env.rows, episodes // env.rows) + (np.arange(env.rows) < episodes % env.rows)
    env.reset()
    policy.begin()
    fewest = env.fewest_steps()
    steps = np.zeros(env.rows, int)
    value = np.zeros(env.rows)
    kept = []
    time_left = TimeLeft(episodes)
    best = (-math.inf, [])
    films = {row: [frame] for row, frame in enumerate(env.pictures()[:film])} if film else {}
    while (quota > 0).any():
        reward, reached = env.step(policy.act(env))
        value = value + reward
        steps = steps + 1
        if film:
            for row, frame in enumerate(env.pictures()[:film]):
                films[row].append(frame)
        done = reached | (steps >= env.limit)
        if not done.any():
            continue
        for row in np.flatnonzero(done):
            if quota[row] > 0:
                kept.append((bool(reached[row]), int(steps[row]), int(fewest[row]), float(value[row])))
                quota[row] -= 1
            if row in films and value[row] > best[0]:
                best = (value[row], films[row])
        if told := time_left.after(len(kept)):
            print(
                f"{60 * told[0]:,.0f} episodes a minute on this machine: about {told[1]:.0f} minutes more", flush=True
            )
        env.reset(done)
        policy.begin(done)
        fewest[done] = env.fewest_steps()[done]
        steps[done] = 0
        value[done] = 0
        if film:
            fresh = env.pictures()
            films |= {row: [fresh[row]] for row in np.flatnonzero(done[:film])}
    return summary(kept) | ({"film": best[1]} if film else {})


def compare(make_env, policy, episodes: int, film: Path | None = None) -> dict[str, dict]:
    """Figures of a policy, of random and of greedy play.

    Args:
        make_env: makes an :class:`EvaluationEnv`; each player gets a new one.
        film: where the film of the policy's best episode goes.
    """
    figures = {}
    for name, player in {"policy": policy, "random": RandomPolicy(), "greedy": GreedyPolicy()}.items():
        figures[name] = evaluate(make_env(), player, episodes, FILMED if film and name == "policy" else 0)
        if frames := figures[name].pop("film", None):
            save_film(film, frames)
    return figures


def summary(kept: list[tuple[bool, int, int, float]]) -> dict:
    """Figures of episodes (reached, steps, fewest steps, return)."""
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
    """Markdown of named figures."""
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
    """JSON, and the table beside it as Markdown; `figures["policies"]` are the rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=1) + "\n")
    path.with_suffix(".md").write_text(table(figures["policies"]))
    return path


def save_film(path: Path, frames: list[np.ndarray], fps: int = 12, scale: int = 2) -> Path:
    """An episode as .gif or .mp4; the last frame stays a second."""
    recorder = Recorder(path, fps, scale)
    for frame in [*frames, *frames[-1:] * fps]:
        recorder.add(frame)
    recorder.close()
    return path
