"""What all readers of videos have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from .colour import resized
from .store import DataError

SAME_RATE = 0.02  # Rates are the same if frames a second differ by no more than this share.

Size = tuple[int, int]  # (height, width), px.
Crop = tuple[int, int, int, int]  # left, top, right, bottom, px.


@dataclass(frozen=True)
class Frame:
    """A frame of a video.

    Attributes:
        time: seconds from the first frame; None if not known.
        follows: whether it comes right after the frame that was read before; False if frames between are missing.
        draw: makes the picture.
    """

    time: float | None
    follows: bool
    draw: Callable[[], np.ndarray]

    @cached_property
    def pixels(self) -> np.ndarray:
        """The picture (H, W, 3) uint8; made when it is asked for, since a sample needs few."""
        return self.draw()


class VideoReader(ABC):
    """A video.

    Attributes:
        path: its file or folder.
        height, width: size of its frames, px, upright.
        pixel_aspect: displayed width of a pixel over its height.
        frames: about how many frames it has.
        rate: frames a second, as most of them follow each other; None if not known.
        variable: whether the rate changes.
        seconds: its length; None if not known.
        notes: what is unusual about it, in words; reading adds frames that are lost.
        begins: times at which another episode begins, s, in order.
    """

    path: Path
    height: int
    width: int
    pixel_aspect: float = 1.0
    frames: int
    rate: float | None = None
    variable: bool = False
    seconds: float | None = None
    notes: list[str]
    begins: Sequence[float] = ()

    @property
    def shape(self) -> float:
        """Displayed width over height."""
        return self.width * self.pixel_aspect / self.height

    def read(self, size: Size | None = None, crop: Crop | None = None, fps: float | None = None) -> Iterator[Frame]:
        """Read all frames, from the first one on.

        Args:
            size: of the pictures, px; default: as they are.
            crop: region to keep, before resizing.
            fps: frames a second to keep, at most. Of each 1 / fps seconds the first frame is kept; a quarter of a
                step too early is early enough. None is made up: where frames are farther apart, fewer come.

        Yields:
            frames, in the order of their times.

        Raises:
            DataError: nothing can be read, or `crop` does not fit.
        """
        if crop is not None and not (0 <= crop[0] < crop[2] <= self.width and 0 <= crop[1] < crop[3] <= self.height):
            raise DataError(f"{self.path}: --read.crop {crop} does not fit a frame of {self.width}x{self.height} px")
        if fps is not None and self.rate and not self.variable and fps > (1 - SAME_RATE) * self.rate:
            fps = None
        slot = -1
        follows = False
        read = episode = 0
        for frame in self._read(size, crop):
            read += 1
            before, episode = episode, bisect_right(self.begins, (frame.time or 0) + 0.25 / (self.rate or np.inf))
            follows = follows and frame.follows and episode == before
            if fps is not None and frame.time is not None:
                now = int(np.floor((frame.time + 0.25 / (self.rate or fps)) * fps))  # stamps jitter
                if now <= slot:
                    continue
                slot = now
            yield replace(frame, follows=follows)
            follows = True
        if not read:
            raise DataError(f"{self.path}: no frame could be read" + "".join(f"; {note}" for note in self.notes))

    @abstractmethod
    def _read(self, size: Size | None, crop: Crop | None) -> Iterator[Frame]:
        """As :meth:`read`, at the video's own rate."""


def size_after(crop: Crop | None, size: Size) -> Size:
    """Size of a frame of `size` after cropping, px."""
    return size if crop is None else (crop[3] - crop[1], crop[2] - crop[0])


def cropped_and_resized(picture: np.ndarray, crop: Crop | None, size: Size | None) -> np.ndarray:
    """Crop a picture (H, W, 3) uint8, then resize it to `size`; None leaves either out."""
    if crop is not None:
        picture = picture[crop[1] : crop[3], crop[0] : crop[2]]
    return np.ascontiguousarray(resized(picture, size))


def why_unreadable(path: Path, error: Exception | None = None) -> str:
    """Why a file cannot be read, and what to do, in words."""
    if path.is_symlink() and not path.exists():
        return f"is a link to {path.readlink()}, which does not exist; mend the link or delete it"
    if isinstance(error, (PermissionError, FileNotFoundError, IsADirectoryError)):
        return f"cannot be opened ({error.strerror}); check the file and its permissions"
    try:
        status = path.stat()
        with path.open("rb") as file:
            head = file.read(1 << 16)
    except OSError as failed:
        return f"cannot be opened ({failed.strerror}); copy it again"
    if not status.st_size:
        return "is empty (0 bytes); copy it again, or delete it"
    if not any(head) or getattr(status, "st_blocks", 1) == 0:
        return "holds nothing but zeros: a copy that did not finish, or a file that a cloud keeps; download it first"
    if head.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the video; run `git lfs pull`"
    if head.lstrip()[:1] == b"<":
        return "is a web page, not a video; download it again"
    if b"ftyp" in head[:16] and "moov" not in _boxes(path):
        return (
            "was not written to its end, or is cut off: the index of its frames is missing; copy it again, or repair it"
        )
    said = f" ({words_of(error)})" if error else ""
    return f"is no video that ffmpeg can read, or is damaged{said}; convert it, or leave it out"


def _boxes(path: Path) -> list[str]:
    """Names of the outermost boxes of an MP4 file, as far as they are whole."""
    names = []
    size = path.stat().st_size
    with path.open("rb") as file:
        at = 0
        while at + 8 <= size and len(names) < 10_000:
            file.seek(at)
            head = file.read(16)
            length = int.from_bytes(head[:4], "big")
            length = int.from_bytes(head[8:16], "big") if length == 1 else length or size - at
            if length < 8 or at + length > size:
                break
            names.append(head[4:8].decode("latin1"))
            at += length
    return names


def words_of(error: BaseException) -> str:
    """What an error says, without PyAV's number."""
    return str(getattr(error, "strerror", None) or error)[:200]
