"""What training must be told, chosen from what the footage shows; each choice says why, and can be overridden."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from glass_gym.model.glass import Glass
from glass_gym.tensors.geometry import densest_point, dilate
from glass_gym.worlds.checkpoint import write_atomically

from ..data.layout import ReadConfig, find_videos, sample_video
from ..data.store import DataError, Store, Video, frames_to_tensor
from ..gma.background import SHOT, estimate_background, shots_of
from ..gma.stage import LARGEST, PseudoLabels
from .survey import Survey, survey

LOOKED_AT = 320
"""Px of the longer side of frames that are looked at."""
VIDEOS = 24
"""Videos that are looked at ..."""
FRAMES = 400
"""... and frames of each; ..."""
IN_ALL = 4800
"""... of videos as they are, which are larger than those of a store, in all: so that it takes a minute."""
AREA = 128 * 160
"""Px of a frame that trains in an hour on two cores."""
SMALL, LARGE = 12.0, 64.0
"""Px: an agent is drawn at least so large, if that does not take more than twice AREA, and at most so large."""
STEP = 2.0
"""Px of an outside_inference_mode step, at least: slower footage is thinned out."""
CLIP = 24
"""Frames that a thinned-out shot should have."""
RING = 5
"""Px about the mask in which a halo may be."""
HOLES = 4
"""Holes that are tried are less than so many px larger than the mask."""
PROBED = 96
"""Pairs of frames by which a GMA under training is judged."""
FULL, AGREED = 0.7, 0.7
"""M fills all that theta allows in more than this share of the frames; its IoU with what moves that says: rightly."""
LOST, LONGER = 0.3, 300
"""M has lost the agent below this IoU, and is told for so many steps more."""
AT_LIMIT = 0.05
"""Share of the moves that are as long as P_f can say."""


@dataclass
class Choices:
    """Values by the names of options, and why each is what it is.

    Attributes:
        values: "read.size" (height, width), "read.skip", "theta", "foreground_range", "background_range",
            "gma.iterations", "window", "agent_radius", "poses": those that were chosen so far.
        why: a line for each.
    """

    values: dict[str, Any] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)

    def choose(self, name: str, value: Any, why: str) -> None:
        """Set a value, and say so."""
        self.values[name] = value
        self.why[name] = why
        print(f"  {name} = {_plain(value)}: {why}")

    def reading(self, read: ReadConfig) -> ReadConfig:
        """How videos are read: as given, else as chosen, else as they are."""
        chosen = self.values.get("read.size")
        size = read.size or (tuple(chosen) if chosen else None)
        return replace(read, size=size, skip=self.values.get("read.skip", 0) if read.skip is None else read.skip)

    def save(self, path: Path) -> None:
        """Write as JSON, by renaming."""
        text = json.dumps({"values": self.values, "why": self.why}, indent=1)
        write_atomically(path, lambda part: part.write_text(text))

    def update(self, path: Path) -> None:
        """Take what another process (or an earlier run) has chosen."""
        known = Choices.load(path)
        self.values |= known.values
        self.why |= known.why

    @classmethod
    def load(cls, path: Path) -> Choices:
        """The inverse of :meth:`save`; nothing was chosen where there is no such file.

        Raises:
            DataError: a damaged file.
        """
        if not path.exists():
            return cls()
        try:
            known = json.loads(path.read_text())
            return cls(dict(known["values"]), dict(known["why"]))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: not a whole record of choices ({error}); delete it to choose again") from None


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return "x".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)


def look_at_folder(
    root: Path, crop: tuple[int, int, int, int] | None = None, skip_broken: bool = False, progress=lambda: None
) -> tuple[Survey, tuple[int, int]]:
    """Look at some of the videos below a folder, and say how large their frames are: (height, width) px.

    Raises:
        DataError: no videos, or one that cannot be read (unless `skip_broken`).
    """
    found = find_videos(root)
    some = found[:: max(1, len(found) // VIDEOS)][:VIDEOS]
    each = min(FRAMES, IN_ALL // len(some))
    size: list[tuple[int, int]] = []

    def videos() -> Iterator[np.ndarray]:
        for _, _, path in some:
            try:
                if not size:
                    size.append(sample_video(path, 1 << 20, 1, crop).shape[1:3])
                yield sample_video(path, LOOKED_AT, each, crop)
            except DataError:
                if not skip_broken:
                    raise
            progress()

    return survey(_alike(videos())), size[0]


def _alike(videos: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Videos as large as the first: others are scaled, as they will be."""
    first: tuple[int, int] | None = None
    for video in videos:
        if first is None:
            first = video.shape[1:3]
        if video.shape[1:3] != first:
            size = first[::-1]
            video = np.stack([np.asarray(Image.fromarray(f).resize(size, Image.BOX)) for f in video])
        yield video


