"""Videos as a world sees them: read at the rate, crop and size of its training, in parts of one shot."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from glass_gym.worlds.checkpoint import World
from glass_gym.worlds.pictures import fit_picture

from ..config import ReadConfig
from ..core.options import check_options
from ..core.run import filled
from ..data.cuts import find_cuts
from ..data.reader import open_video
from ..data.store import DataError
from ..data.video_reader import VideoReader
from ..data.videos import MEMORY, PIECE, SAME_SHAPE


@dataclass(frozen=True)
class Part:
    """Consecutive frames of one shot.

    Attributes:
        frames: (T, H, W, 3) uint8, as large as the world's.
        index: (T,) int64, numbers of the frames, from 0, at the rate at which the video is read.
        time: (T,) s from the first frame; nan if not known.
        continued: the last frame is the first one of the next part.
    """

    frames: np.ndarray
    index: np.ndarray
    time: np.ndarray
    continued: bool


def reading_of(given: ReadConfig, world: World, path: Path) -> ReadConfig:
    """How videos were read when a world was trained; what is given wins.

    It is told by the world, or by the config.json beside its file.

    Raises:
        DataError: what is told there cannot be used.
    """
    known, rate = world.provenance.get("read"), world.provenance.get("footage_fps")
    used = path.parent / "config.json"
    source = path
    try:
        if known is None and used.is_file():
            source = used
            known = json.loads(used.read_text(encoding="utf-8")).get("read")
        known = {} if known is None else known
        if not isinstance(known, dict):
            raise ValueError(f"read is {known!r:.80}, no table of options")
        check_options(filled(ReadConfig(), known), "read.")
        source = path
        check_options(ReadConfig(fps=rate), "footage_")
    except (ValueError, AttributeError) as error:
        raise DataError(f"{source}: how its videos were read is not told as training does: {error}") from None
    return filled(given, known)


def open_footage(path: Path, world: World, read: ReadConfig) -> tuple[VideoReader, ReadConfig]:
    """Open a video, and say how to read it: frames of another shape than the world's are cropped, not stretched."""
    reader = open_video(path)
    config = world.config
    shape = config.width * world.pixel_aspect / config.height
    if read.crop is None and abs(reader.shape / shape - 1) > SAME_SHAPE:
        read = dataclasses.replace(read, size=None)
    return reader, dataclasses.replace(read, fps=read.fps or world.provenance.get("footage_fps"))


def parts_of(reader: VideoReader, world: World, read: ReadConfig) -> Iterator[Part]:
    """Read a video in parts that fit into memory; each ends with the shot, or is continued by the next.

    Frames that cannot be read end a shot and are left out.

    Raises:
        DataError: nothing can be read, or `crop` does not fit.
    """
    every = (read.skip or 0) + 1
    frames: list[np.ndarray] = []
    index: list[int] = []
    time: list[float] = []
    broken: list[str] = []
    nbytes = 3 * world.config.height * world.config.width
    limit = max(2, min(PIECE, MEMORY // nbytes))

    def parts(last: bool) -> Iterator[Part]:
        stack, numbers, times = np.stack(frames), np.array(index), np.array(time)
        cuts = find_cuts(stack) if read.cuts else np.zeros(0, int)
        bounds = [0, *cuts.tolist(), len(stack)]
        for start, stop in pairwise(bounds):
            end = stop == len(stack)
            if end and not last and stop - start < 2:  # a new shot begins with it
                continue
            yield Part(stack[start:stop], numbers[start:stop], times[start:stop], end and not last)

    gap = False
    for number, frame in enumerate(reader.read(read.size, read.crop, read.fps)):
        gap = gap or (number > 0 and not frame.follows)
        if number % every:
            continue
        try:
            pixels = _fitted(frame.pixels, world)
        except DataError as error:
            broken.append(str(error))
            gap = True
            continue
        if frames and gap:
            yield from parts(True)
            frames, index, time = [], [], []
        elif len(frames) > limit:
            yield from parts(False)
            frames, index, time = frames[-1:], index[-1:], time[-1:]
        gap = False
        frames.append(pixels)
        index.append(number)
        time.append(np.nan if frame.time is None else frame.time)
    if broken:
        reader.notes.append(f"{len(broken)} pictures are left out, the first: {broken[0]}")
    if frames:
        yield from parts(True)


def _fitted(pixels: np.ndarray, world: World) -> np.ndarray:
    """A picture as large as the world's frames: as training cuts it, or :func:`fit_picture`."""
    height, width = world.config.height, world.config.width
    if (pixels.shape[0] // 8 * 8, pixels.shape[1] // 8 * 8) == (height, width):
        return pixels[:height, :width]
    return fit_picture(pixels, height, width, world.pixel_aspect)
