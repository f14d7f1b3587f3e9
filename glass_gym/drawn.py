"""Windows that were drawn before: what an agent looks like in one pose is drawn once."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

MOST_BYTES = 256 << 20
"""Of layers that are kept; the oldest go first."""
AHEAD = 64 * 32 * 32
"""Px drawn at once, where any are: alone a layer takes nearly as long as sixteen of 32 x 32 px, and what is not
drawn ahead of time is soon asked for. It is what a step of 64 such rows drew when nothing was kept."""

SCALES = torch.tensor([1 / 127.5, 1 / 127.5, 1 / 127.5, 1 / 255])


class DrawnWindows:
    """Layers by what they were drawn from, (looks, pose): a world has few such pairs, and an episode returns to them.

    They are kept in bytes (half a grey level), and what is drawn anew is rounded as well: whether a layer was drawn
    before does not show. Where one has to be drawn, poses that are often asked for are drawn with it, in
    the same looks.

    Args:
        size: (h, w) of a layer, px.
        poses: P.
        most_bytes: memory for them. It is taken as they come.
    """

    def __init__(self, size: tuple[int, int], poses: int, most_bytes: int = MOST_BYTES):
        height, width = size
        self.at_once = max(1, AHEAD // (height * width))
        self.asked = np.zeros(poses, np.int64)  # how often for each pose
        self.capacity = max(1, most_bytes // (4 * height * width))
        self.layers = torch.empty(self.capacity, height, width, 4, dtype=torch.uint8)
        self.slots: dict[tuple[int, int], int] = {}
        self.keys: list[tuple[int, int]] = []  # by slot
        self.next = 0  # the slot that is written next, the oldest when all are taken

    def __call__(self, looks: Tensor, poses: Tensor, draw: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Layers of rows.

        Args:
            looks: (B,) int64, see :func:`name_rows`.
            poses: (B,) int64.
            draw: rows (N,) int64 and poses (N,) int64, in which they are drawn -> layers (N, 4, h, w).

        Returns:
            (B, 4, h, w) float32, channels last.
        """
        keys = list(zip(looks.tolist(), poses.tolist(), strict=True))
        self.asked += np.bincount(poses.numpy(), minlength=len(self.asked))
        found = [self.slots.get(key, -1) for key in keys]
        if -1 not in found:
            return self._read(found)
        missing = {key: row for row, key in enumerate(keys) if found[row] < 0}  # each once
        new = missing | self._likely(missing)
        drawn = draw(torch.tensor(list(new.values())), torch.tensor([pose for _, pose in new]))
        drawn = _to_kept(drawn)
        place = {key: i for i, key in enumerate(new)}
        layers = self._read([max(0, slot) for slot in found])  # before the oldest are overwritten
        rows = [row for row, slot in enumerate(found) if slot < 0]
        layers.permute(0, 2, 3, 1)[rows] = _from_kept(drawn[[place[keys[row]] for row in rows]])
        for key, layer in zip(new, drawn, strict=True):
            self._keep(key, layer)
        return layers

    def _likely(self, missing: dict[tuple[int, int], int]) -> dict[tuple[int, int], int]:
        """What else is worth drawing now: rows by keys, the poses that are asked for most first."""
        spare = self.at_once - len(missing)
        if spare <= 0:
            return {}
        rows = {looks: row for (looks, _), row in missing.items()}
        often = [pose for pose in np.argsort(-self.asked, kind="stable").tolist() if self.asked[pose]]
        wanted = ((looks, pose) for pose in often for looks in rows)
        likely = (key for key in wanted if key not in self.slots and key not in missing)
        return {key: rows[key[0]] for key in itertools.islice(likely, spare)}

    def _read(self, slots: list[int]) -> Tensor:
        return _from_kept(self.layers.index_select(0, torch.tensor(slots))).permute(0, 3, 1, 2)

    def _keep(self, key: tuple[int, int], layer: Tensor) -> None:
        if self.next < len(self.keys):
            del self.slots[self.keys[self.next]]
            self.keys[self.next] = key
        else:
            self.keys.append(key)
        self.layers[self.next] = layer
        self.slots[key] = self.next
        self.next = (self.next + 1) % self.capacity


def _to_kept(layers: Tensor) -> Tensor:
    """(N, 4, h, w), colour * m in [-m, m] and m, -> (N, h, w, 4) uint8: what a layer adds to a black frame, and m."""
    last = layers.permute(0, 2, 3, 1)
    added = (last[..., :3] + last[..., 3:]) * 127.5
    return torch.cat([added, last[..., 3:] * 255], -1).round_().clamp_(0, 255).byte()


def _from_kept(kept: Tensor) -> Tensor:
    """(N, h, w, 4) uint8 -> float32, as they were drawn."""
    layers = kept * SCALES
    layers[..., :3] -= layers[..., 3:]
    return layers


def name_rows(*tensors: Tensor) -> Tensor:
    """A number for what each row of tensors (B, ...) holds: (B,) int64; equal rows have equal ones."""
    names = []
    for row in zip(*(t.detach().cpu() for t in tensors), strict=True):
        digest = hashlib.blake2b(digest_size=8)
        for part in row:
            digest.update(part.contiguous().numpy())
        names.append(np.frombuffer(digest.digest(), np.int64))
    return torch.from_numpy(np.concatenate(names))