def look_at_store(store: Store) -> Survey:
    """Look at some training videos of a store; the survey's hints are of frames of the store."""
    videos = [v for v in store.videos if v.split == "train" and v.length >= 2] or store.videos
    some = videos[:: max(1, len(videos) // VIDEOS)][:VIDEOS]
    spans = [slice(v.start, v.start + min(v.length, FRAMES)) for v in some]
    out = survey(np.asarray(store.frames[span]) for span in spans)
    out.hinted = np.concatenate([np.arange(span.start, span.stop) for span in spans])[out.hinted]
    return out


def choose_reading(choices: Choices, seen: Survey, size: tuple[int, int]) -> None:
    """How large frames are made, and how many are left out.

    Args:
        choices: to add to.
        seen: of the folder.
        size: (height, width) px of the videos as they are.

    Raises:
        DataError: frames that are too small for any world.
    """
    if min(size) < 32:
        raise DataError(f"frames are {size[1]}x{size[0]} px; a world needs at least 32x32: use larger footage")
    whole = size[0] / seen.height  # px of the videos to a px that was looked at
    agent = max(*seen.agent, 1.0)
    scale = min(whole, math.sqrt(AREA / (seen.height * seen.width)))
    why = "an hour's training on two cores"
    if agent * scale > LARGE:
        scale = max(LARGE / agent, 64 / min(seen.height, seen.width))
        why = f"the agent fills at most {LARGE:.0f} px"
    elif agent * scale < SMALL:
        scale = min(whole, SMALL / agent, math.sqrt(2 * AREA / (seen.height * seen.width)))
        why = f"the agent is at least {agent * scale:.0f} px large"
    if scale > 0.75 * whole and size[0] * size[1] <= 2 * AREA and agent * whole <= LARGE:
        scale = whole
        why = "as they are, cut to multiples of 8"
        height, width = (max(32, n // 8 * 8) for n in size)
    else:
        height, width = (max(32, round(n * scale / 8) * 8) for n in (seen.height, seen.width))
    choices.choose("read.size", None if scale == whole else (height, width), f"{width}x{height} px frames: {why}")
    step = seen.speed * scale
    lag = 1
    if 0 < step < 0.65 * STEP:
        lag = int(np.clip(round(STEP / step), 1, max(1, min(8, seen.shot_length // CLIP))))
    choices.choose(
        "read.skip",
        lag - 1,
        f"an outside_inference_mode step is {step:.1f} px a frame" + (f", {step * lag:.1f} px now" * (lag > 1)),
    )


def choose_sizes(choices: Choices, seen: Survey, height: int, width: int) -> None:
    """What GMA must know, of frames as they will be trained on; window and radius are provisional."""
    agent = max(seen.agent)
    theta = float(np.clip(LARGEST * seen.largest, 0.001, 0.5))
    choices.choose("theta", theta, f"the agent covers up to {seen.largest:.2%} of the frame")
    reach = int(np.clip(math.ceil(1.5 * seen.fastest) + 3, 8, min(height, width) // 2))
    choices.choose("foreground_range", reach, f"px; the agent's fast steps are {seen.fastest:.0f} px")
    moves = seen.camera >= 1
    behind = int(np.clip(math.ceil(1.5 * seen.camera) + 2, 4, min(height, width) // 4)) if moves else 4
    choices.choose("background_range", behind, f"px; the camera moves by up to {seen.camera:.1f} px")
    why = "the camera moves, so that M and N take longer" if moves else "the camera stands still"
    choices.choose("gma.iterations", 1200 if moves else 600, why)
    choices.choose("refine.iterations", 300 if moves else 200, "GMA goes on after a second look at the footage, with M")
    choices.values["first_window"] = _multiple(1.25 * agent, height, width)
    choices.values["first_radius"] = max(4, round(0.45 * agent))


def _multiple(px: float, height: int, width: int) -> int:
    return int(np.clip(math.ceil(px / 8) * 8, 16, max(height, width) // 8 * 8))


@torch.no_grad()
def measured_agents(model: Glass, store: Store, count: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """The agent in random training frames, by M.

    Returns:
        how far its pixels reach from its densest point along either axis, px (N,); and the area that M covers, as a
        share of the frame (N,).
    """
    from scipy import ndimage

    videos = [v for v in store.videos if v.split == "train"] or store.videos
    rng = np.random.default_rng(0)
    device = next(model.parameters()).device
    index = np.sort([_random_frame(videos, rng) for _ in range(count)])
    reach = []
    share = []
    for part in np.array_split(index, max(1, count // 32)):
        masks = model.mask(frames_to_tensor(store.frames[part]).to(device)).float()
        centre = densest_point(masks, model.config.agent_radius).cpu().numpy()
        share.append(masks.mean((1, 2, 3)).cpu().numpy())
        for mask, (x, y) in zip((masks[:, 0] > 0.5).cpu().numpy(), centre, strict=True):
            names, _ = ndimage.label(ndimage.binary_dilation(mask, iterations=3))
            own = mask & (names == names[round(float(y)), round(float(x))]) & (names > 0)
            if own.sum() >= 8:
                ys, xs = np.nonzero(own)
                reach.append(max(np.quantile(np.abs(xs - x), 0.995), np.quantile(np.abs(ys - y), 0.995)))
    return np.array(reach), np.concatenate(share)


def _random_frame(videos: Sequence[Video], rng: np.random.Generator) -> int:
    video = videos[rng.integers(len(videos))]
    return int(video.start + rng.integers(video.length))


@torch.no_grad()
def correct(
    choices: Choices, model: Glass, store: Store, hints: PseudoLabels, theta: float | None, ranged: bool = True
) -> dict[str, Any]:
    """What a look at a GMA under training says of what was chosen for it; each finding is told.

    Args:
        choices: to add to.
        model: M and P_f have been trained for a while.
        store: the videos.
        hints: where the agent was seen.
        theta: as it was chosen; None where somebody gave it.
        ranged: whether the range was chosen, too.

    Returns:
        new values of "theta" and "foreground_range", and "hint_steps", how much longer to say where the agent is;
        empty where all is well.
    """
    rng = np.random.default_rng(0)
    known = dict(zip(hints.frames.tolist(), hints.silhouettes, strict=True))
    ends = {v.start + v.length - 1 for v in store.videos}
    pairs = [n for n in sorted(known) if n + 1 in known and n not in ends]
    if len(pairs) < 8:
        return {}
    device = next(model.parameters()).device
    index = np.sort(rng.choice(pairs, min(PROBED, len(pairs)), replace=False))
    share = []
    agree = []
    reach = []
    for part in np.array_split(index, max(1, len(index) // 16)):
        frames = np.stack([store.frames[part], store.frames[part + 1]], 1)
        motion = model.analyse_pairs(frames_to_tensor(frames).to(device))
        masks = motion.masks[:, 0, 0].float()
        bits = np.unpackbits(np.stack([known[n] for n in part]), axis=1, count=store.height * store.width)
        seen = torch.from_numpy(bits.reshape(masks.shape)).to(masks)
        share.append(masks.mean((1, 2)))
        agree.append((masks * seen).sum((1, 2)) / torch.maximum(masks, seen).sum((1, 2)).clamp(min=1))
        changed = (frames[:, 0] != frames[:, 1]).any(-1).mean((1, 2)) > 0.1 * float(seen.mean())
        reach.append(motion.foreground_shift.abs().amax(1)[torch.from_numpy(changed).to(device)])
    found: dict[str, Any] = {}
    covered = torch.cat(share)
    full = float((covered > 0.97 * theta).float().mean()) if theta else 0.0
    agreed = float(torch.cat(agree).median())
    most = model.config.foreground_range
    at_limit = float((torch.cat(reach) > 0.9 * most).float().mean()) if any(map(len, reach)) else 0.0
    if theta and full > FULL and agreed < AGREED and theta < 0.5:
        found["theta"] = min(0.5, 1.5 * theta)
        why = f"M fills all that theta allowed in {full:.0%} of the frames, and agrees with what moves by {agreed:.2f}"
        choices.choose("theta", found["theta"], f"corrected: {why}")
    elif agreed < LOST:
        found["hint_steps"] = LONGER
        print(f"  M agrees with what was seen to move by {agreed:.2f} only: it is told for {LONGER} steps more")
    widest = min(store.height, store.width) // 2
    if ranged and at_limit > AT_LIMIT and most < widest:
        found["foreground_range"] = min(2 * most, widest)
        why = f"{at_limit:.0%} of the moves were at the limit of {most} px"
        choices.choose("foreground_range", found["foreground_range"], f"px; corrected: {why}")
    return found


def choose_window(choices: Choices, model: Glass, store: Store) -> None:
    """The window and the radius, by M of a trained GMA."""
    reach, _ = measured_agents(model, store)
    config = model.config
    if len(reach) < 8:
        choices.choose("window", config.window, "M finds no agent in most frames: as surveyed")
        choices.choose("agent_radius", config.agent_radius, "as surveyed")
        return
    far = float(np.quantile(reach, 0.95))
    usual = float(np.quantile(reach, 0.5))
    choices.choose("window", _multiple(2 * far + 2, config.height, config.width), f"px; M's agent reaches {far:.0f} px")
    choices.choose("agent_radius", max(4, round(0.9 * usual)), f"px; usually it reaches {usual:.0f} px")


@torch.no_grad()
def choose_hole(choices: Choices, model: Glass, store: Store) -> None:
    """By how many px the hole in the background must be larger than the mask, so that no halo of the agent stays.

    What is behind the agent is known from the other frames of the shot (:func:`training.gma.background.estimate_background`).
    """
    videos = [v for v in store.videos if v.split == "train" and v.length >= 2 * CLIP] or store.videos
    device = next(model.parameters()).device
    errors = []
    for video in videos[:: max(1, len(videos) // VIDEOS)][:VIDEOS]:
        frames = np.asarray(store.frames[video.start : video.start + min(video.length, SHOT)])
        if not (shots := shots_of(frames)):
            continue
        seen = estimate_background(model, frames[shots[0]])
        some = list(range(0, len(seen.frames), max(1, len(seen.frames) // 3)))[:3]
        scenes, known = (np.stack(x) for x in zip(*map(seen.at, some), strict=True))
        scene = torch.from_numpy(scenes).permute(0, 3, 1, 2).to(device)
        images = frames_to_tensor(seen.frames[some]).to(device)
        masks = model.mask(images).float()
        ring = dilate(masks, RING) * torch.from_numpy(known)[:, None].to(device)
        if ring.sum() < 1:
            continue
        error = []
        for grow in range(HOLES):
            behind = (model.behind(images, masks, grow).float() + 1) * 127.5
            error.append(float(((behind - scene).abs().mean(1, keepdim=True) * ring).sum() / ring.sum()))
        errors.append(error)
    if not errors:
        return
    error = np.median(errors, 0)
    best = int(error.argmin())
    best = best if error[best] < 0.9 * error[0] else 0
    choices.choose(
        "hole",
        best,
        f"px more than the mask; off by {error[best]:.1f} of 255 behind the agent, by {error[0]:.1f} with 0",
    )
