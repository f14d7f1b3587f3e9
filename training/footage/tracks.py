"""Tracks: what moves before the background plate, frame by frame, and which of it is one thing.

Blobs of pixels that differ from the plate are linked from frame to frame to tracks, within one shot. Tracks that keep
close to each other are parts of one thing. Tracks of all shots that are similar in place, size and colour are one
candidate for being the agent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np

from .registration import CHANGED, MOST, OFTEN, SMALL

SMALLEST = 6  # Area of the smallest agent, px.
CONTRAST = 0.4
"""Pixels of a blob that differ by less than this share of its 90th percentile may be smeared colours or a shadow."""
TOUCH = 0.25  # Parts are one thing in a frame if their distance is at most this share of the larger one's size.
APART = (
    2.0  # Parts are one thing in a shot if they stay as near, and move against each other by no more times that size.
)
UNLIKE = 1.8  # Tracks of several shots are one thing if they are not more unlike than this.
FOLLOWED = 12  # Number of a frame's largest blobs that are followed.


@dataclass(eq=False)
class Blob:
    """Connected pixels of a frame that differ from the plate; its size is the root of its area.

    Attributes:
        box: left, top, right, bottom on the plate, px.
        outline: (bottom - top, right - left) bool, its pixels.
        mask: the same without smeared colours and shadows.
        area: of the mask, px.
        moves: whether enough of it changes from frame to frame.
        ghost: whether it is a place that something left.
        colour: mean RGB.
        leaves: whether its track leaves the place where it is seen first.
    """

    box: tuple[int, int, int, int]
    outline: np.ndarray
    mask: np.ndarray
    area: int
    moves: bool
    ghost: bool
    colour: np.ndarray
    leaves: bool = True

    @property
    def weight(self) -> float:
        """Its area; that of what never leaves its place, such as a lamp, waves or a crowd, counts little."""
        return self.area if self.leaves else SMALL * self.area

    @property
    def size(self) -> float:
        """The root of its area, px."""
        return float(np.sqrt(self.area))

    def is_like(self, other: Blob) -> bool:
        """Whether neither of two blobs is more than twice as large."""
        return 2 * min(self.area, other.area) >= max(self.area, other.area)

    @cached_property
    def rim(self) -> Any:
        """The pixels of its rim, (x, y), to be searched."""
        rows, columns = np.nonzero(rim_of(self.outline))
        from scipy.spatial import cKDTree

        return cKDTree(np.stack([columns + self.box[0], rows + self.box[1]], 1))

    @property
    def middle(self) -> np.ndarray:
        """(x, y) of the middle of its box."""
        return np.add(self.box[:2], self.box[2:]) / 2

    @property
    def part(self) -> tuple[slice, slice]:
        """Where it is on the plate: rows, columns."""
        left, top, right, bottom = self.box
        return slice(top, bottom), slice(left, right)


@dataclass(eq=False)
class Track:
    """One thing in a shot: its blobs by frame."""

    blobs: dict[int, Blob] = field(default_factory=dict)

    @property
    def weight(self) -> int:
        """Sum of its areas, px."""
        return sum(blob.area for blob in self.blobs.values())

    @property
    def alive(self) -> bool:
        """Whether it moves now and then, and is no ghost most of the time."""
        blobs = self.blobs.values()
        moving = sum(blob.moves and not blob.ghost for blob in blobs)
        return moving >= SMALL * len(blobs) and 2 * sum(blob.ghost for blob in blobs) <= len(blobs)

    @property
    def acts(self) -> bool:
        """Whether it moves often."""
        return bool(np.mean([blob.moves for blob in self.blobs.values()]) > OFTEN)

    @property
    def travels(self) -> bool:
        """Whether it is out of the place where it is seen first, or last: ever if it moves often, else for long."""
        blobs = list(self.blobs.values())
        away = [np.mean([not overlap_of(end, blob, "mask") for blob in blobs]) for end in (blobs[0], blobs[-1])]
        return bool(max(away) > (0 if self.acts else SMALL))

    def without_still(self) -> Track:
        """The track without ghosts, and without what hardly ever moves and never leaves its place while it is still."""
        leaves = self.travels
        acts = leaves or self.acts
        for blob in self.blobs.values():
            blob.leaves = leaves
        return Track({t: blob for t, blob in self.blobs.items() if not blob.ghost and (blob.moves or acts)})


def find_blobs(
    differs: np.ndarray, far: np.ndarray, changed: np.ndarray, frame: np.ndarray, plate: np.ndarray
) -> list[Blob]:
    """The largest blobs of a frame, the largest first.

    Args:
        differs: (h, w) bool, pixels that differ from the plate.
        far: (h, w), by how much.
        changed: (h, w) bool, pixels that differ from the frame before or after.
        frame, plate: (h, w, 3).
    """
    from scipy import ndimage

    height, width = differs.shape
    gap = max(1, round(0.01 * max(height, width)))
    joined = ndimage.binary_dilation(differs, iterations=gap) if differs.any() else differs
    names, number = ndimage.label(joined)
    if not number:
        return []
    area = np.bincount(names[differs], minlength=number + 1)[1:]
    active = np.bincount(names[changed & joined], minlength=number + 1)[1:]
    spans = ndimage.find_objects(names)
    out = []
    for n in np.argsort(-area)[:FOLLOWED]:
        if area[n] < SMALLEST:
            continue
        rows, columns = spans[n]
        part = (slice(max(0, rows.start - 1), rows.stop + 1), slice(max(0, columns.start - 1), columns.stop + 1))
        outline = differs[part] & (names[part] == n + 1)
        rim = rim_of(outline)
        ghost = steepness(frame[part], rim) < MOST * steepness(plate[part], rim)
        mask = _solid(outline, far[part], frame[part], plate[part])
        box = (part[1].start, part[0].start, part[1].start + outline.shape[1], part[0].start + outline.shape[0])
        colour = frame[part][mask].mean(0)
        out.append(Blob(box, outline, mask, int(mask.sum()), bool(active[n] >= SMALL / 2 * area[n]), ghost, colour))
    return out


def rim_of(blob: np.ndarray) -> np.ndarray:
    """The pixels of a blob (h, w) bool that have a neighbour outside it."""
    padded = np.pad(blob, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return blob & ~inside


def _solid(outline: np.ndarray, far: np.ndarray, frame: np.ndarray, plate: np.ndarray) -> np.ndarray:
    """A blob (h, w) bool without smeared colours and shadows, but with what it encloses.

    Colours are smeared beside pixels that differ by much more. A shadow is the plate, darkened: where the agent differs
    by much more, or if its border is soft.
    """
    from scipy import ndimage

    seen, ground = frame.astype(np.float32), plate.astype(np.float32)
    gain = (seen * ground).sum(-1) / np.maximum(1, (ground**2).sum(-1))
    shaded = outline & (np.abs(seen - gain[..., None] * ground).max(-1) < CHANGED / 2) & (np.abs(gain - 1) < 0.5)
    faint = far < CONTRAST * np.quantile(far[outline], 0.9)
    beside = CONTRAST * ndimage.maximum_filter(np.where(outline, far, 0), 5) > far
    light = shaded & faint & (gain < 1)
    names, number = ndimage.label(shaded)
    if number:
        slope = np.hypot(*np.gradient(far.astype(np.float32)))
        border = shaded & ndimage.binary_dilation(~np.pad(outline, 1))[1:-1, 1:-1]
        slopes = ndimage.median(slope, np.where(border, names, 0), np.arange(1, number + 1))
        light |= np.r_[False, slopes < CHANGED / 3][names]
    reach = round(SMALL / 2 * np.sqrt(outline.sum()))
    pale = outline & faint & ~beside & ~light
    if pale.any():  # bedding and leaves that were moved are small pieces
        pale = ndimage.binary_opening(pale, iterations=max(1, reach))
    mask = outline & ~light & ~faint | pale
    mask = mask if mask.any() else outline
    closed = mask
    if reach:
        padded = np.pad(mask, reach)
        closed = ndimage.binary_closing(padded, iterations=reach)[reach:-reach, reach:-reach]
    return mask | ndimage.binary_fill_holes(closed) & (far > CHANGED / 2)


def with_enclosed(blob: np.ndarray, differs: np.ndarray) -> np.ndarray:
    """Add to a blob (H, W) bool the enclosed pixels that differ from the plate, `differs` (H, W) bool.

    Faint pixels around an agent are smeared colours, but those inside it belong to it.
    """
    from scipy import ndimage

    out = blob.copy()
    for box in ndimage.find_objects(blob.astype(np.uint8)):
        out[box] |= ndimage.binary_fill_holes(blob[box]) & differs[box]
    return out


def steepness(picture: np.ndarray, where: np.ndarray) -> float:
    """Mean gradient magnitude of a picture (h, w, 3) over the pixels `where` (h, w)."""
    if min(picture.shape[:2]) < 2:
        return 0.0
    return float(np.hypot(*np.gradient(picture.astype(np.float32), axis=(0, 1))).max(-1)[where].mean())


def link(blobs: Sequence[list[Blob]]) -> list[Track]:
    """Link the blobs of a shot's frames: those that overlap most, then the nearest of the same size."""
    tracks: list[Track] = []
    before: list[tuple[Track, Blob]] = []
    for t, now in enumerate(blobs):
        pairs = []
        for a, (_, old) in enumerate(before):
            for b, new in enumerate(now):
                if shared := overlap_of(old, new):
                    pairs.append((-shared, a, b))
                elif old.is_like(new):
                    pairs.append((_distance(old, new), a, b))
        track_of: dict[int, Track] = {}
        taken = set()
        for _, a, b in sorted(pairs):
            if a not in taken and b not in track_of:
                taken.add(a)
                track_of[b] = before[a][0]
        before = []
        for b, blob in enumerate(now):
            if b not in track_of:
                tracks.append(Track())
            track = track_of.get(b, tracks[-1])
            track.blobs[t] = blob
            before.append((track, blob))
    return tracks


