"""Paint out what moves beside the agent: the training frames then show the background plate in its place."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np

from ..core.progress import Bar, say, warn
from ..data.cuts import find_cuts
from ..data.store import Store, StoreWriter, Video
from .registration import MEDIAN_OF, median_background, overlap
from .shots import Seen, see_shots
from .survey import Survey
from .tracks import UNLIKE, Blob, Candidate, candidates_of

TOGETHER = 1000  # Number of frames of a file that are looked at together, so that they share a plate.
MARGIN = 2  # Px around the others that are painted as well.


def without_others(store: Store, found: Survey, out: Path) -> Store:
    """A copy of a store in which all that moves but the chosen agent is background; told how far it is.

    Args:
        store: the videos.
        found: their survey, with the agent that was chosen.
        out: folder of the copy.

    Returns:
        the copy; the store itself if the camera moves, since no plate then tells what is behind the others.
    """
    if found.chosen is None or not found.still:
        if found.chosen is not None:
            warn(
                "the other things that move stay in the frames: the camera moves, so nothing tells what is behind them"
            )
        return store
    about = store.pixel_aspect, store.source, store.kind, store.rate, store.reader, store.scale
    writer = StoreWriter(out, store.height, store.width, *about)
    copy = store.copy
    whole = {video.name: video for video in store.videos}
    shown = painted = 0
    with Bar("painting out the others", len(copy.frames), "frame") as bar:
        for videos in _parts_of_files(copy):
            frames = np.concatenate([copy.frames[v.start : v.start + v.length] for v in videos])
            breaks = np.cumsum([v.length for v in videos])[:-1].tolist()
            others, cleared, gone = paint_out(frames, breaks, found.chosen)
            shown += others
            painted += cleared
            _add_painted(writer, store, [(v, whole.get(v.name)) for v in videos], frames, gone)
            bar.update(len(frames))
    writer.close()
    numbers = [str(n) for n, one in enumerate(found.candidates, 1) if one is not found.chosen]
    names = f"number{'s' * (len(numbers) > 1)} {', '.join(numbers)}" if numbers else "what else moves"
    say(f"the others, {names}: painted out in {painted / max(1, shown):.0%} of the frames in which they move")
    return Store(out)


def _parts_of_files(store: Store) -> Iterator[list[Video]]:
    """The videos of a store, those of one file together, up to about TOGETHER frames."""
    for _, group in groupby(store.videos, key=lambda video: video.file):
        part: list[Video] = []
        for video in group:
            if part and sum(v.length for v in part) + video.length > TOGETHER:
                yield part
                part = []
            part.append(video)
        yield part


def _add_painted(
    writer: StoreWriter, store: Store, videos: list[tuple[Video, Video | None]], small: np.ndarray, gone: np.ndarray
) -> None:
    """Add videos whose working copy is painted; what was painted there is painted in full size, if frames are large.

    Args:
        writer: of the new store.
        store: the old one.
        videos: those of the copy, and the same ones in full size, or None.
        small: their frames in the copy, painted, (T, h, w, 3) uint8.
        gone: (T, h, w) bool, the pixels that were painted.
    """
    from scipy import ndimage

    scale = store.scale
    rows = np.cumsum([0] + [video.length for video, _ in videos])
    found = [(v.start + t, rows[n] + t) for n, (_, v) in enumerate(videos) if v is not None for t in range(v.length)]
    if scale > 1 and found:
        gone = np.stack([ndimage.binary_dilation(g) if g.any() else g for g in gone])
        some = [found[n] for n in np.unique(np.linspace(0, len(found) - 1, MEDIAN_OF).astype(int))]
        free = ~gone[[row for _, row in some]].repeat(scale, 1).repeat(scale, 2)
        plate, _ = median_background(np.stack([store.frames[frame] for frame, _ in some]), free)
    for n, (of_copy, video) in enumerate(videos):
        mine = slice(rows[n], rows[n + 1])
        frames = small[mine]
        names = {"file": of_copy.file, "shot": of_copy.name}
        if video is None:
            writer.copy.add(of_copy.name, of_copy.split, frames, **names)  # type: ignore[union-attr]
            continue
        span = slice(video.start, video.start + video.length)
        if scale > 1:
            frames = np.array(store.frames[span])
            for frame, mask in zip(frames, gone[mine], strict=True):
                if mask.any():
                    _fill(frame, plate, mask.repeat(scale, 0).repeat(scale, 1), scale * MARGIN)
        labels = {name: values[span] for name, values in store.labels.items()}
        masks = store.masks(span.start, span.stop) if store.has_masks else None
        writer.add(video.name, video.split, frames, masks, **names, **labels)


def paint_out(frames: np.ndarray, breaks: list[int], agent: Candidate) -> tuple[int, int, np.ndarray]:
    """Paint all that moves but the agent over with the background plate, in place.

    Args:
        frames: (T, H, W, 3) uint8.
        breaks: indices of frames that do not follow the one before.
        agent: that stays.

    Returns:
        the number of frames in which others move, and of those in which they were painted over; and (T, H, W) bool,
        the pixels that were painted.
    """
    cuts = sorted({0, *breaks, *find_cuts(frames).tolist(), len(frames)})
    spans = [slice(a, b) for a, b in pairwise(cuts) if b - a > 1]
    seen = see_shots(frames, spans)
    candidates = candidates_of([(shot.tracks, shot.corners) for shot in seen], *frames.shape[1:3])
    own = min((one for one in candidates if one.unlike(agent) < UNLIKE), key=agent.unlike, default=None)
    others = painted = 0
    gone = np.zeros(frames.shape[:3], bool)
    for n, (span, shot) in enumerate(zip(spans, seen, strict=True)):
        mine = own.tracks.get(n, []) if own else []
        for t in range(shot.count):
            blobs = [track.blobs[t] for track in shot.tracks if t in track.blobs and not any(track is m for m in mine)]
            if blobs:
                others += 1
                if not shot.camera.any():
                    keep = [track.blobs[t] for track in mine if t in track.blobs]
                    gone[span.start + t] = _paint(frames[span.start + t], shot, t, blobs, keep)
                    painted += 1
    return others, painted, gone


def _paint(frame: np.ndarray, shot: Seen, t: int, blobs: list[Blob], keep: list[Blob]) -> np.ndarray:
    """Paint blobs of frame t over with the plate, in place; returns the pixels, (H, W) bool."""
    from scipy import ndimage

    there, here = overlap(shot.corners[t], shot.plate.shape[1::-1], frame.shape[1::-1])
    plate = np.array(frame, np.float32)
    plate[here] = shot.plate[there]
    kept = np.zeros(frame.shape[:2], bool)
    for blob in keep:
        kept[blob.part] |= blob.outline
    kept = ndimage.binary_dilation(kept, iterations=MARGIN)
    gone = np.zeros(frame.shape[:2], bool)
    for blob in blobs:
        gone[blob.part] |= blob.outline
    gone = ndimage.binary_dilation(gone, iterations=MARGIN) & ~kept
    _fill(frame, plate, gone, MARGIN, ~kept)
    return gone


def _fill(frame: np.ndarray, plate: np.ndarray, gone: np.ndarray, margin: int, free: np.ndarray | None = None) -> None:
    """Fill pixels of a frame with the plate, in place, at the brightness that the frame has around them.

    Args:
        frame: (H, W, 3) uint8.
        plate: (H, W, 3).
        gone: (H, W) bool, the pixels.
        margin: px around them that tell the brightness.
        free: (H, W) bool, only these pixels tell it; default: all.
    """
    from scipy import ndimage

    ring = ndimage.maximum_filter(gone, 2 * margin + 1) & ~gone & (True if free is None else free)
    brighter = np.median(frame[ring] - plate[ring], axis=0) if ring.any() else 0.0
    frame[gone] = (plate[gone] + brighter).round().clip(0, 255).astype(np.uint8)
