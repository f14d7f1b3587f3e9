"""Train a world: glass-train FOLDER|tennis|wsprites|arm|mouse --out runs/mine

glass-train first surveys the footage, sets frame size, window and step length, and prints why. It stops with an
explanation if the footage is unsuitable; --look does only this, and tells how long training would take. Any option
you pass wins. Then the stages run one after the other: gma, refine, matting (if frames are large), pose, lma; 0
iterations skip a stage. The run folder gets gma.pt and lma.pt (--resume continues from them), TensorBoard events (or
none: --log), sample sheets (PNG) and, at the end, world.safetensors and report.html, which says how good it is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from glass_gym.model.config import GlassConfig, preset
from glass_gym.model.glass import Glass, build_gma, build_lma
from glass_gym.model.gma import PlateInpaintNet
from glass_gym.model.library import LibraryLMA
from glass_gym.model.pose_model import PoseLMA
from glass_gym.tensors.convert import to_images
from glass_gym.tools.locks import alone

from .config import TrainConfig
from .core.command import run_command
from .core.distributed import Distributed
from .core.progress import Bar, say
from .core.reporter import Reporter
from .core.run import Run
from .core.trainer import Interrupted, Trainer, TrainingError, read_state
from .data.sources import find_source, open_with_progress
from .data.store import Store
from .evaluation.estimate import Amount, estimate, sample_footage, scaled
from .evaluation.html_report import report_world
from .footage.choices import choose_from_survey, choose_reading, choose_sizes, look_at_videos, working_copy
from .footage.others import without_others
from .footage.survey import Survey
from .gma.background import common_background
from .gma.corrections import PROBES, correct_options
from .gma.matting import MattingConfig, MattingStage, labelled_windows
from .gma.perceptual import load_features
from .gma.pseudo_labels import PseudoLabels, pseudo_labels_of
from .gma.stage import GmaStage, RefineStage, sample_pairs
from .lma.library_stage import LibraryStage
from .lma.paper_stage import PaperStage
from .lma.stage import LmaStage, lma_iterations
from .poses.stage import PoseStage, pose_schedule
from .windows.library import centred, choose_library, fill_library, headings_of
from .windows.size import choose_hole_margin, choose_window
from .windows.windows import WindowSet, choose_window_frames, sample_clips, windows_of_split
from .world.build import export_world

STAGES = ("gma", "refine", "matting", "pose", "lma")
SIZES = ("codes", "poses", "window", "agent_radius", "foreground_range", "background_range", "decoder_position",
         "background_plate", "hole_margin", "gma_scale", "window_scale", "drawing")  # fmt: skip
"""Options and choices that determine the model's sizes."""
PRIOR_CHANNELS = 64


def main(argv: list[str] | None = None) -> int:
    """The command `glass-train`; returns the exit status (docs/training.md)."""
    return run_command(TrainConfig, train, "glass-train", __doc__ or "", argv)


def train(config: TrainConfig) -> int:
    """Train a world.

    Returns:
        the exit status: 0; or 3 if it was interrupted or out of time, and `resume` continues.

    Raises:
        TrainingError, DataError, ValueError, CheckpointError: options or data that cannot be used.
        ImportError: what `log` needs is not installed.
    """
    processes = Distributed(config.loop.device)
    if config.look and processes.size > 1:
        raise TrainingError("--look runs in one process; start it without torchrun")
    if config.look:
        if processes.is_main:
            look(Run(config, processes, keep=False))
        return 0
    if config.log == "wandb" and find_spec("wandb") is None:
        raise ImportError("--log wandb needs wandb: pip install wandb")
    _check_folder(config)
    with alone(config.out) if processes.is_main else contextlib.nullcontext():
        try:
            _train(Run(config, processes))
        except (Interrupted, KeyboardInterrupt) as stop:
            resume = " and --resume" if (config.out / "gma.pt").exists() else ""
            if processes.is_main:
                print(f"\n{str(stop) or 'stopped; what is done is kept'}. Continue with the same command{resume}")
            return 3
    return 0


