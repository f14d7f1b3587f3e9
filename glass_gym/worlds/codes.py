"""What each local action does: it is played on the spot from several start frames, and its drawings are measured."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from glass_gym.model.library import turn, wrapped
from glass_gym.simulator.simulator import Simulator, WorldState
from glass_gym.worlds.checkpoint import World

STEPS = 12  # How often a code is repeated.
STARTS = 16  # Most start frames that codes are played from.
TAIL = 0.03  # Share of a silhouette beyond each of its sides: a tail or a finger is no side.
TURNS = 1.0  # Degrees a step of a clear turn.
SWINGS = 0.05  # Share of the silhouette that changes in every step of a clear swing.
GROWS = 0.05  # A clear change of the area,
STRETCHES = 0.04  # and of a side, in diameters of the agent: one as plain to see as the other.
NOTHING = 0.02  # Largest share of the silhouette that a code may change, and still does nothing.


@dataclass(frozen=True)
class CodeEffect:
    """What a code does when it is repeated STEPS times on the spot; means over start frames.

    Attributes:
        turn: degrees a step, clockwise; 0 in worlds that leave the heading in.
        swing: share of the silhouette that changes in a step after the first (1 - IoU of consecutive ones).
        change: share of the silhouette that has changed at the end (1 - IoU of the first and the last).
        growth: area of the silhouette over the mean of all codes, less 1.
        sides: px that its left, upper, right and lower side lie farther out than in the mean of all codes, in diameters
            of the agent. In worlds that take the heading out, these are its back, left, front and right.
    """

    turn: float
    swing: float
    change: float
    growth: float
    sides: tuple[float, float, float, float]


def start_states(world: World, simulator: Simulator) -> WorldState:
    """States of at most STARTS start frames, spread over all of the world's."""
    frames, backgrounds, positions = world.start_frames, world.start_backgrounds, world.start_positions
    rows = np.linspace(0, len(frames) - 1, min(STARTS, len(frames))).astype(int)
    return simulator.start(
        torch.from_numpy(frames[rows]),
        None if positions is None else positions[rows],
        None if backgrounds is None else torch.from_numpy(backgrounds[rows]),
    )


def play_code(simulator: Simulator, start: WorldState, code: int, steps: int = STEPS) -> list[WorldState]:
    """The start states, and those after each of `steps` steps on the spot under a code."""
    still = torch.zeros_like(start.position)
    codes = torch.full((len(start),), code, device=still.device)
    states = [start]
    for _ in range(steps):
        states.append(simulator.step(states[-1], still, codes))
    return states


def measure_codes(simulator: Simulator, films: Iterable[Sequence[WorldState]]) -> list[CodeEffect]:
    """Measure the film of each code (:func:`play_code`)."""
    turns, swings, changes, areas, sides = [], [], [], [], []
    for states in films:
        headings = [simulator.agent_heading(state) for state in states]
        turned = [wrapped(b - a).mean() for a, b in pairwise(headings) if a is not None and b is not None]
        turns.append(math.degrees(torch.stack(turned).mean()) if turned else 0.0)
        shapes = torch.stack([_silhouettes(s, heading) for s, heading in zip(states, headings, strict=True)])
        swings.append(_difference(shapes[2:], shapes[1:-1]))
        changes.append(_difference(shapes[-1], shapes[0]))
        areas.append(shapes[1:].sum((2, 3)).float().mean())
        sides.append(_sides(shapes[1:].flatten(0, 1)))
    size = 2 * simulator.config.agent_radius / simulator.config.window_scale
    growth = torch.stack(areas) / torch.stack(areas).mean().clamp_min(1) - 1
    ways = (torch.stack(sides) - torch.stack(sides).mean(0)) / size
    rows = zip(turns, swings, changes, growth.tolist(), ways.tolist(), strict=True)
    return [CodeEffect(*row[:4], tuple(row[4])) for row in rows]


def describe_codes(world: World, effects: Sequence[CodeEffect]) -> tuple[str, ...]:
    """What the codes of a world do, in a few words each, such as "turns left by 6°"; equal ones are numbered."""
    seen: Counter[str] = Counter()
    names = []
    for text in (_describe(effect, world.config.heading) for effect in effects):
        seen[text] += 1
        names.append(f"{text} ({seen[text]})" if seen[text] > 1 else text)
    return tuple(names)


def _describe(effect: CodeEffect, headed: bool) -> str:
    sides = ("back", "to its left", "forward", "to its right") if headed else ("left", "up", "right", "down")
    far = max(range(4), key=lambda side: effect.sides[side])
    way, other = effect.sides[far], effect.sides[far - 2]
    angle = abs(effect.turn)
    turns = f"turns {'right' if effect.turn > 0 else 'left'} by {angle:.{int(angle < 3)}f}°"
    swings = f"swings {sides[far]}" if way >= STRETCHES else "swings"
    stretches = f"{'leans' if other <= -way / 2 else 'stretches'} {sides[far]} by {way:.0%}"
    grows = f"{'grows' if effect.growth > 0 else 'shrinks'} by {abs(effect.growth):.0%}"
    if abs(effect.turn) >= TURNS or effect.swing >= SWINGS:
        return turns if abs(effect.turn) >= TURNS else swings
    if effect.change < NOTHING:
        return "nothing"
    found = {turns: abs(effect.turn) / TURNS, swings: effect.swing / SWINGS}
    found |= {stretches: way / STRETCHES, grows: abs(effect.growth) / GROWS}
    best = max(found, key=lambda text: found[text])
    return best if found[best] >= 1 else "changes a little"


def _silhouettes(state: WorldState, heading: Tensor | None) -> Tensor:
    """Where the layers show agents, (B, h, w) bool, with the heading taken out."""
    mask = state.layer[:, 3:]
    return (mask if heading is None else turn(mask, -heading))[:, 0] > 0.5


def _difference(a: Tensor, b: Tensor) -> float:
    """1 - IoU of silhouettes (..., h, w), the mean over all; two empty ones do not differ."""
    both, either = (a & b).sum((-2, -1)), (a | b).sum((-2, -1))
    return float((1 - (both / either.clamp_min(1)).where(either > 0, 1)).mean())


def _sides(shapes: Tensor) -> Tensor:
    """How far left, up, right and down of the middle silhouettes (B, h, w) reach, px, but for TAIL: the mean, (4,)."""
    out = []
    for axis in (1, 2):  # sum over rows: along x; over columns: along y
        share = shapes.sum(axis).float().cumsum(1)
        share = share / share[:, -1:].clamp_min(1)
        middle = share.shape[1] / 2
        out += [(middle - (share < TAIL).sum(1)).mean(), ((share < 1 - TAIL).sum(1) - middle).mean()]
    left, right, up, down = out
    return torch.stack([left, up, right, down])
