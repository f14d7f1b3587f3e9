"""States of many rows: dataclasses of (B, ...) tensors, copied, cut and joined row by row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch
from torch import Tensor

LARGE = 1024
"""Bytes of a row: parts of a state from here on are layers, pictures and features."""

State = TypeVar("State", bound="RowState")


@dataclass
class RowState:
    """What states of many rows share. Fields are tensors (B, ...), tuples or dicts of them, or other row states."""

    def __len__(self) -> int:
        """B, the number of rows."""
        return len(self.tensors()[0])

    def tensors(self) -> list[Tensor]:
        """All tensors, in a fixed order."""
        found: list[Tensor] = []
        self.map(lambda x: (found.append(x), x)[1])
        return found

    def map(self: State, function: Callable[..., Tensor], *others: State) -> State:
        """A state of `function(tensor, ...)` of each tensor, and of those in the same place of the `others`.

        Returns:
            a new state.

        Raises:
            ValueError: the states hold other parts.
        """
        parts = {
            field.name: _map(function, *(getattr(state, field.name) for state in (self, *others)))
            for field in fields(self)
        }
        return type(self)(**parts)

    def clone(self: State) -> State:
        """A copy that shares nothing."""
        return self.map(torch.clone)

    def rows(self: State, index: Any) -> State:
        """Some rows (int64 or bool index), copied."""
        return self.map(lambda x: x[index])

    def write(self: State, index: Any, other: State) -> State:
        """A state with rows `index` taken from `other` (as many rows as the index selects).

        Returns:
            it. It takes the place of this one: what is large is overwritten, not copied.
        """

        def write(mine: Tensor, theirs: Tensor) -> Tensor:
            return write_rows(mine if mine[:1].nbytes >= LARGE else mine.clone(), index, theirs)

        return self.map(write, other)

    def where(self: State, mask: Tensor, other: State) -> State:
        """A state with the rows of a (B,) bool mask taken from `other` (B rows); never looks at the mask's values."""
        return self.map(lambda mine, theirs: torch.where(spread(mask, mine), theirs.to(mine.dtype), mine), other)


def spread(mask: Tensor, like: Tensor) -> Tensor:
    """A (B,) mask shaped to broadcast over (B, ...)."""
    return mask.view(-1, *[1] * (like.ndim - 1))


def write_rows(mine: Tensor, index: Any, theirs: Tensor) -> Tensor:
    """Replace rows `index` of `mine` (B, ...) by `theirs`, and return it."""
    mine[index] = theirs.to(mine)
    return mine


def _map(function: Callable[..., Tensor], first: Any, *others: Any) -> Any:
    if isinstance(first, RowState):
        return first.map(function, *others)
    if isinstance(first, tuple):
        return tuple(_map(function, *parts) for parts in zip(first, *others, strict=True))
    if isinstance(first, dict):
        if any(set(other) != set(first) for other in others):
            raise ValueError(f"the states hold other parts: {sorted(first)}, {[sorted(other) for other in others]}")
        return {key: _map(function, part, *(other[key] for other in others)) for key, part in first.items()}
    return function(first, *others)
