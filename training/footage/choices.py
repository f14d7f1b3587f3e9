"""Options of training that follow from the survey; each is printed with its reason, and can be overridden."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from glass_gym.model.config import preset
from glass_gym.worlds import sheets

from ..config import ReadConfig
from ..core.progress import Bar, each, say, warn
from ..core.run import Run
from ..data.sources import find_source, source_of
from ..data.store import WORKING, DataError, Store, working_scale
from ..data.video_reader import Crop, size_after
from ..data.videos import Footage, Progress, frames_read, open_videos, sample_video
from .survey import Agent, NoWorldError, Survey, survey
from .tracks import Candidate

LONGEST_SIDE = 320  # Longer side of the frames of video files in the survey, px.
VIDEOS = 24  # Maximum number of videos that are surveyed.
FRAMES_A_VIDEO = 400  # Maximum number of frames of each video that are surveyed.
FRAMES_IN_ALL = 4800  # Maximum number of frames of video files that are surveyed, so that it takes about a minute.
DECODED = 36_000  # Maximum number of frames that are decoded for it: 20 minutes of footage, of 30 frames a second.
LINES, LONGER_SIDE = 480, 854  # Largest frames of a world, px.
STEP = 2.0  # Frames are skipped until the agent's typical step is about this long, px.
CLIP = 24  # Frames are skipped only as long as shots keep about this number of frames.
LARGEST = 1.1  # theta is this many times the 95th percentile of the agent's area.
AT_EDGE = 0.5
"""D gets the agent's position if the agent touches the frame's edge in more than this share of the frames."""


def choose_reading(run: Run) -> ReadConfig:
    """Choose frame size, rate and skipped frames for a folder of videos, or a file.

    Returns:
        the options of reading, complete.

    Raises:
        DataError: no video can be read, or frames are too small.
        NoWorldError: no world can be learned from them (unless --force).
    """
    read = run.config.read
    if "read.skip" not in run.values and (read.size is None or read.skip is None or run.config.agent):
        look_at_videos(run)
    return run.config.read if run.config.read.skip is not None else replace(run.config.read, skip=0)


def look_at_videos(run: Run) -> tuple[Footage, Survey]:
    """Say what the videos are, survey some, and choose how they are read; errors as of :func:`choose_reading`."""
    read = run.config.read
    videos = find_source(run.config.data).videos(run.config) or Path(run.config.data)
    with Bar("opening the videos", unit="file") as bar:
        footage = open_videos(videos, read, bar.to)
    say("\n  ".join(["the videos:", *footage.lines()]))
    with Bar("surveying the videos", unit="frame") as bar:
        found = survey_footage(footage, read.crop, bar.to, agent_of(run, footage.size))
    _keep_agent(run, found)
    say("\n  ".join(["what the footage shows:", *found.lines()]))
    _save_picture(run, found)
    _stop_without_world(run, found)
    with run.together():
        if footage.fps is not None and read.fps is None:
            run.choose("read.fps", footage.fps, "frames a second; the files have different rates, this is the lowest")
        _choose_size_and_skip(run, found, size_after(read.crop, footage.size))
    return footage, found


def choose_sizes(run: Run, store: Store) -> Survey | None:
    """Choose theta, shift ranges, iterations and sizes: from a survey, or the source's values (unless --choose).

    Window and radius are preliminary; `training.windows.size` measures them again after GMA.

    Args:
        run: gets the choices.
        store: the videos.

    Returns:
        the survey; None if the source's values were taken.

    Raises:
        NoWorldError: no world can be learned from the videos (unless --force).
    """
    defaults = source_of(store).defaults
    if run.config.agent and defaults.theta is not None and not run.config.choose:
        raise DataError(f"--agent: {run.config.data} has options of its own, and is not surveyed; add --choose")
    if defaults.theta is not None and not run.config.choose:
        values = {"gma.theta": defaults.theta, "gma.iterations": 2000, "refine.iterations": 0}
        values |= {name: getattr(defaults, name) for name in ("codes", "window", "agent_radius")}
        usual = preset(run.config.architecture, store.height, store.width)
        ours = ("poses", "decoder_position", "background_plate") if usual.architecture == "pose" else ()
        values |= {name: getattr(usual, name) for name in ("foreground_range", "background_range", *ours)}
        with run.together():
            for name, value in values.items():
                if name not in run.values:
                    run.choose(name, value, f"usual for {store.kind or 'this source'}")
        return None
    found = survey_store(working_copy(run, store), agent_of(run, (store.height, store.width)))
    _keep_agent(run, found)
    if {"gma.theta", "codes"} <= run.values.keys():
        return found
    choose_from_survey(run, found, store)
    return found


def working_copy(run: Run, store: Store) -> Store:
    """The store that GMA is trained on: with reduced frames, if frames are large; the paper's GMA sees whole ones."""
    return store if run.config.architecture == "paper" else store.copy


