"""Reads folders of videos: numbered PNGs, as in CADDY and GLASS, or video files.

    <root>/{train,val,test}/<video>/00000.png, 00001.png, ...
    <root>/{train,val,test}/clip.mp4

Without split folders, videos are split 8:1:1 in the order of their names.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence

from glass_gym.worlds.pictures import MAX_PIXELS, read_picture

from ..config import ReadConfig
from .cuts import SHOT, find_cuts
from .store import DataError, StoreWriter

IMAGES = (".png", ".jpg", ".jpeg", ".bmp")
VIDEOS = (".mp4", ".webm", ".avi", ".mov", ".gif")
SPLITS = ("train", "val", "test")
DEMUXERS = {".mp4": "mov", ".mov": "mov", ".webm": "matroska", ".avi": "avi"}  # ffmpeg's demuxers, by suffix.
ENOUGH = 0.8  # A file is truncated if it has less than this share of the frames that its header announces.
PIECE = 192  # Maximum number of frames in memory at a time, and in one video of a store.


def find_videos(root: Path) -> list[tuple[str, str, Path]]:
    """List the videos below a folder: (name, split, path) each.

    Raises:
        DataError: there is no such folder, or no video in it.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give a folder of videos, 'tennis' or 'wsprites'")
    if folders := [s for s in SPLITS if (root / s).is_dir()]:
        found = [(split, path) for split in folders for path in _videos_in(root / split)]
    else:
        paths = _videos_in(root)
        found = [(_split_of(rank, len(paths)), path) for rank, path in enumerate(paths)]
    if not found:
        raise DataError(
            f"{root}: holds no videos; expected {root}/train/<video>/00000.png ... or files "
            f"({', '.join(VIDEOS)}) in {root} or its train/, val/, test/"
        )
    return [(path.stem if path.is_file() else path.name, split, path) for split, path in found]


def _split_of(rank: int, count: int) -> str:
    """The split of one of `count` videos: 8:1:1; of fewer than ten val and test get one each, of one or two none."""
    if count < 10:
        return {count - 2: "val", count - 1: "test"}.get(rank, "train") if count >= 3 else "train"
    return "train" if rank / count < 0.8 else "val" if rank / count < 0.9 else "test"


def _videos_in(folder: Path) -> list[Path]:
    paths = sorted(folder.iterdir())
    return [p for p in paths if p.suffix.lower() in VIDEOS or (p.is_dir() and p.name != "masks" and frames_in(p))]


