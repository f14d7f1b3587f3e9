"""Videos as pictures: a folder of numbered files, or the pages of a TIFF."""

from __future__ import annotations

import contextlib
import math
import re
import struct
import warnings
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from glass_gym.worlds.pictures import MAX_PIXELS, as_8_bits, pixels_of, read_pixels, white_of

from .store import DataError
from .video_reader import Crop, Frame, Size, VideoReader, cropped_and_resized, why_unreadable

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
STACKS = (".tif", ".tiff")
NUMBERED = re.compile(r"(.*?)(\d+)", re.DOTALL)  # A prefix and a number.
BITS_PER_SAMPLE = 258  # A tag of TIFF.
SAMPLE = 16  # Number of pictures whose brightest pixels tell what is white.
BRIGHTER = "some pictures are brighter than the sample that tells what is white: cut off there"
BROKEN = (
    OSError, EOFError, SyntaxError, ValueError, TypeError, KeyError, struct.error, Image.DecompressionBombError,
)  # fmt: skip
"""What Pillow raises for broken pictures."""


class PictureReader(VideoReader):
    """A video whose frames are pictures. Times are not known."""

    def __init__(self, path: Path, frames: int):
        self.path = path
        self.frames = frames
        self.notes = []
        some = list(self._loaded(range(0, frames, max(1, frames // SAMPLE)))) or list(self._loaded(range(frames)))
        if not some:
            self._load(0)  # raises the error of the first picture
        self.height, self.width = some[0].shape[:2]
        self._white = max((white_of(pixels) for pixels in some if pixels.dtype != np.uint8), default=255.0)
        if some[0].dtype != np.uint8:
            used = f"of which {math.log2(self._white + 1):.0f} are in use" if self._white > 1 else "from 0 to 1"
            self.notes.append(f"{8 * some[0].itemsize} bits a pixel, {used}: scaled to 8")

    @abstractmethod
    def _load(self, index: int) -> tuple[str, np.ndarray]:
        """Name and pixels of a picture, (H, W, 3) uint8, uint16 or float32; DataError: it is broken."""

    def _loaded(self, indices: range) -> Iterator[np.ndarray]:
        """Pixels of some pictures, without broken ones."""
        for index in indices:
            with contextlib.suppress(DataError):
                yield self._load(index)[1]

    def _follows(self, index: int) -> bool:
        """Whether no picture is missing before one."""
        return index > 0

    def _read(self, size: Size | None, crop: Crop | None) -> Iterator[Frame]:
        for index in range(self.frames):
            yield Frame(None, self._follows(index), lambda index=index: self._draw(index, size, crop))

    def _draw(self, index: int, size: Size | None, crop: Crop | None) -> np.ndarray:
        name, pixels = self._load(index)
        if pixels.shape[:2] != (self.height, self.width):
            raise DataError(
                f"{name}: is {pixels.shape[1]}x{pixels.shape[0]} px, the first of {self.path} is "
                f"{self.width}x{self.height}; one video has one size"
            )
        if pixels.dtype != np.uint8:
            if pixels.max() > self._white and BRIGHTER not in self.notes:
                self.notes.append(BRIGHTER)
            pixels = as_8_bits(pixels, self._white)
        return cropped_and_resized(pixels, crop, size)


class PictureFolder(PictureReader):
    """A folder of numbered pictures, such as 00000.png or frame_0001.tif. Where numbers are missing, a shot ends."""

    def __init__(self, path: Path):
        self.files, others = series_in(path)
        if not self.files:
            raise DataError(f"{path}: holds no numbered pictures ({', '.join(PICTURES)}); name them 00000.png ...")
        super().__init__(path, len(self.files))
        numbers = [_number(file) for file in self.files]
        steps = np.diff(numbers)
        usual = int(np.median(steps)) if len(steps) else 1
        self._gaps = set((np.flatnonzero(steps >= 2 * max(usual, 1)) + 1).tolist())
        if self._gaps:
            first = self.files[min(self._gaps)].name
            self.notes.append(f"pictures are missing at {len(self._gaps)} places, the first before {first}: cut there")
        if others:
            self.notes.append(f"{others} other pictures in the folder are left alone")

    def _load(self, index: int) -> tuple[str, np.ndarray]:
        return str(self.files[index]), load_picture(self.files[index])

    def _follows(self, index: int) -> bool:
        return index > 0 and index not in self._gaps


class PictureStack(PictureReader):
    """A TIFF file of several pages, as microscopes write it."""

    def __init__(self, path: Path):
        self.path = path
        self._image: Image.Image | None = None
        _, pages = _pages_of(path)
        if has_16_bit_colours(path):
            raise DataError(f"{path}: has pages of 16-bit colours; save them as grey, or as single numbered pictures")
        super().__init__(path, pages)
        self._close()

    def _read(self, size: Size | None, crop: Crop | None) -> Iterator[Frame]:
        try:
            yield from super()._read(size, crop)
        finally:
            self._close()

    def _load(self, index: int) -> tuple[str, np.ndarray]:
        name = f"{self.path}, page {index + 1}"
        if self._image is None:
            self._image, _ = _pages_of(self.path)
        try:
            self._image.seek(index)
            return name, pixels_of(self._image, name)
        except BROKEN as error:
            raise DataError(f"{name}: cannot be read ({error}); save the file again") from None

    def _close(self) -> None:
        if self._image is not None:
            self._image.close()
        self._image = None


def _pages_of(path: Path) -> tuple[Image.Image, int]:
    """Open a TIFF file, and count its pages.

    Raises:
        DataError: it cannot be read, or is too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, about tags that do not matter
            image = Image.open(path, formats=("TIFF",))
            pages = getattr(image, "n_frames", 1)
    except BROKEN as error:
        raise DataError(f"{path}: {why_unreadable(path, error)}") from None
    if image.width * image.height > MAX_PIXELS:
        raise DataError(f"{path}: {image.width}x{image.height} px is larger than {MAX_PIXELS:,} pixels; reduce it")
    return image, pages


def is_stack(path: Path) -> bool:
    """Whether a file is a TIFF of several pages."""
    try:
        image, pages = _pages_of(path)
    except DataError:
        return False
    image.close()
    return pages > 1


def series_in(folder: Path) -> tuple[list[Path], int]:
    """The largest series of numbered pictures in a folder, in the order of their numbers, and how many others it has.

    A series has one prefix before the numbers, and one suffix.
    """
    series: dict[tuple[str, str], list[Path]] = {}
    count = 0
    try:
        inside = list(folder.iterdir())
    except OSError:  # it may not be read
        return [], 0
    for path in inside:
        suffix = path.suffix.lower()
        if suffix not in PICTURES or path.name.startswith("."):
            continue
        count += 1
        if found := NUMBERED.fullmatch(path.stem):
            series.setdefault((found[1], suffix), []).append(path)
    if not series:
        return [], count
    largest = max(series.values(), key=lambda files: (len(files), min(files)))
    return sorted(largest, key=lambda path: (_number(path), path.name)), count - len(largest)


def _number(path: Path) -> int:
    found = NUMBERED.fullmatch(path.stem)
    assert found is not None
    return int(found[2][-18:])


def load_picture(file: Path) -> np.ndarray:
    """Read a picture: (H, W, 3) uint8; uint16 or float32 if it has more than 8 bits.

    Raises:
        DataError: it is broken.
    """
    try:
        if has_16_bit_colours(file):
            return _by_ffmpeg(file)
        return read_pixels(file)
    except BROKEN as error:
        raise DataError(f"{error}; repair it, or delete it") from None


def has_16_bit_colours(file: Path) -> bool:
    """Whether a PNG or TIFF has more than 8 bits for each of several colours, of which Pillow reads 8 or none."""
    with file.open("rb") as opened:
        head = opened.read(26)
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        return len(head) == 26 and head[24] == 16 and head[25] & 2 > 0
    if head[:4] in (b"II*\0", b"MM\0*"):
        try:
            with Image.open(file, formats=("TIFF",)) as image:
                bits = getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (8,))
                return image.mode in ("RGB", "RGBA") and max(bits) > 8
        except Image.UnidentifiedImageError:
            return True
    return False


def _by_ffmpeg(file: Path) -> np.ndarray:
    """Read a picture of 16-bit colours: (H, W, 3) uint16; what is transparent is black."""
    import av

    kind = "tiff_pipe" if file.suffix.lower() in STACKS else "png_pipe"
    options = {"max_pixels": str(MAX_PIXELS), "protocol_whitelist": "file"}
    try:
        with av.open(str(file.absolute()), format=kind, options=options) as found:
            frame = next(found.decode(video=0))
            pixels = np.asarray(frame.reformat(format="rgba64le").to_ndarray())
    except (av.error.FFmpegError, StopIteration, MemoryError) as error:
        raise ValueError(f"{file}: broken image ({error})") from None
    alpha = pixels[..., 3:] / np.float32(65535)
    return (pixels[..., :3] * alpha + np.float32(0.5)).astype(np.uint16)
