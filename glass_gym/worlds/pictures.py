"""Pictures that users give: read a file, and make a start frame of any picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 36_000_000  # Most pixels of a picture.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")  # Formats of files that are read.


def fit_picture(picture: np.ndarray, height: int, width: int, pixel_aspect: float = 1.0) -> np.ndarray:
    """Make a start frame of a picture.

    A picture of exactly (height, width) is used as it is. Any other is taken to have square pixels: its centre is
    cropped to the aspect at which the world is displayed (width * pixel_aspect : height) and resized with antialiasing.

    Args:
        picture: (h, w, 3) uint8; also (h, w) grey, (h, w, 4) with alpha (ignored), and floats in [0, 1].
        height: of the world's frames, px.
        width: of the world's frames, px.
        pixel_aspect: displayed width of a pixel over its height.

    Returns:
        (height, width, 3) uint8.

    Raises:
        ValueError: the array is no picture; the message says why.
    """
    picture = _as_rgb(picture)
    if picture.shape[:2] == (height, width):
        return picture.copy()
    from PIL import Image

    rows, columns = picture.shape[:2]
    aspect = width * pixel_aspect / height
    crop_width = min(columns, rows * aspect)
    crop_height = min(rows, columns / aspect)
    left, top = (columns - crop_width) / 2, (rows - crop_height) / 2
    box = (left, top, left + crop_width, top + crop_height)
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC, box=box)).copy()


def _as_rgb(picture) -> np.ndarray:
    picture = np.asarray(picture)
    if picture.ndim == 2:
        picture = picture[..., None].repeat(3, -1)
    if picture.ndim != 3 or picture.shape[2] not in (3, 4) or min(picture.shape) < 1:
        raise ValueError(f"a picture must be (height, width, 3), got shape {picture.shape}")
    if picture.shape[0] * picture.shape[1] > MAX_PIXELS:
        raise ValueError(f"a picture may have {MAX_PIXELS:,} pixels, got {picture.shape[0]}x{picture.shape[1]}")
    picture = picture[..., :3]
    if np.issubdtype(picture.dtype, np.floating):
        if not np.isfinite(picture).all():
            raise ValueError(f"the picture holds {int((~np.isfinite(picture)).sum())} values that are NaN or infinite")
        if picture.min() < 0 or picture.max() > 1:
            raise ValueError(
                f"a picture of floats must lie in [0, 1], got [{picture.min():g}, {picture.max():g}]; or pass uint8"
            )
        picture = (picture * 255 + 0.5).astype(np.uint8)
    if picture.dtype != np.uint8:
        raise ValueError(f"a picture must be uint8 (0..255) or floats in [0, 1], got {picture.dtype}")
    return np.ascontiguousarray(picture)


def read_picture(path: str | Path | BinaryIO) -> np.ndarray:
    """Read an image file as :func:`read_pixels` does; more than 8 bits are scaled by those that are in use.

    Returns:
        (h, w, 3) uint8.

    Raises:
        ValueError: the file is missing, no image, or too large; the message names it.
    """
    pixels = read_pixels(path)
    return pixels if pixels.dtype == np.uint8 else as_8_bits(pixels, white_of(pixels))


def read_pixels(path: str | Path | BinaryIO) -> np.ndarray:
    """Read an image file: PNG, JPEG, BMP, GIF, WebP or TIFF, by its content; other formats could start other programs.

    Orientation tags are applied; transparent parts are black.

    Returns:
        (h, w, 3) uint8; uint16 or float32 if a grey picture has more than 8 bits.

    Raises:
        ValueError: the file is missing, no image, or too large; the message names it.
    """
    from PIL import Image

    name = str(path) if isinstance(path, (str, Path)) else "the picture"
    try:
        with Image.open(path, formats=FORMATS) as image:
            return pixels_of(image, name)
    except FileNotFoundError:
        raise ValueError(f"{name}: no such file") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{name}: broken image ({error})") from None


def pixels_of(image: Image.Image, name: str) -> np.ndarray:
    """The pixels of an opened image; result and errors as of :func:`read_pixels`."""
    from PIL import ImageOps

    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{name}: {image.width}x{image.height} px is larger than {MAX_PIXELS:,} pixels")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):  # more than 8 bits; convert() would cut them off at 255
        grey = np.nan_to_num(np.asarray(image)).clip(0, 65535)
        return grey.astype(np.float32 if image.mode == "F" else np.uint16)[..., None].repeat(3, -1)
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = np.asarray(image.convert("RGBA"))
        return on_black(rgba)
    return np.asarray(image.convert("RGB"))


def on_black(picture: np.ndarray) -> np.ndarray:
    """Lay a picture (h, w, 4) uint8 with alpha on black: (h, w, 3) uint8."""
    return ((picture[..., :3].astype(np.uint16) * picture[..., 3:] + 127) // 255).astype(np.uint8)


def white_of(pixels: np.ndarray) -> float:
    """The value of white in pixels uint16 or float32: 1 if none is larger; else that of 8, 10, 12, 14 or 16 bits."""
    largest = float(pixels.max())
    if pixels.dtype != np.uint16 and largest <= 1:
        return 1.0
    return next((1 << bits) - 1.0 for bits in (8, 10, 12, 14, 16) if largest < 1 << bits)


def as_8_bits(pixels: np.ndarray, white: float) -> np.ndarray:
    """Scale pixels in [0, `white`] to uint8."""
    return (pixels * np.float32(255 / white) + np.float32(0.5)).clip(0, 255).astype(np.uint8)


def stretch(frames: np.ndarray, pixel_aspect: float) -> np.ndarray:
    """Apply a pixel aspect by repeating columns: (..., H, W, 3) -> (..., H, round(W * pixel_aspect), 3)."""
    width = frames.shape[-2]
    columns = (np.arange(round(width * pixel_aspect)) / pixel_aspect).astype(int).clip(0, width - 1)
    return np.ascontiguousarray(frames[..., columns, :])