def frames_in(folder: Path) -> list[Path]:
    """The numbered pictures in the folder of a video, sorted."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGES and p.stem.isdigit())


def read_video(path: Path, config: ReadConfig) -> Iterator[np.ndarray]:
    """Read one video: yield the frames that are kept, cropped and resized, (H, W, 3) uint8.

    Args:
        path: a folder of pictures or a video file.
        config: crop, size and skipped frames; with `skip_broken` a truncated file is an error.

    Raises:
        DataError: a number is missing, a frame cannot be read, or frames have different sizes.
    """
    frames = _read_folder(path) if path.is_dir() else _read_file(path, whole=config.skip_broken)
    first = None
    for index, (name, frame) in enumerate(frames):
        if index % ((config.skip or 0) + 1):
            continue
        frame = _shape(frame, config)
        if first is not None and frame.shape != first:
            raise DataError(
                f"{name}: frame is {frame.shape[:2]}, the first of {path} is {first[:2]}; one video has one size"
            )
        first = frame.shape
        yield frame
    if first is None:
        raise DataError(f"{path}: holds no frames")


def shots_of(frames: Iterator[np.ndarray], config: ReadConfig) -> Iterator[np.ndarray]:
    """Split the frames of a video into shots (T, H, W, 3) of at most PIECE frames; short shots are dropped."""
    whole = True
    frames = iter(frames)
    while piece := list(itertools.islice(frames, PIECE)):
        stack = np.stack(piece)
        found = find_cuts(stack) if config.cuts else np.zeros(0, int)
        whole = whole and len(found) == 0 and len(piece) < PIECE
        for start, stop in zip([0, *found], [*found, len(stack)], strict=True):
            if whole or stop - start >= SHOT:
                yield stack[start:stop]


def sample_video(path: Path, longest: int, most: int, crop: tuple[int, int, int, int] | None = None) -> np.ndarray:
    """Read a sample of a video for the survey: all of it, or frames from four places in it; downscaled.

    Args:
        path: a folder of pictures or a video file.
        longest: largest length of the longer side, px.
        most: largest number of frames.
        crop: as in :class:`ReadConfig`.

    Returns:
        (T, H, W, 3) uint8.

    Raises:
        DataError: a frame cannot be read, or frames have different sizes.
    """
    config = ReadConfig(crop=crop)
    if path.is_dir():
        files = frames_in(path)
        parts = [itertools.islice(_read_folder(path, files[part]), most) for part in _parts(len(files), most)]
    else:
        about = _about(path)
        length = about.get("duration", 0.0) * about.get("fps", 0.0)
        if not np.isfinite(length) or length <= most:
            parts = [itertools.islice(_read_file(path), most)]
        else:
            begins = [part.start / about["fps"] for part in _parts(int(length), most)]
            parts = [itertools.islice(_read_file(path, begin), most // len(begins)) for begin in begins]
    out = []
    for name, frame in itertools.chain(*parts):
        frame = _cropped(frame, config)
        scale = min(1.0, longest / max(frame.shape[:2]))
        if scale < 1:
            size = (max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale)))
            frame = np.asarray(Image.fromarray(frame).resize(size, Image.BOX))
        if out and frame.shape != out[0].shape:
            raise DataError(f"{name}: another size than the first frame of {path}; one video has one size")
        out.append(frame)
    if not out:
        raise DataError(f"{path}: holds no frames")
    return np.stack(out)


def _parts(length: int, most: int) -> list[slice]:
    """The parts of a video of `length` frames to read: all of it, or four of `most` / 4 frames each."""
    if length <= most or most < 4:
        return [slice(0, min(length, most))]
    part = most // 4
    return [slice(start, start + part) for start in np.linspace(0, length - part, 4).astype(int).tolist()]


def _about(path: Path) -> dict[str, Any]:
    """Duration (s), fps and size (px) from the header of a video file; empty if it cannot be read."""
    if path.suffix.lower() == ".gif":
        return {}
    try:
        frames = _opened(path)
        about = next(frames)
        frames.close()
        return about
    except DataError:
        raise
    except Exception:  # reading the frames will raise a clearer error
        return {}


def _opened(path: Path, begin: float = 0.0):
    """Iterate over a file's header, then its frames as bytes. The suffix is the format: a playlist opens no file."""
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise DataError(f"{path}: needs a video reader ({error}); pip install 'glass-gym[train]'") from None
    fixed = ["-protocol_whitelist", "file", "-f", DEMUXERS[path.suffix.lower()], "-ss", f"{begin:.3f}"]
    return imageio_ffmpeg.read_frames(str(path), pix_fmt="rgb24", input_params=fixed)


def _read_folder(folder: Path, files: list[Path] | None = None) -> Iterator[tuple[Path, np.ndarray]]:
    files = frames_in(folder) if files is None else files
    suffixes = {f.suffix.lower() for f in files}
    if len(suffixes) > 1:
        raise DataError(f"{folder}: mixes {', '.join(sorted(suffixes))}; one video has one image extension")
    numbers = [int(f.stem) for f in files]
    for expected, number in enumerate(numbers, start=numbers[0]):
        if number != expected:
            raise DataError(f"{folder}: frame {expected:05d}{files[0].suffix} is missing; frames must be contiguous")
    for file in files:
        try:
            yield file, read_picture(file)
        except ValueError as error:
            raise DataError(f"{error}; repair it, or leave the video out with --read.skip-broken") from None


def _read_file(path: Path, begin: float = 0.0, whole: bool = False) -> Iterator[tuple[Path, np.ndarray]]:
    """Yield the frames of a video file from `begin` seconds on; if `whole`, a truncated file is an error."""
    if path.suffix.lower() == ".gif":
        yield from _read_gif(path)
        return
    count = 0
    about: dict[str, Any] = {}
    try:
        frames = _opened(path, begin)
        about = next(frames)
        width, height = about["size"]
        if width * height > MAX_PIXELS:
            raise DataError(f"{path}: {width}x{height} is more than {MAX_PIXELS} pixels; reduce the video first")
        for raw in frames:
            count += 1
            yield path, np.frombuffer(raw, np.uint8).reshape(height, width, 3)
    except DataError:
        raise
    except Exception as error:  # of ffmpeg or its reader
        why = " ".join(str(error).split())[-200:]
        raise DataError(
            f"{path}: broken video after frame {count} ({why}); leave it out with --read.skip-broken"
        ) from None
    expected = about.get("duration", 0.0) * about.get("fps", 0.0) - begin * about.get("fps", 0.0)
    if np.isfinite(expected) and count < ENOUGH * expected - 2:
        cut = f"{path}: ends after frame {count} of about {expected:.0f}; the file seems to be truncated"
        if whole:
            raise DataError(cut)
        warnings.warn(cut + " --read.skip-broken leaves it out", stacklevel=2)


