"""One shot: what moves in it, and the agent's way through it.

:func:`see_shots` registers the frames of shots, estimates their backgrounds, and links what differs from them to
tracks; then it is not known yet which of them is the agent. :func:`follow` measures the agent, once it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from .registration import (
    CHANGED,
    MOST,
    OFTEN,
    apart,
    camera_moves,
    match_exposure,
    median_background,
    noise_box,
    noise_of,
    overlap,
    register,
    show_one_place,
    turned,
)
from .tracks import Blob, Track, find_blobs, join, link, overlap_of, rim_of, steepness

BLURRED = 0.05  # A plate explains a frame if no more than this share of its pixels differs outside the agent.


@dataclass
class Seen:
    """What one shot of T frames shows, before it is known which thing is the agent; lengths are in px.

    Attributes:
        frames: (T, H, W, 3) uint8; only those that may become a picture are kept, by index.
        camera, moving, corners: as in :class:`Shot`.
        plate: (h, w, 3), the median; `known`: (h, w) bool; `shown`: (h, w), number of frames that show a pixel.
        changes: (T - 1, ceil(h w / 8)) uint8, the pixels that change from frame to frame, packed bit by bit.
        turned: share of the picture in which what has edges moves, if that is more than what stands still; else 0.
        tracks: the things that move.
        noise: its standard deviation, of 255.
        light: by how much the whole picture is brighter or darker at most, of 255; it was evened out.
    """

    frames: dict[int, np.ndarray]
    camera: np.ndarray
    moving: np.ndarray
    corners: np.ndarray
    plate: np.ndarray
    known: np.ndarray
    shown: np.ndarray
    changes: np.ndarray
    turned: float
    tracks: list[Track]
    noise: float = 0.0
    light: float = 0.0

    @property
    def count(self) -> int:
        """T."""
        return len(self.corners)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return next(iter(self.frames.values())).shape[:2]


@dataclass
class Shot:
    """The survey of one shot of T frames; lengths are in px.

    Attributes:
        frames: T.
        camera: (T - 1, 2), moves of the whole picture, (right, down).
        turned: as in :class:`Seen`.
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
    turned: float
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


def see_shots(
    video: np.ndarray, spans: Sequence[slice], of_place: tuple[np.ndarray, float] | None = None
) -> list[Seen]:
    """See what shots of a video show; still shots of one place share their plate.

    Args:
        video: (T, H, W, 3) uint8.
        spans: the shots.
        of_place: the plate (H, W, 3) of the place in other videos, and the smallest area, px, of a thing that may stand
            there throughout a shot; still shots are seen against it (:func:`cleared`).
    """
    cameras = [camera_moves(video[span]) for span in spans]
    plates = [None if camera.any() else median_background(video[span], None)[0]
              for span, camera in zip(spans, cameras, strict=True)]  # fmt: skip
    places: list[list[int]] = []
    for n, plate in enumerate(plates):
        same = (p for p in places if plate is not None and (first := plates[p[0]]) is not None
                and show_one_place(first, plate))  # fmt: skip
        if (place := next(same, None)) is None:
            places.append([n])
        else:
            place.append(n)
    out: dict[int, Seen] = {}
    for place in places:
        frames = video[spans[place[0]]] if len(place) == 1 else np.concatenate([video[spans[n]] for n in place])
        whole, shown, corners = register(frames, cameras[place[0]] if len(place) == 1 else np.zeros((1, 2), int))
        plate, _ = median_background(whole, shown)
        if (matched := match_exposure(whole, plate, shown)) is not whole:
            brighter = np.array([np.median(a.astype(int) - b) for a, b in zip(matched, whole, strict=True)])
            whole = matched
            plate, _ = median_background(whole, shown)
        else:
            brighter = np.zeros(len(whole))
        known = shown & (shown.mean(0) > OFTEN)
        noise = noise_of(whole, plate, known)
        if of_place is not None and not cameras[place[0]].any() and show_one_place(of_place[0], plate):
            plate = cleared(plate, *of_place, noise)
        light = float(np.abs(brighter).max())
        box = noise_box(noise)
        begin = 0
        for n in place:
            part = slice(begin, begin + len(cameras[n]) + 1)
            shot = _see(video[spans[n]], cameras[n], whole[part], shown[part], known[part], corners[part], plate, box)
            out[n] = replace(shot, noise=noise, light=light)
            begin = part.stop
    return [out[n] for n in range(len(spans))]


def cleared(plate: np.ndarray, other: np.ndarray, least: float, noise: float) -> np.ndarray:
    """A plate (H, W, 3) without what stands there and is not in another plate of the same place.

    Of a region in which they differ, the plate with the steeper rim shows a thing, the other one what is behind it.

    Args:
        plate: its colours are kept elsewhere.
        other: (H, W, 3), of any exposure.
        least: smallest area of such a region, px.
        noise: as of :func:`noise_of`.
    """
    from scipy import ndimage

    other = match_exposure(other.round().astype(np.uint8)[None], plate, np.ones((1, *plate.shape[:2]), bool))[0]
    names, _ = ndimage.label(apart(other, plate, noise_box(noise)) > CHANGED, np.ones((3, 3)))
    stands = np.zeros(names.shape, bool)
    for n in np.flatnonzero(np.bincount(names.ravel())[1:] >= least) + 1:
        rim = rim_of(names == n)
        stands |= (names == n) & (steepness(other, rim) < steepness(plate, rim))
    stands = ndimage.binary_dilation(stands, iterations=2)
    return np.where(stands[..., None], other, plate)