def choose_from_survey(run: Run, found: Survey, store: Store, frames: int | None = None) -> None:
    """Print a survey, and choose the options of GMA and the sizes of the model from it.

    Args:
        run: gets the choices.
        found: the survey.
        store: the videos, or some of them.
        frames: number of training frames; default: those of the store.

    Raises:
        NoWorldError: no world can be learned from the videos (unless --force).
    """
    say("\n  ".join(["what the clips show:", *found.lines()]))
    if "read.skip" not in run.values:  # else the first survey's picture stays: --agent chooses by its numbers
        _save_picture(run, found)
    _stop_without_world(run, found)
    say("chosen (an option of the same name overrides it):")
    with run.together():
        _choose_for_gma(run, found, store, frames)


def agent_of(run: Run, size: tuple[int, int]) -> Agent | None:
    """Which agent the user chose; the one that an earlier survey of the run found there; None: the largest.

    Args:
        run: with the option `agent`, and the choices so far.
        size: (height, width) of the original frames, px.

    Raises:
        DataError: the option is no number and no place in the frame.
    """
    text = run.config.agent
    if text is None:
        return None
    if (look := run.values.get("agent_look")) is not None:
        return Candidate(look[0], np.array(look[1:3]), np.array(look[3:]))
    left, top, right, bottom = run.config.read.crop or (0, 0, size[1], size[0])
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) == 1 and values[0] == int(values[0]):
        return int(values[0])
    if len(values) != 2 or not (left <= values[0] < right and top <= values[1] < bottom):
        raise DataError(
            f"--agent is {text}, expected a number in the survey's picture, as in --agent 2, or a place there, as in "
            f"--agent {(left + right) // 2},{(top + bottom) // 2}, px from the top left corner of the original frame"
        )
    return (values[0] - left) / (right - left), (values[1] - top) / (bottom - top)


def _keep_agent(run: Run, found: Survey) -> None:
    """Keep what the chosen agent looks like, so that later surveys of the run find the same one."""
    if found.chosen is not None and "agent_look" not in run.values:
        look = [found.chosen.area, *found.chosen.place, *found.chosen.colour]
        run.values["agent_look"] = [float(value) for value in look]
        run.why["agent_look"] = "area, place and colour of the agent that was chosen"
        run.save()


def _save_picture(run: Run, found: Survey) -> None:
    if found.pictures:
        picture = sheets.save_picture(run.out / "samples" / "survey.png", _rows_of_four(found.pictures))
        say(f"  pictures: {picture}")


