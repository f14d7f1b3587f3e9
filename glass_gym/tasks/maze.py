"""MazeTask: walk to a target in a maze. It shows how a task blocks moves (:meth:`Task.allowed`)."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glass_gym.tasks.base import Scene, TaskState
from glass_gym.tasks.reach import ReachTask

CELL_STEPS = (3, 2)  # A cell is at least so many of the longest shifts wide and high,
MOST_CELLS = (4, 3)  # and there are at most so many in a row and in a column.
GAP = 0.5  # An agent stops so many px before a wall.
THICKNESS = 1.0  # Half the thickness of a drawn wall, px.
WALL_COLOUR = (90, 40, 20)  # RGB


class MazeTask(ReachTask):
    """Walk to a target in a maze: as :class:`ReachTask`, but walls stop the agent's position.

    The ground is divided into cells, which a random spanning tree of doors connects: from each cell there is one way to
    each other, the same for equal numbers `maze`. A move that meets a wall stops in front of it along one axis and goes
    on along the other. Walls are drawn onto the frame. Progress is along the way through the cells.

    Args:
        scene: the world.
        maze: number of the maze, at least 0.
        options: of :class:`ReachTask`.

    Raises:
        ValueError: a value is out of range, or the ground is too small for cells.
    """

    def __init__(self, scene: Scene, maze: int = 0, **options: Any):
        super().__init__(scene, **options)
        if isinstance(maze, bool) or not isinstance(maze, int) or maze < 0:
            raise ValueError(f"maze must be an integer of at least 0, got {maze!r}")
        left, top, right, bottom = scene.ground or (0.0, 0.0, float(scene.width), float(scene.height))
        sizes = zip((right - left, bottom - top), scene.reach, CELL_STEPS, MOST_CELLS, strict=True)
        columns, rows = (int(min(most, max(1, px // (n * max(step, 1))))) for px, step, n, most in sizes)
        if columns * rows < 4:
            raise ValueError(f"the ground, {right - left:.0f} x {bottom - top:.0f} px, is too small for a maze")
        self.columns, self.rows = columns, rows
        self.x = np.linspace(left, right, columns + 1)  # lines between cells, px
        self.y = np.linspace(top, bottom, rows + 1)
        doors = make_doors(columns, rows, np.random.default_rng(maze))
        across, down = [], []  # walls: line, from, to, in px; those at the edge go on outside of the ground
        ends_x, ends_y = (np.concatenate([[-np.inf], lines[1:-1], [np.inf]]) for lines in (self.x, self.y))
        for a, b in neighbours(columns, rows):
            if (a, b) in doors:
                continue
            i, j = b % columns, b // columns
            if b == a + 1:
                across.append((self.x[i], ends_y[j], ends_y[j + 1]))
            else:
                down.append((self.y[j], ends_x[i], ends_x[i + 1]))
        self.across, self.down = (torch.tensor(walls, dtype=torch.float32).view(-1, 3) for walls in (across, down))
        middles = np.meshgrid(*((lines[1:] + lines[:-1]) / 2 for lines in (self.x, self.y)))
        self.middles = torch.from_numpy(np.stack(middles, -1).reshape(-1, 2).astype(np.float32))
        self.towards, lengths = (torch.from_numpy(table) for table in find_ways(self.middles.numpy(), doors))
        self.lengths = lengths.float()
        self.walls = torch.from_numpy(self._picture())

    def _picture(self) -> np.ndarray:
        """Where walls are drawn, (H, W) bool."""
        y, x = np.mgrid[: self.scene.height, : self.scene.width]
        walls = np.zeros(x.shape, bool)
        for lines, at, along in ((self.across, x, y), (self.down, y, x)):
            for line, first, last in lines.tolist():
                near = (np.abs(at - line) <= THICKNESS) & (along >= first - THICKNESS) & (along <= last + THICKNESS)
                walls |= near
        return walls

    def allowed(self, position: Tensor, move: Tensor) -> Tensor:
        """Stop in front of walls: first along x, then along y from there."""
        x = stopped(position[:, 0], move[:, 0], position[:, 1], self.across.to(position))
        y = stopped(position[:, 1], move[:, 1], position[:, 0] + x, self.down.to(position))
        return torch.stack([x, y], 1)

    def cell(self, position: Tensor) -> Tensor:
        """The cells (B,) int64 that positions (B, 2) px are in; outside of the ground the nearest one."""
        inner = (torch.as_tensor(lines[1:-1]).to(position) for lines in (self.x, self.y))
        i, j = (torch.bucketize(p.contiguous(), line) for p, line in zip(position.unbind(-1), inner, strict=True))
        return j * self.columns + i

    def way(self, position: Tensor, target: Tensor) -> Tensor:
        """Lengths (B,) px of the ways through the middles of the cells between."""
        here, there = self.cell(position), self.cell(target)
        device = position.device
        towards, middles = self.towards.to(device)[here, there], self.middles.to(device)
        first, last = (position - middles[towards]).norm(dim=-1), (target - middles[there]).norm(dim=-1)
        through = first + self.lengths.to(device)[towards, there] + last
        return torch.where(here == there, self.distance(position, target), through)

    def heading(self, position: Tensor, state: TaskState) -> Tensor:
        """The middle of the next cell on the shortest way, or in the target's cell the target."""
        target = state["target"]
        here, there = self.cell(position), self.cell(target)
        towards = self.towards.to(here.device)[here, there]
        return torch.where((here == there)[:, None], target, self.middles.to(position)[towards])

    def draw(self, frames: Tensor, state: TaskState) -> Tensor:
        """Draw the walls, and a ring around the target."""
        colour = torch.stack([frames.new_full((), v) for v in WALL_COLOUR])[:, None, None]
        return super().draw(torch.where(self.walls.to(frames.device), colour, frames), state)


