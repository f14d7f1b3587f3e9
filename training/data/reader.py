"""Reads videos as people have them: files of any kind, by time stamps, upright, in the colours that a player shows.

:func:`open_video` gives a :class:`VideoReader` for a file, a folder of numbered pictures, or a TIFF stack.

Files are decoded by ffmpeg through PyAV, always from their beginning: what a decoder gives after seeking depends on the
encoder (open groups of pictures, wrong indexes, parameters that only the first packet has), and may be pictures that
nobody took. A picture in which the decoder finds an error is dropped with all that refer to it, and counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from glass_gym.worlds.pictures import MAX_PIXELS

from .colour import HDR, ToRgb
from .picture_series import STACKS, PictureFolder, PictureStack
from .store import DataError
from .video_reader import Crop, Frame, Size, VideoReader, cropped_and_resized, why_unreadable, words_of

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

SUFFIXES = {
    "mov": ".mp4 .m4v .mov .qt .3gp .3g2 .f4v",
    "matroska,webm": ".mkv .webm",
    "mpegts": ".ts .mts .m2ts .m2t",
    "mpeg,mpegvideo": ".mpg .mpeg .vob",
    "avi": ".avi .divx",
    "asf": ".wmv .asf",
    "flv": ".flv",
    "ogg": ".ogv .ogg",
    "mxf": ".mxf",
    "dv": ".dv",
    "yuv4mpegpipe": ".y4m",
    "h264,hevc": ".h264 .264 .h265 .hevc .265",
    "gif": ".gif",
}
"""Suffixes of video files by ffmpeg's demuxers. No other demuxer is used: some of them open further files."""
VIDEOS = tuple(suffix for group in SUFFIXES.values() for suffix in group.split())
SPAN = 6  # The rate is measured over so many frames: stamps jitter, or are whole milliseconds.
UNEVEN = 1.5  # The rate is variable if long steps between frames are this many times the short ones (90 % and 10 %).
GAP = 4.5  # Frames are missing if a constant rate is interrupted for this many steps.
ROUNDED = 0.1  # Lengths in headers may be longer than the video by so many seconds.
ANEW = 1.0  # A clock that goes back by so many seconds began anew: another recording was appended.
DAMAGED = "damaged, or referring to damaged ones, left out"
WITHOUT_STAMPS = ("avi", "h264", "hevc")  # Formats of which ffmpeg numbers the frames as they are stored.
COVER, DEFAULT = 1024, 1  # Bits of a stream's disposition: AV_DISPOSITION_ATTACHED_PIC, AV_DISPOSITION_DEFAULT.


def open_video(path: Path) -> VideoReader:
    """Open a video file, a folder of numbered pictures, or a TIFF stack.

    Raises:
        DataError: it cannot be read; the message names the file, the cause and the fix.
    """
    path = Path(path)
    if path.is_dir():
        return PictureFolder(path)
    if path.suffix.lower() in STACKS:
        return PictureStack(path)
    return FileReader(path)


