"""The agent's windows: cut once with the trained GMA, kept as uint8; the data of the pose and the LMA stage."""

from __future__ import annotations

import functools
import math
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from glass_gym.model.glass import Glass
from glass_gym.model.pose_model import PoseLMA
from glass_gym.tensors.device import pick_precision
from glass_gym.tensors.geometry import crop_windows
from glass_gym.worlds.action_space import nearest_direction

from ..core.run import Run
from ..data.store import Store, Video, frames_to_tensor, save_arrays
from .align import ALIGN_PX, Congealing
from .steps import grid_of, step_length
from .tracking import snap_to_grid, track

MARGIN = 4
"""Windows are stored with this many px to spare on each side, so that clips can be moved inside them."""
LOST = 0.1
"""Share of a video's median area, below which M lost the agent."""
FILE_VERSION = 3
MOST_FRAMES = 120_000
"""Frames that are tracked, of windows larger than SMALL_WINDOW half of it: from fewer, LMA learns more by heart."""
SMALL_WINDOW = 48
"""Px; larger windows need gigabytes."""
VIDEOS_A_PART = 40
"""Videos that are tracked between two savings."""


def pack_layers(layers: Tensor) -> Tensor:
    """Layers (..., 4, h, w), colour * mask in [-1, 1] and mask in [0, 1] -> uint8; nothing (0) is exactly 128."""
    colour = layers[..., :3, :, :]
    mask = layers[..., 3:, :, :]
    packed = torch.cat([colour * 127 + 128, mask * 255], -3)
    return packed.round().clamp(0, 255).byte()


def unpack_layers(packed: Tensor) -> Tensor:
    """The inverse of :func:`pack_layers`, float32, on the tensor's device."""
    return torch.cat([(packed[..., :3, :, :].float() - 128) / 127, packed[..., 3:, :, :].float() / 255], -3)


@dataclass
class Clip:
    """Consecutive frames of one video: packed layers (T, 4, s, s) uint8 with their margin, position (T, 2) px."""

    layers: np.ndarray
    position: np.ndarray


