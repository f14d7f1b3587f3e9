"""The agent's windows: tracked and cut once with the trained GMA, kept as uint8; the later stages train on them."""

from __future__ import annotations

import math
import shutil
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from glass_gym.model.glass import Glass
from glass_gym.model.lma import LMA
from glass_gym.model.pose_model import PoseLMA
from glass_gym.tensors.convert import pack_layers, unpack_layers
from glass_gym.tensors.device import pick_precision
from glass_gym.tensors.geometry import crop_windows
from glass_gym.worlds.action_space import nearest_direction

from ..core.progress import Bar
from ..core.run import Run
from ..data.store import Store, Video, frames_to_tensor, save_arrays
from .align import ALIGN_PX, Congealing
from .steps import grid_of, step_length
from .tracking import snap_to_grid, track

MARGIN = 4  # Px to spare on each side of stored windows, so that they can be cropped at an offset.
LOST = 0.1  # M has lost the agent in a frame if its area is below this share of the video's median.
FILE_VERSION = 2
ARRAYS = ("layers", "position", "starts", "lengths", "files")
MOST_FRAMES = 120_000
"""About how many frames the stages after GMA use, halved for windows larger than SMALL_WINDOW; with fewer frames the
LMA overfits more."""
SMALL_WINDOW = 48  # Px; larger windows would take gigabytes.
VIDEOS_A_PART = 40  # Number of videos that are tracked between two checkpoints.


@dataclass
class Clip:
    """Consecutive frames of one video: packed layers (T, 4, s, s) uint8, with MARGIN, and positions (T, 2) px."""

    layers: np.ndarray
    position: np.ndarray


