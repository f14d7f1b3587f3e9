"""How long a training would take on this machine: some steps of each stage are timed, at the sizes that were chosen."""

from __future__ import annotations

import contextlib
import copy
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from glass_gym.model.glass import Glass, build_lma
from glass_gym.model.gma import GMA
from glass_gym.model.pose_model import PoseLMA
from glass_gym.tensors.convert import unpack_layers
from glass_gym.worlds import codes as code_films

from ..config import ReadConfig
from ..core.progress import Bar
from ..core.run import Run
from ..core.stage import Stage
from ..core.trainer import Trainer
from ..data import cuts
from ..data.store import DataError, Store, StoreWriter, Video, frames_to_tensor, working_scale
from ..data.videos import PIECE, Footage, clips_of, frames_read
from ..footage.choices import VIDEOS as SURVEYED
from ..footage.choices import working_copy
from ..footage.survey import Survey
from ..gma import background
from ..gma.perceptual import load_features
from ..gma.pseudo_labels import LABELLED_FRAMES, PseudoLabels
from ..gma.stage import GmaStage
from ..lma.paper_stage import PaperStage
from ..lma.stage import LmaStage, encode_windows
from ..poses.stage import PoseStage
from ..windows.tracking import track
from ..windows.windows import Clip, WindowSet, align_windows, track_windows
from ..world.build import START_FRAMES, START_SHOT, TWIN_STEPS
from .html_report import LONG_ROLLOUTS, ROLLOUTS, VIDEOS
from .metrics.passport import MARKS
from .metrics.probe import CURVE

STEPS, SECONDS = 8, 4.0  # Of a stage so many steps are timed after the first, and fewer if they take longer.
LONGEST, CLIPS = 48, 3  # Largest number of frames of a clip of a sample, and number of clips.
SHORTEST = 17  # Frames of a clip of the LMA stage; fewer are not tracked.
PLATE = 2.0  # Comparing a frame with the background plate takes about so many times as long as its mask.
PROBED, ROLLED = 8, 2  # Frames whose masks are timed, windows that are drawn, and how often.


@dataclass(frozen=True)
class Amount:
    """How much footage there is.

    Attributes:
        train, held_out: numbers of frames of the training videos, and of the others.
    """

    train: int
    held_out: int

    @classmethod
    def of_store(cls, store: Store) -> Amount:
        """That of a clip store."""
        train = sum(v.length for v in store.videos if v.split == "train")
        return cls(train, sum(v.length for v in store.videos) - train)


