"""Recordings: frames as a .mp4 or .gif file."""

from __future__ import annotations

from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from glass_gym.worlds.sheets import with_caption


def video_suffix() -> str:
    """.mp4 if PyAV is installed, else .gif."""
    return ".mp4" if find_spec("av") else ".gif"


class Recorder:
    """Writes frames, enlarged `scale` times, to a .mp4 or .gif; ImportError: a .mp4 needs PyAV."""

    def __init__(self, path: Path, fps: float, scale: int = 2):
        suffix = path.suffix.lower()
        if suffix == ".mp4" != video_suffix():
            raise ImportError(f"{path}: a .mp4 needs PyAV: pip install 'glass-gym[play]', or record a .gif")
        if suffix not in {".mp4", ".gif"}:
            raise ValueError(f"{path}: record to a .mp4 or a .gif file")
        self.path = path
        self.scale = scale
        self.count = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = Mp4Writer(path, fps) if suffix == ".mp4" else _gif_writer(path, fps)

    def add(self, frame: np.ndarray, caption: str | None = None) -> None:
        """Append a frame, (H, W, 3) uint8, with a line of text below; None: without. All frames have one, or none."""
        frame = frame.repeat(self.scale, 0).repeat(self.scale, 1)
        self._writer.append_data(frame if caption is None else with_caption(frame, caption))
        self.count += 1

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()


def _gif_writer(path: Path, fps: float) -> Any:
    import imageio.v2 as iio

    return iio.get_writer(path, format="GIF", mode="I", duration=1000 / fps, loop=0)  # pyright: ignore


class Mp4Writer:
    """Writes H.264. The file is opened here: to ffmpeg, `a:b.mp4` is an address.

    Args:
        path: the file.
        fps: frames a second.
        pix_fmt: of the encoder; every player shows yuv420p.
        options: of the encoder, x264.
    """

    def __init__(self, path: Path, fps: float, pix_fmt: str = "yuv420p", **options: str):
        import av

        self._rate = Fraction(fps).limit_denominator(1000)
        self._pix_fmt = pix_fmt
        self._options = options
        self._stream: Any = None
        self._file = path.open("wb")
        self._container = av.open(self._file, "w", format="mp4")

    def append_data(self, frame: np.ndarray) -> None:
        """Append a frame, (H, W, 3) uint8; all have one size."""
        import av

        height, width = frame.shape[:2]
        if height % 2 or width % 2:  # yuv420p has even sizes only
            frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
        if self._stream is None:
            self._stream = self._container.add_stream("libx264", rate=self._rate, options=self._options)
            self._stream.height, self._stream.width = frame.shape[:2]
            self._stream.pix_fmt = self._pix_fmt
        self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24")))

    def close(self) -> None:
        """Finish the file."""
        with self._file:
            try:
                if self._stream is not None:
                    self._container.mux(self._stream.encode())
            finally:
                self._container.close()