def overlap_of(one: Blob, other: Blob, pixels: str = "outline") -> int:
    """Number of px that the outline of a blob shares with the outline, or the mask, of another one."""
    left, top = max(one.box[0], other.box[0]), max(one.box[1], other.box[1])
    right, bottom = min(one.box[2], other.box[2]), min(one.box[3], other.box[3])
    if left >= right or top >= bottom:
        return 0
    a, b = (
        getattr(blob, name)[top - blob.box[1] : bottom - blob.box[1], left - blob.box[0] : right - blob.box[0]]
        for blob, name in ((one, "outline"), (other, pixels))
    )
    return int((a & b).sum())


def _distance(one: Blob, other: Blob) -> float:
    """Distance of the middles of two boxes, px."""
    return float(np.linalg.norm(one.middle - other.middle))


def _gap(one: Blob, other: Blob, most: float) -> float:
    """Smallest distance of two outlines, px; only that of their boxes if it is more than `most`."""
    a, b = np.array(one.box), np.array(other.box)
    boxes = float(np.linalg.norm(np.maximum(0, np.maximum(a[:2] - b[2:], b[:2] - a[2:]))))
    return boxes if boxes > most else float(one.rim.query(other.rim.data)[0].min())


def join(tracks: Iterable[Track]) -> list[Track]:
    """Join tracks of a shot that are parts of one thing; what stands still or is a ghost stays out.

    Parts belong together in all frames if they keep their relative place, and in those in which they nearly touch.
    """
    living = [track.without_still() for track in tracks if track.alive]
    living.sort(key=lambda track: -track.weight)
    for large, small in combinations(living, 2):
        common = sorted(large.blobs.keys() & small.blobs.keys())
        gaps, offsets = {}, []
        for t in common:
            one, other = large.blobs[t], small.blobs[t]
            size = max(one.size, other.size)
            gaps[t] = _gap(one, other, TOUCH * size) / size
            offsets.append((other.middle - one.middle) / size)
        together = 2 * len(common) > len(small.blobs) and max(gaps.values()) <= APART
        together = together and np.ptp(offsets, axis=0).max() <= APART
        together = together and small.weight >= SMALL * sum(large.blobs[t].area for t in common)
        for t in sorted(small.blobs) if together else common:
            if together or gaps[t] <= TOUCH:
                blob = small.blobs.pop(t)
                large.blobs[t] = _union(large.blobs[t], blob) if t in large.blobs else blob
    return [track for track in living if track.blobs]


