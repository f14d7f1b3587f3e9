"""Train a world: glass-train FOLDER|tennis|wsprites|arm --out runs/mine

It first surveys the footage, says what it found, and chooses the options that depend on it (frame size, theta, shift
ranges, window, K ...), each with its reason; an option that you pass wins. It stops with an explanation if the footage
is unsuitable. Then the stages run one after the other: GMA, refine, pose, LMA; 0 iterations skip a stage. The run folder
gets gma.pt and lma.pt (--resume goes on from them), TensorBoard events, sample sheets (PNG) and, at the end,
world.safetensors and report.html: how good the world is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from pathlib import Path

import torch

from glass_gym.model.config import GlassConfig, preset
from glass_gym.model.glass import Glass, build_gma, build_lma
from glass_gym.model.pose_model import PoseLMA
from glass_gym.tensors.convert import to_images
from glass_gym.tools.locks import alone

from .config import TrainConfig
from .core.command import run_command
from .core.distributed import Distributed
from .core.reporter import Reporter
from .core.run import Run
from .core.trainer import Interrupted, Trainer, TrainingError, read_state
from .data.sources import open_with_progress
from .data.store import Store
from .evaluation.html_report import report_world
from .footage.choices import choose_reading, choose_sizes
from .footage.survey import Survey
from .gma.corrections import PROBES, choose_window, correct_options
from .gma.perceptual import load_features
from .gma.pseudo_labels import PseudoLabels, pseudo_labels_of
from .gma.stage import GmaStage, RefineStage, sample_pairs
from .lma.paper_stage import PaperStage
from .lma.stage import LmaStage, lma_iterations
from .poses.stage import PoseStage, pose_schedule
from .windows.windows import WindowSet, sample_clips, windows_of_split
from .world.build import export_world

STAGES = ("gma", "refine", "pose", "lma")
SIZES = ("codes", "poses", "window", "agent_radius", "foreground_range", "background_range", "decoder_position",
         "background_plate", "hole_margin")  # fmt: skip
"""Options and choices that are sizes of the model."""
PRIOR_CHANNELS = 64


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit status: 3 if it was stopped, and can be resumed."""
    return run_command(TrainConfig, train, "glass-train", __doc__ or "", argv)


def train(config: TrainConfig) -> int:
    """Run the command's work.

    Returns:
        0; or 3 if it was interrupted or out of time: it is saved, and `resume` continues.

    Raises:
        TrainingError, DataError, ValueError, CheckpointError: options or data that cannot be used.
    """
    _check_folder(config)
    processes = Distributed(config.loop.device)
    with alone(config.out) if processes.is_main else contextlib.nullcontext():
        try:
            _train(Run(config, processes))
        except (Interrupted, KeyboardInterrupt) as stop:
            resume = " and --resume" if (config.out / "gma.pt").exists() else ""
            print(f"\n{stop or 'stopped; what is done is kept'}. Continue with the same command{resume}")
            return 3
    return 0


def _train(run: Run) -> None:
    """From videos to a world."""
    with run.processes.main_first():
        store = open_footage(run)
        survey = choose_sizes(run, store)
    reporter = Reporter(run.out, STAGES, silent=not run.processes.is_main)
    gma = train_gma(run, store, survey, reporter)
    if lma_is_skipped(run.config):
        print(f"GMA is done; LMA was skipped (0 iterations). State: {gma.state_file}")
        return
    with run.processes.main_first():
        choose_window(run, gma.average, store)
    lma = start_lma(run, gma)
    with run.processes.main_first():
        windows = windows_of_split(run, Glass(gma.average, lma.model), store, "train")
        held_out = windows_of_split(run, Glass(gma.average, lma.model), store, "val", windows)
    train_lma(run, lma, windows, held_out, reporter)
    if run.processes.is_main:
        world = export_world(run, Glass(gma.average, lma.average), store, windows, lma.minutes)
        if run.config.report:
            report_world(run, world, store)


# --- the calls, in their order -----------------------------------------------------------------------------------


def open_footage(run: Run) -> Store:
    """The videos as a clip store; of a folder of videos, frame size and skipped frames are chosen first."""
    read = run.config.read
    if Path(run.config.data).is_dir() and not (Path(run.config.data) / "index.json").exists():
        read = choose_reading(run)
    return open_with_progress(run.config.data, dataclasses.replace(run.config, read=read))


