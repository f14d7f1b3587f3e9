"""The survey: what moves in the footage, how large and how fast it is, and whether a world can be learned from it.

Nothing is learned here. Cuts are frames in which most of the picture changes; the camera's moves come from matching;
the agent is what differs from its shot's median and goes on changing. :mod:`training.footage.choices` chooses the
options of training (frame size, theta, shift ranges, window) from the result.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from ..data.cuts import SHOT, farthest, find_cuts
from ..data.store import DataError
from .registration import CHANGED, camera_moves, median_background, overlap, register

CONTRAST = 0.4
"""An agent's pixel differs by this share of what its strongest pixels differ by: codecs smear colours by a px."""
SMALLEST = 6
"""Px of the smallest agent."""
ONE_PLACE = 0.03
"""Shots whose plates differ in less than this share of their pixels are of one place."""
STOOD = 0.3
"""What the agent covers in more than this share of a shot's frames, is not known to be the scene."""
SHOWN = 0.3
"""Where a camera that moves shows a place in less than this share of a shot's frames, nothing is known of it."""
GHOST = 0.7
"""What differs from the median, whose outline is so much steeper there: the agent stood there, and has left."""
DOUBTED = 4
"""So many of a frame's largest blobs are asked that."""
BLURRED = 0.05
"""Frames of a camera that moves in which more than this share of the picture, without the agent, differs from their
scene do not fit together by shifts alone: nothing is known of what is behind the agent in them."""
MOST = 0.35
"""Share of the picture that may move at once, and that an agent may cover."""
STRIP, THIN = 0.9, 0.2
"""What reaches over this share of the frame's width or height, and is thinner than that share of its own length, is no
agent: waves, a ticker."""
SPREAD, SPARSE = 0.5, 0.3
"""What spreads over this share of the picture, and covers less than that share of where it spreads, is no agent."""
EQUAL = 0.5
"""Two blobs are of one kind, if the smaller has this share of the larger one's area."""
SEVERAL = 0.3
"""There are several agents, if two blobs of one kind move, frame after frame or by turns, in more than this share of
the frames."""
MET = 0.8
"""Two that touch are one blob; they are two as long as it has this share of their area."""
EXPLAINED = 0.45
"""Where less than this share of all change is the agent's, too much else moves."""
AWAY = 2
"""What is farther than so many of its sizes from where it was, and does not go on like that, is another one."""


class NoWorldError(DataError):
    """Footage that no world can be learned from; --force trains nevertheless."""


@dataclass
class Shot:
    """The survey of one shot; lengths in px of its frames.

    Attributes:
        frames: how many.
        camera: (T - 1, 2) px, moves of the whole picture.
        moving: (T,) share of the pixels that differ from the shot's median.
        explained: (T - 1,) share of the pixels changed since the last frame that lie in or about the agent; nan: none.
        boxes: (T, 4) left, top, right, bottom of the agent; nan where none was seen.
        areas: (T,) px of it.
        places: (T, 2) px, its centres, as a camera that stands still would see them.
        agents: (T,) how many blobs of that size move, those that touch each counted as well.
        silhouettes: (T, ceil(H W / 8)) uint8, which pixels are the agent's, packed bit by bit.
        picture: one frame with the agent's box, for people.
        plate: (h, w, 4) uint8, the background plate, and 255 where it is known; as wide as the camera goes.
        corners: (T, 2) px, the positions of the frames' corners on it.
        fits: (T,) bool, the plate explains the frame.
    """

    frames: int
    camera: np.ndarray
    moving: np.ndarray
    explained: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    places: np.ndarray
    agents: np.ndarray
    silhouettes: np.ndarray
    picture: np.ndarray
    plate: np.ndarray
    corners: np.ndarray
    fits: np.ndarray


