"""Where videos come from: an object a source, by name. Training, evaluation and metrics ask it and sniff nothing.

A source of your own is a subclass of :class:`Source` and one call of :func:`register_source`; its name then goes
wherever `tennis` goes: ``python -m training.train my_source``.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from glass_gym.tools.locks import alone
from glass_gym.worlds.ale_tennis import BLUE, PINK

from ..config import DataOptions
from .layout import find_videos, frames_in, pack
from .store import DataError, Store, Video

if TYPE_CHECKING:
    from glass_gym.worlds.checkpoint import World

    from .detection import Detector

Progress = Callable[[int, int], None]
"""called with what is done, and the total"""


@dataclass(frozen=True)
class Defaults:
    """What training takes unless it is told otherwise; None: it is chosen from what the footage shows."""

    theta: float | None = None
    """largest share of the frame that the mask may cover for free"""
    codes: int = 9
    """K; more than an agent has actions are no harm"""
    window: int | None = None
    """side of the agent's window, px"""
    agent_radius: int | None = None
    """half size of the agent, px"""


class Source:
    """A kind of data. Everything has a default but :meth:`make`.

    Attributes:
        name: what it is called on the command line, and in the stores that it makes.
        defaults: of training.
        palette: the agents' true colours, RGB, where they are few and known (for scoring only); or None.
        judged: what a classifier can be taught to read off windows, and how many values each has (for scoring only).
    """

    name: str = ""
    defaults: Defaults = Defaults()
    palette: tuple[tuple[int, int, int], ...] | None = None
    judged: Mapping[str, int] = MappingProxyType({})

    def folder(self, options: DataOptions) -> str:
        """Name of the store below the cache: another for every option that changes what is in it."""
        return self.name

    def make(self, out: Path, options: DataOptions, progress: Progress) -> list[str]:
        """Write a clip store to `out` (:class:`training.data.store.StoreWriter`, with `kind` = :attr:`name`).

        Returns:
            what was left out, a message each.
        """
        raise NotImplementedError

    # --- for scoring only -------------------------------------------------------------------------------------------

    def detector(self, store: Store, world: World) -> Detector:
        """What finds the agent in real and in generated frames, independently of the simulator: M, run afresh."""
        from .detection import MaskDetector

        return MaskDetector.of(world)

    def context(self, store: Store, frames: np.ndarray) -> np.ndarray | None:
        """What the detector may know about frames (N,) of the store: one value each, or None."""
        return None

    def positions(self, store: Store, video: Video, masks: np.ndarray) -> np.ndarray | None:
        """Where the agent stands in a video, (T, 2) px, from labels; None without them."""
        position = _label(store, "position", video, slice(None))
        return None if position is None else position.astype(np.float64)

    def shifts(self, store: Store, video: Video, masks: np.ndarray | None) -> np.ndarray | None:
        """True shifts (T - 1, 2) px of the agent in a video, from labels; None without them."""
        labelled = _label(store, "foreground_shift", video, slice(None, -1))
        if labelled is not None:
            return labelled
        if masks is None:
            masks = np.zeros((video.length, store.height, store.width), bool)
        position = self.positions(store, video, masks)
        return None if position is None else np.diff(position, axis=0)

    def background_shifts(self, store: Store, video: Video) -> np.ndarray | None:
        """True shifts (T - 1, 2) px of the scene in a video; None where they are not known."""
        return _label(store, "background_shift", video, slice(None, -1))

    def local_actions(self, store: Store, video: Video) -> np.ndarray | None:
        """True local actions (T - 1,) of the steps of a video; None where they are not known."""
        return _label(store, "local_action", video, slice(1, None))

    def readings(self, store: Store, frames: np.ndarray) -> dict[str, np.ndarray]:
        """The true values of :attr:`judged` in frames (any shape) of the store."""
        return {}

    def characters(self, store: Store, video: Video) -> np.ndarray | None:
        """Who acts in each step of a video, (T - 1,); None where it is not known."""
        return _label(store, "character", video, slice(1, None))

    def pictures(self, store: Store, frame: int) -> np.ndarray | None:
        """All true pictures (N, h, w, 4) uint8 RGBA of who acts in a frame of the store; None where not known."""
        return None