class FileReader(VideoReader):
    """A video file, through PyAV. Opening it looks at all packets once, and decodes the first frame."""

    def __init__(self, path: Path):
        self.path = path
        self.notes = []
        self._lenient = False
        self._gap = np.inf
        try:
            with opened(path) as container:
                self._look(container)
            first = self._first_frame()
            if first is None:
                self._lenient = True
                first = self._first_frame()
                self.notes.append("the decoder finds errors in all pictures, which are read as they are")
        except DataError:
            raise
        except Exception as error:  # PyAV's errors, and those of the operating system
            raise DataError(f"{path}: {why_unreadable(path, error)}") from None
        if first is None:
            why = f"damaged, or larger than {MAX_PIXELS:,} pixels"
            raise DataError(f"{path}: none of its pictures can be decoded: {why}; copy it again, or convert it")
        self._look_at_picture(first)

    def _first_frame(self) -> VideoFrame | None:
        with opened(self.path) as container:
            return next((frame for frame, _ in self._decoded(container, [])), None)

    def _look(self, container: InputContainer) -> None:
        """Choose a stream, and read its facts from the header and the packets."""
        streams = [s for s in container.streams.video if not s.disposition.value & COVER]
        if not streams:
            others = " and ".join(sorted({s.type for s in container.streams})) or "nothing"
            raise DataError(f"{self.path}: holds no video, only {others}; leave it out")
        if not (streams := [s for s in streams if s.codec_context is not None]):
            raise DataError(f"{self.path}: ffmpeg knows no decoder for its video; convert it to H.264 first")
        times: dict[int, list[float | None]] = {stream.index: [] for stream in streams}
        keys: dict[int, list[int | None]] = {stream.index: [] for stream in streams}
        ends = {stream.index: 0.0 for stream in container.streams}
        try:
            for packet in container.demux():
                if not packet.size or packet.time_base is None:
                    continue
                stamp = packet.pts if packet.pts is not None else packet.dts
                time = None if stamp is None else float(stamp * packet.time_base)
                end = (time or 0.0) + float((packet.duration or 0) * packet.time_base)
                ends[packet.stream_index] = max(ends[packet.stream_index], end)
                if packet.stream_index in times:
                    keys[packet.stream_index].append(stamp if packet.is_keyframe else None)
                    if not packet.is_discard:  # an edited file holds more than it shows
                        times[packet.stream_index].append(time)
        except Exception as error:  # what came before is read
            self.notes.append(f"the rest cannot be read ({words_of(error)})")
        stream = _main_stream(streams, {index: len(found) for index, found in times.items()})
        self._index = stream.index
        self._time_base = stream.time_base
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > MAX_PIXELS:
            raise DataError(f"{self.path}: {width}x{height} is more than {MAX_PIXELS} pixels; reduce the video first")
        if len(streams) > 1:
            number = streams.index(stream) + 1
            self.notes.append(f"{len(streams)} video streams, of which number {number} is read ({width}x{height} px)")
        self._aspect = min(max(float(stream.sample_aspect_ratio or 1), 0.1), 10.0)
        self._keys = set(keys[stream.index]) - {None}  # stamps of pictures that refer to no other
        self._starts_late = len(self._keys) > 0 and keys[stream.index][0] is None
        known = np.unique(_continued([time for time in times[stream.index] if time is not None]))
        packets = len(times[stream.index])
        self.frames = max(1, len(known) if len(known) > 0.4 * packets else packets)  # a packet may hold one field
        self._in_order = known - known[0] if container.format.name in WITHOUT_STAMPS and len(known) else None
        self._look_at_rate(stream, known)
        self._look_at_end(container, stream, ends[stream.index], max(ends.values()))

    def _look_at_rate(self, stream: VideoStream, times: np.ndarray) -> None:
        span = max(1, min(SPAN, len(times) - 1))
        steps = (times[span:] - times[:-span]) / span
        if len(steps):
            usual = steps[np.abs(steps / np.median(steps) - 1) < 0.5]
            self.rate = float(1 / usual.mean())
            single = np.diff(times)
            short, long = np.quantile(steps, [0.1, 0.9])
            bursts = np.median(single) * UNEVEN < np.median(steps)
            self.variable = len(steps) > 4 and bool(long > UNEVEN * short or bursts)
            length = times[-1] - times[0] + usual.mean()
            self.seconds = float(length if self.variable else min(length, len(times) * usual.mean()))
            self._gap = np.inf if self.variable else GAP / self.rate
            if gaps := int((single > self._gap).sum()):
                self.notes.append(f"frames are missing at {gaps} places, which end shots")
            if self.variable:
                low, high = 1 / np.quantile(single, [0.9, 0.1])
                self.notes.append(f"a variable rate, {low:.3g} to {high:.3g} frames a second")
        elif self.frames > 1:
            self.rate = float(stream.average_rate or stream.guessed_rate or 25)
            self.seconds = self.frames / self.rate
            self.notes.append(f"no time stamps; {self.rate:.3g} frames a second are assumed")

    def _look_at_end(self, container: InputContainer, stream: VideoStream, end: float, ends: float) -> None:
        """Find out whether the file is cut off.

        Args:
            container: the file.
            stream: the video; not all files tell its length.
            end: of the video's last frame, s.
            ends: of the last packet of all streams, s: sound may be longer than the picture.
        """
        step = 1 / (self.rate or 1)
        if stream.duration:
            told = float(stream.duration * stream.time_base)
            there = end - float((stream.start_time or 0) * stream.time_base)
        else:
            told = (container.duration or 0) / 1e6
            there = ends - (container.start_time or 0) / 1e6
        if told and there < told - ROUNDED - 2 * step:
            self.notes.append(f"cut off: {there:.3g} of {told:.3g} seconds are there")

    def _look_at_picture(self, first: VideoFrame) -> None:
        self._turn = orientation(first)
        swaps = self._turn[0]
        self.height, self.width = (first.width, first.height) if swaps else (first.height, first.width)
        self.pixel_aspect = 1 / self._aspect if swaps else self._aspect
        if self._aspect != 1:
            self.notes.append(f"pixels are shown {self.pixel_aspect:.3g} times as wide as high")
        if any(self._turn):
            self.notes.append(f"turned upright as its header says ({self.width}x{self.height} px)")
        if first.interlaced_frame:
            self.notes.append("interlaced, of which the upper fields are read")
        if first.color_trc in HDR:
            self.notes.append(f"high dynamic range ({HDR[first.color_trc]}), mapped to the usual one")
        if (
            any(part.is_alpha for part in first.format.components)
            and first.to_ndarray(format="rgba")[..., 3].min() < 255
        ):
            self.notes.append("transparent parts are black")

    def _read(self, size: Size | None, crop: Crop | None) -> Iterator[Frame]:
        lost: list[str] = []
        to_rgb = ToRgb()
        start: float | None = None
        last = 0.0
        size_of: tuple[int, int] | None = None
        count = 0
        step = 1 / (self.rate or 1)
        time: float | None = None
        try:
            with opened(self.path) as container:
                for frame, follows in self._decoded(container, lost):
                    if self._in_order is not None:
                        time = float(self._in_order[min(count, len(self._in_order) - 1)])
                    else:
                        time = None if frame.pts is None else float(frame.pts * self._time_base)
                    if time is not None and start is None:
                        start = time - count * step
                    elif time is not None and start is not None and time - start < last - ANEW:
                        start = time - last - step  # another recording, appended: its clock began anew
                        follows = False
                    if (frame.width, frame.height) != (size_of := size_of or (frame.width, frame.height)):
                        changes = f"from {size_of[0]}x{size_of[1]} to {frame.width}x{frame.height} px"
                        if (note := f"its size changes, {changes}; it is resized to the first") not in self.notes:
                            self.notes.append(note)
                    before = last
                    last = count * step if time is None or start is None else max(last, time - start)
                    count += 1
                    follows = follows and last - before <= self._gap
                    yield Frame(last, follows, lambda frame=frame: self._draw(to_rgb, frame, size, crop))
        except DataError:
            raise
        except Exception as error:
            raise DataError(f"{self.path}: {why_unreadable(self.path, error)}") from None
        if lost:
            self.notes = [note for note in self.notes if DAMAGED not in note]
            self.notes.append(f"about {max(1, self.frames - count)} frames {DAMAGED}")

    def _decoded(self, container: InputContainer, lost: list[str]) -> Iterator[tuple[VideoFrame, bool]]:
        """Decode the stream: yield frames, with whether they follow the one before; append to `lost` for each loss."""
        from av.error import FFmpegError

        stream = next(s for s in container.streams.video if s.index == self._index)
        stream.thread_type = "SLICE"  # threads that decode several frames at once change what is told of damage
        # `explode`: an error instead of a picture that the decoder made up; `max_pixels`: before memory is taken
        strict = {} if self._lenient else {"err_detect": "bitstream+buffer+explode"}
        # `unaligned`: what the file crops at the left is cropped, too
        stream.codec_context.options = strict | {"max_pixels": str(MAX_PIXELS), "flags": "+unaligned"}
        follows = False
        waiting = self._starts_late  # for a picture that refers to no other
        corrupt: set[int] = set()  # stamps; pictures come later than their packets
        for packet in _packets(container, stream, lost):
            try:
                if packet is not None and packet.is_corrupt and packet.pts is not None:
                    corrupt.add(packet.pts)
                frames = stream.decode(packet)
            except EOFError:
                return
            except FFmpegError as error:
                lost.append(words_of(error))
                waiting, follows = True, False
                continue
            for frame in frames:
                key = frame.pts in self._keys if self._keys else frame.pict_type == 1  # 1: an I picture
                if key or frame.key_frame:
                    waiting = False
                if waiting or frame.is_corrupt or frame.pts in corrupt:
                    lost.append("refers to a damaged frame")
                    waiting, follows = True, False
                else:
                    yield frame, follows
                    follows = True

    def _draw(self, to_rgb: ToRgb, frame: VideoFrame, size: Size | None, crop: Crop | None) -> np.ndarray:
        """The picture of a decoded frame, upright, cropped and resized; DataError: it cannot be drawn."""
        swaps, mirrored, flipped = self._turn
        now = size if size is not None and crop is None else (self.height, self.width)
        try:
            picture = to_rgb(frame, now[::-1] if swaps else now)
        except (OSError, ValueError, MemoryError) as error:
            raise DataError(f"{self.path}: a picture cannot be drawn ({words_of(error)})") from None
        if swaps:
            picture = picture.transpose(1, 0, 2)
        picture = picture[:: -1 if flipped else 1, :: -1 if mirrored else 1]
        return cropped_and_resized(picture, crop, size)


