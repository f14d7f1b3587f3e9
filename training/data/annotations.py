"""Pickles of the PNG layout (actions, rewards, dones, metadata): read as plain data, whatever they ask for.

Data sets are downloaded files, and a pickle is a program. Here it may build numbers, strings, lists, tuples, sets,
dicts and arrays of plain numbers; numpy's own dtype and array classes are never called, for a forged state of theirs
makes pointers of the file's bytes.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .store import DataError

LARGEST = 256 << 20
"""Bytes of a file."""
PLAIN = re.compile("[biufc][1248]|[fc]16|c8|b1")


class _Number:
    """In a dtype's place: which plain number."""

    def __init__(self, code: Any, *_):
        if not isinstance(code, str) or not PLAIN.fullmatch(code):
            raise DataError(f"it holds arrays of {str(code)[:40]!r}; only plain numbers are read")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 4 else None
        if order not in ("<", ">", "|", "=") or any(part is not None for part in state[2:5]):
            raise DataError("it holds arrays with fields; only plain numbers are read")
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """In an array's place, until all is read."""

    value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, number, fortran, raw = state
        self.value = _array(raw, number, shape, "F" if fortran else "C")


def _array(raw: Any, number: Any, shape: Any, order: str = "C") -> np.ndarray:
    if not isinstance(number, _Number) or not isinstance(raw, (bytes, bytearray)) or not isinstance(shape, tuple):
        raise DataError("it holds arrays of objects; only plain numbers are read")
    if not all(type(n) is int and n >= 0 for n in shape) or len(shape) > 8:
        raise DataError(f"it holds an array of shape {str(shape)[:80]}")
    if math.prod(shape) * number.dtype.itemsize != len(raw):
        raise DataError(f"it holds an array of shape {shape}, but {len(raw)} bytes of it")
    return np.frombuffer(bytes(raw), number.dtype).reshape(shape, order=order).copy()


def _scalar(number: Any, raw: Any) -> Any:
    return _array(raw, number, ()).item()


ALLOWED: dict[tuple[str, str], Callable[..., Any] | type] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Number,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): lambda text, codec: text.encode(codec) if codec == "latin1" else b"",
} | {
    (f"numpy.{core}.{module}", name): made
    for core in ("core", "_core")
    for module, name, made in (
        ("multiarray", "_reconstruct", lambda kind, shape, code: _Array()),
        ("multiarray", "scalar", _scalar),
        ("numeric", "_frombuffer", _array),
    )
}


class _DataOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in ALLOWED:
            return ALLOWED[module, name]
        raise DataError(f"it asks for {module}.{name}; only plain lists, dicts, numbers and arrays are read")


def read_annotations(path: Path) -> Any:
    """One of the layout's pickles, without running code.

    Raises:
        DataError: anything but plain data, or more of it than the file can hold.
    """
    path = Path(path)
    try:
        if path.stat().st_size > LARGEST:
            raise DataError(f"{path.stat().st_size} bytes are more than {LARGEST}")
        raw = path.read_bytes()
        _scan(raw)
        return _plain(_DataOnly(io.BytesIO(raw)).load(), {}, 0)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except Exception as error:  # a broken pickle raises anything
        raise DataError(f"{path}: not a readable pickle ({str(error)[:200] or type(error).__name__})") from None


def _scan(raw: bytes) -> None:
    """The unpickler makes room for the largest memo index before anything is there."""
    for opcode, argument, _ in pickletools.genops(raw):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and not 0 <= argument <= len(raw):
            raise DataError(f"its memo index {argument} is more than its {len(raw)} bytes can use")
        if opcode.name in ("EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID", "NEXT_BUFFER", "READONLY_BUFFER"):
            raise DataError(f"it holds {opcode.name}; only plain data is read")


def _plain(value: Any, seen: dict[int, Any], depth: int) -> Any:
    """Stand-ins replaced; what is shared stays shared, so that nothing grows."""
    if id(value) in seen:
        return seen[id(value)]
    if depth > 64:
        raise DataError("it is nested more than 64 deep")
    if isinstance(value, _Array):
        if value.value is None:
            raise DataError("it holds an array without numbers")
        out: Any = value.value
    elif isinstance(value, np.ndarray):  # of _array
        out = value
    elif isinstance(value, dict):
        out = seen[id(value)] = {}
        out.update({_simple(k): _plain(v, seen, depth + 1) for k, v in value.items()})
    elif isinstance(value, list):
        out = seen[id(value)] = []
        out.extend(_plain(v, seen, depth + 1) for v in value)
    elif isinstance(value, tuple):
        out = tuple(_plain(v, seen, depth + 1) for v in value)
    elif isinstance(value, (set, frozenset)):
        out = type(value)(_simple(v) for v in value)
    else:
        return _simple(value)
    seen[id(value)] = out
    return out


def _simple(value: Any) -> Any:
    parts = value if isinstance(value, tuple) and len(value) < 64 else (value,)
    for part in parts:
        if part is not None and not isinstance(part, (bool, int, float, complex, str, bytes, bytearray)):
            raise DataError(f"it holds a {type(part).__name__.strip('_').lower()} where only plain data is read")
    return value
