"""Pictures that users give: read a file, and make a start frame of any picture."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np

MAX_PIXELS = 36_000_000  # Most pixels of a picture.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP")  # Formats of files that are read.


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
    """Read an image file: PNG, JPEG, BMP, GIF or WebP, by its content; other formats could start other programs.

    Orientation tags are applied, 16-bit values are scaled.

    Returns:
        (h, w, 3) uint8.

    Raises:
        ValueError: the file is missing, no image, or too large; the message names it.
    """
    from PIL import Image, ImageOps

    name = path if isinstance(path, (str, Path)) else "the picture"
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{name}: {image.width}x{image.height} px is larger than {MAX_PIXELS:,} pixels")
            turned = ImageOps.exif_transpose(image)
            if turned.mode.startswith("I"):  # 16 bits a pixel; convert() would cut them off at 255
                grey = (np.asarray(turned).clip(0, 65535) // 256).astype(np.uint8)
                return grey[..., None].repeat(3, -1)
            return np.asarray(turned.convert("RGB"))
    except FileNotFoundError:
        raise ValueError(f"{name}: no such file") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{name}: broken image ({error})") from None


def stretch(frames: np.ndarray, pixel_aspect: float) -> np.ndarray:
    """Apply a pixel aspect by repeating columns: (..., H, W, 3) -> (..., H, round(W * pixel_aspect), 3)."""
    width = frames.shape[-2]
    columns = (np.arange(round(width * pixel_aspect)) / pixel_aspect).astype(int).clip(0, width - 1)
    return np.ascontiguousarray(frames[..., columns, :])
