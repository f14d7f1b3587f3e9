"""Videos as people have them, small: each picture tells its number, so that a reader's mistakes can be counted.

:func:`picture` draws a still background, a moving square, a red patch at the lower left, a blue one at the lower right,
and along the upper edge the number in twelve blocks, dark or bright. :func:`index_of` reads it back, and :func:`error`
compares a picture with what was drawn; both work at any size. :func:`write` encodes; the others make odd files of it.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from av.stream import Disposition
from PIL import Image

SIZE = (64, 96)  # Height and width, px.
BITS = 12  # Blocks along the upper edge, of an eighth of the height.
FAST = {"preset": "ultrafast", "crf": "10"}  # Of x264: no B-frames.
QUIET = "log-level=none:pools=1"  # Of x265, on one core.
PRIMARIES = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])  # BT.709 to 2020.

CODECS: dict[str, tuple[str, str, dict]] = {
    "h264": (".mp4", "libx264", {"options": FAST}),
    "h264 with B-frames": (".mov", "libx264", {"options": {"x264-params": "keyint=30:bframes=4"}}),
    "h264, open groups": (".mkv", "libx264", {"options": {"x264-params": "open-gop=1:keyint=25:bframes=8"}}),
    "h264, one group": (".mp4", "libx264", {"options": FAST | {"g": "9999", "sc_threshold": "0"}}),
    "h264 in packets": (".mts", "libx264", {"options": {"x264-params": "keyint=25:bframes=2"}}),
    "hevc": (
        ".mp4",
        "libx265",
        {"options": {"preset": "ultrafast", "x265-params": "log-level=none:keyint=20:pools=1"}},
    ),
    "hevc, open groups": (
        ".mp4",
        "libx265",
        {"options": {"preset": "veryfast", "x265-params": f"keyint=20:open-gop=1:bframes=4:{QUIET}"}},
    ),
    "vp8": (".webm", "libvpx", {"options": {"deadline": "realtime", "cpu-used": "8", "b": "2M"}}),
    "vp9": (".webm", "libvpx-vp9", {"options": {"deadline": "realtime", "cpu-used": "8", "b": "2M"}}),
    "av1": (".mp4", "libsvtav1", {"options": {"preset": "12", "crf": "20", "svtav1-params": "lp=1"}}),
    "mpeg4": (".avi", "mpeg4", {"options": {"b": "4M", "bf": "2"}}),
    "mpeg2": (".ts", "mpeg2video", {"options": {"b": "4M", "bf": "2"}}),
    "mpeg1": (".mpg", "mpeg1video", {"options": {"b": "4M"}}),
    "mjpeg": (".avi", "mjpeg", {"pix_fmt": "yuvj420p", "options": {"qmin": "2", "qmax": "4"}}),
    "prores": (".mov", "prores_ks", {"pix_fmt": "yuv422p10le"}),
    "ffv1": (".mkv", "ffv1", {"pix_fmt": "yuv444p"}),
    "wmv2": (".wmv", "wmv2", {"options": {"b": "4M"}}),
    "flv1": (".flv", "flv", {"options": {"b": "4M"}}),
    "h263": (".3gp", "h263", {"size": (144, 176), "options": {"b": "4M"}}),
    "xvid in packets": (".m2ts", "mpeg4", {"format": "mpegts", "options": {"b": "4M"}}),
    "gif": (".gif", "gif", {"pix_fmt": "rgb8", "rate": 25}),
    "h264 in AVI": (".avi", "libx264", {"options": {"x264-params": "keyint=30:bframes=2"}}),
    "h264 without key frames": (".mkv", "libx264", {"options": FAST | {"x264-params": "intra-refresh=1:keyint=10"}}),
    "hevc in 10 bits": (".ts", "libx265", {"pix_fmt": "yuv420p10le", "options": {"x265-params": QUIET}}),
    "mpeg2 in MXF": (".mxf", "mpeg2video", {"options": {"b": "4M"}}),
    "qtrle": (".mov", "qtrle", {"pix_fmt": "rgb24"}),
    "png": (".mov", "png", {"pix_fmt": "rgb24"}),
    "utvideo": (".avi", "utvideo", {"pix_fmt": "yuv422p"}),
    "raw": (".avi", "rawvideo", {"pix_fmt": "bgr24"}),
}
"""Suffix, encoder, and arguments of :func:`write`, by a name."""


@lru_cache(maxsize=16)
def background(height: int, width: int) -> np.ndarray:
    """What stands still: a smooth texture and two patches of colour; (H, W, 3) uint8, not to be changed."""
    coarse = np.random.default_rng(0).integers(60, 190, (6, 9, 3), dtype=np.uint8)
    out = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)).copy()
    tall, wide = height // 4, width // 6
    out[-tall:, :wide] = (200, 40, 40)
    out[-tall:, -wide:] = (40, 60, 200)
    return out


def picture(index: int, size: tuple[int, int] = SIZE, square: float | None = None) -> np.ndarray:
    """Picture number `index`, (H, W, 3) uint8; with the square where it is at `square` (default: at `index`)."""
    height, width = size
    out = background(height, width).copy()
    for bit in range(BITS):
        left, right = bit * width // BITS, (bit + 1) * width // BITS
        out[: height // 8, left:right] = 215 if index >> bit & 1 else 40
    side = height // 5
    left = int((index if square is None else square) * width / 19) % (width - side)
    out[height // 4 : height // 4 + side, left : left + side] = (250, 245, 60)
    return out


def index_of(frame: np.ndarray) -> int:
    """The number that a picture tells; -1 if it cannot be read, as in green, grey or mixed pictures."""
    height, width = frame.shape[:2]
    index = 0
    for bit in range(BITS):
        row, column = height // 16, int((bit + 0.5) * width / BITS)
        level = frame[max(row - 1, 0) : row + 1, column - 1 : column + 1].mean()
        if 95 < level < 160:
            return -1
        index |= int(level > 127) << bit
    return index


def error(frame: np.ndarray, index: int | None = None) -> float:
    """The mean absolute difference from what was drawn; by default, as the picture with the number that it tells."""
    index = index_of(frame) if index is None else index
    if index < 0:
        return 255.0
    return float(np.abs(frame.astype(int) - picture(index, frame.shape[:2])).mean())


def patches(frame: np.ndarray) -> np.ndarray:
    """Mean colours of the two patches, red and blue: (2, 3)."""
    height, width = frame.shape[:2]
    rows = slice(height - height // 6, height - height // 12)
    return np.stack([frame[rows, part].mean((0, 1)) for part in (slice(width // 12), slice(width - width // 12, None))])


def write(
    path: Path | str | BinaryIO | Pipe,
    indices: Iterable[int] = range(40),
    codec: str = "libx264",
    *,
    rate: float = 30,
    size: tuple[int, int] = SIZE,
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    times: Sequence[float] | None = None,
    format: str | None = None,
    container: dict[str, str] | None = None,
    aspect: Fraction | None = None,
    draw: Callable[[int, tuple[int, int]], np.ndarray | av.VideoFrame] = picture,
    sound: float = 0,
    colours: tuple[int, int, int] | None = None,
    full: bool = False,
) -> None:
    """Encode pictures.

    Args:
        path: the file; its suffix is the format, unless `format` is given. ffmpeg sees none of its name.
        indices: numbers of the pictures.
        codec: name of ffmpeg's encoder.
        rate: frames a second.
        size: height and width, px.
        pix_fmt: of the encoder.
        options: of the encoder.
        times: of the pictures, s, to a millisecond; default: by the rate.
        format: name of ffmpeg's muxer.
        container: options of the muxer.
        aspect: of a pixel, its width over its height.
        draw: makes a picture, rgb24 or a frame for the encoder, of its number and the size.
        sound: length of a tone, s.
        colours: primaries, transfer function and matrix, as ffmpeg numbers them.
        full: the file tells the full range, 0 to 255, instead of 16 to 235; with `colours` only.
    """
    format = format or _muxer(Path(str(path)).suffix)
    with ExitStack() as opened:
        file = opened.enter_context(Path(path).open("wb")) if isinstance(path, (str, Path)) else path
        out = opened.enter_context(av.open(file, "w", format=format, container_options=container or {}))
        stream = out.add_stream(codec, rate=Fraction(rate).limit_denominator(1000), options=dict(options or {}))
        context = stream.codec_context
        context.height, context.width = size
        context.pix_fmt = pix_fmt
        context.thread_count = 1
        if times is not None:
            context.time_base = Fraction(1, 1000)
        if aspect is not None:
            context.sample_aspect_ratio = aspect
        if colours is not None:
            context.color_primaries, context.color_trc, context.colorspace = colours
            context.color_range = 2 if full else 1
        if sound:
            _add_tone(out, sound)
        for count, index in enumerate(indices):
            drawn = draw(index, size)
            frame = drawn if isinstance(drawn, av.VideoFrame) else av.VideoFrame.from_ndarray(drawn, "rgb24")
            if times is not None:
                frame.pts, frame.time_base = round(times[count] * 1000), Fraction(1, 1000)
            if colours is not None:
                frame.color_primaries, frame.color_trc, frame.colorspace = colours
            out.mux(stream.encode(frame))
        out.mux(stream.encode())


def _muxer(suffix: str) -> str:
    names = {
        ".mkv": "matroska", ".m4v": "mp4", ".ts": "mpegts", ".mts": "mpegts", ".m2ts": "mpegts", ".wmv": "asf",
        ".mpg": "mpeg",
    }  # fmt: skip
    return names.get(suffix.lower(), suffix.lower()[1:])


def _add_tone(out: av.container.OutputContainer, seconds: float) -> None:
    stream = out.add_stream("aac", rate=16000, layout="mono")
    for start in range(0, int(seconds * 16000), 1024):
        wave = np.sin(np.arange(start, start + 1024, dtype=np.float32) / 6)[None].astype(np.float32)
        frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, start
        out.mux(stream.encode(frame))
    out.mux(stream.encode())


def film(path: Path | str, frames: np.ndarray, codec: str = "libx264", rate: float = 10, **arguments) -> None:
    """Encode frames (T, H, W, 3) uint8; arguments as of :func:`write`."""
    size = frames.shape[1:3]
    write(path, range(len(frames)), codec, rate=rate, size=size, draw=lambda index, _: frames[index], **arguments)


def write_codec(folder: Path, name: str, indices: Iterable[int] = range(40)) -> Path:
    """Write a file of :data:`CODECS`; returns its path."""
    suffix, codec, arguments = CODECS[name]
    path = folder / f"{name.replace(', ', '_').replace(' ', '_')}{suffix}"
    write(path, indices, codec, **arguments)
    return path


class Pipe:
    """A file that cannot go back, as browsers and screen recorders write to: no duration and no index in the end."""

    def __init__(self, file: BinaryIO):
        self.write = file.write


def browser(path: Path, indices: Sequence[int] = range(40)) -> None:
    """A .webm from a browser: no duration in its header, and time stamps that jitter."""
    times = [count / 30 + 0.011 * (count % 3) for count, _ in enumerate(indices)]
    vp8 = {"deadline": "realtime", "cpu-used": "8", "b": "2M"}
    with path.open("wb") as file:
        write(Pipe(file), indices, "libvpx", times=times, options=vp8, format="webm")


def turned(path: Path, quarters: int, mirrored: bool = False, **arguments) -> None:
    """An .mp4 that is to be shown turned, clockwise by so many quarters: stored the other way, as a phone does.

    The matrix is written into the file's track header. It maps a stored pixel (x, y) to where it is shown.
    """

    def stored(index: int, size: tuple[int, int]) -> np.ndarray:
        upright = picture(index, size[::-1] if quarters % 2 else size)
        return np.ascontiguousarray(np.rot90(upright[:, ::-1] if mirrored else upright, quarters))

    write(path, draw=stored, options=FAST, **arguments)
    a, b, c, d = {0: (1, 0, 0, 1), 1: (0, 1, -1, 0), 2: (-1, 0, 0, -1), 3: (0, -1, 1, 0)}[quarters]
    if mirrored:  # after turning: in x
        a, c = -a, -c
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    values = [a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30]
    data[start : start + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in values)
    path.write_bytes(bytes(data))


def trimmed(path: Path, first: int, indices: Sequence[int] = range(40)) -> None:
    """An .mp4 that begins at its picture number `first`, as a phone trims: an edit list hides those before."""
    write(path, indices, options={"x264-params": "keyint=10:bframes=2"})
    data = bytearray(path.read_bytes())
    start = data.index(b"elst") + 12
    assert data[start - 4 : start] == b"\0\0\0\1"
    length, begin = (int.from_bytes(data[at : at + 4], "big") for at in (start, start + 4))
    tick = 512  # of 15360 a second, as ffmpeg counts at 30 frames a second
    data[start : start + 4] = (length - round(first * 1000 / 30)).to_bytes(4, "big")
    data[start + 4 : start + 8] = (begin + first * tick).to_bytes(4, "big")
    path.write_bytes(bytes(data))


def two_streams(path: Path, indices: Sequence[int] = range(40)) -> None:
    """A red picture a second, 640x480, and after it the video, 96x64."""
    red = np.full((480, 640, 3), (220, 20, 20), np.uint8)
    _two(path, red, 1, indices, cover=False)


def cover_art(path: Path, indices: Sequence[int] = range(40)) -> None:
    """A large picture of the album, and the video."""
    _two(path, np.full((480, 640, 3), (20, 20, 220), np.uint8), 25, indices, cover=True)


def _two(path: Path, still: np.ndarray, rate: int, indices: Sequence[int], cover: bool) -> None:
    with av.open(str(path), "w") as out:
        first = out.add_stream("mjpeg" if cover else "libx264", rate=rate)
        first.height, first.width = still.shape[:2]
        first.pix_fmt = "yuvj420p" if cover else "yuv420p"
        second = out.add_stream("libx264", rate=30, options=FAST)
        second.height, second.width = SIZE
        second.pix_fmt = "yuv420p"
        if cover:
            first.disposition = Disposition.attached_pic
        for _ in range(1 if cover else 2):
            out.mux(first.encode(av.VideoFrame.from_ndarray(still, "rgb24")))
        out.mux(first.encode())
        for index in indices:
            out.mux(second.encode(av.VideoFrame.from_ndarray(picture(index), "rgb24")))
        out.mux(second.encode())


def interlaced(path: Path, count: int = 30) -> None:
    """Frames of two fields of different times: the square stands elsewhere in the odd rows."""

    def woven(index: int, size: tuple[int, int]) -> np.ndarray:
        out = picture(index, size, square=2 * index)
        out[1::2] = picture(index, size, square=2 * index + 1)[1::2]
        return out

    write(path, range(count), draw=woven, rate=25, options=FAST | {"x264-params": "tff=1"})


def comb(frame: np.ndarray) -> float:
    """How much rows differ from both their neighbours where the square moves; high where two fields are woven."""
    height = frame.shape[0]
    rows = frame[height // 4 + 2 : height // 4 + height // 5 - 2].astype(float).mean(-1)
    return float(np.abs(2 * rows[1:-1] - rows[:-2] - rows[2:]).mean())


def hdr(path: Path, transfer: str, indices: Sequence[int] = range(12)) -> None:
    """HEVC in 10 bits, BT.2020: `pq` or `hlg`. The picture's white is at 203 nits, the square five times as bright."""

    def coded(index: int, size: tuple[int, int]) -> av.VideoFrame:
        drawn = picture(index, size)
        light = (drawn / 255.0) ** 2.2 * 203
        light[(drawn == (250, 245, 60)).all(-1)] *= 5
        light = light @ PRIMARIES.T
        return _frame_10_bits(_pq(light) if transfer == "pq" else _hlg(light))

    options = {"preset": "ultrafast", "x265-params": QUIET, "crf": "8"}
    tags = (9, 16 if transfer == "pq" else 18, 9)
    write(path, indices, "libx265", draw=coded, pix_fmt="yuv420p10le", options=options, colours=tags)


