"""The clip store: decoded frames as one memory-mapped uint8 array, with an index and labels.

A store is a folder::

    index.json    height, width, pixel_aspect, the videos (name, split, start, length), source, kind, rate and reader
    frames.npy    (N, H, W, 3) uint8, all videos one after the other
    copy/         a working copy for GMA, a store with reduced frames, if these are large (index.json: scale)
    masks.npy     (N, ceil(H W / 8)) uint8, true masks packed bit by bit (optional, for scoring only)
    labels.npz    an array for each label, first axis N (optional, for scoring only)

The index is written last and renamed, so a folder with an index is a complete store.
"""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from glass_gym.tensors.convert import to_images
from glass_gym.worlds.checkpoint import write_atomically
from glass_gym.worlds.headers import StoreFormat, StoreIndex, read_header

FORMAT = "glass-clips"
VERSION = 1
WORKING = 128 * 160  # About how many px a frame of the working copy has.


def working_scale(height: int, width: int) -> int:
    """The factor by which frames (px) are reduced for the working copy, whose sides must be multiples of 8 px.

    1: GMA sees the frames as they are.
    """
    most = max(1, round(math.sqrt(height * width / WORKING)))
    return next((n for n in range(most, 1, -1) if height % (8 * n) == 0 and width % (8 * n) == 0), 1)


class DataError(ValueError):
    """Data cannot be read or used; the message names the file, the value and the fix."""


@dataclass(frozen=True)
class Video:
    """A video of a store: its frames [start, start + length). Those of one `file` show the same scene and agent."""

    name: str
    split: str
    start: int
    length: int
    file: str = ""


def frames_to_tensor(frames: np.ndarray) -> torch.Tensor:
    """(..., H, W, 3) uint8 -> (..., 3, H, W) float32 in [-1, 1]."""
    return to_images(torch.from_numpy(np.ascontiguousarray(np.moveaxis(frames, -1, -3))))


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray], write=np.savez) -> None:
    """Write an .npz to a temporary file, then rename it; `write` is np.savez or np.savez_compressed."""

    def to(part: Path) -> None:
        with part.open("wb") as file:  # savez would add .npz to a path
            write(file, **arrays)

    write_atomically(path, to)