def sample_footage(footage: Footage, read: ReadConfig, out: Path) -> tuple[Store, Amount, float]:
    """Decode the beginnings of some videos, which suffices to time the stages.

    Args:
        footage: the videos.
        read: how they would be read, complete.
        out: folder for the sample, a clip store.

    Returns:
        the sample, the amount of all footage, and the seconds that decoding all of it would take.
    """
    writer: StoreWriter | None = None
    began = time.monotonic()
    decoded = 0
    for name, _, reader in footage.videos[:: max(1, len(footage.videos) // CLIPS)][:CLIPS]:
        with contextlib.suppress(DataError):  # training leaves it out
            for count, clips in clips_of(reader, footage, read):
                decoded += count
                if clips:
                    clip = max(clips, key=len)[:LONGEST]
                    writer = writer or StoreWriter(out, *clip.shape[1:3], scale=working_scale(*clip.shape[1:3]))
                    writer.add(name, "train", clip)
                    break
    if writer is None:
        first = footage.videos[0][2].path
        raise DataError(f"{first}: no shot has {cuts.SHOT} frames; use footage with longer shots, or --read.no-cuts")
    writer.close()
    seconds = (time.monotonic() - began) / decoded * footage.frames
    return Store(out), _amount(footage, (read.skip or 0) + 1), seconds


def _amount(footage: Footage, lag: int) -> Amount:
    """How much footage there will be in a clip store whose clips take every `lag`-th frame."""
    counts = [frames_read(reader, footage.fps) for _, _, reader in footage.videos]
    splits = [split for _, split, _ in footage.videos]
    longest = PIECE * lag
    pieces = [min(longest, count - start) for count in counts for start in range(0, count, longest)]
    if len(set(splits)) == 1 and len(pieces) >= 3:  # about as StoreWriter.split_by_shots
        held_out = sum(pieces[-2 * max(1, len(pieces) // 10) :])
    else:
        held_out = sum(count for count, split in zip(counts, splits, strict=True) if split != "train")
    return Amount(sum(counts) - held_out, held_out)


def scaled(found: Survey, height: int, width: int, every: int) -> Survey:
    """A survey as it would be of frames of another size, px, of which each `every`-th is kept."""
    scale = height / found.height

    def resized(plate: np.ndarray) -> np.ndarray:
        size = (round(plate.shape[1] * width / found.width), round(plate.shape[0] * scale))
        return np.asarray(Image.fromarray(plate).resize(size, Image.Resampling.NEAREST))

    return replace(
        found,
        height=height,
        width=width,
        agent=(found.agent[0] * scale, found.agent[1] * scale),
        speed=found.speed * scale * every,
        fastest=found.fastest * scale * every,
        camera=found.camera * scale * every,
        plates=[resized(plate) for plate in found.plates],
    )


def estimate(run: Run, store: Store, gma: GMA, amount: Amount, surveyed: bool = True) -> dict[str, float]:
    """Seconds of each part of a training, after the data.

    Args:
        run: options and choices, those of the schedules included.
        store: the footage, or a sample of it.
        gma: an untrained model.
        amount: how much footage there is in all.
        surveyed: whether there was a survey, whose silhouettes M starts from.
    """
    config = run.config
    video = max(store.videos, key=lambda v: v.length)
    clip = replace(video, length=min(video.length, LONGEST))
    with tempfile.TemporaryDirectory() as folder, Bar("timing a few steps of each stage") as bar:
        bar.tell("GMA")
        trainer = Trainer(gma, Path(folder) / "gma.pt", config.loop, run.processes)
        copy = working_copy(run, store)
        labels = _labels(copy, clip) if surveyed and "pseudo_label" not in config.gma.without else None
        features = load_features(config.vgg, trainer.device)
        step = _step(trainer, GmaStage(gma, copy, config.gma, features, labels))
        some = _frames(copy, clip)[:PROBED].to(trainer.device)
        masks = _seconds(lambda: gma.mask(some)) / len(some)
        out = {"GMA": step * (config.gma.iterations or 0)}
        if config.refine.iterations:
            out["refine"] = step * config.refine.iterations + PLATE * masks * min(LABELLED_FRAMES, amount.train)
        if "window_frames" not in run.values:
            return out  # LMA is skipped
        bar.tell("windows")
        trainer = Trainer(build_lma(gma.config), Path(folder) / "lma.pt", config.loop, run.processes)
        model = Glass(gma.eval(), trainer.model.eval())
        most = run.values["window_frames"]
        train, held_out = min(amount.train, most), min(amount.held_out, max(1, most // 8))
        clip = replace(clip, length=min(clip.length, max(SHORTEST, int(SECONDS / masks))))
        track_windows(model, store, [replace(clip, length=min(clip.length, PROBED))])  # the first call takes longer
        began = time.monotonic()
        windows = track_windows(model, store, [clip])
        out["windows"] = (time.monotonic() - began) / clip.length * (train + held_out)
        out["windows"] += PLATE * masks * min(SURVEYED * background.SHOT, amount.train)  # for the hole's margin
        windows = align_windows(model, windows)
        bar.tell("poses and local actions")
        if isinstance(trainer.model, PoseLMA):
            out |= _pose_and_lma(run, trainer, windows, train)
        else:
            stage = PaperStage(trainer.model, windows, config.paper, features)
            out["LMA"] = _step(trainer, stage) * config.paper.iterations
        bar.tell("report")
        out["world and report"] = _report(run, model, store, clip, windows, amount)
    return out


def _pose_and_lma(run: Run, trainer: Trainer, windows: WindowSet, frames: int) -> dict[str, float]:
    """Seconds of the stages pose and lma, on windows of `frames` frames in all."""
    config = run.config
    poses = _step(trainer, PoseStage(trainer.model, windows, config.pose)) * (config.pose.iterations or 0)
    stage = LmaStage(trainer.model, windows, config.lma)
    count = trainer.model.config.poses
    stage.clusters = torch.zeros(count, dtype=torch.int64, device=trainer.device)  # finding them takes seconds
    actions = _step(trainer, stage) * (config.lma.iterations or 0)
    actions += _seconds(lambda: encode_windows(trainer.model, windows)) / len(windows.layers) * frames
    return {"poses": poses, "local actions": actions}


def _step(trainer: Trainer, stage: Stage) -> float:
    """Seconds of a step of a stage, the median of some; 0 if it is skipped."""
    ends: list[float] = []

    def after(*_: Any) -> None:
        ends.append(time.monotonic())
        if len(ends) > STEPS or (len(ends) > 2 and ends[-1] - ends[0] > SECONDS):
            raise _Enough

    with contextlib.suppress(_Enough):
        trainer.run(stage, after)
    return float(np.median(np.diff(ends))) if len(ends) > 1 else 0.0


class _Enough(Exception):
    """Ends a stage that is timed."""


def _seconds(work: Callable[[], Any]) -> float:
    began = time.monotonic()
    with torch.no_grad():
        work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.monotonic() - began


def _frames(store: Store, clip: Video) -> torch.Tensor:
    return frames_to_tensor(store.frames[clip.start : clip.start + clip.length])


def _labels(store: Store, clip: Video) -> PseudoLabels:
    """Empty silhouettes and a plate, which cost what the survey's do."""
    index = np.arange(clip.start, clip.start + clip.length)
    bits = np.zeros((clip.length, (store.height * store.width + 7) // 8), np.uint8)
    plate = np.dstack([store.frames[clip.start], np.full((store.height, store.width), 255, np.uint8)])
    return PseudoLabels(index, bits, [plate], np.zeros(clip.length, int), np.zeros((clip.length, 2), int))


def _report(run: Run, model: Glass, store: Store, clip: Video, windows: WindowSet, amount: Amount) -> float:
    """Seconds of export and report: the frames that are tracked in them, and the windows that are drawn."""
    model = copy.deepcopy(model).cpu()  # as worlds are measured
    frames = _frames(store, replace(clip, length=min(clip.length, SHORTEST)))
    tracking = _seconds(lambda: track(model, frames)) / len(frames)
    some = Clip(windows.layers[:PROBED], windows.position[:PROBED].astype(np.float32))
    layers = unpack_layers(torch.from_numpy(windows.centred(some, model.config.window)))[:, None]
    shape = len(layers), ROLLED
    codes = model.lma.quantiser.embed(torch.zeros(shape, dtype=torch.int64).flatten()).unflatten(0, shape)
    still, places = torch.zeros(*shape, 2), torch.from_numpy(some.position)
    drawing = _seconds(lambda: model.lma.rollout(layers, still, codes, position=places)) / (shape[0] * shape[1])
    measured = min(amount.held_out or amount.train, run.shortened("report_videos", VIDEOS) * PIECE)
    shots = min(START_FRAMES, max(1, amount.held_out // PIECE))
    tracked = shots * START_SHOT + 2 * measured  # the second time to refine the positions
    rollouts = {max(CURVE): ROLLOUTS, max(MARKS): LONG_ROLLOUTS}
    played = sum(run.shortened("report_rollouts", rows) * steps for steps, rows in rollouts.items())
    of_code = START_FRAMES * (code_films.STEPS + TWIN_STEPS) + code_films.STARTS * code_films.STEPS
    drawn = played + 2 * measured + model.config.codes * of_code
    return tracking * tracked + drawing * drawn
