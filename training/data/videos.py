"""Makes clips of one size, shape and rate from a folder of videos, or from a single file.

    <root>/{train,val,test}/<video>/00000.png, 00001.png, ...
    <root>/{train,val,test}/clip.mp4
    a LeRobot data set (:mod:`training.data.lerobot`)

Without split folders, videos are split 8:1:1 in the order of their names, fewer than ten by their shots.
"""

from __future__ import annotations

import contextlib
import math
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..config import ReadConfig
from .cuts import SHOT, find_cuts
from .lerobot import lerobot_videos
from .picture_series import STACKS, is_stack, series_in
from .reader import VIDEOS, open_video
from .store import DataError, StoreWriter, working_scale
from .video_reader import SAME_RATE, Crop, Size, VideoReader, size_after, why_unreadable

READER = "PyAV 1"  # Written into stores; change it where the same options give other frames.
SPLITS = ("train", "val", "test")
PIECE = 192  # Largest number of frames in one video of a store.
LARGEST = 8_000_000_000
"""Bytes of a store with a working copy: of more footage, an even share of the clips is kept in full size."""
MEMORY = 128_000_000  # Bytes of frames that are collected before they are written.
SAME_SHAPE = 0.03  # Videos have one shape if width over height differs by no more than this share.
SQUARE = 0.05  # Pixels are taken as square if width over height differs from 1 by less; nobody sees it.

Progress = Callable[[int, int], None]  # Called with the amount that is done, and the total.


@dataclass(frozen=True)
class Found:
    """The videos below a folder.

    Attributes:
        videos: (name, split, path) each.
        notes: what was left alone, and why.
        begins: of a video that holds several episodes, the times at which they begin, s.
    """

    videos: list[tuple[str, str, Path]]
    notes: list[str]
    begins: dict[Path, list[float]] = field(default_factory=dict)


def find_videos(root: Path) -> Found:
    """Find the videos below a folder, or of a camera of a LeRobot data set; a single file is one video.

    Hidden files are left alone.

    Raises:
        DataError: there is no such folder or file, or no video in it.
    """
    root = Path(root)
    if root.is_symlink() and not root.exists():
        raise DataError(f"{root}: {why_unreadable(root)}")
    if root.is_file():
        return Found([(root.stem, "train", root)], [])
    if lerobot := lerobot_videos(root):
        named, begins = lerobot
        return Found([(name, _split_of(rank, len(named)), p) for rank, (name, p) in enumerate(named)], [], begins)
    if not root.is_dir():
        raise DataError(f"{root}: no such file or folder; give a video, a folder of videos, 'tennis' or 'wsprites'")
    notes: list[str] = []
    pictures, _ = series_in(root)
    if folders := [s for s in SPLITS if (root / s).is_dir()]:
        found = [(split, path) for split in folders for path in _videos_in(root / split)]
        if beside := [path.name for path in _videos_in(root) if path.name not in SPLITS]:
            notes.append(f"{len(beside)} videos beside {', '.join(folders)} are left alone, the first {beside[0]}")
    elif paths := _videos_in(root):
        if pictures:
            notes.append(f"{len(pictures)} pictures beside the videos are left alone, the first {pictures[0].name}")
        found = [(_split_of(rank, len(paths)), path) for rank, path in enumerate(paths)]
    else:
        found = [("train", root)] if pictures else []
    if not found:
        deeper = next((p for p in sorted(root.iterdir()) if p.is_dir() and _videos_in(p)), None)
        raise DataError(
            f"{root}: holds no videos; expected files ({' '.join(VIDEOS + STACKS)}) or folders of numbered pictures in "
            f"{root} or its train/, val/, test/" + (f". There are some in {deeper}: give that folder" if deeper else "")
        )
    stems = Counter(path.stem for _, path in found)
    names = [path.name if path.is_dir() or stems[path.stem] > 1 else path.stem for _, path in found]
    return Found([(name, split, path) for name, (split, path) in zip(names, found, strict=True)], notes)


def _split_of(rank: int, count: int) -> str:
    """The split of one of `count` videos: 8:1:1; fewer than ten are split by their shots."""
    if count < 10:
        return "train"
    return "train" if rank / count < 0.8 else "val" if rank / count < 0.9 else "test"