def survey_footage(
    footage: Footage,
    crop: Crop | None = None,
    progress: Progress = lambda done, total: None,
    agent: Agent | None = None,
) -> Survey:
    """Survey some of the videos.

    Args:
        footage: the videos.
        crop: as in :class:`ReadConfig`.
        progress: called with the number of frames that are surveyed, and the total.
        agent: as in :func:`training.footage.survey.survey`.

    Raises:
        DataError: a video cannot be read.
    """
    videos = [reader for _, _, reader in footage.videos]
    some = videos[:: max(1, len(videos) // VIDEOS)][:VIDEOS]
    most = min(FRAMES_A_VIDEO, FRAMES_IN_ALL // len(some))
    within = DECODED // len(some)
    total = sum(min(most, frames_read(reader, footage.fps)) for reader in some)
    done = 0

    def samples() -> Iterator[np.ndarray]:
        nonlocal done
        for reader in some:
            try:
                sample = sample_video(reader, LONGEST_SIDE, most, within, crop, footage.fps)
            except DataError:
                if reader is some[-1] and not done:
                    raise
                continue
            done = min(done + len(sample), total)
            yield sample
            progress(done, total)

    return survey(_of_one_size(samples()), footage.rate, agent)


def survey_store(store: Store, agent: Agent | None = None) -> Survey:
    """Survey some training videos of a store; the result's `seen_in` has frame indices of the store."""
    names = {video.name for video in store.videos}
    videos = [v for v in store.videos if v.name.rpartition("+")[0] not in names]  # one clip of each shot
    videos = [v for v in videos if v.split == "train" and v.length >= 2] or videos
    some = videos[:: max(1, len(videos) // VIDEOS)][:VIDEOS]
    spans = [slice(v.start, v.start + min(v.length, FRAMES_A_VIDEO)) for v in some]
    videos = (np.asarray(store.frames[span]) for span in each(spans, "surveying the clips", "clip"))
    out = survey(videos, store.rate, agent)
    out.seen_in = np.concatenate([np.arange(span.start, span.stop) for span in spans])[out.seen_in]
    return out


def _of_one_size(videos: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Scale videos to the size of the first one."""
    first: tuple[int, int] | None = None
    for video in videos:
        if first is None:
            first = video.shape[1:3]
        if video.shape[1:3] != first:
            size = first[::-1]
            video = np.stack([np.asarray(Image.fromarray(f).resize(size, Image.BOX)) for f in video])
        yield video


def _stop_without_world(run: Run, found: Survey) -> None:
    """Raise an error for the first reason to stop; with --force, print all. Warnings are printed."""
    for reason in found.reasons_to_stop():
        if not run.config.force:
            raise NoWorldError(f"{run.config.data}: {reason}. --force trains nevertheless")
        warn(f"warning: {reason}")
    for warning in found.warnings():
        warn(f"warning: {warning}")


def _rows_of_four(pictures: list[np.ndarray]) -> np.ndarray:
    return sheets.grid([pictures[i : i + 4] for i in range(0, len(pictures) // 4 * 4, 4)] or [pictures], scale=1)


def _choose_size_and_skip(run: Run, found: Survey, size: tuple[int, int]) -> None:
    """Choose frame size and skipped frames; `size` is that of the original frames, (height, width) px."""
    if min(size) < 32:
        raise DataError(f"frames are {size[1]}x{size[0]} px; a world needs at least 32x32: use larger footage")
    if run.config.architecture == "paper":  # its networks see whole frames as they are
        shrink, unit = min(1.0, math.sqrt(WORKING / (size[0] * size[1]))), 16
    else:
        shrink = min(1.0, LINES / min(size), LONGER_SIDE / max(size))
        unit = 8 * max(1, round(math.sqrt(size[0] * size[1] / WORKING) * shrink))
    height, width = (max(32, min(round(n * shrink / unit), n // unit) * unit) for n in size)
    whole = shrink == 1 and unit == 8
    why = "as they are" if shrink == 1 else "reduced, so that training takes about an hour on two cores"
    usual = find_source(run.config.data).defaults.size
    if usual and run.config.read.crop is None and run.config.architecture != "paper":
        (height, width), whole, why = usual, False, f"usual for {run.config.data}"
    chosen = run.choose("read.size", None if whole else (height, width), f"{width}x{height} px frames: {why}")
    height, width = chosen or (height, width)
    scale = height / found.height / working_scale(height, width)
    step = found.speed * scale
    lag = 1
    if 0 < step < 0.65 * STEP:
        lag = int(np.clip(round(STEP / step), 1, max(1, min(8, found.shot_length // CLIP))))
    thinned = f", {step * lag:.1f} px from one frame of a clip to the next; the others make clips, too" * (lag > 1)
    run.choose("read.skip", lag - 1, f"the agent's typical step is {step:.1f} px a frame of GMA's{thinned}")


def _choose_for_gma(run: Run, found: Survey, store: Store, frames: int | None) -> None:
    """Choose the options of GMA, and the sizes of the model; arguments as of :func:`choose_from_survey`."""
    height, width = found.height, found.width  # of the working copy
    agent = max(found.agent)
    theta = float(np.clip(LARGEST * found.largest, 0.001, 0.5))
    run.choose("gma.theta", theta, f"the agent covers up to {found.largest:.2%} of the frame")
    reach = int(np.clip(math.ceil(1.5 * found.fastest) + 3, 8, min(height, width) // 2))
    run.choose("foreground_range", reach, f"px; the agent's fast steps are {found.fastest:.0f} px")
    moves = found.camera >= 1
    camera = int(np.clip(math.ceil(1.5 * found.camera) + 2, 4, min(height, width) // 4)) if moves else 4
    run.choose("background_range", camera, f"px; the camera moves by up to {found.camera:.1f} px")
    why = "the camera moves, so M and N need more steps" if moves else "the camera stands still"
    iterations = run.choose("gma.iterations", 1200 if moves else 600, why)
    refine = 0 if run.config.architecture == "paper" else min(300 if moves else 200, iterations // 3)
    run.choose("refine.iterations", refine, "M is trained on pseudo-labels after GMA")
    scale = 1 if run.config.architecture == "paper" else store.scale
    run.choose("gma_scale", scale, f"GMA sees frames of {width}x{height} px")
    window = multiple_of_8(1.25 * agent * scale, height * scale, width * scale)
    run.choose("window", window, "px; preliminary, measured again after GMA")
    run.choose("agent_radius", max(4, round(0.45 * agent * scale)), "px; preliminary, measured again after GMA")
    run.choose("codes", source_of(store).defaults.codes, "more than most agents need: useless codes are left out")
    if run.config.architecture == "pose":
        frames = frames or sum(v.length for v in store.videos if v.split == "train")
        poses = int(np.clip(frames // 60 // 8 * 8, 32, 256))
        run.choose("poses", poses, f"size of the pose codebook (P), for {frames} frames")
        touches = f"the agent touches the frame's edge in {found.at_edge:.0%} of the frames"
        run.choose("decoder_position", found.at_edge > AT_EDGE, touches)
        plate = found.common_plate() is not None
        why = f"the camera {'stands still and shows one place' if plate else 'moves, or shows several places,'}"
        run.choose("background_plate", plate, f"{why} in all {found.shots} shots")


def multiple_of_8(px: float, height: int, width: int) -> int:
    """Round `px` up to a multiple of 8: at least 16, at most the longer side of a frame (height, width)."""
    return int(np.clip(math.ceil(px / 8) * 8, 16, max(height, width) // 8 * 8))