def stopped(start: Tensor, move: Tensor, across: Tensor, walls: Tensor) -> Tensor:
    """Moves (B,) px along an axis from `start`, cut GAP px before walls (N, 3): line, from and to across, px."""
    line, first, last = walls.unbind(1)
    gap = line - start[:, None]  # (B, N), signed
    meets = (across[:, None] >= first - GAP) & (across[:, None] <= last + GAP)
    forward = (gap > 0) & meets
    backward = (gap <= 0) & meets
    furthest = torch.where(forward, gap - GAP, torch.inf).amin(1).clamp_min(0) if len(walls) else torch.inf
    nearest = torch.where(backward, gap + GAP, -torch.inf).amax(1).clamp_max(0) if len(walls) else -torch.inf
    return move.minimum(torch.as_tensor(furthest).to(move)).maximum(torch.as_tensor(nearest).to(move))


def neighbours(columns: int, rows: int) -> list[tuple[int, int]]:
    """Pairs of cells side by side, and one below the other; cells are numbered row by row."""
    cells = range(columns * rows)
    beside = [(a, a + 1) for a in cells if (a + 1) % columns]
    return beside + [(a, a + columns) for a in cells[:-columns]]


def make_doors(columns: int, rows: int, rng: np.random.Generator) -> set[tuple[int, int]]:
    """Pairs of neighbours without a wall between them: a random spanning tree (Kruskal, 1956)."""
    pairs = neighbours(columns, rows)
    group = list(range(columns * rows))
    doors = set()
    for index in rng.permutation(len(pairs)):
        a, b = pairs[index]
        if group[a] != group[b]:
            group = [group[a] if g == group[b] else g for g in group]
            doors.add((a, b))
    return doors


def find_ways(middles: np.ndarray, doors: set[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """The shortest ways from one of N cells, whose middles are (N, 2) px, to another.

    Returns:
        the next cell, (N, N) int64, and the lengths from middle to middle, (N, N) px.
    """
    count = len(middles)
    table = np.tile(np.arange(count)[:, None], (1, count))
    lengths = np.zeros((count, count))
    for goal in range(count):
        seen, queue = {goal}, deque([goal])
        while queue:
            here = queue.popleft()
            beside = [b if a == here else a for a, b in doors if here in (a, b)]
            for cell in beside:
                if cell not in seen:
                    seen.add(cell)
                    table[cell, goal] = here
                    lengths[cell, goal] = lengths[here, goal] + np.linalg.norm(middles[cell] - middles[here])
                    queue.append(cell)
    return table, lengths