@dataclass
class Survey:
    """The survey of all footage; lengths in px of its frames.

    Attributes:
        height, width: of those frames.
        videos: looked at.
        shots: of them.
        shot_length: frames; half of all frames are in longer shots.
        cuts: a 1,000 frames.
        camera: px a frame, 90th percentile.
        seen: share of the frames in which something moves on its own.
        moving: share of the pixels that move, median.
        explained: share of all change that is in or about the agent.
        agent: (width, height) of the agent's box, 90th percentile.
        area: share of the frame that the agent covers, median ...
        largest: ... and 95th percentile.
        speed: px a frame of an agent that moves: half of the way was gone by larger steps.
        fastest: px a frame; a twentieth of the way, or of the moves, was gone by larger steps.
        several: share of the frames with two or more agents of one size, like the frame before, or with another agent
            than the frame before.
        at_edge: share of the frames in which the agent's box touches the frame's edge.
        pictures: for people, (N, H, W, 3) uint8.
        silhouettes: of the agent where it was seen, (M, ceil(H W / 8)) uint8, packed bit by bit.
        seen_in: (M,) int64, the frames of the silhouettes, counted through all videos.
        plates: of the S shots, each (h, w, 4) uint8, see :class:`Shot`.
        plate_of: (M,) int64, the plate of each silhouette's frame; -1: none.
        corners: (M, 2) px, the position of that frame on it.
    """

    height: int
    width: int
    videos: int
    shots: int
    shot_length: float
    cuts: float
    camera: float
    seen: float
    moving: float
    explained: float
    agent: tuple[float, float]
    area: float
    largest: float
    speed: float
    fastest: float
    several: float
    at_edge: float
    pictures: list[np.ndarray] = field(default_factory=list, repr=False)
    silhouettes: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.uint8), repr=False)
    seen_in: np.ndarray = field(default_factory=lambda: np.zeros(0, int), repr=False)
    plates: list[np.ndarray] = field(default_factory=list, repr=False)
    plate_of: np.ndarray = field(default_factory=lambda: np.zeros(0, int), repr=False)
    corners: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), int), repr=False)

    @property
    def still(self) -> bool:
        """Whether the camera stands still in all shots: their plates are as large as a frame."""
        return all(plate.shape[:2] == (self.height, self.width) for plate in self.plates)

    @property
    def spread(self) -> float:
        """Share of the picture that the agent's box takes."""
        return self.agent[0] * self.agent[1] / (self.height * self.width)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, without arrays."""
        large = ("pictures", "silhouettes", "seen_in", "plates", "plate_of", "corners")
        return {name: value for name, value in vars(self).items() if name not in large}

    def lines(self) -> list[str]:
        """One line each, for people."""
        agents = "one" if self.several <= SEVERAL else "several of one size"
        if SEVERAL / 3 < self.several <= SEVERAL:
            agents += f" (in {self.several:.0%} of the frames another of its size moves)"
        edge = f", at the frame's edge in {self.at_edge:.0%} of the frames" if self.at_edge > 0.5 else ""
        return [
            f"footage: {self.videos} videos looked at, {self.width}x{self.height} px; {self.shots} shots of "
            f"{self.shot_length:.0f} frames, {self.cuts:.1f} cuts a 1,000 frames",
            f"camera: {'moves by up to' if self.camera >= 1 else 'stands still, within'} {self.camera:.1f} px a frame",
            f"agent: {agents}; about {self.agent[0]:.0f}x{self.agent[1]:.0f} px, {self.area:.1%} of the frame{edge}; "
            f"it moves in {self.seen:.0%} of the frames, by {self.speed:.1f} px a frame (at most {self.fastest:.0f})",
            f"motion: {self.moving:.1%} of the pixels move; {self.explained:.0%} of all change is the agent's",
        ]

    def common_plate(self) -> np.ndarray | None:
        """The one plate of all shots, (H, W, 4) uint8 as in :class:`Shot`; None where shots are of several places, or
        the camera moves in some."""
        if not self.still or not self.plates:
            return None
        plates = np.stack(self.plates)
        known = plates[..., 3:] > 0
        colours = np.ma.masked_array(plates[..., :3], np.broadcast_to(~known, plates[..., :3].shape))
        plate = np.ma.median(colours, axis=0).filled(0)
        off = farthest(plates, plate) > CHANGED
        if (off & known[..., 0]).mean((1, 2)).max() > ONE_PLACE:
            return None
        return np.dstack([plate.round().astype(np.uint8), np.uint8(255) * known.any(0)])

    def reasons_to_stop(self) -> list[str]:
        """Why no world can be learned from this; empty: one can."""
        out = []
        if self.shot_length < SHOT:
            out.append(
                f"cuts everywhere: shots have {self.shot_length:.0f} frames, an action needs at least {SHOT}; use "
                "footage with longer shots, or, if the picture scrolls or flickers as a whole, of a calmer camera"
            )
        elif self.seen < 0.02:
            out.append(
                f"nothing moves on its own (in {self.seen:.1%} of the frames); use footage in which the agent acts, "
                "seen by a camera that stands still"
            )
        elif self.moving > MOST or (self.area > MOST and self.camera < 1):
            out.append(
                f"{max(self.moving, self.area):.0%} of the picture moves at once: a camera that turns, zooms or "
                "follows the agent, or an agent that fills the picture; a world needs a background that stands still"
            )
        elif self.spread > SPREAD and self.area < SPARSE * self.spread:
            out.append(
                f"what moves is scattered over {self.spread:.0%} of the picture ({self.moving:.0%} moves at once): a "
                "camera that turns, zooms or follows the agent; a world needs a background that stands still"
            )
        elif self.several > SEVERAL:
            out.append(
                f"in {self.several:.0%} of the frames two or more agents of one size move, at once or by turns; a "
                "world has one agent: crop the others out (--read.crop)"
            )
        elif self.explained < EXPLAINED:
            out.append(
                f"{1 - self.explained:.0%} of all change is not the agent's: other things move as well; a world has "
                "one agent before a background that stands still: crop the others out (--read.crop)"
            )
        return out


def survey_shot(frames: np.ndarray) -> Shot:
    """Find what moves in the frames (T, H, W, 3) uint8 of one shot, T >= 2."""
    from scipy import ndimage

    count, height, width, _ = frames.shape
    camera = camera_moves(frames)
    still, shown, corners = register(frames, camera)
    size = np.array(still.shape[2:0:-1])
    median, _ = median_background(still, shown)
    known = shown & (shown.mean(0) > SHOWN)
    plate = median.astype(np.float32)
    far = np.stack([farthest(f, plate).astype(np.uint8) for f in still])
    differs = far > CHANGED
    changes = np.stack([farthest(after, before) > CHANGED for before, after in pairwise(still)])
    differs &= known
    changes &= known[1:] & known[:-1]
    gap = max(1, round(0.01 * max(height, width)))
    smallest = max(SMALLEST, 1e-4 * height * width)
    boxes = np.full((count, 4), np.nan)
    areas = np.full(count, np.nan)
    places = np.full((count, 2), np.nan)
    agents = np.zeros(count, int)
    explained = np.full(count - 1, np.nan)
    found = np.zeros(still.shape[:3], bool)
    met: list[np.ndarray] = []  # where the agents of one size were last, each or joined, and how large all are
    both = np.inf
    for t in range(count):
        changed = changes[max(0, t - 1) : t + 1].any(0)
        joined = ndimage.binary_dilation(differs[t], iterations=gap) if differs[t].any() else differs[t]
        names, number = ndimage.label(joined)
        if not number:
            continue
        area = np.bincount(names[differs[t]], minlength=number + 1)[1:]
        active = np.bincount(names[changed & joined], minlength=number + 1)[1:]
        spans = ndimage.find_objects(names)
        strips = np.array([_is_strip([s.stop - s.start for s in span], (height, width)) for span in spans])
        lives = (area >= smallest) & (active >= 0.04 * area) & ~strips
        for n in np.argsort(-area * lives)[: min(DOUBTED, lives.sum())]:
            part = tuple(slice(max(0, s.start - 1), s.stop + 1) for s in spans[n])
            blob = differs[t][part] & (names[part] == n + 1)
            rim = blob & ~ndimage.binary_erosion(blob)
            lives[n] = _steepness(still[t][part], rim) >= GHOST * _steepness(median[part], rim)
        if not lives.any():
            continue
        main = 1 + np.where(lives, area, 0).argmax()
        equal = 1 + np.flatnonzero(lives & (area >= EQUAL * area[main - 1]))
        agents[t] = len(equal)
        if len(equal) > 1:
            met = [names == n for n in equal]
            both = area[equal - 1].sum() if t and agents[t - 1] > 1 else np.inf
        elif met and area[main - 1] >= MET * both and all((names[blob] == main).any() for blob in met):
            met, agents[t] = [names == main], max(1, agents[t - 1])
        else:
            met = []
        own = differs[t] & (names == main)
        own &= far[t] >= CONTRAST * np.quantile(far[t][own], 0.9)  # not what a video's colours bleed
        own = with_enclosed(own, differs[t])
        found[t] = own
        ys, xs = np.nonzero(own)
        boxes[t] = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
        areas[t] = len(xs)
        places[t] = xs.mean(), ys.mean()
        if t and changes[t - 1].any():
            near = ndimage.binary_dilation(names == main, iterations=gap)
            near |= _box_mask(boxes[t - 1], *still.shape[1:3]) if not np.isnan(boxes[t - 1, 0]) else False
            explained[t - 1] = (changes[t - 1] & near).sum() / changes[t - 1].sum()
    boxes -= np.tile(corners, 2)
    picture = frames[count // 2].copy()
    seen = np.flatnonzero(~np.isnan(areas))
    if len(seen):
        t = int(seen[np.abs(seen - count // 2).argmin()])
        picture = _with_box(frames[t], boxes[t])
    stood = found.sum(0) >= STOOD * np.maximum(1, shown.sum(0))
    plate = np.dstack([median.astype(np.uint8), np.uint8(255) * (known.any(0) & ~stood)])
    silhouettes = np.zeros((count, height, width), bool)
    for t, corner in enumerate(corners):
        there, here = overlap(corner, size, (width, height))
        silhouettes[t][here] = found[t][there]
    alone = (differs & ~found).sum((1, 2)) / (height * width)
    return Shot(
        frames=count,
        camera=camera,
        moving=differs.sum((1, 2)) / (height * width),
        explained=explained,
        boxes=boxes,
        areas=areas,
        places=places,
        agents=agents,
        silhouettes=np.packbits(silhouettes.reshape(count, -1), axis=1),
        picture=picture,
        plate=plate,
        corners=corners,
        fits=(alone <= BLURRED) | (not camera.any()),
    )


def _is_strip(extent: Sequence[int], frame: tuple[int, int]) -> bool:
    """Whether a blob's extent (height, width) is a strip's from edge to edge of a frame (height, width)."""
    reaches = any(length >= STRIP * whole for length, whole in zip(extent, frame, strict=True))
    return reaches and min(extent) <= THIN * max(extent)


def with_enclosed(blob: np.ndarray, differs: np.ndarray) -> np.ndarray:
    """A blob (H, W) bool, and what differs from the scene within its outline: colours bleed around an agent, so what is
    faint there is none of it, but what it encloses is."""
    from scipy import ndimage

    out = blob.copy()
    for box in ndimage.find_objects(blob.astype(np.uint8)):
        out[box] |= ndimage.binary_fill_holes(blob[box]) & differs[box]
    return out


def _steepness(picture: np.ndarray, where: np.ndarray) -> float:
    """How steep a picture (h, w, 3) is in some places (h, w), in the mean."""
    return float(np.hypot(*np.gradient(picture.astype(np.float32), axis=(0, 1))).max(-1)[where].mean())


def _box_mask(box: np.ndarray, height: int, width: int) -> np.ndarray:
    out = np.zeros((height, width), bool)
    left, top, right, bottom = box.astype(int)
    out[top:bottom, left:right] = True
    return out


def _with_box(frame: np.ndarray, box: np.ndarray) -> np.ndarray:
    out = frame.copy()
    left, top, right, bottom = box.astype(int)
    right = min(right, frame.shape[1] - 1)
    bottom = min(bottom, frame.shape[0] - 1)
    colour = (255, 0, 255)
    out[[top, bottom], left : right + 1] = colour
    out[top : bottom + 1, [left, right]] = colour
    return out


def survey(videos: Iterable[np.ndarray]) -> Survey:
    """Look at videos, each (T, H, W, 3) uint8 of one size, one after the other.

    Raises:
        DataError: no video has two frames.
    """
    shots = []
    begins = []
    cuts = 0
    frames = 0
    looked_at = 0
    size = (0, 0)
    lengths = []
    for video in videos:
        if len(video) < 2:
            frames += len(video)
            continue
        looked_at += 1
        size = video.shape[1:3]
        found = find_cuts(video)
        cuts += len(found)
        for start, stop in zip([0, *found], [*found, len(video)], strict=True):
            lengths.append(stop - start)
            if stop - start >= SHOT or len(found) == 0:
                shots.append(survey_shot(video[start:stop]))
                begins.append(frames + int(start))
        frames += len(video)
    if not looked_at:
        raise DataError("no video has two frames; a world is learned from motion")
    length = _length_at(np.array(lengths), 0.5)  # a flash is a shot of one frame, and says little
    if not shots or (length < SHOT and len(lengths) > 1):
        nothing = [0.0] * 4
        return Survey(*size, looked_at, len(lengths), length, 1e3 * cuts / frames, *nothing, (0, 0), *nothing, 0.0, 0.0)
    out = _summary(shots, size, looked_at, length, 1e3 * cuts / frames)
    seen = [~np.isnan(shot.areas) for shot in shots]
    out.silhouettes = np.concatenate([shot.silhouettes[s] for shot, s in zip(shots, seen, strict=True)])
    out.seen_in = np.concatenate([begin + np.flatnonzero(s) for begin, s in zip(begins, seen, strict=True)])
    out.plates = [shot.plate for shot in shots]
    out.plate_of = np.concatenate([np.where(shot.fits, n, -1)[seen[n]] for n, shot in enumerate(shots)])
    out.corners = np.concatenate([shot.corners[s] for shot, s in zip(shots, seen, strict=True)])
    return out


def _summary(shots: list[Shot], size: tuple[int, int], videos: int, length: float, cuts: float) -> Survey:
    areas = np.concatenate([s.areas for s in shots])
    boxes = np.concatenate([s.boxes for s in shots])
    several = np.concatenate([_several(s) for s in shots])
    seen = ~np.isnan(areas)
    camera = np.concatenate([np.linalg.norm(s.camera, axis=1) for s in shots])
    speeds = []
    for shot in shots:
        same = np.abs(np.diff(np.log(shot.areas))) < 0.5  # the same blob, not another one
        moved = np.linalg.norm(np.diff(shot.places, axis=0), axis=1)
        speeds.append(moved[same & ~np.isnan(moved)])
    speed = np.concatenate(speeds)
    reach = np.hypot(*size) / 3  # farther than that another blob took over
    speed = speed[(speed > 0.25) & (speed < reach)]
    extent = (boxes[:, 2:] - boxes[:, :2])[seen]
    edge = (boxes[seen, :2] <= 1).any(1) | (boxes[seen, 2:] >= np.array(size[::-1]) - 1).any(1)
    explained = np.concatenate([s.explained for s in shots])

    def quantile(values: np.ndarray, share: float) -> float:
        return float(np.quantile(values, share)) if len(values) else 0.0

    fastest = _length_at(speed, 0.95)
    if (steps := speed[speed > 1]).size:  # nearer than that, too, another blob takes over now and then
        fastest = min(fastest, quantile(steps, 0.95))
    some = shots[:: max(1, len(shots) // 8)][:8]
    return Survey(
        height=size[0],
        width=size[1],
        videos=videos,
        shots=len(shots),
        shot_length=length,
        cuts=cuts,
        camera=quantile(camera, 0.9),
        seen=float(seen.mean()),
        moving=float(np.median(np.concatenate([s.moving for s in shots]))),
        explained=float(np.nanmean(explained)) if (~np.isnan(explained)).any() else 0.0,
        agent=(quantile(extent[:, 0], 0.9), quantile(extent[:, 1], 0.9)),
        area=quantile(areas[seen], 0.5) / (size[0] * size[1]),
        largest=quantile(areas[seen], 0.95) / (size[0] * size[1]),
        speed=_length_at(speed, 0.5),
        fastest=fastest,
        several=float(several[seen].mean()) if seen.any() else 0.0,
        at_edge=float(edge.mean()) if seen.any() else 0.0,
        pictures=[s.picture for s in some],
    )


def _several(shot: Shot) -> np.ndarray:
    """(T,) bool: more than one blob of one size moves here and in the frame before, or another one than there."""
    if np.isnan(shot.areas).all():
        return np.zeros(shot.frames, bool)
    size = np.nanmedian((shot.boxes[:, 2:] - shot.boxes[:, :2]).max(1))
    moves = np.diff(shot.places, axis=0)
    turns = ~(np.linalg.norm(np.diff(moves, axis=0), axis=1) <= size)
    another = (np.linalg.norm(moves, axis=1) > AWAY * size) & np.r_[True, turns] & np.r_[turns, True]
    return np.r_[False, ((shot.agents[1:] > 1) & (shot.agents[:-1] > 1)) | another]


def _length_at(lengths: np.ndarray, share: float) -> float:
    """The length up to which they make up this share of their sum: wobbles on the spot, and flashes, count little."""
    ordered = np.sort(lengths)
    return float(ordered[np.searchsorted(ordered.cumsum(), share * ordered.sum())]) if len(ordered) else 0.0