class StoreWriter:
    """Writes a store video by video; it can be opened after :meth:`close`.

    Args:
        root: folder to create; an index in it is removed.
        height, width: size of the frames, px.
        pixel_aspect: displayed width of a pixel over its height.
        source: description of the videos.
        kind: name of the :class:`training.data.sources.Source` that made them.
        rate: frames a second; None if not known.
        reader: what read or made the videos; a store of another one is made anew.
        scale: frames are reduced by this whole factor for the working copy; 1: there is none.
    """

    def __init__(
        self,
        root: str | Path,
        height: int,
        width: int,
        pixel_aspect: float = 1.0,
        source: str = "",
        kind: str = "videos",
        rate: float | None = None,
        reader: str = "",
        scale: int = 1,
    ):
        self.root = Path(root)
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / "index.json").unlink(missing_ok=True)
        self.height = height
        self.width = width
        self.pixel_aspect = pixel_aspect
        self.source = source
        self.kind = kind
        self.rate = rate
        self.reader = reader
        self.scale = scale
        self.copy: StoreWriter | None = None
        if scale > 1:
            smaller = height // scale, width // scale
            self.copy = StoreWriter(self.root / "copy", *smaller, pixel_aspect, source, kind, rate, reader)
        self.videos: list[Video] = []
        self._shots: list[str] = []
        self.frames = 0
        self._labels: dict[str, list[np.ndarray]] = {}
        self._frames = GrowingArray(self.root / "frames.npy", (height, width, 3))
        self._masks: GrowingArray | None = None

    def add(
        self,
        name: str,
        split: str,
        frames: np.ndarray,
        masks: np.ndarray | None = None,
        file: str = "",
        shot: str = "",
        only_copy: bool = False,
        **labels,
    ) -> None:
        """Append a video.

        Args:
            name: of the video.
            split: "train", "val" or "test".
            frames: (T, H, W, 3) uint8.
            masks: true masks (T, H, W) bool; for all videos or for none.
            file: what the video is a part of; videos of one file follow each other. Default: the name.
            shot: videos of one shot follow each other, and belong to one split; default: the name.
            only_copy: only the working copy gets the video, to save disk space.
            labels: arrays with first axis T; the same labels for all videos.

        Raises:
            DataError: frames have another type or size.
        """
        if frames.dtype != np.uint8 or frames.shape[1:] != (self.height, self.width, 3):
            raise DataError(
                f"{name}: frames are {frames.dtype} {frames.shape[1:]}, this store holds uint8 "
                f"{(self.height, self.width, 3)}; crop or resize all videos to one size"
            )
        if self.copy is not None:
            small = np.stack([np.asarray(Image.fromarray(frame).reduce(self.scale)) for frame in frames])
            self.copy.add(name, split, small, file=file, shot=shot)
            if only_copy:
                return
        self._frames.append(frames)
        if masks is not None:
            if self._masks is None:
                self._masks = GrowingArray(self.root / "masks.npy", ((self.height * self.width + 7) // 8,))
            self._masks.append(np.packbits(masks.reshape(len(masks), -1), axis=1))
        for key, value in labels.items():
            self._labels.setdefault(key, []).append(np.asarray(value))
        self.videos.append(Video(name, split, self.frames, len(frames), file or name))
        self._shots.append(shot or name)
        self.frames += len(frames)

    @property
    def shots(self) -> int:
        """Number of shots so far."""
        return len(set((self.copy or self)._shots))

    def split_by_shots(self) -> None:
        """Split the shots 8:1:1; val and test get at least one each: the last ones of the files that have most left.

        So few files, which may each show another place, are all trained on if they have several shots.
        """
        if self.copy is not None:
            self.copy.split_by_shots()
            split_of = {video.name: video.split for video in self.copy.videos}
            self.videos = [replace(video, split=split_of[video.name]) for video in self.videos]
            return
        files: dict[str, list[str]] = {}
        for video, shot in zip(self.videos, self._shots, strict=True):
            shots = files.setdefault(video.file, [])
            shots += [shot] * (shot not in shots)
        held = max(1, self.shots // 10)
        split_of = {}
        for split in ["test"] * held + ["val"] * held:
            most = max(reversed(files.values()), key=len)
            split_of[most.pop()] = split
        pairs = zip(self.videos, self._shots, strict=True)
        self.videos = [replace(video, split=split_of.get(shot, "train")) for video, shot in pairs]

    def close(self) -> None:
        """Finish the arrays, and write the index."""
        if self.copy is not None:
            self.copy.close()
        self._frames.close()
        if self._masks is not None:
            self._masks.close()
        if self._labels:
            np.savez_compressed(self.root / "labels.npz", **{k: np.concatenate(v) for k, v in self._labels.items()})
        index = {
            "format": FORMAT,
            "version": VERSION,
            **{
                name: getattr(self, name)
                for name in ("height", "width", "pixel_aspect", "source", "kind", "rate", "reader", "scale")
            },
            "videos": [asdict(v) for v in self.videos],
        }
        part = self.root / "index.json.part"
        part.write_text(json.dumps(index), encoding="utf-8")
        os.replace(part, self.root / "index.json")


class GrowingArray:
    """A uint8 .npy file to which rows are appended; the header is rewritten in place at the end.

    Args:
        path: the file.
        row: shape of a row.
    """

    def __init__(self, path: Path, row: tuple[int, ...]):
        self.row = row
        self.count = 0
        self._file = open(path, "wb")
        self._write_header()

    def _write_header(self) -> None:
        """Write the header for `count` rows; numpy pads it, so that its length stays the same."""
        header = {"descr": "|u1", "fortran_order": False, "shape": (self.count, *self.row)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def append(self, rows: np.ndarray) -> None:
        """Append rows (N, *row) uint8."""
        self._file.write(np.ascontiguousarray(rows).data)
        self.count += len(rows)

    def close(self) -> None:
        """Finish the file."""
        self._file.seek(0)
        self._write_header()
        self._file.close()


def read_arrays(path: Path, rows: int, most: int = 4096) -> dict[str, np.ndarray]:
    """Read the arrays of an .npz of numbers; sizes are checked in the headers, before data is read.

    Args:
        path: the file.
        rows: length that the first axis of each array must have.
        most: largest size of a row.

    Raises:
        ValueError: an array has another first axis, larger rows, or no numbers.
    """
    out = {}
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            with archive.open(entry) as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, kind = read(file)
            if kind.kind not in "biuf" or not shape or shape[0] != rows or math.prod(shape[1:]) > most:
                raise ValueError(f"{entry.filename} holds {kind} {shape}, expected numbers of {rows} rows")
            with archive.open(entry) as file:
                out[entry.filename.removesuffix(".npy")] = np.lib.format.read_array(file, allow_pickle=False)
    return out


class Store:
    """A clip store opened for reading; arrays are memory-mapped.

    Attributes:
        height, width, pixel_aspect, source, kind, rate, reader, scale: as in :class:`StoreWriter`.
        videos: the videos, in their order.
        frames: (N, H, W, 3) uint8.
        labels: arrays with first axis N, by name.

    Raises:
        DataError: the folder is no complete store, has another version, or its arrays do not fit its index.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root)
        index_path = self.root / "index.json"
        try:
            text = index_path.read_bytes()
        except FileNotFoundError:
            raise DataError(f"{index_path}: not found; {self.root} is no (finished) clip store") from None
        except OSError as error:
            raise DataError(f"{index_path}: cannot be read ({error})") from None
        try:
            about = read_header(text, StoreFormat)
            if about.format != FORMAT:
                raise ValueError(f"format is {about.format!r}, expected {FORMAT!r}")
            if about.version != VERSION:
                raise ValueError(f"version {about.version}, this glass_gym reads {VERSION}")
            index = read_header(text, StoreIndex)
        except ValueError as error:
            raise DataError(f"{index_path}: {error}; write the store again") from None
        self.height = index.height
        self.width = index.width
        self.pixel_aspect = index.pixel_aspect
        self.source = index.source
        self.kind = index.kind
        self.rate = index.rate
        self.reader = index.reader
        self.scale = index.scale
        self.videos = [Video(v.name, v.split, v.start, v.length, v.file or v.name) for v in index.videos]
        ends = 0
        for video in self.videos:
            if video.start != ends:
                raise DataError(f"{index_path}: {video.name} starts at {video.start}, not {ends}; write it again")
            ends += video.length
        total = sum(v.length for v in self.videos)
        self.frames = self._map("frames.npy", (total, self.height, self.width, 3))
        row = (self.height * self.width + 7) // 8
        self._masks = self._map("masks.npy", (total, row)) if (self.root / "masks.npy").exists() else None
        self.labels: dict[str, np.ndarray] = {}
        path = self.root / "labels.npz"
        if path.exists():
            try:
                self.labels = read_arrays(path, total)
            except Exception as error:  # zip, zlib and numpy raise errors of their own
                raise DataError(f"{path}: not whole labels ({str(error)[:200]}); write the store again") from None

    def _map(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        path = self.root / name
        try:
            array = np.lib.format.open_memmap(path, mode="r")
        except Exception as error:  # numpy parses headers as Python, and raises errors of many kinds
            raise DataError(f"{path}: cannot be mapped ({str(error)[:200]}); write the store again") from None
        if array.shape != shape or array.dtype != np.uint8:
            raise DataError(f"{path}: holds {array.dtype} {array.shape}, its index says uint8 {shape}; write it again")
        return array

    @cached_property
    def copy(self) -> Store:
        """The working copy, which GMA is trained on: all videos, with reduced frames; else the store itself."""
        if self.scale == 1:
            return self
        copy = Store(self.root / "copy")
        if (copy.height * self.scale, copy.width * self.scale) != (self.height, self.width):
            raise DataError(f"{copy.root}: its frames are not 1/{self.scale} of those of {self.root}; write it again")
        return copy

    @property
    def held_out(self) -> list[Video]:
        """The videos that are not trained on; all if there are none."""
        return [v for v in self.videos if v.split != "train"] or self.videos

    @property
    def has_masks(self) -> bool:
        """Whether the store has true masks."""
        return self._masks is not None

    def masks(self, start: int, stop: int) -> np.ndarray:
        """True masks of frames [start, stop): (T, H, W) bool."""
        if self._masks is None:
            raise DataError(f"{self.root}: holds no true masks")
        bits = np.unpackbits(self._masks[start:stop], axis=1, count=self.height * self.width)
        return bits.reshape(-1, self.height, self.width).astype(bool)