def _union(one: Blob, other: Blob) -> Blob:
    a, b = np.array(one.box), np.array(other.box)
    corner, end = np.minimum(a[:2], b[:2]), np.maximum(a[2:], b[2:])
    outline, mask = (np.zeros(end[::-1] - corner[::-1], bool) for _ in range(2))
    for blob in (one, other):
        part = tuple(slice(s.start - c, s.stop - c) for s, c in zip(blob.part, corner[::-1], strict=True))
        outline[part] |= blob.outline
        mask[part] |= blob.mask
    area = one.area + other.area
    colour = (one.area * one.colour + other.area * other.colour) / area
    return Blob((*corner.tolist(), *end.tolist()), outline, mask, area, one.moves or other.moves,
                one.ghost and other.ghost, colour, one.leaves or other.leaves)  # fmt: skip


@dataclass(eq=False)
class Candidate:
    """A thing that may be the agent, in all shots.

    Attributes:
        area: its mean share of the frame.
        place: its mean (x, y), as shares of the frame's width and height.
        colour: its mean RGB.
        tracks: its tracks by shot.
    """

    area: float
    place: np.ndarray
    colour: np.ndarray
    tracks: dict[int, list[Track]] = field(default_factory=dict)
    weight: float = 0.0

    def unlike(self, other: Candidate) -> float:
        """How different two candidates are: 1 is a size that is e times larger, or a third of the frame away."""
        colour = np.linalg.norm(self.colour - other.colour) / 255
        return float(abs(np.log(self.area / other.area)) + 3 * np.linalg.norm(self.place - other.place) + colour)

    def add(self, other: Candidate) -> None:
        """Add the tracks of another candidate, and take the mean of both."""
        total = self.weight + other.weight
        for name in ("area", "place", "colour"):
            mean = (self.weight * getattr(self, name) + other.weight * getattr(other, name)) / total
            setattr(self, name, mean)
        self.weight = total
        for shot, tracks in other.tracks.items():
            self.tracks.setdefault(shot, []).extend(tracks)

    def is_free(self, other: Candidate) -> bool:
        """Whether it is never seen together with `other`, which would then be another thing."""
        for shot, tracks in other.tracks.items():
            mine = set().union(*(track.blobs for track in self.tracks.get(shot, [])))
            if any(len(mine & track.blobs.keys()) > SMALL * len(track.blobs) for track in tracks):
                return False
        return True

    def box(self, shot: int, t: int) -> tuple[int, int, int, int] | None:
        """Its box on the plate of a shot in frame t; None if it is not seen there."""
        return next((track.blobs[t].box for track in self.tracks.get(shot, []) if t in track.blobs), None)


