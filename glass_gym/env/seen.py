"""SeenGround: the places where the footage shows the agent; moves that lead elsewhere are not made."""

from __future__ import annotations

import torch
from torch import Tensor

from glass_gym.worlds.checkpoint import World


class SeenGround:
    """The cells of a world's frame that agents were seen in (`seen` in :attr:`World.statistics`).

    Args:
        world: has them.
        device: of positions.

    Raises:
        ValueError: the world does not store them.
    """

    def __init__(self, world: World, device: torch.device):
        seen = world.statistics.get("seen")
        if seen is None:
            raise ValueError(
                f"world {world.name or 'given'!r} does not store where agents were seen: glass-train writes it into "
                "new worlds; use bounds='ground', the box around these places"
            )
        self.cells = torch.tensor(seen, dtype=torch.bool, device=device)  # (rows, columns)
        rows, columns = self.cells.shape
        self.size = torch.tensor([world.config.width / columns, world.config.height / rows], device=device)

    def holds(self, position: Tensor) -> Tensor:
        """Whether agents were seen at positions (B, 2) px, (B,) bool; outside of the frame the nearest cell counts."""
        index = (position / self.size).floor().long().clamp(min=0)
        rows, columns = self.cells.shape
        return self.cells[index[:, 1].clamp(max=rows - 1), index[:, 0].clamp(max=columns - 1)]

    def allowed(self, position: Tensor, move: Tensor) -> Tensor:
        """The part of moves (B, 2) px that ends where agents were seen: whole, else along x or y alone, else none.

        An agent that is elsewhere already, such as in a picture of the user's, may move as it likes.

        Returns:
            (B, 2) px.
        """
        free = ~self.holds(position)
        out = torch.zeros_like(move)
        for part in (move * move.new_tensor([0, 1]), move * move.new_tensor([1, 0]), move):  # the last that fits
            fits = free | self.holds(position + part)
            out = torch.where(fits[:, None], part, out)
        return out
