"""The survey: find the agent and the camera's moves in the footage, and decide whether a world can be learned from it.

No network is involved. Cuts are frames in which most of the picture changes. The camera's moves come from matching
frames. The agent is the largest blob that differs from the median of its shot and keeps changing.
:mod:`training.footage.choices` chooses options (frame size, theta, shift ranges, window) from the result.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from ..data.cuts import SHOT, farthest, find_cuts
from ..data.store import DataError
from .registration import CHANGED, apart, camera_moves, match_exposure, median_background, noise_box, overlap, register

CONTRAST = 0.4
"""Pixels of a blob that differ by less than this share of its 90th percentile are smeared colours, not the agent."""
SMALLEST = 6  # Area of the smallest agent, px.
ONE_PLACE = 0.03  # Shots show one place if their plates differ in no more than this share of the pixels, on average.
STOOD = 0.3  # A pixel of the plate is unknown if the agent covers it in at least this share of the frames.
SHOWN = 0.3  # A pixel of the plate is unknown if a moving camera shows it in no more than this share of the frames.
GHOST = 0.7
"""A blob is a ghost, a place that the agent left, if its outline in the frame has less than this share of the gradient
that it has in the median."""
DOUBTED = 4  # Number of a frame's largest blobs that are tested for being ghosts.
BLURRED = 0.05
"""The plate explains a moving camera's frame if no more than this share of its pixels differs outside the agent."""
MOST = 0.35  # Largest share of the picture that may move at once; under a still camera also the largest agent.
STRIP, THIN = 0.9, 0.2
"""A blob is no agent (but waves) if it is longer than STRIP of the frame, and thinner than THIN of its length."""
SPREAD, SPARSE = 0.5, 0.3
"""Motion is scattered if its box takes SPREAD of the picture, and moving pixels less than SPARSE of the box."""
EQUAL = 0.5  # Two blobs have the same size if the smaller one has at least this share of the larger one's area.
SEVERAL = 0.3  # There are several agents if two blobs of the same size move in more than this share of the frames.
MET = 0.8  # Two agents that touch become one blob; it counts as two while it has at least this share of their area.
EXPLAINED = 0.45  # At least this share of all changed pixels must be in or near the agent.
AWAY = 2  # A blob that jumps once, by more than this many times its size, is another agent.


class NoWorldError(DataError):
    """No world can be learned from the footage; --force trains anyway."""