class WindowSet:
    """Layers of all videos of a split.

    Args:
        layers: (N, 4, s, s) uint8, see :func:`pack_layers`; windows have MARGIN px to spare on each side.
        position: (N, 2) px.
        starts, lengths: of the videos, in frames.
        height, width: of the frames that the positions are in, px.
        templates: (C, s, s), of the silhouettes that the videos were aligned to; None where they were not.
        grid: (x, y) px of a cell, in a grid world.
    """

    def __init__(
        self,
        layers: np.ndarray,
        position: np.ndarray,
        starts,
        lengths,
        height: int,
        width: int,
        templates: np.ndarray | None = None,
        grid: tuple[float, float] | None = None,
    ):
        self.layers = layers
        self.position = position
        self.starts = np.asarray(starts)
        self.lengths = np.asarray(lengths)
        self.height = height
        self.width = width
        self.templates = templates
        self.grid = grid

    @property
    def whole(self) -> bool:
        """Whether the layers are whole frames."""
        return self.layers.shape[-2:] == (self.height, self.width)

    def layers_at(self, index: np.ndarray | slice) -> Tensor:
        """Frames (N,) as float layers (N, 4, s, s)."""
        return unpack_layers(torch.from_numpy(self.layers[index]))

    def shifts(self) -> np.ndarray:
        """All moves between neighbouring frames (N, 2) px."""
        return np.concatenate(
            [
                np.diff(self.position[a : a + n].astype(np.float32), axis=0)
                for a, n in zip(self.starts, self.lengths, strict=True)
            ]
        )

    def directions(self) -> np.ndarray:
        """The rows of COMPASS nearest to all moves (N,), see :func:`glass_gym.worlds.action_space.nearest_direction`."""
        shifts = self.shifts()
        return nearest_direction(shifts, step_length(shifts))

    @functools.cached_property
    def _complete(self) -> np.ndarray:
        """Frames whose window lies in the frame and holds an agent; all, where there are none."""
        side = self.layers.shape[-1] - 2 * MARGIN
        half = side / 2
        size = np.array([self.width, self.height])
        cut = np.maximum(0, half - self.position) + np.maximum(0, self.position + half - size)
        seen = (self.layers[:, 3] > 127).sum((1, 2))
        good = (cut.max(1) <= side / 8) & (seen > 0.5 * np.median(seen))
        return np.flatnonzero(good) if good.any() else np.arange(len(seen))

    def complete(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Random frames (count,) int64 whose window lies in the frame and holds an agent."""
        return self._complete[rng.integers(len(self._complete), size=count)]

    def clip(self, start: int, length: int) -> Clip:
        """Frames [start, start + length)."""
        span = slice(start, start + length)
        return Clip(self.layers[span], self.position[span].astype(np.float32))

    def sample(self, rng: np.random.Generator, length: int) -> Clip:
        """A random clip of `length` frames.

        Raises:
            ValueError: no video is that long.
        """
        fits = np.flatnonzero(self.lengths >= length)
        if not len(fits):
            raise ValueError(
                f"no training video has {length} frames (the longest has {self.lengths.max()}); "
                "use shorter --paper.horizons or longer videos"
            )
        video = fits[rng.integers(len(fits))]
        return self.clip(int(self.starts[video] + rng.integers(self.lengths[video] - length + 1)), length)

    def centred(self, clip: Clip, side: int) -> np.ndarray:
        """A clip's packed layers without their margin: (T, 4, side, side)."""
        return clip.layers if self.whole else clip.layers[:, :, MARGIN : MARGIN + side, MARGIN : MARGIN + side]

    @classmethod
    def joined(cls, parts: list[WindowSet]) -> WindowSet:
        """The videos of several sets, one after the other; of sets that are not aligned."""
        layers, position, starts, lengths = (
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("layers", "position", "starts", "lengths")
        )
        first = np.repeat(np.cumsum([0] + [len(p.layers) for p in parts[:-1]]), [len(p.starts) for p in parts])
        return cls(layers, position, starts + first, lengths, parts[0].height, parts[0].width)

    def save(self, path: Path) -> None:
        """Write as .npz."""
        arrays = {
            "layers": self.layers,
            "position": self.position,
            "starts": self.starts,
            "lengths": self.lengths,
            "size": np.array([self.height, self.width]),
            "version": np.array(FILE_VERSION),
            "templates": np.zeros((0, 0, 0)) if self.templates is None else self.templates,
            "grid": np.array(self.grid or ()),
        }
        save_arrays(path, arrays)

    @classmethod
    def load(cls, path: Path) -> WindowSet:
        """The inverse of :meth:`save`.

        Raises:
            ValueError: a file of another version: cut again.
        """
        with np.load(path, allow_pickle=False) as file:
            version = int(file["version"]) if "version" in file else 1
            if version != FILE_VERSION:
                raise ValueError(f"{path}: version {version}, expected {FILE_VERSION}; delete it, to be cut again")
            height, width = (int(v) for v in file["size"])
            templates = file["templates"] if len(file["templates"]) else None
            grid = tuple(file["grid"].tolist()) if "grid" in file else ()
            arrays = (file[name] for name in ("layers", "position", "starts", "lengths"))
            return cls(*arrays, height, width, templates, grid or None)  # type: ignore[arg-type]


def cut_windows(
    model: Glass,
    store: Store,
    videos: list[Video],
    progress: Callable[[int], None] = lambda done: None,
    like: WindowSet | None = None,
) -> WindowSet:
    """Track the agent through the videos and cut its layers.

    Args:
        model: a trained GMA, and an LMA, which may be untrained.
        store: the videos' store.
        videos: which.
        progress: called with the number of videos that are done.
        like: windows to align these ones to; without it they are aligned to one another.

    Returns:
        the windows; those of a pose model are aligned (:mod:`training.windows.align`).
    """
    return align_windows(model, track_windows(model, store, videos, progress), like)


@torch.no_grad()
def track_windows(
    model: Glass, store: Store, videos: list[Video], progress: Callable[[int], None] = lambda done: None
) -> WindowSet:
    """The first half of :func:`cut_windows`: track, and cut with room for the alignment."""
    device = next(model.parameters()).device
    margin = (MARGIN + ALIGN_PX * _aligns(model)) * model.lma.view.follows

    def cut(frames: Tensor) -> tuple[Tensor, Tensor]:
        frames = frames.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=pick_precision("auto", device) == torch.bfloat16):
            tracked = track(model, frames)
        return model.lma.view.cut(frames, tracked.masks, tracked.position, margin), tracked.position

    return pack_windows(store, videos, cut, store.height, store.width, progress)


