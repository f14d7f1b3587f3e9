"""The survey: find the agent and the camera's moves in the footage, and decide whether a world can be learned from it.

No network is involved. Cuts are frames in which most of the picture changes. The camera's moves come from matching
frames. The agent is the largest blob that differs from the median of its shot and keeps changing.
:mod:`training.footage.choices` chooses options (frame size, theta, shift ranges, window) from the result.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from ..data.cuts import SHOT, farthest, find_cuts
from ..data.store import DataError
from .registration import (
    CHANGED,
    MOST,
    OFTEN,
    SMALL,
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
from .tracks import APART, Blob, Candidate, Track, candidates_of, find_blobs, join, link, overlap_of

TURNED = 0.2  # A camera turns if all edges move in more than this share of the picture.
BLURRED = 0.05  # A plate explains a frame if no more than this share of its pixels differs outside the agent.


Agent = int | tuple[float, float] | Candidate


class NoWorldError(DataError):
    """No world can be learned from the footage; --force trains anyway."""


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
        turned: share of the picture in which all edges move, median over the shots; 0 if more of it stands still.
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
        candidates: the things that move and may be the agent, the one that moves most first.
        chosen: the one that was chosen; None: the largest in each frame.
        noise, light: as in :class:`Seen`, the median and the largest of all shots.
    """

    height: int
    width: int
    videos: int
    shots: int
    shot_length: float
    cuts: float
    camera: float
    turned: float
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
    candidates: list[Candidate] = field(default_factory=list, repr=False)
    chosen: Candidate | None = field(default=None, repr=False)
    noise: float = 0.0
    light: float = 0.0

    @property
    def still(self) -> bool:
        """Whether the camera stands still in all shots: then all plates are as large as a frame."""
        return all(plate.shape[:2] == (self.height, self.width) for plate in self.plates)

    def lines(self) -> list[str]:
        """The survey as text, one line for each aspect."""
        agents = "one" if self.several <= OFTEN else "several of one size"
        if SMALL < self.several <= OFTEN:
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
        evened = f"; the light changes by up to {self.light:.0f} of 255, evened out" if self.light >= 3 else ""
        noise = f"; noise of {self.noise:.0f} of 255" if self.noise >= 1 else ""
        moves = "moves by up to" if self.camera >= 1 else "stands still, within"
        return [
            f"footage: {self.videos} videos surveyed, {self.width}x{self.height} px{rate}; {self.shots} shots of "
            f"{length}, {cuts}",
            f"camera: {moves} {self.camera:.1f} px a frame{noise}{evened}",
            f"agent: {agents}; about {self.agent[0]:.0f}x{self.agent[1]:.0f} px, {self.area:.1%} of the frame{edge}; "
            f"it is seen in {self.seen:.0%} of the frames, and moves by {self.speed:.1f} px a frame{second} (at most "
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
        if (off & known[..., 0]).mean() > BLURRED:
            return None
        return np.dstack([plate.round().astype(np.uint8), np.uint8(255) * known.any(0)])

    def reasons_to_stop(self) -> list[str]:
        """The reasons why no world can be learned from this footage, each in a sentence; empty if one can."""
        out = []
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
        elif self.turned > TURNED:
            out.append(
                f"{self.turned:.0%} of the picture moves at once: a camera that turns, zooms or follows the agent, or "
                "an agent that fills the picture; a world needs a background that stands still"
            )
        elif self.several > OFTEN:
            out.append(
                f"in {self.several:.0%} of the frames two or more agents of one size move, at once or by turns; a "
                "world has one agent: choose it by its number in the survey's picture (--agent 2) or by its place "
                "there (--agent 320,240, px), or crop the others out (--read.crop)"
            )
        return out

    def warnings(self) -> list[str]:
        """What may make the world worse, each in a sentence."""
        out = []
        if self.area > OFTEN:
            out.append(f"the agent covers {self.area:.0%} of the frame: little of the background is seen")
        if SMALL < self.several <= OFTEN:
            out.append(
                f"in {self.several:.0%} of the frames another thing of the agent's size moves: --agent chooses one by "
                "its number in the survey's picture"
            )
        if self.explained < 0.5:
            out.append(
                f"{1 - self.explained:.0%} of all change is not the agent's: other things move as well; crop them out "
                "(--read.crop), or choose the agent by its number in the survey's picture (--agent 1)"
            )
        return out


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


def see_shots(video: np.ndarray, spans: Sequence[slice]) -> list[Seen]:
    """See what the shots `spans` of a video (T, H, W, 3) uint8 show; still shots of one place share their plate."""
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
        light = float(np.abs(brighter).max())
        box = noise_box(noise)
        begin = 0
        for n in place:
            part = slice(begin, begin + len(cameras[n]) + 1)
            shot = _see(video[spans[n]], cameras[n], whole[part], shown[part], known[part], corners[part], plate, box)
            out[n] = replace(shot, noise=noise, light=light)
            begin = part.stop
    return [out[n] for n in range(len(spans))]


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


def survey(videos: Iterable[np.ndarray], rate: float | None = None, agent: Agent | None = None) -> Survey:
    """Survey videos (T, H, W, 3) uint8, all of one size, one after the other, of `rate` frames a second.

    Args:
        videos: the videos.
        rate: frames a second; None if not known.
        agent: which of several things is the agent: its number, its place (x, y) in one of the pictures, in shares of
            the frame's width and height, or one that looks like it; by default the largest thing in each frame.

    Raises:
        DataError: no video has two frames, or there is no such agent.
    """
    seen: list[Seen] = []
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
        spans = [slice(a, b) for a, b in pairwise([0, *found.tolist(), len(video)])]
        lengths += [span.stop - span.start for span in spans]
        spans = [span for span in spans if span.stop - span.start >= SHOT or len(spans) == 1]
        seen += see_shots(video, spans)
        begins += [frames + span.start for span in spans]
        frames += len(video)
    if not looked_at:
        raise DataError("no video has two frames; a world is learned from motion")
    length = _length_at(np.array(lengths), 0.5)  # a flash makes shots of one frame, which weigh little
    if not seen or (length < SHOT and len(lengths) > 1):
        nothing = dict.fromkeys(
            (
                "camera",
                "turned",
                "seen",
                "moving",
                "explained",
                "area",
                "largest",
                "speed",
                "fastest",
                "several",
                "at_edge",
            ),
            0.0,
        )
        cut = {"videos": looked_at, "shots": len(lengths), "shot_length": length, "cuts": 1e3 * cuts / frames}
        return Survey(*size, **cut, **nothing, agent=(0, 0), rate=rate)
    candidates = candidates_of([(shot.tracks, shot.corners) for shot in seen], *size)
    chosen = None if agent is None else _pick(candidates, agent, seen)
    shots = [follow(shot, chosen and chosen.tracks.get(n, [])) for n, shot in enumerate(seen)]
    out = _summary(shots, size, looked_at, length, 1e3 * cuts / frames)
    out.rate = rate
    out.candidates = candidates
    out.chosen = chosen
    out.noise = float(np.median([shot.noise for shot in seen]))
    out.light = max(shot.light for shot in seen)
    if len(candidates) > 1:
        out.pictures = _numbered(seen, candidates, chosen)
    found = [~np.isnan(shot.areas) for shot in shots]
    out.silhouettes = np.concatenate([shot.silhouettes[s] for shot, s in zip(shots, found, strict=True)])
    out.seen_in = np.concatenate([begin + np.flatnonzero(s) for begin, s in zip(begins, found, strict=True)])
    out.plates = [shot.plate for shot in shots]
    out.plate_of = np.concatenate([np.where(shot.fits, n, -1)[found[n]] for n, shot in enumerate(shots)])
    out.corners = np.concatenate([shot.corners[s] for shot, s in zip(shots, found, strict=True)])
    return out


def _pick(candidates: list[Candidate], agent: Agent, seen: list[Seen]) -> Candidate:
    """The candidate that `agent` names, as in :func:`survey`."""
    if not candidates:
        raise DataError("--agent chooses one of several things that move, but nothing moves on its own")
    if isinstance(agent, Candidate):
        return min(candidates, key=agent.unlike)
    if isinstance(agent, int):
        if not 1 <= agent <= len(candidates):
            raise DataError(
                f"--agent is {agent}, but the survey found {len(candidates)} things that move; take the number of one "
                "in samples/survey.png, which --look makes"
            )
        return candidates[agent - 1]

    def away(candidate: Candidate) -> float:
        gaps = []
        for n, shot in enumerate(seen):
            for t in shot.frames:
                if (box := candidate.box(n, t)) is not None:
                    place = np.array(agent) * shot.size[::-1] + shot.corners[t]
                    gaps.append(np.linalg.norm(np.maximum(0, np.maximum(box[:2] - place, place - box[2:]))))
        return min(gaps, default=np.inf)

    return min(candidates, key=away)


def _numbered(seen: list[Seen], candidates: list[Candidate], chosen: Candidate | None) -> list[np.ndarray]:
    """Pictures of some shots in which the candidates have their numbers; the frames that show most of them."""
    from PIL import Image, ImageDraw

    out = []
    for n in range(0, len(seen), max(1, len(seen) // 8)):
        shot = seen[n]
        boxes = {t: [candidate.box(n, t) for candidate in candidates] for t in shot.frames}
        t = max(boxes, key=lambda t: sum(box is not None for box in boxes[t]))
        picture = Image.fromarray(shot.frames[t])
        draw = ImageDraw.Draw(picture)
        for number, (candidate, box) in enumerate(zip(candidates, boxes[t], strict=True), 1):
            if box is not None:
                left, top, right, bottom = (np.array(box) - np.tile(shot.corners[t], 2)).tolist()
                colour = (255, 0, 255) if chosen in (None, candidate) else (150, 150, 150)
                draw.rectangle((left, top, right - 1, bottom - 1), outline=colour)
                x, y = max(1, min(left, picture.width - 8)), top - 12 if top >= 12 else min(bottom, picture.height - 12)
                draw.rectangle((x, y, x + 7, y + 11), fill=colour)
                draw.text((x + 1, y), str(number), fill=(255, 255, 255))
        out.append(np.asarray(picture))
    return out[:8]


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
        turned=float(np.median([s.turned for s in shots])),
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
    """(T - 1,) bool: the agent is another one in the next frame, since it jumps once, by more than APART of its sizes.

    Where a sample of a video leaves frames out, the same agent may leap.
    """
    if np.isnan(shot.areas).all():
        return np.zeros(shot.frames - 1, bool)
    size = np.nanmedian((shot.boxes[:, 2:] - shot.boxes[:, :2]).max(1))
    moves = np.diff(shot.places, axis=0)
    turns = ~(np.linalg.norm(np.diff(moves, axis=0), axis=1) <= size)
    return (np.linalg.norm(moves, axis=1) > APART * size) & np.r_[True, turns] & np.r_[turns, True]


def _length_at(lengths: np.ndarray, share: float) -> float:
    """A quantile weighted by length: lengths up to it make up this share of their sum."""
    ordered = np.sort(lengths)
    return float(ordered[np.searchsorted(ordered.cumsum(), share * ordered.sum())]) if len(ordered) else 0.0
