"""Measure whether an agent is drawn from stored windows, and whether its heading is taken out; fill the library."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from glass_gym.model.library import Q_SIDE, Library, LibraryLMA, off_centre, principal_axis, seen_by_q, turn, wrapped
from glass_gym.model.pose_model import POSE_CHANNELS
from glass_gym.tensors.geometry import reduced

from ..core.progress import Bar
from ..core.run import Run
from ..core.trainer import TrainingError
from ..data.sources import find_source
from .windows import MARGIN, WindowSet

COMPARED = 2500  # About so many windows are compared with each other.
SAME_AGENT = 0.8
"""Windows are stored if the nearest of another video differs by less than this share of what two of one video do."""
REPEATS = 0.05
"""Below this share poses repeat, as in rendered footage: a codebook holds them all, and D paints them as they are."""
TURNS = 0.75  # The heading is taken out if the nearest then differs by less than this share of what it did.
MOST_BYTES, MOST_WINDOWS = 96 << 20, 2048  # Of a library.
FLIP = 0.35  # A turn by this many rad from frame to frame costs as much as a skewness of one.


def headings_of(windows: WindowSet) -> np.ndarray:
    """The agent's heading in each window, (N,) rad clockwise from the right.

    It is the long axis of the mask. Of its two directions we take the one to which the mask tapers, or away from it,
    for all windows alike, so that agents go forward more than backward; within a video it changes least from frame to
    frame (Viterbi, 1967).
    """
    out = np.empty(len(windows.layers), np.float32)
    forward = 0.0
    videos = zip(windows.starts, windows.lengths, windows.shifts(), strict=True)
    for start, length, shifts in videos:
        masks = torch.from_numpy(windows.layers[start : start + length, 3, MARGIN:-MARGIN, MARGIN:-MARGIN])
        mask = reduced(masks[:, None].float() / 255, max(1, masks.shape[-1] // Q_SIDE))[:, 0]
        axis = principal_axis(mask)
        found = _directed(axis, _skewness(mask, axis)).numpy()
        out[start : start + length] = found
        forward += float((np.stack([np.cos(found), np.sin(found)], 1)[:-1] * shifts).sum())
    return out if forward >= 0 else out + np.float32(math.pi)


def _skewness(mask: Tensor, axis: Tensor) -> Tensor:
    """The skewness (N,) of masks (N, h, w) along axes (N,) rad: positive if they taper in this direction."""
    turned = turn(mask[:, None], -axis)[:, 0].clamp(0, 1)
    mass = turned.sum((1, 2)).clamp_min(1e-6)
    columns = turned.sum(1)
    x = torch.arange(columns.shape[1]) - ((columns * torch.arange(columns.shape[1])).sum(1) / mass)[:, None]
    spread = ((columns * x.square()).sum(1) / mass).clamp_min(1e-6)
    return (columns * x**3).sum(1) / mass / spread**1.5


def _directed(axis: Tensor, skewness: Tensor) -> Tensor:
    """Choose for each frame of a video one direction (T,) of the axes (T,), by the least total cost."""
    both = torch.stack([axis, axis + math.pi], 1)
    costs = torch.stack([-skewness, skewness], 1)
    total = costs[0]
    before = []
    for was, now, cost in zip(both, both[1:], costs[1:], strict=False):
        step = total[:, None] + (wrapped(now - was[:, None]) / FLIP).square()
        least, which = step.min(0)
        before.append(which)
        total = least + cost
    path = [int(total.argmin())]
    for which in reversed(before):
        path.append(int(which[path[-1]]))
    return both[torch.arange(len(both)), torch.tensor(path[::-1])]


def centred(windows: WindowSet) -> WindowSet:
    """Windows moved by whole px, at most a quarter of their side, so that the agent's centre of mass is in the middle.

    An agent that is turned would else jump, and equal poses would differ by its direction.
    """
    layers = np.empty_like(windows.layers)
    moved = np.empty_like(windows.position)
    side = layers.shape[-1]
    for part in np.array_split(np.arange(len(layers)), max(1, len(layers) // 1024)):
        masks = torch.from_numpy(windows.layers[part, 3]).float() / 255
        off = off_centre(masks).round().int().clamp(-(side // 4), side // 4).numpy()
        for frame, (x, y) in zip(part, off, strict=True):
            one = np.roll(windows.layers[frame], (-y, -x), (1, 2))
            for axis, by in ((1, y), (2, x)):  # what came in from the other side is empty
                if by:
                    new = np.moveaxis(one, axis, 0)[-by:] if by > 0 else np.moveaxis(one, axis, 0)[:-by]
                    new[:, :3], new[:, 3:] = 128, 0
            layers[frame] = one
        moved[part] = off
    known = windows.starts, windows.lengths, windows.height, windows.width, windows.scale
    position = windows.position + windows.scale * moved
    return WindowSet(layers, position, *known, files=windows.files, rate=windows.rate)


def seen_windows(windows: WindowSet, index: np.ndarray, headings: np.ndarray | None) -> Tensor:
    """What Q sees of frames `index` (n,), with the heading taken out: (n, 4, r, r)."""
    rows = []
    for part in np.array_split(index, max(1, len(index) // 256)):
        seen = seen_by_q(windows.layers_at(part)[..., MARGIN:-MARGIN, MARGIN:-MARGIN])
        if headings is not None:
            seen = turn(seen, -torch.from_numpy(headings[part]).to(seen))
        rows.append(seen)
    return torch.cat(rows)


@dataclass
class Likeness:
    """How much windows differ, mean squared: two of one video; the nearest of another; and with the heading out."""

    apart: float
    nearest: float
    turned: float

    @property
    def drawing(self) -> tuple[str, str]:
        """How the agent should be drawn (`TrainConfig.drawing`), and the reason, in one line."""
        share = [x / max(1e-9, self.apart) for x in (self.nearest, self.turned)]
        heading = share[1] < TURNS * share[0]
        how = "turned" if heading else "stored"
        told = f"the nearest window of another video differs by {share[0]:.0%} of what two of one do"
        told += f", by {share[1]:.0%} if they are turned" * heading
        return (how if REPEATS <= share[0] and share[heading] < SAME_AGENT else "painted"), told


def likeness(windows: WindowSet, skipped: int = 0) -> Likeness:
    """Compare about COMPARED windows, of whole videos, with one another.

    Args:
        windows: of the training videos.
        skipped: `read.skip`: this many videos after one are of the same seconds, and not compared with it.
    """
    rng = np.random.default_rng(0)
    order = rng.permutation(len(windows.starts))
    count = int(np.searchsorted(np.cumsum(windows.lengths[order]), COMPARED)) + 1
    some = np.sort(order[:count])
    index = np.concatenate([windows.starts[v] + np.arange(windows.lengths[v]) for v in some])
    video = np.repeat(some, windows.lengths[some])
    if len(index) > 2 * COMPARED:
        kept = np.sort(rng.permutation(len(index))[:COMPARED])
        index, video = index[kept], video[kept]
    other = torch.from_numpy(np.abs(video[:, None] - video) > skipped)
    if not other.any(1).all():
        frame = np.arange(len(index))
        other = torch.from_numpy(np.abs(frame[:, None] - frame) > len(frame) // 4)

    turnable = centred(windows)

    def nearest(x: Tensor) -> float:
        apart = torch.cdist(x, x).square().masked_fill(~other, torch.inf)
        return float(apart.amin(1).mean())

    plain = seen_windows(windows, index, None).flatten(1)
    turned = seen_windows(turnable, index, headings_of(turnable)).flatten(1)
    pair = np.array([(a, rng.choice(np.flatnonzero(video == video[a]))) for a in range(len(index))])
    apart = float((plain[pair[:, 0]] - plain[pair[:, 1]]).square().sum(1).mean())
    return Likeness(apart, nearest(plain), nearest(turned))


def choose_library(run: Run, windows: WindowSet) -> None:
    """Choose how the agent is drawn, and how many windows are stored; once in a run."""
    run.reload()
    if run.config.architecture != "pose":
        if run.is_given("drawing"):
            raise TrainingError(f"--drawing {run.config.drawing} needs --architecture pose; leave it out")
        return
    if "drawing" in run.values:
        return
    if run.config.resume and (run.out / "lma.pt").exists():  # of a version without this choice
        run.values["drawing"] = "painted"
        return
    with Bar("comparing the agent's windows"):
        found = likeness(windows, run.config.read.skip or 0)
    usual = find_source(run.config.data).defaults.drawing
    with run.together():
        choice = (usual, f"usual for {run.config.data}") if usual else found.drawing
        if run.choose("drawing", *choice) != "painted" and not run.is_given("poses"):
            side = windows.layers.shape[-1] - 2 * MARGIN
            count = len(windows.complete())
            most = min(count, MOST_WINDOWS, MOST_BYTES // (4 * side**2))
            run.choose("poses", max(2, most), f"stored windows, of {count} with a whole agent, of {side}x{side} px")


@torch.no_grad()
def encode_frames(
    windows: WindowSet, library: Library, index: np.ndarray, headings: np.ndarray | None, mirrored: bool = False
) -> Tensor:
    """The pose vectors of frames `index` (n,): (n, POSE_CHANNELS), on the library's device.

    With `mirrored`, those of their mirror images: at the axis of an agent whose heading is taken out, of others left to
    right.
    """
    axes = [3 if headings is None else 2] if mirrored else []
    device = library.mean.device
    parts = np.array_split(index, max(1, len(index) // 1024))
    return torch.cat([library.encode(seen_windows(windows, part, headings).flip(axes).to(device)) for part in parts])


@torch.no_grad()
def fill_library(lma: LibraryLMA, windows: WindowSet, headings: np.ndarray | None) -> None:
    """Compute the principal components of the windows, and store P windows of whole agents, spread over all poses.

    Args:
        lma: its library is filled.
        windows: the windows of the training videos.
        headings: (N,) rad, as of :func:`headings_of`; None if the heading is left in.
    """
    from sklearn.cluster import MiniBatchKMeans

    library: Library = lma.library
    count = lma.config.poses
    rng = np.random.default_rng(0)

    with Bar("principal components of the windows"):
        some = np.sort(rng.permutation(len(windows.layers))[:COMPARED])
        x = seen_windows(windows, some, headings).flatten(1).to(library.mean.device)
        mean = x.mean(0)
        _, values, components = torch.linalg.svd(x - mean, full_matrices=False)
        kept = components[:POSE_CHANNELS]
        explained = values[:POSE_CHANNELS].square().sum()
        scale = (explained / len(x) / POSE_CHANNELS).sqrt().clamp_min(1e-3)
        library.mean.copy_(mean)
        if headings is not None:  # else a first window that is kept would hide what local actions do; turns show
            library.residual.copy_((values.square().sum() - explained) / len(x) / scale.square())
        library.components.zero_()
        library.components[: len(kept)] = kept / scale
    with Bar("windows to store"):
        every = windows.complete()
        vectors = encode_frames(windows, library, every, headings)
        chosen = np.resize(np.arange(len(every)), count)
        if len(every) > count:
            means = MiniBatchKMeans(count, n_init=1, random_state=0, batch_size=max(1024, 2 * count))
            group = means.fit_predict(vectors.cpu().numpy())
            off = ((vectors.cpu().numpy() - means.cluster_centers_[group]) ** 2).sum(1)
            first = np.lexsort([off, group])
            chosen = first[np.r_[True, group[first][1:] != group[first][:-1]]]
            rest = np.setdiff1d(np.arange(len(every)), chosen)
            chosen = np.sort(np.r_[chosen, rng.permutation(rest)[: count - len(chosen)]])
        vectors, chosen = vectors[torch.from_numpy(chosen)], every[chosen]
        stored = windows.layers[chosen][..., MARGIN:-MARGIN, MARGIN:-MARGIN]
        library.codebook[:count] = vectors
        colours = torch.from_numpy(windows.agent_colours()[chosen]).to(library.colours)
        library.colours.copy_(colours.repeat(len(library.colours) // count, 1))
        library.windows.copy_(torch.from_numpy(np.ascontiguousarray(stored)))
        if headings is not None:
            library.headings.copy_(torch.from_numpy(headings[chosen]))
            library.codebook[count:] = encode_frames(windows, library, chosen, headings, mirrored=True)