class WindowSet:
    """Layers of the videos of a split, one video after the other: N frames of V videos.

    Args:
        layers: (N, 4, s, s) uint8 (:func:`pack_layers`): windows with MARGIN px to spare on each side, or whole frames.
        position: (N, 2) px, the agent's positions.
        starts, lengths: (V,) ints, first frames and lengths of the videos.
        height, width: of the original frames, px.
        scale: a pixel of a window covers this many px of a frame along each axis.
        templates: (C, s, s), the templates to which the windows are aligned; None if they are not.
        grid: (x, y) px of a cell, in a grid world.
        files: (V,) ints, equal for neighbouring videos that are parts of one file; default: each has one of its own.
        rate: frames a second of the videos; None if not known.
    """

    def __init__(
        self,
        layers: np.ndarray,
        position: np.ndarray,
        starts,
        lengths,
        height: int,
        width: int,
        scale: int = 1,
        templates: np.ndarray | None = None,
        grid: tuple[float, float] | None = None,
        files: np.ndarray | None = None,
        rate: float | None = None,
    ):
        self.layers = layers
        self.position = position
        self.starts = np.asarray(starts)
        self.lengths = np.asarray(lengths)
        self.files = np.arange(len(self.starts)) if files is None else files
        self.height = height
        self.width = width
        self.scale = scale
        self.templates = templates
        self.grid = grid
        self.rate = rate

    @property
    def whole(self) -> bool:
        """Whether the layers are whole frames."""
        return self.layers.shape[-2:] == (self.height, self.width)

    def layers_at(self, index: np.ndarray | slice) -> Tensor:
        """Float layers (n, 4, s, s) of some frames (n,)."""
        return unpack_layers(torch.from_numpy(self.layers[index]))

    def shifts(self) -> list[np.ndarray]:
        """The agent's moves from frame to frame in each video of T frames, (T - 1, 2) px."""
        videos = zip(self.starts, self.lengths, strict=True)
        return [np.diff(self.position[a : a + n].astype(np.float32), axis=0) for a, n in videos]

    def step(self) -> tuple[float, float]:
        """The agent's usual step length, (x, y) px (:func:`training.windows.steps.step_length`)."""
        return step_length(self.shifts(), self.rate)

    def directions(self) -> np.ndarray:
        """The nearest direction of each move, (N - V,) (:func:`glass_gym.worlds.action_space.nearest_direction`)."""
        return nearest_direction(np.concatenate(self.shifts()), self.step())

    def cut_off(self) -> np.ndarray:
        """Which frames show an agent that the frame's edge cuts off, (N,) bool: its mask reaches the edge."""
        side = self.layers.shape[-1]
        first = np.round(side / 2 - self.position / self.scale).astype(int)  # the frame's first px in the windows
        last = np.round(side / 2 + ([self.width, self.height] - self.position) / self.scale).astype(int) - 1
        out = np.zeros(len(self.layers), bool)
        for part in np.array_split(np.arange(len(out)), max(1, len(out) // 1024)):
            masks = self.layers[part, 3] > 127
            for axis, lines in enumerate((masks.any(1), masks.any(2))):
                for at in (first[part, axis], first[part, axis] + 1, last[part, axis], last[part, axis] - 1):
                    inside = (at >= 0) & (at < side)
                    out[part] |= inside & lines[np.arange(len(part)), at.clip(0, side - 1)]
        return out

    def _uncut(self) -> np.ndarray:
        """Which frames show an agent that the frame's edge does not cut off, (N,) bool; all if it cuts off half."""
        uncut = ~self.cut_off()
        return uncut if uncut.mean() > 0.5 else np.ones_like(uncut)

    def agent_colours(self) -> np.ndarray:
        """The mean colour of the agent of each frame, (N, 3), in units of its standard deviation within a visit.

        It is the mean over a visit: what comes in through the frame's edge, or in another video, may be another agent.
        Frames that cut the agent off do not count; before a visit's first whole agent it is 0.
        """
        colours = np.empty((len(self.layers), 3), np.float32)
        for part in np.array_split(np.arange(len(colours)), max(1, len(colours) // 256)):
            layers = self.layers_at(part)
            colours[part] = layers[:, :3].sum((2, 3)) / layers[:, 3:].sum((2, 3)).clamp_min(1e-6)
        uncut = self._uncut()
        begins = np.zeros(len(colours), bool)
        begins[self.starts] = True
        begins[1:] |= ~uncut[:-1] & uncut[1:]
        visit = begins.cumsum() - 1
        count = np.bincount(visit, uncut).clip(1)[:, None]
        mean = np.stack([np.bincount(visit, uncut * colours[:, c]) for c in range(3)], 1) / count
        off = (colours - mean[visit])[uncut]
        return mean[visit] / max(1 / 127.5, float(np.sqrt(np.square(off).sum(1).mean())))

    def complete(self) -> np.ndarray:
        """Frames (n,) int64 that show a whole agent: the frame's edge does not cut it off, unless it does so in half of
        them or more, and M finds at least a quarter of a large agent."""
        seen = (self.layers[:, 3] > 127).sum((1, 2))
        whole = self._uncut()
        return np.flatnonzero(whole & (seen >= 0.25 * np.quantile(seen[whole], 0.75)))

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
        start = int(self.starts[video] + rng.integers(self.lengths[video] - length + 1))
        span = slice(start, start + length)
        return Clip(self.layers[span], self.position[span].astype(np.float32))

    def centred(self, clip: Clip, side: int) -> np.ndarray:
        """A clip's packed layers without MARGIN: (T, 4, side, side); whole frames as they are."""
        return clip.layers if self.whole else clip.layers[:, :, MARGIN : MARGIN + side, MARGIN : MARGIN + side]

    @classmethod
    def joined(cls, parts: list[WindowSet]) -> WindowSet:
        """Concatenate sets that are not aligned."""
        layers, position, starts, lengths, files = (np.concatenate([getattr(p, n) for p in parts]) for n in ARRAYS)
        first = np.repeat(np.cumsum([0] + [len(p.layers) for p in parts[:-1]]), [len(p.starts) for p in parts])
        one = parts[0]
        sizes = one.height, one.width, one.scale
        return cls(layers, position, starts + first, lengths, *sizes, files=files, rate=one.rate)

    def save(self, path: Path) -> None:
        """Write as .npz."""
        arrays = {name: getattr(self, name) for name in ARRAYS} | {
            "size": np.array([self.height, self.width, self.scale]),
            "version": np.array(FILE_VERSION),
            "templates": np.zeros((0, 0, 0)) if self.templates is None else self.templates,
            "grid": np.array(self.grid or ()),
            "rate": np.array(self.rate or np.nan),
        }
        save_arrays(path, arrays)

    @classmethod
    def load(cls, path: Path) -> WindowSet:
        """The inverse of :meth:`save`.

        Raises:
            ValueError: the file is damaged or has another version; windows must be cut again.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                if (version := int(file["version"])) != FILE_VERSION:
                    raise ValueError(f"version {version}, expected {FILE_VERSION}")
                sizes = [int(v) for v in file["size"]]
                templates = file["templates"] if len(file["templates"]) else None
                grid = tuple(file["grid"].tolist()) or None
                rate = None if np.isnan(file["rate"]) else float(file["rate"])
                layers, position, starts, lengths, files = (file[name] for name in ARRAYS)
                return cls(layers, position, starts, lengths, *sizes, templates, grid, files, rate)  # type: ignore[arg-type, misc]
        except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, OSError, ValueError) as error:
            raise ValueError(f"{path}: {error}; delete it, to be cut again") from None


@torch.no_grad()
def track_windows(
    model: Glass, store: Store, videos: list[Video], progress: Callable[[int], None] = lambda frames: None
) -> WindowSet:
    """Track the agent through videos and cut its windows, for :func:`align_windows`.

    Args:
        model: a trained GMA, and an LMA, which may be untrained.
        store: the videos' store.
        videos: the videos to track.
        progress: called after each video with its number of frames.

    Returns:
        windows; of a pose model they have ALIGN_PX px more to spare than MARGIN.
    """
    device = next(model.parameters()).device
    margin = (MARGIN + ALIGN_PX * _aligns(model)) * model.lma.view.follows
    layers = []
    positions = []
    for video in videos:
        frames = frames_to_tensor(store.frames[video.start : video.start + video.length]).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=pick_precision("auto", device) == torch.bfloat16):
            tracked = track(model, frames)
        cut = tracked.layers(model.lma.view, frames, margin)
        layers.append(pack_layers(cut.float()).cpu().numpy())
        positions.append(tracked.position.cpu().numpy())
        progress(video.length)
    lengths = [video.length for video in videos]
    starts = np.cumsum(lengths) - lengths
    known = list(dict.fromkeys(video.file for video in store.videos))
    files = np.array([known.index(video.file) for video in videos])
    stacked = np.concatenate(layers), np.concatenate(positions)
    sizes = store.height, store.width, model.config.window_scale
    return WindowSet(*stacked, starts, lengths, *sizes, files=files, rate=store.rate)


def align_windows(model: Glass, windows: WindowSet, like: WindowSet | None = None) -> WindowSet:
    """Align tracked windows of a pose model (:mod:`training.windows.align`), and replace frames without the agent.

    In a grid world, positions are snapped to the grid first. Whole frames of the paper's model stay as they are.

    Args:
        model: the model that tracked them.
        windows: from :func:`track_windows`; its arrays may be changed.
        like: aligned windows to align these to; without it they are aligned to one another.
    """
    if _aligns(model):
        _snap_to_grid(windows, grid_of(windows.shifts(), windows.rate) if like is None else like.grid)
        windows = _aligned(windows, like)
    if model.lma.view.follows:
        _fill_lost_frames(windows)
    return windows


def _fill_lost_frames(windows: WindowSet) -> None:
    """Replace the layers of frames in which M lost the agent by those of the nearest frame that has it; else the model
    would learn that agents vanish."""
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
    """In a grid world, snap positions to the grid, and move the windows, with ALIGN_PX px to spare, accordingly."""
    windows.grid = grid
    if grid is None:
        return
    for start, length in zip(windows.starts, windows.lengths, strict=True):
        span = slice(start, start + length)
        at = windows.position[span] / windows.scale
        cell = grid[0] / windows.scale, grid[1] / windows.scale
        moved = (snap_to_grid(torch.from_numpy(at), cell, ALIGN_PX).numpy() - at).astype(int)
        for frame, (x, y) in zip(range(start, start + length), moved, strict=True):
            windows.layers[frame] = np.roll(windows.layers[frame], (-y, -x), (1, 2))  # the margin is empty, or cut off
        windows.position[span] = (at + moved) * windows.scale


def _aligned(windows: WindowSet, like: WindowSet | None) -> WindowSet:
    """Windows with MARGIN + ALIGN_PX px to spare, moved to fit the templates: they have MARGIN px to spare."""
    masks = windows.layers[:, 3, MARGIN:-MARGIN, MARGIN:-MARGIN]
    if like is not None and like.templates is not None:
        found = Congealing(torch.from_numpy(like.templates))
    else:
        found = Congealing.fit(masks, windows.starts, windows.lengths)
    if windows.grid is None:
        moved = found.moves(masks, windows.starts, windows.lengths)
    else:  # single frames stay on the grid
        moved = found.offsets(masks, windows.starts, windows.lengths).repeat(windows.lengths, 0)
    side = windows.layers.shape[-1] - 2 * ALIGN_PX
    layers = np.empty((*windows.layers.shape[:2], side, side), np.uint8)
    for frame, (x, y) in enumerate(moved + ALIGN_PX):
        layers[frame] = windows.layers[frame, :, y : y + side, x : x + side]
    videos = windows.starts, windows.lengths, windows.height, windows.width, windows.scale
    position = windows.position + windows.scale * moved.astype(windows.position.dtype)
    return WindowSet(layers, position, *videos, found.templates.numpy(), windows.grid, windows.files, windows.rate)


def crop_layers(windows: WindowSet, index: np.ndarray, side: int) -> Tensor:
    """Float layers of frames `index` (n,), without MARGIN: (n, 4, side, side)."""
    return crop_windows(windows.layers_at(index), torch.full((len(index), 2), MARGIN), side)


def iter_batches(windows: WindowSet, index: np.ndarray, side: int) -> Iterator[Tensor]:
    """As :func:`crop_layers`, in batches of about a thousand frames."""
    for part in np.array_split(index, max(1, len(index) // 1024)):
        yield crop_layers(windows, part, side)


# --- windows of a run -----------------------------------------------------------------------------------------------


def choose_window_frames(run: Run, lma: LMA) -> int:
    """Choose about how many frames the stages after GMA use; once in a run."""
    if "window_frames" not in run.values:
        small = lma.view.follows and lma.config.window <= SMALL_WINDOW
        why = f"at most, of windows of {'x'.join(map(str, lma.view.size))} px"
        run.choose("window_frames", MOST_FRAMES if small else MOST_FRAMES // 2, why)
    return run.values["window_frames"]


def windows_of_split(run: Run, model: Glass, store: Store, split: str, reference: WindowSet | None = None) -> WindowSet:
    """The windows of a run's training or validation videos; they are made once and kept in its folder.

    Args:
        run: the run; its choice `window_frames` limits the number of frames.
        model: a trained GMA, and an LMA, which may be untrained.
        store: the videos.
        split: "train" or "val".
        reference: aligned windows to align these to.
    """
    path = run.out / f"windows-{split}.npz"
    if (known := _known_windows(path, model, MARGIN)) is not None:
        return known
    videos = [v for v in store.videos if v.length >= 2]
    videos = [v for v in videos if v.split == split] or videos[:1]
    most = choose_window_frames(run, model.lma)
    most = most if split == "train" else max(1, most // 8)
    videos = videos[:: math.ceil(sum(v.length for v in videos) / most)]
    parts = run.out / f"tracked-{split}"
    tracked = _tracked(model, store, videos, parts)
    with Bar(f"aligning the agent's windows ({split})") as bar:
        windows = align_windows(model, tracked, reference)
        bar.tell("writing")
        windows.save(path)
        shutil.rmtree(parts)
    return windows


def _tracked(model: Glass, store: Store, videos: list[Video], folder: Path) -> WindowSet:
    """Track videos, and keep parts in a folder as they are done, so that little is lost by an interruption."""
    folder.mkdir(exist_ok=True)
    parts = []
    frames = sum(v.length for v in videos)
    with Bar(f"tracking the agent ({folder.name.partition('-')[2]})", frames, "frame") as bar:
        for start in range(0, len(videos), VIDEOS_A_PART):
            some = videos[start : start + VIDEOS_A_PART]
            path = folder / f"{start}-of-{len(videos)}.npz"
            if (part := _known_windows(path, model, MARGIN + ALIGN_PX * _aligns(model))) is None:
                part = track_windows(model, store, some, bar.update)
                part.save(path)
            else:
                bar.update(sum(v.length for v in some))
            parts.append(part)
    return WindowSet.joined(parts)


def _known_windows(path: Path, model: Glass, margin: int) -> WindowSet | None:
    """Windows from a file; None if there is none, or it is damaged, of another version, or of another window size."""
    if not path.exists():
        return None
    try:
        known = WindowSet.load(path)
        size = tuple(side + 2 * margin * model.lma.view.follows for side in model.lma.view.size)
        if known.layers.shape[2:] != size:
            raise ValueError(f"{path}: of {known.layers.shape[2:]} px, expected {size}")
        return known
    except ValueError as error:
        print(f"{error}: it is cut again", file=sys.stderr)
        return None


def sample_clips(windows: WindowSet, side: int, count: int = 6, steps: int = 15) -> dict[str, Tensor]:
    """Clips for sample sheets: `count` random clips of about `steps` steps, the same in every call.

    Returns:
        layers (N, T + 1, 4, h, w) float32, shifts (N, T, 2) px, positions (N, T + 1, 2) px.
    """
    rng = np.random.default_rng(0)
    steps = min(steps, int(windows.lengths.max()) - 1)
    clips = [windows.sample(rng, steps + 1) for _ in range(count)]
    layers = unpack_layers(torch.from_numpy(np.stack([windows.centred(clip, side) for clip in clips])))
    positions = torch.from_numpy(np.stack([clip.position for clip in clips]))
    return {"layers": layers, "shifts": positions.diff(dim=1), "positions": positions}