def align_windows(model: Glass, windows: WindowSet, like: WindowSet | None = None) -> WindowSet:
    """The second half of :func:`cut_windows`: snap to the grid, align, fill lost frames. It may change `windows`."""
    if _aligns(model):
        _snap_to_grid(windows, grid_of(windows.shifts()) if like is None else like.grid)
        windows = _aligned(windows, like)
    if model.lma.view.follows:
        _fill_lost_frames(windows)
    return windows


def _fill_lost_frames(windows: WindowSet) -> None:
    """Frames in which M lost the agent, by the mask's area, get the layer of the nearest frame with it: else the model
    would learn that the agent vanishes."""
    for start, length in zip(windows.starts, windows.lengths, strict=True):
        layers = windows.layers[start : start + length]
        area = layers[:, 3].sum((1, 2), dtype=np.int64)
        seen = np.flatnonzero(area > LOST * np.median(area))
        if 0 < len(seen) < length:
            at = np.arange(length)
            after = np.searchsorted(seen, at).clip(max=len(seen) - 1)
            before = (after - 1).clip(min=0)
            nearer = np.abs(at - seen[before]) <= np.abs(seen[after] - at)
            layers[:] = layers[np.where(nearer, seen[before], seen[after])]


def _aligns(model: Glass) -> bool:
    return isinstance(model.lma, PoseLMA)


def _snap_to_grid(windows: WindowSet, grid: tuple[float, float] | None) -> None:
    """In a grid world, put the windows of `windows`, which have ALIGN_PX px more than MARGIN to spare, on the grid."""
    windows.grid = grid
    if grid is None:
        return
    for start, length in zip(windows.starts, windows.lengths, strict=True):
        span = slice(start, start + length)
        at = windows.position[span]
        moved = (snap_to_grid(torch.from_numpy(at), grid, ALIGN_PX).numpy() - at).astype(int)
        for frame, (x, y) in zip(range(start, start + length), moved, strict=True):
            windows.layers[frame] = np.roll(windows.layers[frame], (-y, -x), (1, 2))  # the margin is empty, or cut off
        windows.position[span] = at + moved


def _aligned(windows: WindowSet, like: WindowSet | None) -> WindowSet:
    """Windows with MARGIN + ALIGN_PX px to spare, moved to where their poses agree: with MARGIN px to spare."""
    masks = windows.layers[:, 3, MARGIN:-MARGIN, MARGIN:-MARGIN]
    if like is not None and like.templates is not None:
        found = Congealing(torch.from_numpy(like.templates))
    else:
        found = Congealing.fit(masks, windows.starts, windows.lengths)
    if windows.grid is None:
        moved = found.moves(masks, windows.starts, windows.lengths)
    else:  # a cell is a cell
        moved = found.offsets(masks, windows.starts, windows.lengths).repeat(windows.lengths, 0)
    side = windows.layers.shape[-1] - 2 * ALIGN_PX
    layers = np.empty((*windows.layers.shape[:2], side, side), np.uint8)
    for frame, (x, y) in enumerate(moved + ALIGN_PX):
        layers[frame] = windows.layers[frame, :, y : y + side, x : x + side]
    return WindowSet(
        layers,
        windows.position + moved.astype(windows.position.dtype),
        windows.starts,
        windows.lengths,
        windows.height,
        windows.width,
        found.templates.numpy(),
        windows.grid,
    )


def pack_windows(
    store: Store,
    videos: list[Video],
    cut: Callable[[Tensor], tuple[Tensor, Tensor]],
    height: int,
    width: int,
    progress: Callable[[int], None] = lambda done: None,
) -> WindowSet:
    """What `cut` makes of each video, as uint8.

    Args:
        store: the videos' store.
        videos: which.
        cut: maps frames (T, 3, H, W) in [-1, 1] to layers (T, 4, s, s) and positions (T, 2) px.
        height, width: of the frames that the positions are in.
        progress: called with the number of videos that are done.
    """
    layers = []
    positions = []
    starts = []
    lengths = []
    total = 0
    for done, video in enumerate(videos):
        stack, position = cut(frames_to_tensor(store.frames[video.start : video.start + video.length]))
        layers.append(pack_layers(stack.float()).cpu().numpy())
        positions.append(position.cpu().numpy())
        starts.append(total)
        lengths.append(video.length)
        total += video.length
        progress(done + 1)
    return WindowSet(np.concatenate(layers), np.concatenate(positions), starts, lengths, height, width)


