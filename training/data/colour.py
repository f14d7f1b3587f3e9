"""Pictures of decoded frames, as a player shows them: (H, W, 3) uint8 in sRGB."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from glass_gym.worlds.pictures import on_black

if TYPE_CHECKING:
    from av import VideoFrame

HDR = {16: "PQ", 18: "HLG"}  # Transfer functions of high dynamic range (ITU-T H.273, table 3).
WHITE = 203.0  # Luminance of a white sheet in HDR footage, cd/m2 (ITU-R BT.2408).
PEAK = 1000.0  # Peak luminance of the screen that HLG is shown on, cd/m2 (BT.2100).
KNEE = 0.7  # Tone mapping changes only what is brighter than this share of white.
TO_709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32)
"""Linear light in BT.2020's primaries to those of BT.709 and sRGB (BT.2087)."""


class ToRgb:
    """Draws decoded frames; it keeps swscale's tables from one frame to the next."""

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        self._scaler = VideoReformatter()

    def __call__(self, frame: VideoFrame, size: tuple[int, int]) -> np.ndarray:
        """Draw a frame.

        Of interlaced frames the upper field is taken; transparent parts are black; high dynamic range is tone-mapped.

        Args:
            frame: of any pixel format.
            size: (height, width) of the picture, px.

        Returns:
            (height, width, 3) uint8.
        """
        hdr = frame.color_trc in HDR
        alpha = any(part.is_alpha for part in frame.format.components)
        height = frame.height if frame.interlaced_frame else size[0]
        smaller = height <= frame.height and size[1] <= frame.width
        space = frame.colorspace
        if space == 2:  # not told: what players take then
            space = 1 if frame.height >= 720 else 5
        picture = self._scaler.reformat(
            frame,
            width=size[1],
            height=height,
            format="rgb48le" if hdr else "rgba" if alpha else "rgb24",
            src_colorspace=space if space in (1, 4, 5, 6, 7, 9) else None,
            src_color_range=frame.color_range,
            interpolation="AREA" if smaller else "BILINEAR",
        ).to_ndarray()
        if hdr:
            picture = tone_mapped(picture, HDR[frame.color_trc])
        elif alpha:
            picture = on_black(picture)
        if frame.interlaced_frame:
            picture = resized(picture[::2], size)
        return picture


def tone_mapped(picture: np.ndarray, transfer: str) -> np.ndarray:
    """Map a picture of high dynamic range to sRGB.

    Args:
        picture: (H, W, 3) uint16, BT.2020 primaries.
        transfer: "PQ" or "HLG" (BT.2100, tables 4 and 5).

    Returns:
        (H, W, 3) uint8.
    """
    coded = picture.astype(np.float32) / 65535
    if transfer == "PQ":
        root = coded ** (1 / 78.84375)
        light = 10_000 * (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (1 / 0.1593017578125)
    else:
        scene = np.where(coded <= 0.5, coded**2 / 3, (np.exp((coded - 0.55991073) / 0.17883277) + 0.28466892) / 12)
        luma = scene @ np.array([0.2627, 0.678, 0.0593], np.float32)
        light = PEAK * luma[..., None] ** 0.2 * scene
    linear = np.maximum(light / WHITE @ TO_709.T, 0)
    brightest = linear.max(-1, keepdims=True)
    over = (brightest - KNEE) / (1 - KNEE)
    mapped = np.where(over > 0, KNEE + (1 - KNEE) * np.tanh(np.maximum(over, 0)), brightest)
    linear = linear * (mapped / np.maximum(brightest, 1e-6))
    shown = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055)
    return (shown.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def resized(picture: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """Resize a picture (H, W, 3) uint8 to (height, width): means of areas if it shrinks, else linear interpolation."""
    if size is None or picture.shape[:2] == tuple(size):
        return picture
    smaller = picture.shape[0] >= size[0] and picture.shape[1] >= size[1]
    way = Image.Resampling.BOX if smaller else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(np.ascontiguousarray(picture)).resize((size[1], size[0]), way))