def _videos_in(folder: Path) -> list[Path]:
    """Video files, TIFF stacks, links to nowhere that are named like videos, and folders of numbered pictures."""
    out = []
    try:
        inside = sorted(folder.iterdir())
    except OSError:  # it may not be read
        return []
    series = series_in(folder)[0]
    if len(series) == 1 or (series and series[0].suffix.lower() in STACKS and is_stack(series[0])):
        series = []  # numbered stacks are videos of their own
    for path in inside:
        if path.name.startswith("."):
            continue
        if path.is_dir():
            if path.name != "masks" and series_in(path)[0]:
                out.append(path)
        elif not path.is_file() and not path.is_symlink():  # a pipe or a device
            continue
        elif path.suffix.lower() in VIDEOS or (path.suffix.lower() in STACKS and path not in series):
            out.append(path)
    return out


@dataclass(frozen=True)
class Footage:
    """Videos that can be read, of one shape and rate.

    Attributes:
        videos: (name, split, reader) each.
        size: (height, width), px; the one that most frames have.
        pixel_aspect: displayed width of a pixel over its height, at this size.
        rate: frames a second; None if not known.
        fps: frames a second to read all at; None if they have one rate.
        left_out: a line for each video that was left out.
    """

    videos: list[tuple[str, str, VideoReader]]
    size: Size
    pixel_aspect: float
    rate: float | None
    fps: float | None
    left_out: list[str]

    @property
    def frames(self) -> int:
        """About how many frames there are, at the rate at which they are read."""
        return sum(frames_read(reader, self.fps) for _, _, reader in self.videos)

    def lines(self) -> list[str]:
        """What the files are: a summary, and a line for each that is unusual or left out."""
        seconds = sum(reader.seconds or 0 for _, _, reader in self.videos)
        length = f"{seconds:.0f} seconds" if seconds < 180 else f"{seconds / 60:.0f} minutes"
        count = f"{len(self.videos)} video{'s' * (len(self.videos) != 1)}"
        rate = f"{length} at {self.rate:.4g} frames a second" if self.rate else f"{self.frames} frames"
        unusual = []
        for _, _, reader in self.videos:
            notes = list(reader.notes)
            if self.fps is not None and reader.rate and abs(reader.rate / self.fps - 1) > SAME_RATE:
                notes.append(f"{reader.rate:.3g} frames a second, read at {self.fps:.3g}")
            if (reader.height, reader.width) != self.size:
                notes.append(f"{reader.width}x{reader.height} px, resized")
            if notes:
                unusual.append(f"{reader.path.name}: {'; '.join(notes)}")
        out = [f"{count}, {rate}, {self.size[1]}x{self.size[0]} px"]
        lines = out + unusual + [f"left out: {line}" for line in self.left_out]
        return [_printable(line) for line in lines]