def _train(run: Run) -> None:
    """All stages, from videos to a world."""
    with run.processes.main_first():
        run.reload()  # what the main process has just chosen
        store = open_footage(run)
        survey = choose_sizes(run, store)
        if survey is not None and survey.chosen is not None:
            store = _clips_without_others(run, store, survey)
    with Bar("preparing"):
        reporter = Reporter(run.out, stages_of(run.config), not run.processes.is_main, run.config.log)
    gma = train_gma(run, store, survey, reporter)
    if lma_is_skipped(run.config):
        print(f"GMA is done; LMA was skipped (0 iterations). State: {gma.state_file}")
        return
    if survey is not None:
        sharpen_masks(run, gma, store, reporter)
    untrained = Glass(gma.average, build_lma(gma.model.config.replace(**_chosen_sizes(run))))
    with run.processes.main_first():
        windows = windows_of_split(run, untrained, store, "train")
        held_out = windows_of_split(run, untrained, store, "val", windows)
        choose_library(run, windows)
    if run.values.get("drawing") == "turned":
        windows, held_out = centred(windows), centred(held_out)
    lma = start_lma(run, gma)
    train_lma(run, lma, windows, held_out, reporter)
    reporter.close()
    if run.processes.is_main:
        world = export_world(run, Glass(gma.average, lma.average), store, windows, lma.minutes)
        if run.config.report:
            report_world(run, world, store)


