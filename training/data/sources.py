"""Data sources: each makes a clip store, and knows the ground truth of its videos, which is for scoring only.

To add one, write a subclass of :class:`Source` and call :func:`register_source`. Commands then accept its name as data:
``glass-train my_source``.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from glass_gym.tools.locks import alone
from glass_gym.worlds.ale_tennis import BLUE, PINK

from ..config import CODES, DataOptions, ReadConfig
from ..core.progress import Bar, warn
from . import mouse
from .picture_series import series_in
from .store import DataError, Store, Video
from .videos import READER, Progress, find_videos, pack

if TYPE_CHECKING:
    from glass_gym.worlds.checkpoint import World

    from .detection import Detector


@dataclass(frozen=True)
class Defaults:
    """A source's own values of options; None: the survey chooses."""

    theta: float | None = None
    """largest share of the frame that the mask covers without cost"""
    codes: int = CODES
    """K, number of local actions; codes that explain nothing are left out of the world"""
    window: int | None = None
    """side of the agent's window, px"""
    agent_radius: int | None = None
    """half size of the agent, px"""
    size: tuple[int, int] | None = None
    """height and width of frames, px, of a source of videos that are not cropped"""
    drawing: str | None = None
    """how the agent is drawn"""


class Source:
    """A data source. A subclass must implement :meth:`make`; all else has a default.

    The methods for scoring take a store that the source made, with one of its videos or indices of its frames.

    Attributes:
        name: on the command line, and in the stores that it makes.
        defaults: default options of training.
        palette: the agents' true colours, RGB, if they are few and known, for scoring only; or None.
        class_counts: labels that an action classifier can learn, with their numbers of values, for scoring only.
        reader: as in :class:`training.data.store.StoreWriter`; change it where the same options give other data.
    """

    name: str = ""
    defaults: Defaults = Defaults()
    palette: tuple[tuple[int, int, int], ...] | None = None
    class_counts: Mapping[str, int] = MappingProxyType({})
    reader: str = ""

    def folder(self, options: DataOptions) -> str:
        """Name of the store in the cache; it must differ for all options that change the contents."""
        return self.name

    def videos(self, options: DataOptions) -> Path | None:
        """The video, or folder of videos, that the store is made from; None: it is made in another way.

        Training surveys videos before they are read, and completes `options.read`.
        """
        return None

    def make(self, out: Path, options: DataOptions, progress: Progress) -> list[str]:
        """Write a clip store, by :class:`training.data.store.StoreWriter` with `kind` = :attr:`name`.

        Args:
            out: folder of the store.
            options: the options of data.
            progress: to call with the amount done and the total.

        Returns:
            lines about data that was left out, or could not be read whole.
        """
        raise NotImplementedError

    # --- for scoring only -------------------------------------------------------------------------------------------

    def detector(self, store: Store, world: World) -> Detector:
        """A detector of the agent in real and generated frames; by default the world's M."""
        from .detection import MaskDetector

        return MaskDetector.of(world)

    def context(self, store: Store, frames: np.ndarray) -> np.ndarray | None:
        """The detector's extra input for frames (N,) of the store: (N,), or None if it needs none."""
        return None

    def positions(self, store: Store, video: Video, masks: np.ndarray) -> np.ndarray | None:
        """True positions of the agent in a video, (T, 2) px, given its true masks (T, H, W); None if not known."""
        position = _label(store, "position", video, slice(None))
        return None if position is None else position.astype(np.float64)

    def shifts(self, store: Store, video: Video, masks: np.ndarray | None) -> np.ndarray | None:
        """True shifts of the agent in a video, (T - 1, 2) px, from labels or :meth:`positions`; None if not known."""
        labelled = _label(store, "foreground_shift", video, slice(None, -1))
        if labelled is not None:
            return labelled
        if masks is None:
            masks = np.zeros((video.length, store.height, store.width), bool)
        position = self.positions(store, video, masks)
        return None if position is None else np.diff(position, axis=0)

    def background_shifts(self, store: Store, video: Video) -> np.ndarray | None:
        """True shifts of the background in a video, (T - 1, 2) px; None if not known."""
        return _label(store, "background_shift", video, slice(None, -1))

    def local_actions(self, store: Store, video: Video) -> np.ndarray | None:
        """True local actions of the steps of a video, (T - 1,) ints; None if not known."""
        return _label(store, "local_action", video, slice(1, None))

    def readings(self, store: Store, frames: np.ndarray) -> dict[str, np.ndarray]:
        """True values of the labels of :attr:`class_counts` in frames of the store, by label; in the frames' shape."""
        return {}

    def characters(self, store: Store, video: Video) -> np.ndarray | None:
        """The character in each step of a video, (T - 1,) ints; None if not known."""
        return _label(store, "character", video, slice(1, None))

    def pictures(self, store: Store, frame: int) -> np.ndarray | None:
        """All pictures of the character in a frame of the store, (N, h, w, 4) uint8 RGBA; None if not known."""
        return None