class Videos(Source):
    """A folder of video files or of PNG folders (docs/data.md)."""

    name = "videos"

    def __init__(self, root: str | Path = "."):
        self.root = Path(root)

    def folder(self, options: DataOptions) -> str:
        """The folder's name, and a hash of where it is, of its files, and of how they are read."""
        files = []
        for _, _, path in find_videos(self.root):
            for file in frames_in(path) if path.is_dir() else [path]:
                status = file.stat()
                files.append((str(file.relative_to(self.root)), status.st_size, status.st_mtime_ns))
        key = [str(self.root.resolve()), asdict(options.read), files]
        return f"{self.root.resolve().name}-{_digest(key)}"

    def make(self, out: Path, options: DataOptions, progress: Progress) -> list[str]:
        """Decode."""
        return pack(self.root, out, options.read, progress)


class Tennis(Source):
    """ALE Tennis, recorded."""

    name = "tennis"
    defaults = Defaults(theta=0.007, codes=8, window=32, agent_radius=12)
    palette = (BLUE, PINK)

    def folder(self, options: DataOptions) -> str:
        """With the number of frames, where it is not the usual one."""
        usual = options.record_frames == DataOptions.record_frames
        return self.name if usual else f"{self.name}-{options.record_frames}"

    def make(self, out: Path, options: DataOptions, progress: Progress) -> list[str]:
        """Record."""
        from .ale_tennis import RecordConfig, record

        frames = options.record_frames
        record(RecordConfig(out=out, frames=frames), lambda kept: progress(kept, frames))
        return []

    def detector(self, store: Store, world: World) -> Detector:
        """By colour, off the court's lines."""
        from .ale_tennis import TennisDetector

        return TennisDetector.of(store)

    def context(self, store: Store, frames: np.ndarray) -> np.ndarray | None:
        """The near player's colour."""
        return store.labels["colour"][frames] if "colour" in store.labels else None

    def positions(self, store: Store, video: Video, masks: np.ndarray) -> np.ndarray | None:
        """RAM position, and where the body stands in the sprite, which jumps when the sprite turns round without the
        RAM saying so."""
        from .ale_tennis import body_column

        position = super().positions(store, video, masks)
        if position is not None:
            position[:, 0] += np.array([body_column(m, p) for m, p in zip(masks, position, strict=True)])
        return position


