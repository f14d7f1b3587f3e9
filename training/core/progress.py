"""Progress bars. One is shown at a time: work within other work is named on the outer bar, so that bars never mix."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable, Iterator, Sized
from typing import ClassVar, TypeVar

from tqdm import tqdm

INTERVAL = 1.0  # Seconds between two updates of what is shown; the clock of a bar goes on during long steps.
UNKNOWN = "{desc}: {elapsed}{postfix}"  # A bar whose total is not known shows the time that it took so far.

T = TypeVar("T")


class Bar:
    """A progress bar, as a context; within another, its name and its count stand at the end of the outer bar.

    Only the main process shows any (by RANK, which the launchers of several processes set).

    Args:
        name: what is being done, in plain words.
        total: how much there is to do; None: not known.
        unit: of the total.
    """

    _open: ClassVar[list[Bar]] = []

    def __init__(self, name: str, total: float | None = None, unit: str = "it"):
        self.name = name
        self.total = total
        self.unit = unit
        self.done: float = 0
        self.words = ""
        self._in_part = False
        self._shown: tqdm | None = None

    def __enter__(self) -> Bar:
        Bar._open.append(self)
        if Bar._open == [self]:
            self._shown = tqdm(
                total=self.total,
                desc=self.name,
                unit=self.unit,
                mininterval=INTERVAL,
                miniters=1,
                disable=int(os.environ.get("RANK", 0)) > 0,
                bar_format=None if self.total else UNKNOWN,
            )
            self._closed = threading.Event()
            self._clock = threading.Thread(target=self._tick, daemon=True)
            self._clock.start()
        self._show()
        return self

    def __exit__(self, *error: object) -> None:
        if self in Bar._open:  # with those within it: a generator that is not used up leaves its bar open
            del Bar._open[Bar._open.index(self) :]
        if self._shown is not None:
            self._closed.set()
            self._clock.join()
            if error[0] is None:
                self.update(self._in_part)
                self._shown.set_postfix_str("")
            self._shown.close()
        else:
            self._show()

    def start(self, done: float) -> None:
        """Begin at `done`, of work that was interrupted."""
        self.done = done
        if self._shown is not None:
            self._shown.initial = self._shown.n = done

    def update(self, count: float = 1) -> None:
        """Count what was done."""
        self.done += count
        if self._shown is not None:
            self._shown.update(count)
        else:
            self._show()

    def to(self, done: float, total: float) -> None:
        """Move to `done` of `total`, for callbacks that tell both."""
        self.total = total
        if self._shown is not None:
            self._shown.total = total
            self._shown.bar_format = None
        self.update(done - self.done)

    def next(self, words: str) -> None:
        """Name the part that begins; the part before counts as done."""
        self.update(self._in_part)
        self._in_part = True
        self.tell(words)

    def tell(self, words: str) -> None:
        """Show words, such as losses, after the count."""
        self.words = words
        self._show()

    def _show(self) -> None:
        """Set the end of the outermost bar: the bars within it, and the words of the innermost one."""
        if Bar._open:
            inner = [f"{b.name} {b.done:.0f}/{b.total:.0f}" if b.total else b.name for b in Bar._open[1:]]
            words = [*inner, Bar._open[-1].words]
            Bar._open[0]._shown.set_postfix_str(", ".join(filter(None, words)), refresh=False)

    def _tick(self) -> None:
        while not self._closed.wait(INTERVAL):
            self._shown.refresh()


def each(items: Iterable[T], name: str, unit: str = "it") -> Iterator[T]:
    """Iterate over items, with a bar."""
    with Bar(name, len(items) if isinstance(items, Sized) else None, unit) as bar:
        for item in items:
            yield item
            bar.update()


def warn(words: str) -> None:
    """Print a line to the error output, above a bar if there is one."""
    tqdm.write(words, file=sys.stderr)


def say(*words: str) -> None:
    """Print a line, above a bar if there is one."""
    tqdm.write(" ".join(words), file=sys.stdout)
    sys.stdout.flush()