@dataclass
class Shot:
    """The survey of one shot of T frames; lengths are in px.

    Attributes:
        frames: T.
        camera: (T - 1, 2), moves of the whole picture, (right, down).
        moving: (T,), share of the pixels that differ from the shot's median.
        explained: (T - 1,), share of the changed pixels that lie in or near the agent; nan if none changed.
        boxes: (T, 4), the agent's box: left, top, right, bottom; nan if no agent was found.
        areas: (T,), the agent's area; nan if no agent was found.
        places: (T, 2), the agent's centre on the plate, (x, y); nan if no agent was found.
        agents: (T,) ints, number of moving blobs of the agent's size; blobs that touch are counted singly.
        silhouettes: (T, ceil(H W / 8)) uint8, the agent's pixels, packed bit by bit.
        picture: one frame, with the agent's box drawn in.
        plate: (h, w, 4) uint8, the background plate: RGB, and 255 where it is known; as large as the camera's path.
        corners: (T, 2), (x, y) of the frames' top left corners on the plate.
        fits: (T,) bool, whether the plate explains the frame.
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
    """The survey of all footage; lengths are in px.

    Attributes:
        height, width: size of the frames.
        videos: number of videos.
        shots: number of shots.
        shot_length: in frames; half of all frames are in longer shots.
        cuts: number per 1,000 frames.
        camera: the camera's move per frame, 90th percentile.
        seen: share of the frames in which an agent was found.
        moving: share of the pixels that differ from their shot's median; median over the frames.
        explained: share of the changed pixels that lie in or near the agent; mean over the frames.
        agent: (width, height) of the agent's box, 90th percentile.
        area: share of the frame that the agent covers, median.
        largest: the same, 95th percentile.
        speed: the agent's step per frame while it moves; larger steps make up half of the way.
        fastest: the same; larger steps make up a twentieth of the way, or of the moves, if that is less.
        several: share of the frames with two or more agents of the same size, or another agent than the frame before.
        at_edge: share of the frames in which the agent's box touches the frame's edge.
        rate: frames a second; None if not known.
        pictures: some frames (H, W, 3) uint8, with the agent's box drawn in.
        silhouettes: (M, ceil(H W / 8)) uint8, the agent in the M frames where it was found, packed bit by bit.
        seen_in: (M,) int64, the indices of these frames, counted through all videos.
        plates: the plates of the S shots, see :class:`Shot`.
        plate_of: (M,) int64, the plate of each of these frames; -1: none.
        corners: (M, 2), (x, y) of these frames' top left corners on their plates.
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
    rate: float | None = None
    pictures: list[np.ndarray] = field(default_factory=list, repr=False)
    silhouettes: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.uint8), repr=False)
    seen_in: np.ndarray = field(default_factory=lambda: np.zeros(0, int), repr=False)
    plates: list[np.ndarray] = field(default_factory=list, repr=False)
    plate_of: np.ndarray = field(default_factory=lambda: np.zeros(0, int), repr=False)
    corners: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), int), repr=False)

    @property
    def still(self) -> bool:
        """Whether the camera stands still in all shots: then all plates are as large as a frame."""
        return all(plate.shape[:2] == (self.height, self.width) for plate in self.plates)

    def lines(self) -> list[str]:
        """The survey as text, one line for each aspect."""
        agents = "one" if self.several <= SEVERAL else "several of one size"
        if SEVERAL / 3 < self.several <= SEVERAL:
            agents += f" (in {self.several:.0%} of the frames another of its size moves)"
        edge = f", at the frame's edge in {self.at_edge:.0%} of the frames" if self.at_edge > 0.5 else ""
        rate = f" at {self.rate:.4g} frames a second" if self.rate else ""
        length = self._time(self.shot_length)
        cuts = (
            f"{self.cuts * self.rate * 0.06:.1f} cuts a minute"
            if self.rate
            else f"{self.cuts:.1f} cuts per 1,000 frames"
        )
        second = f", {self.speed * self.rate:.0f} px a second" if self.rate else ""
        return [
            f"footage: {self.videos} videos surveyed, {self.width}x{self.height} px{rate}; {self.shots} shots of "
            f"{length}, {cuts}",
            f"camera: {'moves by up to' if self.camera >= 1 else 'stands still, within'} {self.camera:.1f} px a frame",
            f"agent: {agents}; about {self.agent[0]:.0f}x{self.agent[1]:.0f} px, {self.area:.1%} of the frame{edge}; "
            f"it moves in {self.seen:.0%} of the frames, by {self.speed:.1f} px a frame{second} (at most "
            f"{self.fastest:.0f} px a frame)",
            f"motion: {self.moving:.1%} of the pixels move; {self.explained:.0%} of all change is the agent's",
        ]

    def _time(self, frames: float) -> str:
        """A number of frames in words: in seconds, if the rate is known."""
        return f"{frames / self.rate:.2g} seconds ({frames:.0f} frames)" if self.rate else f"{frames:.0f} frames"

    def common_plate(self) -> np.ndarray | None:
        """The common plate of all shots, (H, W, 4) uint8 as in :class:`Shot`; None if the camera moves in some shot, or
        shots show several places."""
        if not self.still or not self.plates:
            return None
        plates = np.stack(self.plates)
        known = plates[..., 3:] > 0
        colours = np.ma.masked_array(plates[..., :3], np.broadcast_to(~known, plates[..., :3].shape))
        plate = np.ma.median(colours, axis=0).filled(0)
        off = farthest(plates, plate) > CHANGED
        if (off & known[..., 0]).mean() > ONE_PLACE:
            return None
        return np.dstack([plate.round().astype(np.uint8), np.uint8(255) * known.any(0)])

    def reasons_to_stop(self) -> list[str]:
        """The reasons why no world can be learned from this footage, each in a sentence; empty if one can."""
        out = []
        spread = self.agent[0] * self.agent[1] / (self.height * self.width)
        if self.shot_length < SHOT:
            out.append(
                f"cuts everywhere: shots have {self._time(self.shot_length)}, an action needs at least {SHOT}; use "
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
        elif spread > SPREAD and self.area < SPARSE * spread:
            out.append(
                f"what moves is scattered over {spread:.0%} of the picture ({self.moving:.0%} moves at once): a "
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
    """Survey the frames (T, H, W, 3) uint8 of one shot, T >= 2."""
    from scipy import ndimage

    count, height, width, _ = frames.shape
    camera = camera_moves(frames)
    still, shown, corners = register(frames, camera)
    size = np.array(still.shape[2:0:-1])
    median, _ = median_background(still, shown)
    if (matched := match_exposure(still, median, shown)) is not still:
        still = matched
        median, _ = median_background(still, shown)
    known = shown & (shown.mean(0) > SHOWN)
    plate = median.astype(np.float32)
    box = noise_box(still, plate, known)
    far = np.stack([apart(frame, plate, box) for frame in still])
    differs = far > CHANGED
    changes = np.stack([apart(after, before, box) > CHANGED for before, after in pairwise(still)])
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
    met: list[np.ndarray] = []  # agents of one size in the frame before; `both`: their total area
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
        own &= far[t] >= CONTRAST * np.quantile(far[t][own], 0.9)  # without smeared colours
        own = with_enclosed(own, differs[t])
        found[t] = own
        ys, xs = np.nonzero(own)
        boxes[t] = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
        areas[t] = len(xs)
        places[t] = xs.mean(), ys.mean()
        if t and changes[t - 1].any():
            near = ndimage.binary_dilation(names == main, iterations=gap)
            if not np.isnan(boxes[t - 1, 0]):
                left, top, right, bottom = boxes[t - 1].astype(int)
                near[top:bottom, left:right] = True
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
    """Whether a blob of size `extent` is a strip (STRIP, THIN) in a frame, both (height, width)."""
    reaches = any(length >= STRIP * whole for length, whole in zip(extent, frame, strict=True))
    return reaches and min(extent) <= THIN * max(extent)


def with_enclosed(blob: np.ndarray, differs: np.ndarray) -> np.ndarray:
    """Add to a blob (H, W) bool the enclosed pixels that differ from the plate, `differs` (H, W) bool.

    Faint pixels around an agent are smeared colours, but those inside it belong to it.
    """
    from scipy import ndimage

    out = blob.copy()
    for box in ndimage.find_objects(blob.astype(np.uint8)):
        out[box] |= ndimage.binary_fill_holes(blob[box]) & differs[box]
    return out


def _steepness(picture: np.ndarray, where: np.ndarray) -> float:
    """Mean gradient magnitude of a picture (h, w, 3) over the pixels `where` (h, w)."""
    return float(np.hypot(*np.gradient(picture.astype(np.float32), axis=(0, 1))).max(-1)[where].mean())


def _with_box(frame: np.ndarray, box: np.ndarray) -> np.ndarray:
    out = frame.copy()
    left, top, right, bottom = box.astype(int)
    right = min(right, frame.shape[1] - 1)
    bottom = min(bottom, frame.shape[0] - 1)
    colour = (255, 0, 255)
    out[[top, bottom], left : right + 1] = colour
    out[top : bottom + 1, [left, right]] = colour
    return out


def survey(videos: Iterable[np.ndarray], rate: float | None = None) -> Survey:
    """Survey videos (T, H, W, 3) uint8, all of one size, one after the other, of `rate` frames a second.

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
    length = _length_at(np.array(lengths), 0.5)  # a flash makes shots of one frame, which weigh little
    if not shots or (length < SHOT and len(lengths) > 1):
        nothing = [0.0] * 4
        return Survey(
            *size, looked_at, len(lengths), length, 1e3 * cuts / frames, *nothing, (0, 0), *nothing, 0.0, 0.0, rate
        )
    out = _summary(shots, size, looked_at, length, 1e3 * cuts / frames)
    out.rate = rate
    seen = [~np.isnan(shot.areas) for shot in shots]
    out.silhouettes = np.concatenate([shot.silhouettes[s] for shot, s in zip(shots, seen, strict=True)])
    out.seen_in = np.concatenate([begin + np.flatnonzero(s) for begin, s in zip(begins, seen, strict=True)])
    out.plates = [shot.plate for shot in shots]
    out.plate_of = np.concatenate([np.where(shot.fits, n, -1)[seen[n]] for n, shot in enumerate(shots)])
    out.corners = np.concatenate([shot.corners[s] for shot, s in zip(shots, seen, strict=True)])
    return out


def _summary(shots: list[Shot], size: tuple[int, int], videos: int, length: float, cuts: float) -> Survey:
    """Summarise the surveys of shots; pictures are chosen, but no silhouettes and plates."""
    areas = np.concatenate([s.areas for s in shots])
    boxes = np.concatenate([s.boxes for s in shots])
    several = np.concatenate([_several(s) for s in shots])
    seen = ~np.isnan(areas)
    camera = np.concatenate([np.linalg.norm(s.camera, axis=1) for s in shots])
    speeds = []
    for shot in shots:
        same = np.abs(np.diff(np.log(shot.areas))) < 0.5  # else it is another blob
        moved = np.linalg.norm(np.diff(shot.places, axis=0), axis=1)
        speeds.append(moved[same & ~np.isnan(moved) & ~_leaps(shot)])
    speed = np.concatenate(speeds)
    reach = np.hypot(*size) / 3  # a farther blob is another one
    speed = speed[(speed > 0.25) & (speed < reach)]
    extent = (boxes[:, 2:] - boxes[:, :2])[seen]
    edge = (boxes[seen, :2] <= 1).any(1) | (boxes[seen, 2:] >= np.array(size[::-1]) - 1).any(1)
    explained = np.concatenate([s.explained for s in shots])

    def quantile(values: np.ndarray, share: float) -> float:
        return float(np.quantile(values, share)) if len(values) else 0.0

    fastest = _length_at(speed, 0.95)
    if (steps := speed[speed > 1]).size:  # some nearer blobs are other ones, too
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
    """(T,) bool: two blobs of the same size move in this frame and the one before, or the agent is another one."""
    return np.r_[False, ((shot.agents[1:] > 1) & (shot.agents[:-1] > 1)) | _leaps(shot)]


def _leaps(shot: Shot) -> np.ndarray:
    """(T - 1,) bool: the agent is another one in the next frame, since it jumps once, by more than AWAY times its size.

    Where a sample of a video leaves frames out, the same agent may leap.
    """
    if np.isnan(shot.areas).all():
        return np.zeros(shot.frames - 1, bool)
    size = np.nanmedian((shot.boxes[:, 2:] - shot.boxes[:, :2]).max(1))
    moves = np.diff(shot.places, axis=0)
    turns = ~(np.linalg.norm(np.diff(moves, axis=0), axis=1) <= size)
    return (np.linalg.norm(moves, axis=1) > AWAY * size) & np.r_[True, turns] & np.r_[turns, True]


def _length_at(lengths: np.ndarray, share: float) -> float:
    """A quantile weighted by length: lengths up to it make up this share of their sum."""
    ordered = np.sort(lengths)
    return float(ordered[np.searchsorted(ordered.cumsum(), share * ordered.sum())]) if len(ordered) else 0.0