def _see(
    frames: np.ndarray,
    camera: np.ndarray,
    whole: np.ndarray,
    shown: np.ndarray,
    known: np.ndarray,
    corners: np.ndarray,
    plate: np.ndarray,
    box: int,
) -> Seen:
    """See one shot, whose frames are registered; arguments as in :func:`register` and :func:`noise_box`."""
    count, height, width, _ = frames.shape
    plate = plate.astype(np.float32)
    changes = np.stack([apart(after, before, box) > CHANGED for before, after in pairwise(whole)])
    changes &= known[1:] & known[:-1]
    blobs = []
    moving = np.zeros(count)
    for t, frame in enumerate(whole):
        far = apart(frame, plate, box)
        differs = known[t] & (far > CHANGED)
        moving[t] = differs.sum() / (height * width)
        changed = changes[max(0, t - 1) : t + 1].any(0)
        blobs.append(find_blobs(differs, far, changed, frame, plate))
    pictured = {round(share * (count - 1)) for share in (0.5, 0.25, 0.75, 0, 1)}
    return Seen(
        frames={t: frames[t].copy() for t in pictured},
        camera=camera,
        moving=moving,
        corners=corners,
        plate=plate,
        known=known.any(0),
        shown=shown.sum(0),
        changes=np.packbits(changes.reshape(count - 1, -1), axis=1),
        turned=turned(whole, known),
        tracks=join(link(blobs)),
    )


def follow(seen: Seen, agent: Sequence[Track] | None = None) -> Shot:
    """Follow the agent through a shot: the tracks `agent`; by default the largest thing in each frame."""
    from scipy import ndimage

    count, (height, width) = seen.count, seen.size
    canvas = seen.plate.shape[:2]
    boxes = np.full((count, 4), np.nan)
    areas = np.full(count, np.nan)
    places = np.full((count, 2), np.nan)
    agents = np.zeros(count, int)
    explained = np.full(count - 1, np.nan)
    stood = np.zeros(canvas, int)
    silhouettes = np.zeros((count, height, width), bool)
    met: list[Blob] = []  # agents of one size in the frame before; `both`: their total area
    both = np.inf
    before: list[Blob] = []
    for t in range(count):
        things = [track.blobs[t] for track in seen.tracks if t in track.blobs]
        own = things if agent is None else [track.blobs[t] for track in agent if t in track.blobs]
        if not own:
            before = []
            continue
        main = max(own, key=lambda blob: blob.weight)
        equal = [blob for blob in things if blob.leaves >= main.leaves and 2 * blob.area >= main.area]
        agents[t] = len(equal) if agent is None else 1
        if agents[t] > 1:
            met = equal
            both = sum(blob.area for blob in equal) if t and agents[t - 1] > 1 else np.inf
        elif met and main.area >= MOST * both and all(overlap_of(blob, main) for blob in met):
            met, agents[t] = [main], max(1, agents[t - 1])
        else:
            met = []
        found = np.zeros(canvas, bool)
        found[main.part] = main.mask
        stood += found
        ys, xs = np.nonzero(found)
        boxes[t] = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
        areas[t] = len(xs)
        places[t] = xs.mean(), ys.mean()
        there, here = overlap(seen.corners[t], canvas[::-1], (width, height))
        silhouettes[t][here] = found[there]
        if t:
            changes = np.unpackbits(seen.changes[t - 1], count=canvas[0] * canvas[1]).reshape(canvas).astype(bool)
            others = [] if agent is None else [blob for blob in things if blob is not main]
            for blob in (*others, *before[1:]):
                changes[blob.part] = False
            if changes.any():
                near = np.zeros(canvas, bool)
                near[main.part] = main.outline
                near = ndimage.binary_dilation(near, iterations=max(1, round(0.01 * max(canvas))))
                if before:
                    near[before[0].part] = True
                explained[t - 1] = (changes & near).sum() / changes.sum()
            before = [main, *others]
        else:
            before = [main]
    boxes -= np.tile(seen.corners, 2)
    own = np.nan_to_num(areas)
    own = np.minimum(own, 2 * np.median(own[own > 0])) if own.any() else own  # what is larger is no agent
    alone = seen.moving - own / (height * width)
    known = seen.known & (stood < OFTEN * np.maximum(1, seen.shown))
    return Shot(
        frames=count,
        camera=seen.camera,
        turned=seen.turned,
        moving=seen.moving,
        explained=explained,
        boxes=boxes,
        areas=areas,
        places=places,
        agents=agents,
        silhouettes=np.packbits(silhouettes.reshape(count, -1), axis=1),
        picture=_pictured(seen, boxes),
        plate=np.dstack([seen.plate.astype(np.uint8), np.uint8(255) * known]),
        corners=seen.corners,
        fits=(alone <= BLURRED) | (not seen.camera.any()),
    )


def _pictured(seen: Seen, boxes: np.ndarray) -> np.ndarray:
    """The picture of a shot: the frame nearest to its middle in which the agent is seen."""
    order = sorted(seen.frames, key=lambda t: (np.isnan(boxes[t, 0]), abs(t - seen.count // 2)))
    t = order[0]
    return seen.frames[t].copy() if np.isnan(boxes[t, 0]) else _with_box(seen.frames[t], boxes[t])


def _with_box(frame: np.ndarray, box: np.ndarray) -> np.ndarray:
    out = frame.copy()
    left, top, right, bottom = box.astype(int)
    right = min(right, frame.shape[1] - 1)
    bottom = min(bottom, frame.shape[0] - 1)
    colour = (255, 0, 255)
    out[[top, bottom], left : right + 1] = colour
    out[top : bottom + 1, [left, right]] = colour
    return out