def candidates_of(shots: Sequence[tuple[list[Track], np.ndarray]], height: int, width: int) -> list[Candidate]:
    """The things that may be the agent, the one that moves most first.

    Args:
        shots: the tracks of each shot, and (T, 2) px, (x, y) of its frames' top left corners on its plate.
        height, width: of the frames, px.
    """
    single = []
    for shot, (tracks, corners) in enumerate(shots):
        for track in tracks:
            blobs = list(track.blobs.values())
            if len(blobs) < 2:
                continue
            middle = np.mean([b.middle - corners[t] for t, b in track.blobs.items()], axis=0)
            area = np.mean([blob.area for blob in blobs]) / (height * width)
            colour = np.mean([blob.colour for blob in blobs], axis=0)
            weight = float(area * len(blobs))
            single.append(Candidate(float(area), middle / (width, height), colour, {shot: [track]}, weight))
    out: list[Candidate] = []
    for one in sorted(single, key=lambda c: -c.weight):
        similar = [known for known in out if known.unlike(one) < UNLIKE and known.is_free(one)]
        if similar:
            min(similar, key=one.unlike).add(one)
        else:
            out.append(one)
    out.sort(key=lambda c: -c.weight)
    return [c for c in out if c.weight > SMALL * out[0].weight][:9]
