"""How good is a policy: success, steps over the fewest possible, return; with random and greedy play beside it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from agents.arena import Arena
from glass_gym.action_space import ActionTable
from glass_gym.core import emit
from glass_gym.play import Recorder

FILMED = 4
"""rows that are filmed for the best episode"""


class RandomPolicy:
    """The floor: uniform actions."""

    def __init__(self, seed: int = 0):
        self.rng = np.random.default_rng(seed)

    def begin(self, rows=None) -> None:
        """Nothing to forget."""

    def act(self, arena: Arena) -> np.ndarray:
        """(rows, 2)."""
        return self.rng.integers(0, arena.table.nvec, (arena.rows, 2))


class GreedyPolicy:
    """The ceiling: walks straight, knowing where agent and target are."""

    def begin(self, rows=None) -> None:
        """Nothing to forget."""

    def act(self, arena: Arena) -> np.ndarray:
        """(rows, 2): the shift that ends nearest to the target, with the code that usually goes with it."""
        place = emit(arena.observe("position"))
        after = place[:, None, :2] + arena.table.shifts  # (rows, S, 2)
        shift = np.linalg.norm(after - place[:, None, 2:], axis=-1).argmin(1)
        usual = np.asarray(arena.table.usual_codes)
        return np.stack([shift, usual[shift]], 1)


def fewest_steps(position: np.ndarray, target: np.ndarray, radius: float, table: ActionTable) -> np.ndarray:
    """The fewest steps in which anybody could come within `radius`: a lower bound, exact on open ground.

    In n steps an agent can be anywhere within n times the longest shifts along x and y.

    Args:
        position, target: (B, 2) px.

    Returns:
        (B,) int64.
    """
    reach = np.abs(table.shifts).max(0)
    gap = np.abs(np.asarray(target, float) - position)
    steps, left = np.zeros(len(gap), np.int64), np.linalg.norm(gap, axis=1) >= radius
    while left.any():
        steps += left
        left &= np.linalg.norm(np.maximum(gap - steps[:, None] * reach, 0), axis=1) >= radius
    return steps


def wilson(successes: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % confidence interval of a rate (Wilson 1927)."""
    share, spread = successes / count, z * z / count
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def evaluate(arena: Arena, policy, episodes: int = 1000, film: int = 0) -> dict:
    """Play episodes.

    Every row plays equally many (or one more) to their end, so that short episodes are not favoured.

    Args:
        policy: has `begin(rows)` and `act(arena)`.
        episodes: how many.
        film: keep the frames of the first so many rows' episodes; the best one is returned as `film`.

    Returns:
        `success`, its 95 % interval, `steps_ratio` (steps of successful episodes over the fewest
        possible, both summed), `steps` (mean of successful ones), `return`, `episodes`.
    """
    quota = np.full(arena.rows, episodes // arena.rows) + (np.arange(arena.rows) < episodes % arena.rows)
    arena.reset()
    policy.begin()
    start = emit(arena.observe("position"))
    steps, value = np.zeros(arena.rows, int), np.zeros(arena.rows)
    kept, best = [], (-math.inf, [])
    films = {row: [frame] for row, frame in enumerate(arena.pictures()[:film])} if film else {}
    while (quota > 0).any():
        reward, reached = arena.step(policy.act(arena))
        value, steps = value + reward, steps + 1
        if film:
            for row, frame in enumerate(arena.pictures()[:film]):
                films[row].append(frame)
        done = reached | (steps >= arena.limit)
        if not done.any():
            continue
        least = fewest_steps(start[done, :2], start[done, 2:], arena.task.radius, arena.table)
        for row, fewest in zip(np.flatnonzero(done), least, strict=True):
            if quota[row] > 0:
                kept.append((bool(reached[row]), int(steps[row]), int(fewest), float(value[row])))
                quota[row] -= 1
            if row in films and value[row] > best[0]:
                best = (value[row], films[row])
        arena.reset(done)
        policy.begin(done)
        start[done] = emit(arena.observe("position"))[done]
        steps[done], value[done] = 0, 0
        if film:
            fresh = arena.pictures()
            films |= {row: [fresh[row]] for row in np.flatnonzero(done[:film])}
    return summary(kept) | ({"film": best[1]} if film else {})


def compare(arena, policy, episodes: int, film: Path | None = None) -> dict[str, dict]:
    """Figures of a policy, of random and of greedy play.

    Args:
        arena: makes an arena; each player gets a new one.
        film: where the film of the policy's best episode goes.
    """
    figures = {}
    for name, player in {"policy": policy, "random": RandomPolicy(), "greedy": GreedyPolicy()}.items():
        figures[name] = evaluate(arena(), player, episodes, FILMED if film and name == "policy" else 0)
        if frames := figures[name].pop("film", None):
            save_film(film, frames)
    return figures


def summary(kept: list[tuple[bool, int, int, float]]) -> dict:
    """Figures of episodes (reached, steps, fewest steps, return)."""
    reached, steps, fewest, returns = (np.array(column) for column in zip(*kept, strict=True))
    walked = reached & (fewest > 0)
    low, high = wilson(int(reached.sum()), len(reached))
    nothing = not walked.any()
    return {
        "episodes": len(kept), "success": round(float(reached.mean()), 4),
        "success_95": [round(low, 4), round(high, 4)],
        "steps_ratio": None if nothing else round(float(steps[walked].sum() / fewest[walked].sum()), 3),
        "steps": None if nothing else round(float(steps[walked].mean()), 2),
        "fewest_steps": round(float(fewest.mean()), 2), "return": round(float(returns.mean()), 3),
    }  # fmt: skip


def table(rows: dict[str, dict]) -> str:
    """Markdown of named figures."""
    lines = [
        "| policy | success | 95 % | steps over fewest | steps | return | episodes |",
        "|---|---:|---|---:|---:|---:|---:|",
    ]
    for name, row in rows.items():
        low, high = row["success_95"]
        ratio, steps = ("-" if row[key] is None else f"{row[key]:.2f}" for key in ("steps_ratio", "steps"))
        lines.append(
            f"| {name} | {row['success']:.1%} | {low:.1%} to {high:.1%} | {ratio} | {steps} | {row['return']:.2f} "
            f"| {row['episodes']:,} |"
        )
    return "\n".join(lines) + "\n"


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
