"""Where episodes start: the world's own start frames, or pictures that a user gives."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glass_gym.simulator.simulator import PRESENT, NoAgentError, Simulator, WorldState
from glass_gym.tensors.convert import to_numpy
from glass_gym.worlds.checkpoint import World
from glass_gym.worlds.pictures import fit_picture

GATHERED = 0.5
"""In a picture that holds an agent, its window has this share of M's mask, of what it has in the world's own frames: in
these it has nearly all, in noise and in other worlds a third."""
LOOKED_AT = 16
"""Start frames that say how much it has there, and how large an agent is."""


class StartStates:
    """States to start from.

    Args:
        world: its start frames.
        simulator: makes states of them.
    """

    def __init__(self, world: World, simulator: Simulator):
        self.world = world
        self.simulator = simulator
        self.count = len(world.start_frames)
        known = world.statistics.get("start_positions", [])
        self._positions = torch.tensor(known) if len(known) == self.count else None
        self._states: WorldState | None = None
        self._missing = set(range(self.count))

    @property
    def states(self) -> WorldState:
        """A state for every start frame of the world."""
        return self._made(range(self.count))

    def at(self, index: Tensor) -> WorldState:
        """The states of start frames.

        Each is made once, so that a reset is a gather: on the CPU when it is first asked for, one by one, for a single
        environment needs few of them; on a GPU all together, for to know which are asked for is to wait for it.

        Args:
            index: (B,) int64, on the device.

        Returns:
            B rows.
        """
        asked = index.tolist() if self._missing and self._alone else range(self.count)
        return self._made(asked).rows(index)

    @property
    def _alone(self) -> bool:
        """Whether states are made one by one; then none depends on which others were made."""
        return self.simulator.device.type == "cpu"

    def forget(self) -> None:
        """Let go of them; they are made again when they are needed."""
        self._states = None
        self._missing = set(range(self.count))

    def _made(self, asked: Iterable[int]) -> WorldState:
        """All states, of which those asked for are there."""
        missing = sorted(self._missing.intersection(asked))
        at_once = 1 if self._alone else self.count
        for first in range(0, len(missing), at_once):
            some = missing[first : first + at_once]
            frames = torch.from_numpy(self.world.start_frames[some])
            made = self.simulator.start(frames, None if self._positions is None else self._positions[some])
            if self._states is None:
                self._states = made.map(lambda part: _empty_rows(part, self.count))
            self._states = self._states.write(torch.tensor(some, device=self.simulator.device), made)
            self._missing.difference_update(some)
        assert self._states is not None
        return self._states

    def given(self, start: Any, rows: Tensor, total: int) -> WorldState:
        """The states that a user asks for.

        Args:
            start: an index into the start frames, a picture, or one of either for each of all rows.
            rows: (B,) int64, which rows start.
            total: how many rows there are.

        Returns:
            B rows.

        Raises:
            ValueError: neither indices nor pictures, or too many or too few.
            NoAgentError: the model finds no agent in a picture.
        """
        start = np.asarray(start)
        if start.ndim in (0, 1):
            return self.at(self._checked_index(start, total)[rows])
        if start.ndim == 4:
            if len(start) != total:
                raise ValueError(
                    f"start_frame holds {len(start)} pictures for {total} environments; pass one or one each"
                )
            return self.from_pictures(start[to_numpy(rows)])
        return self.from_pictures(start[None]).rows(torch.zeros_like(rows))

    def _checked_index(self, start: np.ndarray, total: int) -> Tensor:
        """Indices of start frames for all rows, on the device."""
        if not np.issubdtype(start.dtype, np.integer) or start.shape not in ((), (total,)):
            raise ValueError(
                f"start_frame must be an index, {total} indices, or pictures, got {start.dtype} {start.shape}"
            )
        if start.size and (start.min() < 0 or start.max() >= self.count):
            raise ValueError(f"start_frame {start.tolist()} is not in 0..{self.count - 1}")
        return torch.from_numpy(np.broadcast_to(start, total).astype(np.int64)).to(self.simulator.device)

    def from_pictures(self, pictures: np.ndarray) -> WorldState:
        """Start states of pictures of any size (see :func:`fit_picture`).

        Args:
            pictures: N of (h, w, 3) uint8.

        Returns:
            N rows.

        Raises:
            ValueError: not pictures.
            NoAgentError: the model finds no agent in one of them.
        """
        height = self.simulator.height
        width = self.simulator.width
        aspect = self.world.pixel_aspect
        fitted = np.stack([fit_picture(picture, height, width, aspect) for picture in pictures])
        states = self.simulator.start(torch.from_numpy(fitted))
        usual, share = self.usual_agent()
        found = to_numpy(states.mass)
        gathered = self._gathered(states, torch.from_numpy(fitted))
        scattered = gathered < GATHERED * share
        for index in np.flatnonzero(scattered | (found < PRESENT * usual)):
            raise NoAgentError(
                f"no agent found in start picture {index}: the model's mask covers {found[index]:.0f} px where there is"
                f" most of it, {gathered[index]:.0%} of the whole; the agents of world {self.world.name or 'given'!r} "
                f"about {usual:.0f} px, and nearly all. Use a picture like those that the world learned from "
                f"(a frame is {height}x{width} px, see env.unwrapped.core.world.start_frames)"
            )
        return states

    def usual_agent(self) -> tuple[float, float]:
        """Of the agents in the world's own start frames: px of M's mask in their windows, its share of the whole."""
        own = self.at(torch.arange(min(LOOKED_AT, self.count), device=self.simulator.device))
        share = self._gathered(own, torch.from_numpy(self.world.start_frames))
        return float(own.mass.median()), float(np.median(share))

    def _gathered(self, states: WorldState, frames: Tensor) -> np.ndarray:
        """The share of M's masks that lies in the agents' windows, for B states and at least as many frames."""
        frames = frames[: len(states)].permute(0, 3, 1, 2).to(self.simulator.device)
        return to_numpy(states.mass / self.simulator.masks(frames).sum((1, 2, 3)).clamp_min(1e-6))


def _empty_rows(part: Tensor, count: int) -> Tensor:
    """Room for `count` rows like `part` (1, ...), in its memory format."""
    room = part.new_empty(count, *part.shape[1:])
    last = part.ndim == 4 and part.is_contiguous(memory_format=torch.channels_last)
    return room.contiguous(memory_format=torch.channels_last) if last else room
