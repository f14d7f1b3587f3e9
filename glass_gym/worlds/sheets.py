"""Contact sheets: pictures in rows, with labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from glass_gym.tensors.convert import to_bytes

FONT, LINE = 16, 24  # Size of letters, and height of a line of text, px.
DARK = (40, 40, 40)  # Behind letters.


def to_picture(images: Tensor) -> np.ndarray:
    """(..., 3, H, W) in [-1, 1] -> (..., H, W, 3) uint8."""
    return to_bytes(images.float().cpu()).movedim(-3, -1).numpy()


def grid(rows: list[list[np.ndarray]], scale: int = 2, gap: int = 2) -> np.ndarray:
    """Join rows of equally sized pictures (H, W, 3), `gap` px apart, enlarged `scale` times without smoothing."""
    border = ((0, gap), (0, gap), (0, 0))
    padded = [np.concatenate([np.pad(p, border, constant_values=40) for p in row], 1) for row in rows]
    sheet = np.concatenate(padded, 0)
    return sheet.repeat(scale, 0).repeat(scale, 1)


def with_caption(picture: np.ndarray, text: str) -> np.ndarray:
    """A picture (h, w, 3) above a line of text, (h + LINE, w, 3); long text is small."""
    strip = Image.new("RGB", (picture.shape[1], LINE), DARK)
    room = strip.width - 16
    font = ImageFont.load_default(FONT)
    if (length := font.getlength(text)) > room:
        font = ImageFont.load_default(max(1, FONT * room / length))
    ImageDraw.Draw(strip).text((8, LINE / 2), text, "white", font, anchor="lm")
    return np.concatenate([picture, np.asarray(strip)])


def with_labels(sheet: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """A sheet (h, w, 3) with a column of labels at its left, one for each of equally high bands."""
    font = ImageFont.load_default(FONT)
    column = Image.new("RGB", (round(max(map(font.getlength, labels))) + 16, len(sheet)), DARK)
    for n, label in enumerate(labels):
        ImageDraw.Draw(column).text((8, (n + 0.5) * len(sheet) / len(labels)), label, "white", font, anchor="lm")
    return np.concatenate([np.asarray(column), sheet], 1)


def save_picture(path: Path, picture: np.ndarray) -> Path:
    """Write a picture (H, W, 3) uint8 as PNG, make its folder where needed, and return `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
    return path