def _printable(line: str) -> str:
    """A line without control characters, which names of files may have."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in line)


def frames_read(reader: VideoReader, fps: float | None) -> int:
    """About how many frames a video gives at `fps` frames a second; None: at its own rate."""
    share = min(1.0, fps / reader.rate) if fps and reader.rate else 1.0
    return max(1, round(reader.frames * share))


def open_videos(root: Path, config: ReadConfig, progress: Progress = lambda done, total: None) -> Footage:
    """Open the videos below a folder. What cannot be read, or does not go with the others, is left out and told.

    Args:
        root: the folder, or a single file.
        config: how videos are read.
        progress: called with the number of files that were opened, and the total.

    Raises:
        DataError: no video can be read.
    """
    found = find_videos(root)
    left_out = list(found.notes)
    opened: list[tuple[str, str, VideoReader]] = []
    for done, (name, split, path) in enumerate(found.videos):
        try:
            opened.append((name, split, open_video(path)))
            opened[-1][2].begins = found.begins.get(path, [])
        except DataError as error:
            if len(found.videos) == 1:
                raise
            left_out.append(str(error))
        progress(done + 1, len(found.videos))
    if not opened:
        raise DataError(f"{root}: no video can be read; the first: {left_out[len(found.notes)]}")
    shape = _most(opened, lambda reader: reader.shape, SAME_SHAPE)
    kept = [video for video in opened if abs(video[2].shape / shape - 1) <= SAME_SHAPE]
    fps = rate = None
    if rates := [reader.rate for _, _, reader in kept if reader.rate]:
        usual = _most([video for video in kept if video[2].rate], lambda reader: reader.rate or 0, SAME_RATE)
        lowest = (1 - SAME_RATE) * (config.fps or usual / 2)
        if max(rates) < lowest:  # no file has as many frames as are asked for
            lowest = 0.0
        kept = [video for video in kept if not video[2].rate or video[2].rate >= lowest]
        slowest = min(rate for rate in rates if rate >= lowest)
        fps = config.fps or (slowest if max(rates) > (1 + SAME_RATE) * slowest else None)
        rate = min(config.fps or slowest, slowest)
    paths = {reader.path for _, _, reader in kept}
    for _, _, reader in opened:
        if reader.path not in paths:
            aspect = abs(reader.shape / shape - 1) > SAME_SHAPE
            if aspect:
                why = f"{reader.width}x{reader.height} px are another shape than most have; train on it alone"
            else:
                why = (
                    f"{reader.rate:.3g} frames a second are fewer than most have; --read.fps {reader.rate:.3g} takes it"
                )
            left_out.append(f"{reader.path}: {why}")
    height = int(_most(kept, lambda reader: reader.height, 0))
    first = next(reader for _, _, reader in kept if reader.height == height)
    if min(height, first.width) < 8:
        raise DataError(f"{first.path}: frames are {first.width}x{height} px; a world needs at least 32x32")
    return Footage(kept, (height, first.width), first.pixel_aspect, rate, fps, left_out)


def _most(videos: list[tuple[str, str, VideoReader]], fact: Callable[[VideoReader], float], within: float) -> float:
    """The value of `fact` that most frames have, within a share of it."""
    facts = np.array([fact(reader) for _, _, reader in videos])
    frames = np.array([reader.frames for _, _, reader in videos])
    return float(facts[np.argmax([frames[np.abs(facts / mine - 1) <= within].sum() for mine in facts])])


def clips_of(reader: VideoReader, footage: Footage, config: ReadConfig) -> Iterator[tuple[int, list[np.ndarray]]]:
    """Read a video as clips.

    Cuts, and places where frames are missing, end a shot; long shots are divided. Where frames are skipped, the frames
    between are clips of their own: a shot gives `skip` + 1 clips, each of every (`skip` + 1)-th frame.

    Args:
        reader: the video.
        footage: that it belongs to; it is read at its rate.
        config: crop, size, skipped frames. A picture that cannot be read is a gap.

    Yields:
        for each shot: the number of frames that were read since the last one, and its clips (T, H, W, 3) uint8; short
        clips are dropped, unless they are the whole video.

    Raises:
        DataError: nothing can be read, or `crop` does not fit.
    """
    lag = (config.skip or 0) + 1
    size = config.size or (None if config.crop else footage.size)
    piece: list[np.ndarray] = []
    broken: list[str] = []
    gap = False
    first = True
    limit = PIECE * lag

    def shots(last: bool) -> Iterator[tuple[int, list[np.ndarray]]]:
        nonlocal piece, first
        stack = np.stack(piece)
        found = find_cuts(stack) if config.cuts else np.zeros(0, int)
        whole = first and last and len(found) == 0
        first, piece = False, []
        read = len(stack)
        for start, stop in zip([0, *found], [*found, len(stack)], strict=True):
            clips = [stack[start + phase : stop : lag] for phase in range(min(lag, stop - start))]
            yield read, [clip for clip in clips if whole or len(clip) >= SHOT]
            read = 0

    for frame in reader.read(size, config.crop, footage.fps):
        try:
            pixels = _multiple_of_8(frame.pixels) if config.size is None else frame.pixels
        except DataError as error:
            broken.append(str(error))
            gap = True
            continue
        if piece and (gap or not frame.follows or len(piece) >= limit):
            yield from shots(False)
        gap = False
        limit = max(SHOT * lag, min(PIECE * lag, MEMORY // pixels.nbytes))
        piece.append(pixels)
    if broken:
        reader.notes.append(f"{len(broken)} pictures are left out, the first: {broken[0]}")
    if piece:
        yield from shots(True)


def _multiple_of_8(frame: np.ndarray) -> np.ndarray:
    return frame[: frame.shape[0] // 8 * 8, : frame.shape[1] // 8 * 8]


def sample_video(
    reader: VideoReader, longest: int, most: int, within: float = math.inf, crop: Crop | None = None,
    fps: float | None = None,
) -> np.ndarray:  # fmt: skip
    """Read a sample of a video for the survey: all of it, or frames from four places in it; downscaled.

    Args:
        reader: the video.
        longest: largest length of the longer side, px.
        most: largest number of frames.
        within: the sample is of the first `within` frames, since all before its last one are decoded.
        crop, fps: as in :meth:`VideoReader.read`.

    Returns:
        (T, H, W, 3) uint8; each frame is the one that reading the whole video gives.

    Raises:
        DataError: no frame can be read.
    """
    height, width = size_after(crop, (reader.height, reader.width))
    scale = min(1.0, longest / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    parts = _parts(int(min(frames_read(reader, fps), within)), most)
    out: list[np.ndarray] = []
    for index, frame in enumerate(reader.read(size, crop, fps)):
        if index >= parts[-1].stop:
            break
        if any(part.start <= index < part.stop for part in parts):
            with contextlib.suppress(DataError):  # of one picture; told when all are read
                out.append(frame.pixels)
    if not out:
        raise DataError(f"{reader.path}: no frame can be read")
    return np.stack(out)


def _parts(length: int, most: int) -> list[slice]:
    """The parts of a video of `length` frames to read: all of it, or four of `most` / 4 frames each."""
    if length <= most or most < 4:
        return [slice(0, min(length, most))]
    part = most // 4
    return [slice(start, start + part) for start in np.linspace(0, length - part, 4).astype(int).tolist()]


def pack(
    root: Path, out: Path, config: ReadConfig, progress: Progress = lambda done, total: None, about: str = "",
    kind: str = "videos",
) -> list[str]:  # fmt: skip
    """Decode a folder of videos into a clip store.

    Args:
        root: the folder, or a single file.
        out: folder of the store.
        config: how videos are read.
        progress: called with the number of frames that are done, and the total.
        about: description of the videos; default: the folder.
        kind: name of the source.

    Returns:
        a line for each video that was left out, or could not be read whole.

    Raises:
        DataError: nothing can be read.
    """
    footage = open_videos(root, config)
    lines = list(footage.left_out)
    writer: StoreWriter | None = None
    total = footage.frames
    done = number_of_clips = 0
    every = 1
    for name, split, reader in footage.videos:
        before = list(reader.notes)
        number = 0
        try:
            for read, clips in clips_of(reader, footage, config):
                for phase, clip in enumerate(clips):
                    if writer is None:
                        aspect = _aspect_at(footage, config, clip.shape[1:3])
                        rate = footage.rate and footage.rate / ((config.skip or 0) + 1)
                        scale = working_scale(*clip.shape[1:3])
                        writer = StoreWriter(
                            out, *clip.shape[1:3], aspect, about or str(root), kind, rate, READER, scale
                        )
                        every = math.ceil(total * clip[0].nbytes / min(LARGEST, shutil.disk_usage(out).free // 2))
                    shot = f"{name}-{number:03d}" if number else name
                    whose = {"file": name, "shot": f"{name}/{number}"}
                    beside = number_of_clips % every > 0
                    writer.add(f"{shot}+{phase}" if phase else shot, split, clip, **whose, only_copy=beside)
                    number_of_clips += 1
                number += bool(clips)
                done = min(done + read, total)
                progress(done, total)
        except DataError as error:
            lines.append(str(error))
        if new := [note for note in reader.notes if note not in before]:
            lines.append(f"{reader.path}: {'; '.join(new)}")
    if writer is None:
        why = f"; {lines[-1]}" if lines else ""
        raise DataError(f"{root}: no shot has {SHOT} frames; use longer shots, or --read.no-cuts{why}")
    if len({split for _, split, _ in footage.videos}) == 1 and writer.shots >= 3:  # few videos: split by shots
        writer.split_by_shots()
    writer.close()
    progress(total, total)
    return [_printable(line) for line in lines]


def _aspect_at(footage: Footage, config: ReadConfig, size: Size) -> float:
    """Displayed width of a pixel over its height, of frames that were resized to `size`."""
    if config.size is None:
        return footage.pixel_aspect
    height, width = size_after(config.crop, footage.size)
    aspect = footage.pixel_aspect * width / height * size[0] / size[1]
    return 1.0 if abs(aspect - 1) < SQUARE else float(np.clip(aspect, 0.1, 10))
