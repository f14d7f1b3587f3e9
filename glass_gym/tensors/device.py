"""Which device and which precision to compute with."""

from __future__ import annotations

import functools
import math
import time

import torch

PRECISIONS = ("auto", "float32", "bfloat16")
PAYS = 1.25
"""bfloat16 must be so many times as fast."""


def pick_device(name: str | torch.device) -> torch.device:
    """``"auto"`` (CUDA where there is one), ``"cpu"``, ``"cuda"`` or ``"cuda:i"`` -> a device.

    Returns:
        the device.

    Raises:
        ValueError: no such device here; the message names the fix.
    """
    if str(name) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        known = device.type in ("cpu", "cuda")
    except (RuntimeError, TypeError):
        known = False
    if not known:
        raise ValueError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:i', got {name!r}")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(
                f"device {str(name)!r} asked for, but this torch sees no CUDA device; "
                "use 'cpu' or 'auto', or install a CUDA build of torch (README)"
            )
        if (device.index or 0) >= torch.cuda.device_count():
            raise ValueError(f"device {str(name)!r} asked for; there are {torch.cuda.device_count()}, counted from 0")
    return device


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """``"auto"``: bfloat16 where the device multiplies whole tiles of it (CUDA, AMX), else float32.

    With AVX512-BF16 alone it is tried out, once a process: on one CPU M takes 1.5 times as long in bfloat16 as in
    float32, on another half as long.

    Returns:
        float32 or bfloat16.

    Raises:
        ValueError: no name in PRECISIONS.
    """
    if name not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {name!r}")
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported()
    else:
        tiles = torch.backends.cpu.get_cpu_capability() == "AMX" or _cpu_has("amx_tile")
        fast = tiles or (_cpu_has("avx512_bf16") and _bfloat16_pays())
    return torch.bfloat16 if fast else torch.float32


def _cpu_has(what: str) -> bool:
    probe = getattr(torch.cpu, f"_is_{what}_supported", None)  # private: not in every torch
    return probe is not None and probe()


@functools.cache
@torch.no_grad()
@torch.autocast("cpu", enabled=False)
def _bfloat16_pays() -> bool:
    """Whether a convolution as M's and D's takes this CPU clearly longer in float32: 20 ms on one thread, in turns."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # others on the cores disturb two threads more than one
    image = torch.ones(4, 64, 32, 32).to(memory_format=torch.channels_last)
    weight = torch.ones(64, 64, 3, 3).to(memory_format=torch.channels_last)
    fastest = dict.fromkeys((torch.float32, torch.bfloat16), math.inf)
    for _ in range(9):
        for kind in fastest:
            there = image.to(kind), weight.to(kind)
            began = time.perf_counter()
            torch.nn.functional.conv2d(*there, padding=1)
            fastest[kind] = min(fastest[kind], time.perf_counter() - began)
    torch.set_num_threads(threads)
    return fastest[torch.float32] > PAYS * fastest[torch.bfloat16]