def opened(path: Path) -> InputContainer:
    """Open a file by PyAV, with the demuxers of SUFFIXES only, and no protocol but that of files."""
    try:
        import av
    except ImportError as error:
        raise DataError(f"{path}: needs a video reader ({error}); pip install 'glass-gym[train]'") from None
    allowed = {"format_whitelist": ",".join(SUFFIXES), "protocol_whitelist": "file"}
    allowed["max_pixels"] = str(MAX_PIXELS)  # of pictures that are decoded to find out about the streams
    letters = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}  # not UTF-8
    return av.open(str(path.absolute()), options=allowed, **letters)


def _packets(container: InputContainer, stream: VideoStream, lost: list[str]) -> Iterator[Packet | None]:
    """The packets of a stream; after the last one, or one that cannot be read, None to empty the decoder."""
    try:
        for packet in container.demux(stream):
            if packet.size:
                yield packet
    except (OSError, ValueError, MemoryError) as error:  # PyAV's are of these classes
        lost.append(words_of(error))
    yield None


def _continued(times: list[float]) -> list[float]:
    """Times of packets, in their order, on one clock: where it began anew, it goes on from the last time."""
    out: list[float] = []
    shift, last = 0.0, -np.inf
    for time in times:
        if time + shift < last - ANEW:
            shift = last - time
        last = max(last, time + shift)
        out.append(time + shift)
    return out


def _main_stream(streams: Sequence[VideoStream], counts: Mapping[int, int]) -> VideoStream:
    """The stream that people watch: of those with most frames, the default one, or the largest."""
    most = max(counts.values())
    long = [stream for stream in streams if counts[stream.index] >= most / 2]
    return max(long, key=lambda s: (s.disposition.value & DEFAULT, s.codec_context.width * s.codec_context.height))


def orientation(frame: VideoFrame) -> tuple[bool, bool, bool]:
    """How to turn a decoded frame upright: (swap axes, then mirror left and right, then top and bottom)."""
    from av.sidedata.sidedata import Type

    try:
        data = frame.side_data[Type.DISPLAYMATRIX]
    except KeyError:
        return False, False, False
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5]  # x' = a x + c y, y' = b x + d y
    swaps = abs(int(a)) < abs(int(b))
    return bool(swaps), bool((c if swaps else a) < 0), bool((b if swaps else d) < 0)
