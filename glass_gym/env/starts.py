"""Where episodes start: in start frames of the world, or in pictures that users give."""

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
"""A picture with an agent has at least this share of its mask in the agent's window, relative to the world's own start
frames. There nearly all of the mask is in the window; in noise and in frames of other worlds a third is.
"""
LOOKED_AT = 16  # Number of start frames that these shares and the agent's usual size are measured on.


class StartStates:
    """States to start episodes from.

    Args:
        world: has the start frames.
        simulator: makes states of them.
    """

    def __init__(self, world: World, simulator: Simulator):
        self.world = world
        self.simulator = simulator
        self.count = len(world.start_frames)
        self._positions = world.start_positions
        self._backgrounds = world.start_backgrounds
        self._alone = simulator.device.type == "cpu"  # states are made one by one; none depends on others then
        self.forget()

    @property
    def states(self) -> WorldState:
        """The states of all start frames."""
        return self._made(range(self.count))

    def at(self, index: Tensor) -> WorldState:
        """The states (B rows) of start frames, by int64 indices on the device.

        Each is made once and kept, so that a reset only copies. On the CPU it is made when it is first needed, one by
        one, since a single environment needs few of them. On a GPU all are made together, since reading which are
        needed would make the host wait.

        Returns:
            B rows.
        """
        wanted = index.tolist() if self._missing and self._alone else range(self.count)
        return self._made(wanted).rows(index)

    def forget(self) -> None:
        """Free the states; they are made again when they are needed."""
        self._states: WorldState | None = None
        self._missing = set(range(self.count))

    def _made(self, wanted: Iterable[int]) -> WorldState:
        """All states, of which at least the wanted ones are made."""
        missing = sorted(self._missing.intersection(wanted))
        batch = 1 if self._alone else self.count
        for first in range(0, len(missing), batch):
            some = missing[first : first + batch]
            frames = torch.from_numpy(self.world.start_frames[some])
            made = self.simulator.start(
                frames,
                None if self._positions is None else self._positions[some],
                None if self._backgrounds is None else torch.from_numpy(self._backgrounds[some]),
            )
            if self._states is None:
                self._states = made.map(lambda part: _empty_rows(part, self.count))
            self._states = self._states.write(torch.tensor(some, device=self.simulator.device), made)
            self._missing.difference_update(some)
        assert self._states is not None
        return self._states

    def given(self, start: Any, rows: Tensor, total: int) -> WorldState:
        """The states that the reset option `start_frame` asks for.

        Args:
            start: an index of the start frames, a picture, or one of either for each environment.
            rows: (B,) int64, the rows that start.
            total: the number of environments.

        Returns:
            B rows.

        Raises:
            ValueError: the value is neither, or has another length.
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
        if not np.issubdtype(start.dtype, np.integer) or start.shape not in ((), (total,)):
            raise ValueError(
                f"start_frame must be an index, {total} indices, or pictures, got {start.dtype} {start.shape}"
            )
        if start.size and (start.min() < 0 or start.max() >= self.count):
            raise ValueError(f"start_frame {start.tolist()} is not in 0..{self.count - 1}")
        return torch.from_numpy(np.broadcast_to(start, total).astype(np.int64)).to(self.simulator.device)

    def from_pictures(self, pictures: np.ndarray) -> WorldState:
        """The start states of pictures of any size; ValueError: one is none, NoAgentError: one shows no agent."""
        height, width = self.simulator.height, self.simulator.width
        fitted = np.stack([fit_picture(picture, height, width, self.world.pixel_aspect) for picture in pictures])
        states = self.simulator.start(torch.from_numpy(fitted))
        usual, share = self.usual_agent()
        found = to_numpy(states.mass)
        gathered = self._gathered(states, torch.from_numpy(fitted))
        for index in np.flatnonzero((gathered < GATHERED * share) | (found < PRESENT * usual)):
            raise NoAgentError(
                f"no agent found in start picture {index}: where the model's mask is densest, it covers "
                f"{found[index]:.0f} px, {gathered[index]:.0%} of the whole mask. Agents of world "
                f"{self.world.name or 'given'!r} cover about {usual:.0f} px, and nearly all of the mask. Use a picture "
                f"like the frames that the world was trained on, {height}x{width} px: "
                "env.unwrapped.core.world.start_frames has examples"
            )
        return states

    def usual_agent(self) -> tuple[float, float]:
        """Medians in the own start frames: the mass of the mask in the window, px, and its share of the whole mask."""
        own = self.at(torch.arange(min(LOOKED_AT, self.count), device=self.simulator.device))
        share = self._gathered(own, torch.from_numpy(self.world.start_frames))
        return float(own.mass.median()), float(np.median(share))

    def _gathered(self, states: WorldState, frames: Tensor) -> np.ndarray:
        """The share of M's masks that is in the agents' windows, (B,), for B states and their frames."""
        frames = frames[: len(states)].permute(0, 3, 1, 2).to(self.simulator.device)
        return to_numpy(states.mass / self.simulator.masks(frames).sum((1, 2, 3)).clamp_min(1e-6))


def _empty_rows(part: Tensor, count: int) -> Tensor:
    """An empty tensor for `count` rows like `part` (1, ...), in its memory format."""
    room = part.new_empty(count, *part.shape[1:])
    last = part.ndim == 4 and part.is_contiguous(memory_format=torch.channels_last)
    return room.contiguous(memory_format=torch.channels_last) if last else room
