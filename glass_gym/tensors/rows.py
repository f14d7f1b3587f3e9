"""States of a batch: dataclasses of (B, ...) tensors whose rows can be copied, selected and replaced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch
from torch import Tensor

LARGE = 1024
"""Tensors with at least this many bytes per row (layers, frames, features) are overwritten in place, not copied."""

State = TypeVar("State", bound="RowState")


@dataclass
class RowState:
    """Base class of states. Fields are tensors (B, ...), tuples or dicts of tensors, or other row states."""

    def __len__(self) -> int:
        """B, the number of rows."""
        return len(self.tensors()[0])

    def tensors(self) -> list[Tensor]:
        """All tensors, in a fixed order."""
        found: list[Tensor] = []
        self.map(lambda x: (found.append(x), x)[1])
        return found

    def map(self: State, function: Callable[..., Tensor], *others: State) -> State:
        """Apply a function to each tensor, and to those in the same place of `others`; ValueError: other parts."""
        names = [field.name for field in fields(self)]
        return type(self)(*(_map(function, *(getattr(state, n) for state in (self, *others))) for n in names))

    def clone(self: State) -> State:
        """A copy that shares no memory."""
        return self.map(torch.clone)

    def rows(self: State, index: Any) -> State:
        """Copies of some rows, by int64 or bool index."""
        return self.map(lambda x: x[index])

    def write(self: State, index: Any, other: State) -> State:
        """Replace rows `index` by the rows of another state, which has as many rows as the index selects.

        Returns:
            the state after it. Use it in place of this one, whose large tensors are overwritten.
        """

        def write(mine: Tensor, theirs: Tensor) -> Tensor:
            return write_rows(mine if mine[:1].nbytes >= LARGE else mine.clone(), index, theirs)

        return self.map(write, other)

    def where(self: State, mask: Tensor, other: State) -> State:
        """Take the rows of a (B,) bool mask from another state of B rows. The host never reads the mask."""

        def choose(mine: Tensor, theirs: Tensor) -> Tensor:
            return torch.where(mask.view(-1, *[1] * (mine.ndim - 1)), theirs.to(mine.dtype), mine)

        return self.map(choose, other)


def write_rows(mine: Tensor, index: Any, theirs: Tensor) -> Tensor:
    """Replace rows `index` of `mine` (B, ...) by `theirs`, in place, and return it."""
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