def crop_layers(windows: WindowSet, index: np.ndarray, side: int, offset: np.ndarray | None = None) -> Tensor:
    """Float layers of frames (N,), each moved by its own offset (N, 2) px inside its margin: (N, 4, side, side)."""
    corner = np.zeros((len(index), 2), np.int64) if offset is None else offset
    return crop_windows(windows.layers_at(index), torch.from_numpy(corner + MARGIN), side)


def iter_batches(windows: WindowSet, index: np.ndarray, side: int) -> Iterator[Tensor]:
    """Float layers of frames (N,), about a thousand at a time."""
    for part in np.array_split(index, max(1, len(index) // 1024)):
        yield crop_layers(windows, part, side)


# --- of a run ----------------------------------------------------------------------------------------------------


def windows_of_split(run: Run, model: Glass, store: Store, split: str, reference: WindowSet | None = None) -> WindowSet:
    """The windows of a run's training or held-out videos; made once and kept in its folder.

    Args:
        run: says how many frames.
        model: a trained GMA, and an LMA, which may be untrained.
        store: the videos.
        split: "train" or "val".
        reference: windows to align these to.
    """
    path = run.out / f"windows-{split}.npz"
    if (known := _known_windows(path)) is not None:
        return known
    videos = [v for v in store.videos if v.length >= 2]
    videos = [v for v in videos if v.split == split] or videos[:1]
    small = model.lma.view.follows and model.config.window <= SMALL_WINDOW
    most = run.config.window_frames or (MOST_FRAMES if small else MOST_FRAMES // 2)
    most = most if split == "train" else max(1, most // 8)
    videos = videos[:: math.ceil(sum(v.length for v in videos) / most)]
    parts = run.out / f"tracked-{split}"
    tracked = _tracked(model, store, videos, parts)
    print(f"aligning the agent's windows ({split})", flush=True)
    windows = align_windows(model, tracked, reference)
    windows.save(path)
    shutil.rmtree(parts)
    return windows


def _tracked(model: Glass, store: Store, videos: list[Video], folder: Path) -> WindowSet:
    """Tracked windows; parts are kept in a folder as they are done, so that no interruption costs much."""
    folder.mkdir(exist_ok=True)
    parts = []
    with tqdm(total=len(videos), desc=f"tracking the agent ({folder.name.partition('-')[2]})", unit="video") as bar:
        for start in range(0, len(videos), VIDEOS_A_PART):
            some = videos[start : start + VIDEOS_A_PART]
            path = folder / f"{start}-of-{len(videos)}.npz"
            if (part := _known_windows(path)) is None:
                part = track_windows(model, store, some, lambda done: bar.update(1))
                part.save(path)
            else:
                bar.update(len(some))
            parts.append(part)
    return WindowSet.joined(parts)


def _known_windows(path: Path) -> WindowSet | None:
    """Windows that an earlier run kept."""
    if not path.exists():
        return None
    try:
        return WindowSet.load(path)
    except ValueError as error:
        print(f"{error}: it is cut again", file=sys.stderr)
        return None


def sample_clips(windows: WindowSet, side: int, count: int = 6, steps: int = 15) -> dict[str, Tensor]:
    """The same random clips whenever it is called, for sample sheets.

    Returns:
        layers (N, T + 1, 4, h, w) float32, shifts (N, T, 2) px, positions (N, T + 1, 2) px.
    """
    rng = np.random.default_rng(0)
    steps = min(steps, int(windows.lengths.max()) - 1)
    clips = [windows.sample(rng, steps + 1) for _ in range(count)]
    layers = unpack_layers(torch.from_numpy(np.stack([windows.centred(clip, side) for clip in clips])))
    positions = torch.from_numpy(np.stack([clip.position for clip in clips]))
    return {"layers": layers, "shifts": positions.diff(dim=1), "positions": positions}