class WSpritesSource(Source):
    """W-Sprites, generated: 1,400 + 64 + 64 videos: LMA learned 700 by heart."""

    name = "wsprites"
    defaults = Defaults(theta=0.06, window=64, agent_radius=24)
    counts: tuple[int, int, int] = (1400, 64, 64)
    cast: int | None = None
    judged = MappingProxyType({"action": 3, "direction": 3})

    def folder(self, options: DataOptions) -> str:
        """With whose sheets, and which background."""
        sheets = "-sheets" if options.sheets else ""
        usual = options.background is None
        scene = "" if usual else f"-{_digest([str(options.background), _stamp(options.background)])}"
        return self.name + sheets + scene

    def make(self, out: Path, options: DataOptions, progress: Progress) -> list[str]:
        """Generate."""
        from .wsprites import write_store

        total = sum(self.counts)
        write_store(
            out,
            options.sheets,
            options.background,
            videos=self.counts,
            cast=self.cast,
            progress=lambda done: progress(done, total),
        )
        return []

    def readings(self, store: Store, frames: np.ndarray) -> dict[str, np.ndarray]:
        """Walk, cast or slash; front, left or right."""
        local = np.asarray(store.labels["local_action"])[frames]
        return {"action": local // 3, "direction": local % 3}

    def pictures(self, store: Store, frame: int) -> np.ndarray | None:
        """All tiles of the character, if it is a built-in one: where sheets are is not kept with a store."""
        from .wsprites import BUILT_IN, TILE, built_in

        if store.source != BUILT_IN:
            return None
        return built_in().character(int(store.labels["character"][frame])).reshape(-1, TILE, TILE, 4)


class ArmSource(Source):
    """A robot arm over a table, recorded from MuJoCo; what training must be told is chosen from what it shows."""

    name = "arm"
    videos: int = 160

    def make(self, out: Path, options: DataOptions, progress: Progress) -> list[str]:
        """Record."""
        from .arm import record

        record(out, self.videos, progress=lambda done: progress(done, self.videos))
        return []


class WSpritesActions(WSpritesSource):
    """W-Sprites with 8 unseen characters in 40 test videos each, to measure codes within a character."""

    name = "wsprites-actions"
    counts = (40, 0, 320)
    cast = 8


SOURCES: dict[str, Source] = {
    source.name: source for source in (Videos(), Tennis(), WSpritesSource(), WSpritesActions(), ArmSource())
}


def register_source(source: Source) -> None:
    """Let commands take a source of your own by its name.

    Raises:
        ValueError: it has no name, or the name is taken.
    """
    if not source.name or SOURCES.get(source.name, source) is not source:
        raise ValueError(
            f"a source needs a name that is free; {source.name!r} is not (there are: {', '.join(SOURCES)})"
        )
    SOURCES[source.name] = source


def source_of(store: Store) -> Source:
    """The source that made a store; a plain one where it is not known here."""
    return SOURCES.get(store.kind, SOURCES["videos"])


def find_source(data: str) -> Source:
    """What a user names -> a source: a name, "package.module:name" (a :class:`Source`), or a folder of videos.

    Raises:
        DataError: nothing of the kind.
    """
    if data in SOURCES and data != "videos":
        return SOURCES[data]
    module, colon, name = data.partition(":")
    if colon and not Path(data).exists():
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise DataError(f"{data}: no such folder, and no source to import ({error})") from None
        source = found() if isinstance(found, type) else found
        if source.name not in SOURCES:
            register_source(source)
        return source
    return Videos(data)


def open_data(
    data: str | Path, options: DataOptions | None = None, progress: Progress = lambda done, total: None
) -> Store:
    """A name, a clip store or a folder of videos -> an open store; what has to be made is made once, in the cache.

    Args:
        data: see :func:`find_source`; or the folder of a clip store.
        options: where data is kept, and how it is made.
        progress: called while it is made.

    Raises:
        DataError: no such data, or data that cannot be read.
    """
    if (Path(data) / "index.json").exists():
        return Store(data)
    options = options or DataOptions()
    source = find_source(str(data))
    root = options.cache / source.folder(options)
    if not (root / "index.json").exists():
        with alone(root, wait=True):  # another process may be making it
            if not (root / "index.json").exists():
                for message in source.make(root, options, progress):
                    print(f"left out: {message}", file=sys.stderr)
    return Store(root)


def open_with_progress(data: str, options: DataOptions) -> Store:
    """As :func:`open_data`, with a progress bar."""
    bars: list[tqdm] = []

    def progress(done: int, total: int) -> None:
        if not bars:
            bars.append(tqdm(total=total, desc="data"))
        bars[0].update(min(done, total) - bars[0].n)
        if done >= total:
            bars[0].close()  # else those that follow are drawn below it

    return open_data(data, options, progress)


def _label(store: Store, name: str, video: Video, part: slice) -> np.ndarray | None:
    """A part of a label of a video, where the store has it."""
    return store.labels[name][video.start : video.start + video.length][part] if name in store.labels else None


def _digest(key: object) -> str:
    return hashlib.sha256(json.dumps(key, default=str).encode()).hexdigest()[:12]


def _stamp(path: Path | None) -> tuple[int, int] | None:
    """Size and time of a file, where it is one."""
    if path is None or not Path(path).is_file():
        return None
    status = Path(path).stat()
    return status.st_size, status.st_mtime_ns