def look(run: Run) -> None:
    """Tell what would be chosen, and how long training would take. Only the survey's picture is written.

    Raises:
        TrainingError: the data would have to be made first.
        DataError: there is no such data, or no world can be learned from it.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        if _holds_videos(run.config):
            footage, found = look_at_videos(run)
            looked = 2 * (time.monotonic() - began)  # the clips are surveyed as well
            read = run.config.read
            store, amount, decoding = sample_footage(footage, read, Path(folder))
            copy = working_copy(run, store)
            found = scaled(found, copy.height, copy.width, (read.skip or 0) + 1)
            choose_from_survey(run, found, store, amount.train)
            data = looked + decoding
        else:
            store = _made_store(run.config)
            found = choose_sizes(run, store)
            amount = Amount.of_store(store)
            data = time.monotonic() - began
        gma = build_gma(_sizes(run, store))
        if not lma_is_skipped(run.config):
            frames = min(amount.train, choose_window_frames(run, build_lma(gma.config)))
            choose_schedule(run, frames, gma.config.window)
        seconds = {"data": data} | estimate(run, store, gma, amount, surveyed=found is not None)
    total = sum(seconds.values()) / 60
    parts = ", ".join(f"{part} {s / 60:.{int(s < 60)}f}" for part, s in seconds.items())
    say(f"training would take about {max(1.0, total):.0f} minutes on this machine: {parts}")
    quick = "" if run.config.quick else f"; with --quick it takes about {max(1.0, total / 3):.0f} minutes"
    say(f"to train: the same command without --look{quick}")


# --- the steps, in their order -----------------------------------------------------------------------------------


def open_footage(run: Run) -> Store:
    """Open the data as a clip store; for a folder of videos, choose frame size and skipped frames first."""
    read = run.config.read
    if _holds_videos(run.config):
        read = choose_reading(run)
    return open_with_progress(run.config.data, dataclasses.replace(run.config, read=read))


def train_gma(run: Run, store: Store, survey: Survey | None, reporter: Reporter) -> Trainer:
    """Train GMA, then refine it with pseudo-labels from the background plates.

    Args:
        run: options and choices; corrections of theta and ranges are added.
        store: the videos.
        survey: of the videos; None without one: then there are no pseudo-labels at first.
        reporter: shows progress.

    Returns:
        the trainer of GMA; its `average` is the trained model.
    """
    config = run.config
    copy = working_copy(run, store)
    torch.manual_seed(config.loop.seed)
    state = run.out / "gma.pt"
    gma = build_gma(_known_sizes(run, state) if config.resume else _sizes(run, store))
    if survey and isinstance(gma.inpaint, PlateInpaintNet) and (plate := survey.common_plate()) is not None:
        picture = torch.from_numpy(plate).permute(2, 0, 1)
        gma.inpaint.set_plate(to_images(picture[:3]), picture[3:] / 255)
    trainer = Trainer(gma, state, config.loop, run.processes)
    _load(run, trainer)
    run.machine = trainer.machine
    run.save()
    features = load_features(config.vgg, trainer.device)
    use_labels = survey is not None and len(survey.silhouettes) and "pseudo_label" not in config.gma.without
    labels = PseudoLabels.of_survey(survey) if survey is not None and use_labels else None
    pairs = sample_pairs(copy)
    stage = GmaStage(gma, copy, config.gma, features, labels, pairs)
    stage.correct(run.values, ())  # as before an interruption

    def correct(stage: GmaStage, iteration: int, terms: dict[str, float]) -> None:
        if iteration + 1 in PROBES and iteration + 1 < stage.iterations:
            with trainer.autocast():
                found = correct_options(run, stage, trainer.average)
            stage.correct(found, (trainer.model, trainer.average))

    reporter.run(trainer, stage, correct)
    iterations = config.refine.iterations or 0
    if iterations and "refine" not in trainer.finished and not (run.out / "windows-train.npz").exists():
        with run.processes.main_first(), trainer.autocast():
            labels = pseudo_labels_of(run, trainer.average, copy)
        if len(labels.frames):
            reporter.run(trainer, RefineStage(gma, copy, run.config.gma, iterations, labels, features, pairs))
        if run.processes.is_main:
            (run.out / "pseudo-labels.npz").unlink(missing_ok=True)
    if not state.exists():  # 0 iterations
        trainer.save("", 0, None)
    return trainer


def sharpen_masks(run: Run, trainer: Trainer, store: Store, reporter: Reporter) -> None:
    """Choose the window, train the matting network on whole frames, and choose the hole's margin.

    Args:
        run: options and choices.
        trainer: of a trained GMA.
        store: the videos.
        reporter: shows progress.
    """
    sharpens = trainer.model.matting is not None and "matting" not in trainer.finished
    plate = common_background(trainer.average, store) if sharpens else None
    for model in (trainer.model, trainer.average) if plate is not None else ():
        model.inpaint.set_plate(*plate)
    with run.processes.main_first(), trainer.autocast():
        choose_window(run, trainer.average, store)
    sizes = trainer.model.config.replace(**_chosen_sizes(run))
    trainer.model.config = trainer.average.config = sizes
    if sharpens:
        with trainer.autocast():
            windows = labelled_windows(trainer.average, store)
        if windows is not None:
            config = MattingConfig()
            config = dataclasses.replace(config, iterations=run.shortened("gma.iterations", config.iterations))
            reporter.run(trainer, MattingStage(trainer.model, windows, config))
    with run.processes.main_first(), trainer.autocast():
        choose_hole_margin(run, trainer.average, store)


def start_lma(run: Run, gma: Trainer) -> Trainer:
    """The trainer of an LMA: the one that is resumed, or a new one of the sizes chosen so far, beside a trained GMA."""
    config = run.config
    state = run.out / "lma.pt"
    torch.manual_seed(config.loop.seed)
    if config.resume and state.exists():
        sizes = _known_sizes(run, state, SIZES)
    else:
        sizes = gma.model.config.replace(**_chosen_sizes(run))
    trainer = Trainer(build_lma(sizes), state, config.loop, run.processes, gma.minutes)
    _load(run, trainer)
    return trainer


def train_lma(run: Run, trainer: Trainer, windows: WindowSet, held_out: WindowSet, reporter: Reporter) -> None:
    """Train the LMA: the stages pose and lma, or the paper's LMA stage.

    Args:
        run: options and choices; iterations and batch are chosen.
        trainer: of the LMA.
        windows, held_out: layers of the training videos, and of those for sample sheets.
        reporter: shows progress.
    """
    clips = sample_clips(held_out, trainer.model.config.window)
    shown = {name: value.to(trainer.device) for name, value in clips.items()}
    if not isinstance(trainer.model, PoseLMA):
        features = load_features(run.config.vgg, trainer.device)
        reporter.run(trainer, PaperStage(trainer.model, windows, run.config.paper, features, shown))
        return
    choose_schedule(run, len(windows.layers), trainer.model.config.window)
    headings = headings_of(windows) if trainer.model.config.heading else None
    if isinstance(trainer.model, LibraryLMA):
        if not trainer.model.library.windows.any():
            fill_library(trainer.model, windows, headings)
            run.processes.share(trainer.model.library.buffers())
        trainer.average.library = trainer.model.library  # it is not trained: nothing to average
    else:
        reporter.run(trainer, PoseStage(trainer.model, windows, run.config.pose, shown))
    if "lma" not in trainer.finished:  # the stage encodes all windows when it is made
        known = trainer.model, windows, run.config.lma, shown
        reporter.run(trainer, LibraryStage(*known, headings) if trainer.model.config.library else LmaStage(*known))


def choose_schedule(run: Run, frames: int, window: int) -> None:
    """Choose the steps of the stages pose and lma, for a number of frames and windows of side `window` px."""
    if run.config.architecture != "pose":
        return
    iterations, batch = pose_schedule(frames, window)
    usual = {"pose.iterations": iterations, "pose.batch": batch, "lma.iterations": lma_iterations(frames)}
    for name, value in usual.items():
        if name not in run.values:
            run.choose(name, value, f"for {frames} frames")


# --- sizes, and weights to start from --------------------------------------------------------------------------------


def stages_of(config: TrainConfig) -> tuple[str, ...]:
    """The stages that a run has."""
    gma = STAGES[:1] if config.architecture == "paper" else STAGES[:3]
    lma = STAGES[4:] if config.architecture == "paper" else STAGES[3:]
    return gma if lma_is_skipped(config) else gma + lma


def lma_is_skipped(config: TrainConfig) -> bool:
    """Whether training ends after GMA."""
    return (config.paper if config.architecture == "paper" else config.lma).iterations == 0


def _chosen_sizes(run: Run) -> dict[str, Any]:
    known = {name: getattr(run.config, name, run.values.get(name)) for name in SIZES}
    return {name: value for name, value in known.items() if value is not None}


def _known_sizes(run: Run, state: Path, names: Sequence[str] = ()) -> GlassConfig:
    """Sizes of a resumed model, overridden by options that were given, so that loading can report the difference."""
    known = GlassConfig.from_dict(read_state(state, torch.device("cpu"))["config"])
    given = {name: getattr(run.given, name, None) for name in ("architecture", *names)}
    return known.replace(**{name: value for name, value in given.items() if value is not None})


def _sizes(run: Run, store: Store) -> GlassConfig:
    prior = {"prior_channels": PRIOR_CHANNELS} if run.config.architecture == "pose" else {}
    return preset(run.config.architecture, store.height, store.width, **prior | _chosen_sizes(run))


def _load(run: Run, trainer: Trainer) -> None:
    """Load the state that is resumed, or the finished stages of another run (`--init`)."""
    name = trainer.state_file.name
    if run.config.resume and trainer.state_file.exists():
        trainer.load()
    elif run.config.init is not None:
        source = run.config.init / name
        if name == "gma.pt" or source.exists():
            taken, differs = trainer.start_from(source)
            if name == "gma.pt" and "gma" not in taken:
                raise TrainingError(f"{source}: {differs or 'its GMA is not finished'}; use the same options")
            trainer.finished = [stage for stage in taken if stage not in run.config.again]
            if name == "gma.pt":  # P_f's range may have been corrected there
                known = read_state(source, torch.device("cpu"))["config"]
                for model in (trainer.model, trainer.average):
                    model.set_foreground_range(known["foreground_range"])
            print(f"{source}: taken are {', '.join(taken) or 'none of its stages'}" + f" ({differs})" * bool(differs))
            run.processes.wait()  # all have read the source before anything is written
            if taken:
                trainer.save("", 0, None)
    run.processes.wait()  # no process writes the state before all have looked for it


def _holds_videos(config: TrainConfig) -> bool:
    """Whether the data are videos, and no clip store; a source fetches its own."""
    is_store = (Path(config.data) / "index.json").exists()
    return not is_store and find_source(config.data).videos(config) is not None


def _made_store(config: TrainConfig) -> Store:
    """The clip store of the data, which must have been made."""
    root = Path(config.data)
    if not (root / "index.json").exists():
        root = config.cache / find_source(config.data).folder(config)
    if not (root / "index.json").exists():
        raise TrainingError(f"{config.data}: nothing to look at yet: it is made first, by glass-train {config.data}")
    return Store(root)


def _clips_without_others(run: Run, store: Store, survey: Survey) -> Store:
    """The clips of a chosen agent, in the run's folder; the main process makes them, unless a resumed run has them."""
    out = run.out / "clips"
    if (run.config.resume or not run.processes.is_main) and (out / "index.json").exists():
        return Store(out)
    return without_others(store, survey, out) if run.processes.is_main else store


def _check_folder(config: TrainConfig) -> None:
    """Check the options about run folders, before anything is surveyed or written."""
    state = config.out / "gma.pt"
    if unknown := set(config.again) - set(STAGES):
        raise TrainingError(f"--again takes {', '.join(STAGES)}, got {', '.join(sorted(unknown))}")
    if config.init is not None and not (config.init / "gma.pt").exists():
        raise TrainingError(f"{config.init / 'gma.pt'}: no such file; --init takes the folder of another run")
    if config.resume and not state.exists():
        raise TrainingError(f"{state}: nothing to resume; leave --resume out to start")
    if state.exists() and not config.resume:
        raise TrainingError(f"{state} exists; add --resume to continue it, or choose another --out")


if __name__ == "__main__":
    sys.exit(main())