def _pq(nits: np.ndarray) -> np.ndarray:
    """SMPTE ST 2084."""
    power = (nits / 10_000) ** (2610 / 16384)
    return ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)


def _hlg(nits: np.ndarray) -> np.ndarray:
    """ARIB STD-B67: light of a scene that a display of 1000 nits shows so (gamma 1.2)."""
    display = nits / 1000
    luma = display @ np.array([0.2627, 0.6780, 0.0593])
    scene = display * np.maximum(luma, 1e-6)[..., None] ** (1 / 1.2 - 1)
    bright = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-6)) + 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), bright)


def _frame_10_bits(rgb: np.ndarray) -> av.VideoFrame:
    """A yuv420p10le frame, limited range, of BT.2020 values in [0, 1]."""
    red, green, blue = np.moveaxis(rgb.clip(0, 1), -1, 0)
    luma = 0.2627 * red + 0.6780 * green + 0.0593 * blue
    planes = [64 + 876 * luma]
    for colour, scale in ((blue, 1.8814), (red, 1.4746)):
        chroma = 512 + 896 * (colour - luma) / scale
        planes.append((chroma[::2, ::2] + chroma[1::2, ::2] + chroma[::2, 1::2] + chroma[1::2, 1::2]) / 4)
    frame = av.VideoFrame(rgb.shape[1], rgb.shape[0], "yuv420p10le")
    for plane, values in zip(frame.planes, planes, strict=True):
        padded = np.zeros((plane.height, plane.line_size // 2), "<u2")
        padded[:, : plane.width] = values.round().astype("<u2")
        plane.update(padded.tobytes())
    return frame


def transparent(path: Path, count: int = 12) -> None:
    """A .mov (QuickTime RLE) with noise in what is transparent: all but the blocks, the square and the patches."""

    def cut_out(index: int, size: tuple[int, int]) -> av.VideoFrame:
        drawn = picture(index, size)
        alpha = np.where((drawn == background(*size)).all(-1), 0, 255).astype(np.uint8)
        alpha[-size[0] // 4 :, : size[1] // 6] = alpha[-size[0] // 4 :, -size[1] // 6 :] = 255
        noise = np.random.default_rng(index).integers(0, 256, drawn.shape, dtype=np.uint8)
        argb = np.concatenate([alpha[..., None], np.where(alpha[..., None] > 0, drawn, noise)], -1)
        return av.VideoFrame.from_ndarray(np.ascontiguousarray(argb), "argb")

    write(path, range(count), "qtrle", draw=cut_out, pix_fmt="argb")


def transparent_gif(path: Path, count: int = 12) -> None:
    """A GIF whose background is transparent, and each frame of which replaces the one before."""
    frames = []
    for index in range(count):
        drawn = picture(index)
        image = Image.fromarray(drawn).quantize(255, dither=Image.Dither.NONE)
        still = (drawn == background(*SIZE)).all(-1)
        still[-SIZE[0] // 4 :] = False
        values = np.asarray(image).copy()
        values[still] = 255
        out = Image.fromarray(values)  # with a palette, grey is the index
        out.putpalette([*(image.getpalette() or [])[: 255 * 3], 255, 0, 255])
        frames.append(out)
    frames[0].save(path, save_all=True, append_images=frames[1:], transparency=255, disposal=2, duration=40, loop=0)


def see_through() -> tuple[slice, slice]:
    """Rows and columns that are transparent in all frames of :func:`transparent` and :func:`transparent_gif`."""
    return slice(SIZE[0] // 2 + 2, SIZE[0] * 3 // 4 - 2), slice(0, SIZE[1])


def packets(path: Path) -> list[tuple[int, int]]:
    """Where the video's packets lie in a file: (position, size), in the order of the file."""
    with path.open("rb") as file, av.open(file) as container:
        return [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]


def damage(path: Path, *numbers: int) -> None:
    """Overwrite the last two thirds of the packets with these numbers."""
    data = bytearray(path.read_bytes())
    for number in numbers:
        position, size = packets(path)[number]
        start = position + size // 3
        data[start : position + size] = np.random.default_rng(number).bytes(position + size - start)
    path.write_bytes(bytes(data))


def lacking(path: Path, *numbers: int, **arguments) -> None:
    """Encode, but leave out the packets with these numbers: others refer to what they held."""
    whole = io.BytesIO()
    write(whole, format="mp4", **arguments)
    whole.seek(0)
    with av.open(whole) as source, path.open("wb") as file, av.open(file, "w", format=_muxer(path.suffix)) as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.size and number not in numbers:
                packet.stream = stream
                out.mux(packet)


def cut(path: Path, share: float = 0.6) -> None:
    """Cut off a file behind a share of its bytes, as a copy that was interrupted."""
    os.truncate(path, int(path.stat().st_size * share))


def zeroed(path: Path, share: float = 0.0) -> None:
    """Overwrite a file with zeros from a share of its bytes on, as a disk that failed."""
    size = path.stat().st_size
    start = int(size * share)
    path.write_bytes(path.read_bytes()[:start] + bytes(size - start))


def placeholder(path: Path, size: int = 1 << 20) -> None:
    """A file with a size and no content on the disk, as of a cloud."""
    with path.open("wb") as file:
        file.truncate(size)


def apple_double(path: Path) -> None:
    """The companion that macOS puts beside a file on foreign disks."""
    path.write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        " + bytes(4000))


def still(codec: str, pixels: np.ndarray, pix_fmt: str) -> bytes:
    """The file of a picture, by ffmpeg's encoder `png` or `tiff`: 16 bits a colour, which Pillow cannot write."""
    context = av.CodecContext.create(codec, "w")
    context.height, context.width = pixels.shape[:2]
    context.pix_fmt = pix_fmt
    context.time_base = Fraction(1, 25)
    coded = [*context.encode(av.VideoFrame.from_ndarray(pixels, pix_fmt)), *context.encode(None)]
    return b"".join(bytes(packet) for packet in coded)


def in_16_bits(index: int, bits: int = 16, grey: bool = False) -> np.ndarray:
    """Picture number `index` as uint16 with so many bits in use: (H, W, 3), or (H, W) if `grey`."""
    drawn = picture(index)
    if grey:
        drawn = np.asarray(Image.fromarray(drawn).convert("L"))
    return (drawn.astype(np.float64) * ((1 << bits) - 1) / 255).round().astype(np.uint16)


def pictures(folder: Path, names: Iterable[str], indices: Iterable[int] | None = None, save=None) -> Path:
    """A folder of pictures: `save(index, path)` makes each; default: by Pillow, by the suffix."""
    folder.mkdir(parents=True, exist_ok=True)
    names = list(names)
    for index, name in zip(range(len(names)) if indices is None else indices, names, strict=True):
        (save or _save)(index, folder / name)
    return folder


def _save(index: int, path: Path) -> None:
    Image.fromarray(picture(index)).save(path)


def save_palette(index: int, path: Path) -> None:
    Image.fromarray(picture(index)).quantize(256, dither=Image.Dither.NONE).save(path)


def save_cmyk(index: int, path: Path) -> None:
    Image.fromarray(picture(index)).convert("CMYK").save(path, quality=95)


def save_turned(index: int, path: Path) -> None:
    """Stored on its side; the EXIF tag says to show it turned clockwise by a quarter."""
    image = Image.fromarray(np.ascontiguousarray(np.rot90(picture(index), 1)))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(path, exif=exif, quality=95)


def save_16_bits(bits: int = 16, grey: bool = False) -> Callable[[int, Path], None]:
    """A saver of .png or .tif with 16 bits a colour, so many of which are used."""

    def save(index: int, path: Path) -> None:
        codec, order = ("png", "be") if path.suffix == ".png" else ("tiff", "le")
        path.write_bytes(still(codec, in_16_bits(index, bits, grey), f"{'gray16' if grey else 'rgb48'}{order}"))

    return save


def stack(path: Path, count: int = 12, bits: int = 8) -> None:
    """A TIFF with a picture on each page, as microscopes write it; of more than 8 bits in grey."""
    if bits == 8:
        pages = [Image.fromarray(picture(index)) for index in range(count)]
    else:
        pages = [Image.fromarray(in_16_bits(index, bits, grey=True)) for index in range(count)]
    pages[0].save(path, save_all=True, append_images=pages[1:])