def train_gma(run: Run, store: Store, survey: Survey | None, reporter: Reporter) -> Trainer:
    """GMA, then refine with pseudo-labels from the background plates."""
    config = run.config
    torch.manual_seed(config.loop.seed)
    state = run.out / "gma.pt"
    sizes = GlassConfig.from_dict(read_state(state, torch.device("cpu"))["config"]) if config.resume else None
    gma = build_gma(sizes or _sizes(run, store))
    if survey is not None and gma.config.background_plate and (plate := survey.common_plate()) is not None:
        picture = torch.from_numpy(plate).permute(2, 0, 1)
        gma.inpaint.set_plate(to_images(picture[:3]), picture[3:] / 255)  # type: ignore[operator]
    trainer = Trainer(gma, state, config.loop, run.processes)
    _load(run, trainer)
    run.save()
    features = load_features(config.vgg, trainer.device)
    use_labels = survey is not None and len(survey.silhouettes) and config.gma.pseudo_label_weight
    labels = PseudoLabels.of_survey(survey) if survey is not None and use_labels else None
    pairs = sample_pairs(store)
    stage = GmaStage(gma, store, config.gma, features, labels, pairs)

    def correct(stage: GmaStage, iteration: int, terms: dict[str, float]) -> None:
        if labels is not None and iteration + 1 in PROBES and iteration + 1 < stage.iterations:
            with trainer.autocast():
                found = correct_options(run, trainer.average, store, labels)
            stage.correct(found, (trainer.model, trainer.average))

    reporter.run(trainer, stage, correct)
    iterations = config.refine.iterations or 0
    if iterations and "refine" not in trainer.finished and not (run.out / "windows-train.npz").exists():
        with run.processes.main_first(), trainer.autocast():
            labels = pseudo_labels_of(run, trainer.average, store)
        if len(labels.frames):
            reporter.run(trainer, RefineStage(gma, store, run.config.gma, iterations, labels, features, pairs))
    return trainer


def start_lma(run: Run, gma: Trainer) -> Trainer:
    """A new LMA of the sizes that are known now, or the one that is resumed."""
    config = run.config
    state = run.out / "lma.pt"
    torch.manual_seed(config.loop.seed)
    if config.resume and state.exists():
        sizes = GlassConfig.from_dict(read_state(state, torch.device("cpu"))["config"])
    else:
        sizes = gma.model.config.replace(**_chosen_sizes(run))
    trainer = Trainer(build_lma(sizes), state, config.loop, run.processes, gma.minutes)
    _load(run, trainer)
    return trainer


def train_lma(run: Run, trainer: Trainer, windows: WindowSet, held_out: WindowSet, reporter: Reporter) -> None:
    """Poses and local actions; or the paper's LMA."""
    shown = {
        name: value.to(trainer.device) for name, value in sample_clips(held_out, trainer.model.config.window).items()
    }
    if not isinstance(trainer.model, PoseLMA):
        features = load_features(run.config.vgg, trainer.device)
        reporter.run(trainer, PaperStage(trainer.model, windows, run.config.paper, features, shown))
        return
    frames = len(windows.layers)
    iterations, batch = pose_schedule(frames, trainer.model.config.window)
    why = f"for {frames} frames"
    for name, value in (
        ("pose.iterations", iterations),
        ("pose.batch", batch),
        ("lma.iterations", lma_iterations(frames)),
    ):
        if name not in run.values:
            run.choose(name, value, why)
    reporter.run(trainer, PoseStage(trainer.model, windows, run.config.pose, shown))
    if "lma" not in trainer.finished:  # it looks at all windows first
        reporter.run(trainer, LmaStage(trainer.model, windows, run.config.lma, shown))


# --- sizes, weights that are there already --------------------------------------------------------------------------


def lma_is_skipped(config: TrainConfig) -> bool:
    """Whether training ends after GMA."""
    return (config.paper if config.architecture == "paper" else config.lma).iterations == 0


def _chosen_sizes(run: Run) -> dict[str, int]:
    known = {name: getattr(run.config, name, run.values.get(name)) for name in SIZES}
    return {name: value for name, value in known.items() if value is not None}


def _sizes(run: Run, store: Store) -> GlassConfig:
    prior = {"prior_channels": PRIOR_CHANNELS} if run.config.architecture == "pose" else {}
    return preset(run.config.architecture, store.height, store.width, **prior | _chosen_sizes(run))


def _load(run: Run, trainer: Trainer) -> None:
    """Take up the run, or another run's finished stages."""
    name = trainer.state_file.name
    if run.config.resume and trainer.state_file.exists():
        trainer.load()
    elif run.config.init is not None:
        source = run.config.init / name
        if name == "gma.pt" or source.exists():
            taken = trainer.start_from(source)
            if name == "gma.pt" and "gma" not in taken:
                raise TrainingError(f"{source}: its GMA has other sizes, or is not finished; use the same options")
            trainer.finished = [stage for stage in taken if stage not in run.config.again]
            print(f"{source}: taken are {', '.join(taken) or 'none of its stages: other sizes'}")
    run.processes.wait()  # all have looked for the state before anybody writes it


def _check_folder(config: TrainConfig) -> None:
    """Before anything is surveyed or written."""
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
