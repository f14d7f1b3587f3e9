"""Videos as pictures: a folder of numbered files, or the pages of a TIFF."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from glass_gym.worlds.pictures import MAX_PIXELS, as_8_bits, bits_of, pixels_of, read_pixels

from .colour import resized
from .store import DataError
from .video_reader import Crop, Frame, Size, VideoReader, why_unreadable

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
STACKS = (".tif", ".tiff")
NUMBERED = re.compile(r"(.*?)(\d+)", re.DOTALL)  # A prefix and a number.
BITS_PER_SAMPLE = 258  # A tag of TIFF.
SAMPLE = 16  # Number of pictures whose brightest pixel tells how many bits are in use.


class PictureReader(VideoReader):
    """A video whose frames are pictures. Times are not known."""

    def __init__(self, path: Path, frames: int):
        self.path = path
        self.frames = frames
        self.notes = []
        _, first = self._load(0)
        self.height, self.width = first.shape[:2]
        if first.dtype == np.uint16:
            self.notes.append(f"16 bits a pixel, of which {self._bits} are in use: scaled to 8")

    @abstractmethod
    def _load(self, index: int) -> tuple[str, np.ndarray]:
        """Name and pixels of a picture, (H, W, 3) uint8 or uint16."""

    def _follows(self, index: int) -> bool:
        """Whether no picture is missing before one."""
        return index > 0

    @cached_property
    def _bits(self) -> int:
        """Bits in use in 16-bit pictures, the same for all of them, so that brightness does not jump."""
        some = range(0, self.frames, max(1, self.frames // SAMPLE))
        return max(bits_of(self._load(index)[1]) for index in some)

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
        if pixels.dtype == np.uint16:
            pixels = as_8_bits(pixels, self._bits)
        if crop is not None:
            pixels = pixels[crop[1] : crop[3], crop[0] : crop[2]]
        return np.ascontiguousarray(resized(pixels, size))


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
        self.image = open_stack(path)
        super().__init__(path, getattr(self.image, "n_frames", 1))

    def _load(self, index: int) -> tuple[str, np.ndarray]:
        name = f"{self.path}, page {index + 1}"
        try:
            self.image.seek(index)
            return name, pixels_of(self.image, name)
        except (OSError, EOFError, SyntaxError, ValueError) as error:
            raise DataError(f"{name}: cannot be read ({error}); save the file again") from None


def open_stack(path: Path) -> Image.Image:
    """Open a TIFF file.

    Raises:
        DataError: it cannot be read, or is too large.
    """
    try:
        image = Image.open(path, formats=("TIFF",))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: {why_unreadable(path, error)}") from None
    if image.width * image.height > MAX_PIXELS:
        raise DataError(f"{path}: {image.width}x{image.height} px is larger than {MAX_PIXELS:,} pixels; reduce it")
    return image


def is_stack(path: Path) -> bool:
    """Whether a file is a TIFF of several pages."""
    try:
        with open_stack(path) as image:
            return getattr(image, "n_frames", 1) > 1
    except DataError:
        return False


def series_in(folder: Path) -> tuple[list[Path], int]:
    """The largest series of numbered pictures in a folder, in the order of their numbers, and how many others it has.

    A series has one prefix before the numbers, and one suffix.
    """
    series: dict[tuple[str, str], list[Path]] = {}
    count = 0
    for path in folder.iterdir():
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
    """Read a picture: (H, W, 3) uint8, or uint16 if it has more than 8 bits.

    Raises:
        DataError: it is broken.
    """
    try:
        if _has_16_bit_colours(file):  # of which Pillow reads 8
            return _by_ffmpeg(file)
        return read_pixels(file)
    except ValueError as error:
        raise DataError(f"{error}; repair it, or leave the video out") from None


def _has_16_bit_colours(file: Path) -> bool:
    with file.open("rb") as opened:
        head = opened.read(26)
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        return head[24] == 16 and head[25] & 2 > 0
    if head[:4] in (b"II*\0", b"MM\0*"):
        try:
            with Image.open(file, formats=("TIFF",)) as image:
                bits = getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (8,))
                return image.mode == "RGB" and max(bits) > 8
        except Image.UnidentifiedImageError:
            return True
    return False


def _by_ffmpeg(file: Path) -> np.ndarray:
    import av

    try:
        with av.open(
            str(file.absolute()), format="tiff_pipe" if file.suffix.lower() in STACKS else "png_pipe"
        ) as found:
            found.streams.video[0].codec_context.options = {"max_pixels": str(MAX_PIXELS)}
            frame = next(found.decode(video=0))
            return np.ascontiguousarray(frame.reformat(format="rgb48le").to_ndarray())
    except (av.error.FFmpegError, StopIteration) as error:
        raise ValueError(f"{file}: broken image ({error})") from None