def _read_gif(path: Path) -> Iterator[tuple[Path, np.ndarray]]:
    try:
        with Image.open(path, formats=("GIF",)) as image:
            if image.width * image.height > MAX_PIXELS // 2:  # Pillow holds several frames of a GIF
                raise DataError(f"{path}: {image.width}x{image.height} is more than {MAX_PIXELS // 2} pixels")
            size = image.size
            for number, frame in enumerate(ImageSequence.Iterator(image), 1):
                if frame.size != size:  # Pillow enlarges the picture for such a frame
                    raise DataError(f"{path}: frame {number} reaches out of the picture of {size[0]}x{size[1]} px")
                yield path, np.asarray(frame.convert("RGB"))
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise errors of many kinds
        raise DataError(f"{path}: broken GIF ({error}); leave it out with --read.skip-broken") from None


def _cropped(frame: np.ndarray, config: ReadConfig) -> np.ndarray:
    if not config.crop:
        return frame
    left, top, right, bottom = config.crop
    if not (0 <= left < right <= frame.shape[1] and 0 <= top < bottom <= frame.shape[0]):
        raise DataError(f"crop {config.crop} does not fit a frame of {frame.shape[1]}x{frame.shape[0]}")
    return frame[top:bottom, left:right]


def _shape(frame: np.ndarray, config: ReadConfig) -> np.ndarray:
    frame = _cropped(frame, config)
    if not config.size:
        return frame[: frame.shape[0] // 8 * 8, : frame.shape[1] // 8 * 8]
    if frame.shape[:2] == tuple(config.size):
        return frame
    smaller = frame.shape[0] >= config.size[0] and frame.shape[1] >= config.size[1]
    image = Image.fromarray(frame)
    return np.asarray(image.resize((config.size[1], config.size[0]), Image.BOX if smaller else Image.BILINEAR))


def pack(root: Path, out: Path, config: ReadConfig, progress=lambda done, total: None) -> list[str]:
    """Decode a folder of videos into a clip store.

    Args:
        root: the folder.
        out: folder of the store.
        config: how videos are read.
        progress: called with the number of videos that are done, and the total.

    Returns:
        messages about videos that were left out (`skip_broken`).

    Raises:
        DataError: a video is broken (unless `skip_broken`), sizes differ, or nothing is left.
    """
    writer = None
    left_out = []
    videos = find_videos(root)
    for done, (name, split, path) in enumerate(videos):
        before = len(writer.videos) if writer else 0
        try:
            for number, shot in enumerate(shots_of(read_video(path, config), config)):
                if writer is None:
                    writer = StoreWriter(out, *shot.shape[1:3], config.pixel_aspect, str(root))
                if shot.shape[1:3] != (writer.height, writer.width):
                    raise DataError(
                        f"{path}: frames are {shot.shape[1:3]}, the others {(writer.height, writer.width)}; "
                        "give all videos one size with --read.size HEIGHT WIDTH"
                    )
                writer.add(f"{name}-{number:03d}" if number else name, split, shot)
        except DataError as error:
            if not config.skip_broken or "--read.size" in str(error):
                raise
            left_out.append(str(error))
            if writer is not None:
                writer.keep(before)
            continue
        progress(done + 1, len(videos))
    if writer is None or not writer.videos:
        if left_out:
            raise DataError(f"{root}: every video is broken; the last: {left_out[-1]}")
        raise DataError(f"{root}: no shot has {SHOT} frames; use footage with longer shots, or --read.no-cuts")
    if len({split for _, split, _ in videos}) == 1 and len(writer.videos) >= 3:  # few long videos: split by shots
        writer.split_by_order()
    writer.close()
    return left_out