class Videos(Source):
    """A video file, or a folder of video files and of folders of pictures (docs/data.md)."""

    name = "videos"
    reader = READER

    def __init__(self, root: str | Path = "."):
        self.root = Path(root)

    def folder(self, options: DataOptions) -> str:
        """The name of the folder or file, with a hash of its path, its files and the options of reading."""
        files = []
        for _, _, path in find_videos(self.root).videos:
            for file in series_in(path)[0] if path.is_dir() else [path]:
                files.append((os.path.relpath(file, self.root), _stamp(file)))
        key = [str(self.root.resolve()), asdict(options.read), files]
        return f"{self.root.resolve().name}-{_digest(key)}"

    def videos(self, options: DataOptions) -> Path | None:
        """The file or folder."""
        return self.root

    def make(self, out: Path, options: DataOptions, progress: Progress) -> list[str]:
        """Decode the videos."""
        return pack(self.root, out, options.read, progress)


class Tennis(Source):
    """ALE Tennis, recorded from the emulator."""

    name = "tennis"
    defaults = Defaults(theta=0.007, codes=8, window=32, agent_radius=12)
    palette = (BLUE, PINK)

    def folder(self, options: DataOptions) -> str:
        """The name, with the number of frames unless it is the default."""
        usual = options.record_frames == DataOptions.record_frames
        return self.name if usual else f"{self.name}-{options.record_frames}"

    def make(self, out: Path, options: DataOptions, progress: Progress) -> list[str]:
        """Record the game."""
        from .ale_tennis import RecordConfig, record

        frames = options.record_frames
        record(RecordConfig(out=out, frames=frames), lambda kept: progress(kept, frames))
        return []

    def detector(self, store: Store, world: World) -> Detector:
        """A detector by colour."""
        from .ale_tennis import TennisDetector

        return TennisDetector.of(store)

    def context(self, store: Store, frames: np.ndarray) -> np.ndarray | None:
        """The near player's colour."""
        return store.labels["colour"][frames] if "colour" in store.labels else None

    def positions(self, store: Store, video: Video, masks: np.ndarray) -> np.ndarray | None:
        """The position in RAM, plus the body's column in the sprite, which changes when the sprite turns round."""
        from .ale_tennis import body_column

        position = super().positions(store, video, masks)
        if position is not None:
            position[:, 0] += np.array([body_column(m, p) for m, p in zip(masks, position, strict=True)])
        return position


