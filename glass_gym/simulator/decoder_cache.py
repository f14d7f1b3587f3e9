"""A cache for the decoder: the pose model draws each pair of appearance and pose once."""

from __future__ import annotations

import hashlib
import itertools
from collections import OrderedDict

import numpy as np
import torch
from torch import Tensor

from glass_gym.model.library import LibraryLMA
from glass_gym.model.lma import LMA, Drawn, State
from glass_gym.model.pose_model import PoseLMA

MOST_BYTES = 256 << 20  # Memory for layers; when it is full, the oldest are overwritten.
BATCH_PIXELS = 64 * 32 * 32
"""Window pixels that are drawn in one batch: sixteen layers of 32 x 32 px take little longer than one."""
SCALES = torch.tensor([1 / 127.5, 1 / 127.5, 1 / 127.5, 1 / 255])  # From the uint8 channels of a layer to float32.


def cached(lma: LMA, device: torch.device) -> LMA | DecoderCache:
    """Put a :class:`DecoderCache` around an LMA where that makes it faster: the pose model on the CPU.

    On a GPU, looking a layer up would make the host wait. A D that gets the position draws a pose differently at each.

    Returns:
        the cache, or the LMA itself.
    """
    if not isinstance(lma, PoseLMA) or isinstance(lma, LibraryLMA) or device.type != "cpu":
        return lma
    return lma if lma.decoder.uses_position else DecoderCache(lma)


class DecoderCache:
    """A :class:`PoseLMA` that keeps the layers that it has drawn.

    A world has few pairs of appearance and pose, and episodes return to them. Layers are kept as uint8 with an error of
    at most half a grey level; a layer that was just drawn is rounded in the same way, so that the cache does not change
    results. When a layer must be drawn, the most requested poses are drawn with it in the same appearance.

    The state is that of the LMA, and a hash (B,) int64 of appearance and first pose.

    Args:
        lma: its D does not get the position.
        most_bytes: memory for layers, allocated as they come.
    """

    def __init__(self, lma: PoseLMA, most_bytes: int = MOST_BYTES):
        self.lma = lma
        self.most_bytes = most_bytes
        height, width = lma.view.size
        self.batch = max(1, BATCH_PIXELS // (height * width))
        self.requests = np.zeros(lma.config.poses, np.int64)  # per pose
        self.capacity = max(1, most_bytes // (4 * height * width))
        self.layers = torch.empty(self.capacity, height, width, 4, dtype=torch.uint8)
        self.slots: OrderedDict[tuple[int, int], int] = OrderedDict()  # oldest first

    def __reduce__(self) -> tuple[type[DecoderCache], tuple[PoseLMA, int]]:
        """A copy, or what a pickle restores, is an empty cache: it draws the layers again."""
        return DecoderCache, (self.lma, self.most_bytes)

    def start_state(self, layer: Tensor) -> State:
        """As :meth:`LMA.start_state`, with the hash appended."""
        state = self.lma.start_state(layer)
        return *state, hash_rows(*state[:2])

    def code_prior(self, state: State, shifts: Tensor) -> Tensor:
        """As :meth:`LMA.code_prior`."""
        return self.lma.code_prior(state[:-1], shifts)

    def animate(
        self, layer: Tensor, state: State, shift: Tensor, code_vector: Tensor, position: Tensor
    ) -> tuple[Drawn, State]:
        """As :meth:`LMA.animate`; `colour` and `logits` of the result are channels of the layer."""
        *known, appearance = state
        known, pose = self.lma.predict_pose(tuple(known), shift, code_vector, position)
        layer = self.fetch(appearance, pose, known)
        return Drawn(layer, layer[:, :3], layer[:, 3:], []), (*known, appearance)

    def fetch(self, appearance: Tensor, poses: Tensor, state: State) -> Tensor:
        """Layers (B, 4, h, w) float32 of hashes and pose indices (B,), kept or drawn; `state` is the LMA's, B rows."""
        keys = list(zip(appearance.tolist(), poses.tolist(), strict=True))
        self.requests += np.bincount(poses.numpy(), minlength=len(self.requests))
        found = [self.slots.get(key, -1) for key in keys]
        if -1 not in found:
            return self._read(found)
        missing = {key: row for row, key in enumerate(keys) if found[row] < 0}  # each once
        new = missing | self._likely(missing)
        drawn = _to_kept(self._draw(torch.tensor(list(new.values())), torch.tensor([pose for _, pose in new]), state))
        place = {key: i for i, key in enumerate(new)}
        layers = self._read([max(0, slot) for slot in found])  # before old ones are overwritten
        rows = [row for row, slot in enumerate(found) if slot < 0]
        layers.permute(0, 2, 3, 1)[rows] = _from_kept(drawn[[place[keys[row]] for row in rows]])
        for key, layer in zip(new, drawn, strict=True):
            self._keep(key, layer)
        return layers

    def _draw(self, rows: Tensor, poses: Tensor, state: State) -> Tensor:
        """Draw the agents of rows (N,) in poses (N,): layers (N, 4, h, w)."""
        appearance, first, _, hidden = (part[rows] for part in state)
        return self.lma.draw((appearance, first, self.lma.pose_codebook.embed(poses), hidden), None).layer.float()

    def _likely(self, missing: dict[tuple[int, int], int]) -> dict[tuple[int, int], int]:
        """Layers to draw along, as `missing` (rows by key): the most requested poses in the same appearances."""
        spare = self.batch - len(missing)
        if spare <= 0:
            return {}
        rows = {appearance: row for (appearance, _), row in missing.items()}
        often = [pose for pose in np.argsort(-self.requests, kind="stable").tolist() if self.requests[pose]]
        wanted = ((appearance, pose) for pose in often for appearance in rows)
        likely = (key for key in wanted if key not in self.slots and key not in missing)
        return {key: rows[key[0]] for key in itertools.islice(likely, spare)}

    def _read(self, slots: list[int]) -> Tensor:
        return _from_kept(self.layers.index_select(0, torch.tensor(slots))).permute(0, 3, 1, 2)

    def _keep(self, key: tuple[int, int], layer: Tensor) -> None:
        full = len(self.slots) == self.capacity
        slot = self.slots.popitem(last=False)[1] if full else len(self.slots)
        self.layers[slot] = layer
        self.slots[key] = slot


def _to_kept(layers: Tensor) -> Tensor:
    """Layers (N, 4, h, w), colour * m in [-m, m] and m, -> (N, h, w, 4) uint8: the layer over black, and m."""
    last = layers.permute(0, 2, 3, 1)
    added = (last[..., :3] + last[..., 3:]) * 127.5
    return torch.cat([added, last[..., 3:] * 255], -1).round_().clamp_(0, 255).byte()


def _from_kept(kept: Tensor) -> Tensor:
    """The inverse of :func:`_to_kept`: (N, h, w, 4) uint8 -> (N, h, w, 4) float32."""
    layers = kept * SCALES
    layers[..., :3] -= layers[..., 3:]
    return layers


def hash_rows(*tensors: Tensor) -> Tensor:
    """A hash of each row of tensors (B, ...): (B,) int64. Equal rows have equal hashes."""
    hashes = []
    for row in zip(*(t.detach().cpu() for t in tensors), strict=True):
        digest = hashlib.blake2b(digest_size=8)
        for part in row:
            digest.update(part.contiguous().numpy())
        hashes.append(np.frombuffer(digest.digest(), np.int64))
    return torch.from_numpy(np.concatenate(hashes))
