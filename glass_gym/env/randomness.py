"""Counter-based random numbers on the device: a row keeps only two integers, a key and the number of its episode.

A row's numbers follow from (key, episode) alone. They depend neither on the number of rows, nor on the device, nor on
resets of other rows, and drawing them never makes the host wait. SplitMix64 (Steele et al., OOPSLA 2014).
"""

from __future__ import annotations

import numpy as np
import torch
from gymnasium.utils import seeding
from torch import Tensor

GOLDEN = -0x61C8864680B583EB  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
"""Constants of SplitMix64."""
MIX = (-0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15)  # 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def draw_key(generator: np.random.Generator) -> int:
    """Draw a key, an int64, from a seeded generator."""
    return int(generator.integers(-(2**63), 2**63 - 1, dtype=np.int64))


def key_of_seed(seed: int | None) -> int:
    """The key of a seed. Single environments and rows of a vector use the same; None draws one from the system."""
    return draw_key(seeding.np_random(None if seed is None else int(seed))[0])


def uniform(key: Tensor, episode: Tensor, count: int) -> Tensor:
    """Uniform random numbers (B, count), float32 in [0, 1), of keys and episodes (B,) int64."""
    start = _mix(key + GOLDEN * (episode + 1))
    numbers = torch.arange(1, count + 1, device=key.device)
    bits = _mix(start[:, None] + GOLDEN * numbers)
    return _shift_right(bits, 40).float() * 2.0**-24


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * MIX[0]
    x = (x ^ _shift_right(x, 27)) * MIX[1]
    return x ^ _shift_right(x, 31)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift; torch's keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