class WSpritesSource(Source):
    """W-Sprites, generated: 1,400 train, 64 val and 64 test videos."""

    name = "wsprites"
    defaults = Defaults(theta=0.06, window=64, agent_radius=24, drawing="painted")  # characters that are not seen
    counts: tuple[int, int, int] = (1400, 64, 64)
    cast: int | None = None
    class_counts = MappingProxyType({"action": 3, "direction": 3})

    def folder(self, options: DataOptions) -> str:
        """The name, marked if there are sheets, with a hash of the background unless it is the default."""
        sheets = "-sheets" if options.sheets else ""
        usual = options.background is None
        scene = "" if usual else f"-{_digest([str(options.background), _stamp(options.background)])}"
        return self.name + sheets + scene

    def make(self, out: Path, options: DataOptions, progress: Progress) -> list[str]:
        """Generate the videos."""
        from .wsprites import write_store

        def report(done: int) -> None:
            progress(done, sum(self.counts))

        write_store(out, options.sheets, options.background, videos=self.counts, cast=self.cast, progress=report)
        return []

    def readings(self, store: Store, frames: np.ndarray) -> dict[str, np.ndarray]:
        """Action: walk, cast or slash; direction: front, left or right."""
        local = np.asarray(store.labels["local_action"])[frames]
        return {"action": local // 3, "direction": local % 3}

    def pictures(self, store: Store, frame: int) -> np.ndarray | None:
        """All tiles of a built-in character; None for sheets, whose folder a store does not know."""
        from .wsprites import BUILT_IN, TILE, built_in

        if store.source != BUILT_IN:
            return None
        return built_in().character(int(store.labels["character"][frame])).reshape(-1, TILE, TILE, 4)


class ArmSource(Source):
    """A robot arm over a table, recorded from MuJoCo; the survey chooses options."""

    name = "arm"
    defaults = Defaults(drawing="painted")  # as the bundled world is; stored windows were not measured
    videos: int = 160

    def make(self, out: Path, options: DataOptions, progress: Progress) -> list[str]:
        """Record the simulator."""
        from .arm import record

        record(out, self.videos, progress=lambda done: progress(done, self.videos))
        return []


class MouseSource(Source):
    """A video of a mouse from above, fetched from the package index; the survey chooses all but the frames' size."""

    name = "mouse"
    defaults = Defaults(size=(240, 432))
    reader = READER

    def folder(self, options: DataOptions) -> str:
        """The name, with a hash of the options of reading."""
        return f"{self.name}-{_digest(asdict(self._read(options)))}"

    def videos(self, options: DataOptions) -> Path | None:
        """The file, which is fetched if the cache has none."""
        return mouse.fetch(options.cache)

    def make(self, out: Path, options: DataOptions, progress: Progress) -> list[str]:
        """Decode the video."""
        return pack(mouse.fetch(options.cache), out, self._read(options), progress, mouse.ABOUT, self.name)

    def _read(self, options: DataOptions) -> ReadConfig:
        """The options of reading, completed as training does without a survey's help."""
        read = options.read
        size = read.size or (self.defaults.size if read.crop is None else None)
        return replace(read, size=size, skip=read.skip or 0)


class WSpritesActions(WSpritesSource):
    """W-Sprites with 40 test videos of each of 8 unseen characters, to measure codes within a character."""

    name = "wsprites-actions"
    counts = (40, 0, 320)
    cast = 8


SOURCES: dict[str, Source] = {
    source.name: source
    for source in (Videos(), Tennis(), WSpritesSource(), WSpritesActions(), ArmSource(), MouseSource())
}


def register_source(source: Source) -> None:
    """Let commands accept a source by its name.

    Raises:
        ValueError: it has no name, or another source has it.
    """
    if not source.name or SOURCES.get(source.name, source) is not source:
        raise ValueError(
            f"a source needs a name that is free; {source.name!r} is not (there are: {', '.join(SOURCES)})"
        )
    SOURCES[source.name] = source


def source_of(store: Store) -> Source:
    """The source that made a store; a plain :class:`Videos` if it is not registered."""
    return SOURCES.get(store.kind, SOURCES["videos"])


def find_source(data: str) -> Source:
    """A source by its name, by "package.module:name" (a :class:`Source`), or for a folder of videos.

    Raises:
        DataError: the module, or the name in it, does not exist.
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
    """Open a source, a folder of videos or a clip store; a store is made if the cache has none yet.

    Args:
        data: the folder of a clip store, or as in :func:`find_source`.
        options: the cache, and how data is made.
        progress: called while a store is made, with the amount done and the total.

    Raises:
        DataError: there is no such data, or it cannot be read.
    """
    if (Path(data) / "index.json").exists():
        return Store(data)
    options = options or DataOptions()
    source = find_source(str(data))
    root = options.cache / source.folder(options)
    if not _is_made(root, source):
        with alone(root, wait=True):  # another process may be making the store
            if not _is_made(root, source):
                if (root / "index.json").exists():
                    warn(f"{root}: was made by another reader, and is made anew")
                for line in source.make(root, options, progress):
                    warn(f"left out, or not read whole: {line}")
    return Store(root)


def _is_made(root: Path, source: Source) -> bool:
    """Whether the cache has a store that this version of the source has made."""
    try:
        made_by = json.loads((root / "index.json").read_bytes()).get("reader", "")
        return not source.reader or made_by == source.reader
    except (OSError, ValueError, AttributeError):  # missing or damaged
        return False


def open_with_progress(data: str, options: DataOptions) -> Store:
    """As :func:`open_data`, with a progress bar."""
    with Bar("preparing the data", unit="frame") as bar:
        return open_data(data, options, bar.to)


def _label(store: Store, name: str, video: Video, part: slice) -> np.ndarray | None:
    """A part of the label `name` of a video; None if the store does not have it."""
    return store.labels[name][video.start : video.start + video.length][part] if name in store.labels else None


def _digest(key: object) -> str:
    return hashlib.sha256(json.dumps(key, default=str).encode()).hexdigest()[:12]


def _stamp(path: Path | None) -> tuple[int, int] | None:
    """Size and time of modification of a file; None if there is no such file."""
    if path is None or not Path(path).is_file():
        return None
    status = Path(path).stat()
    return status.st_size, status.st_mtime_ns
