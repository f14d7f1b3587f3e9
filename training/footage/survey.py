"""The survey: find the agent and the camera's moves in the footage, and decide whether a world can be learned from it.

No network is involved. Cuts are frames in which most of the picture changes. The camera's moves come from matching
frames. The agent is the largest blob that differs from the median of its shot and keeps changing.
:mod:`training.footage.choices` chooses options (frame size, theta, shift ranges, window) from the result.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from ..data.cuts import SHOT, find_cuts
from ..data.store import DataError
from .registration import CHANGED, LARGEST_BOX, OFTEN, SMALL, apart, show_one_place
from .shots import Seen, Shot, cleared, follow, see_shots
from .tracks import APART, Candidate, candidates_of

TURNED = 0.2  # A camera turns if all edges move in more than this share of the picture.

Agent = int | tuple[float, float] | Candidate


class NoWorldError(DataError):
    """No world can be learned from the footage; --force trains anyway."""


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
        shots show several places: then they differ in a region that is larger than the agent.

        Before a camera, small things are moved, such as an animal's bedding: then differences are averaged over boxes.
        """
        from scipy import ndimage

        if not self.still or not self.plates:
            return None
        plates = np.stack(self.plates)
        known = plates[..., 3:] > 0
        colours = np.ma.masked_array(plates[..., :3], np.broadcast_to(~known, plates[..., :3].shape))
        plate = np.ma.median(colours, axis=0).filled(0)
        box = LARGEST_BOX if self.noise >= 1 else 1
        for one, here in zip(plates[..., :3], known[..., 0], strict=True):
            names, _ = ndimage.label((apart(one, plate, box) > CHANGED) & here)
            if np.bincount(names.ravel())[1:].max(initial=0) > self.largest * self.height * self.width:
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
    looked: list[tuple[np.ndarray, list[slice], list[Seen]]] = []
    begins = []
    cuts = 0
    frames = 0
    lengths = []
    for video in videos:
        if len(video) < 2:
            frames += len(video)
            continue
        found = find_cuts(video)
        cuts += len(found)
        spans = [slice(a, b) for a, b in pairwise([0, *found.tolist(), len(video)])]
        lengths += [span.stop - span.start for span in spans]
        spans = [span for span in spans if span.stop - span.start >= SHOT or len(spans) == 1]
        looked.append((video, spans, see_shots(video, spans)))
        begins += [frames + span.start for span in spans]
        frames += len(video)
    if not looked:
        raise DataError("no video has two frames; a world is learned from motion")
    size = looked[0][0].shape[1:3]
    seen = _see_again(looked)
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
        cut = {"videos": len(looked), "shots": len(lengths), "shot_length": length, "cuts": 1e3 * cuts / frames}
        return Survey(*size, **cut, **nothing, agent=(0, 0), rate=rate)
    candidates = candidates_of([(shot.tracks, shot.corners) for shot in seen], *size)
    chosen = None if agent is None else _pick(candidates, agent, seen)
    shots = [follow(shot, chosen and chosen.tracks.get(n, [])) for n, shot in enumerate(seen)]
    out = _summary(shots, size, len(looked), length, 1e3 * cuts / frames)
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


def _see_again(looked: list[tuple[np.ndarray, list[slice], list[Seen]]]) -> list[Seen]:
    """What all shots show, seen again in videos where something stands still for a whole shot.

    A shot's own plate contains what stands there throughout. Other shots of the place tell what is behind it. This is
    done for one place, that of the first shot with a still camera.

    Args:
        looked: videos (T, H, W, 3) uint8, their shots, and what these show.
    """
    still = [shot for *_, shots in looked for shot in shots if not shot.camera.any()]
    areas = [blob.area for shot in still for track in shot.tracks for blob in track.blobs.values() if blob.leaves]
    if len(still) < 2 or not areas:
        return [shot for *_, shots in looked for shot in shots]
    plate = still[0].plate
    least = float(np.median(areas)) / 4
    for shot in still[1:]:
        if show_one_place(plate, shot.plate):
            plate = cleared(plate, shot.plate, least, shot.noise)
    out = []
    for video, spans, shots in looked:
        here = (shot for shot in shots if not shot.camera.any() and show_one_place(plate, shot.plate))
        stands = any((cleared(shot.plate, plate, least, shot.noise) != shot.plate).any() for shot in here)
        out += see_shots(video, spans, (plate, least)) if stands else shots
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
