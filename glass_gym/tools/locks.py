"""One process at a time in a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


class LockedError(ValueError):
    """Another process is at work there; the message names it."""


@contextmanager
def alone(folder: str | Path, wait: bool = False) -> Iterator[None]:
    """Hold a folder, which is made if needed, or `wait` for it; LockedError: another process, still alive, holds it."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    owner = folder / ".owner"
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        who = owner.read_text(encoding="utf-8").strip() if owner.exists() else "?"
        raise LockedError(f"{folder}: process {who} is at work there; wait for it, or choose another folder") from None
    try:
        owner.write_text(f"{os.getpid()}\n", encoding="utf-8")
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()
