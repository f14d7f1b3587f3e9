"""Choose the device and the precision of the networks."""

from __future__ import annotations

import functools
import math
import time

import torch

PRECISIONS = ("auto", "float32", "bfloat16")
MIN_SPEEDUP = 1.25  # Bfloat16 is chosen if it is at least this many times as fast as float32.


def pick_device(name: str | torch.device) -> torch.device:
    """The device "auto" (CUDA if there is one), "cpu", "cuda", "cuda:i" or "mps"; ValueError: unknown, or not there."""
    if str(name) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        known = device.type in ("cpu", "cuda", "mps")
    except (RuntimeError, TypeError):
        known = False
    if not known:
        raise ValueError(f"device must be 'auto', 'cpu', 'cuda', 'cuda:i' or 'mps', got {name!r}")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device 'mps' is not there: this torch sees no Apple GPU; use 'cpu' or 'auto'")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(
                f"device {str(name)!r} is not there: this torch sees no CUDA device; "
                "use 'cpu' or 'auto', or install a CUDA build of torch (README)"
            )
        if (device.index or 0) >= torch.cuda.device_count():
            raise ValueError(
                f"device {str(name)!r} is not there: there are {torch.cuda.device_count()} CUDA devices, counted from 0"
            )
    return device


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """The precision "auto", "float32" or "bfloat16" on a device.

    "auto" is bfloat16 on devices with matrix units for it (CUDA, CPUs with AMX), else float32. CPUs that only have
    AVX512-BF16 are measured once per process, since it is faster on some of them only.

    Returns:
        float32 or bfloat16.

    Raises:
        ValueError: the name is unknown.
    """
    if not isinstance(name, str) or name not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {name!r}")
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported()
    elif device.type == "mps":
        fast = False
    else:
        tiles = torch.backends.cpu.get_cpu_capability() == "AMX" or _cpu_has("amx_tile")
        fast = tiles or (_cpu_has("avx512_bf16") and _bfloat16_is_faster())
    return torch.bfloat16 if fast else torch.float32


def _cpu_has(what: str) -> bool:
    probe = getattr(torch.cpu, f"_is_{what}_supported", None)  # private: not in every torch
    return probe is not None and probe()


@functools.cache
@torch.no_grad()
@torch.autocast("cpu", enabled=False)
def _bfloat16_is_faster() -> bool:
    """Time a convolution like those of M and D in both precisions: 20 ms on one thread, alternating."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # other processes disturb two threads more than one
    image = torch.ones(4, 64, 32, 32).to(memory_format=torch.channels_last)
    weight = torch.ones(64, 64, 3, 3).to(memory_format=torch.channels_last)
    fastest = dict.fromkeys((torch.float32, torch.bfloat16), math.inf)
    for _ in range(9):
        for kind in fastest:
            tensors = image.to(kind), weight.to(kind)
            began = time.perf_counter()
            torch.nn.functional.conv2d(*tensors, padding=1)
            fastest[kind] = min(fastest[kind], time.perf_counter() - began)
    torch.set_num_threads(threads)
    return fastest[torch.float32] > MIN_SPEEDUP * fastest[torch.bfloat16]
