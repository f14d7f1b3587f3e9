"""Train a world: glass-train FOLDER|tennis|wsprites|arm --out runs/mine (in a checkout also python -m training.train)

It looks at the footage first, says what it found, and chooses what training must be told (frame size, theta, shift
ranges, window, K ...), each with its reason; an option that you give is left as it is. Then the stages GMA -> refine ->
pose -> LMA run one after the other; 0 iterations skip a stage. The run folder gets state.pt (resumable with --resume),
TensorBoard events, sample sheets (PNG) and, at the end, world.safetensors and report.html: how good the world is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from glass_gym.model.token_glass import PoseLMA
from tqdm import tqdm

from glass_gym.model.config import GlassConfig, preset
from glass_gym.model.glass import Glass, build_glass
from glass_gym.tensors.convert import to_images
from glass_gym.tools.locks import alone
from glass_gym.tools.time_left import TimeLeft
from glass_gym.worlds.checkpoint import CheckpointError, save_world
from glass_gym.worlds.checks import without_folders

from .core import sheets
from .core.distributed import Distributed
from .core.options import Pixels, Positive, check_options
from .core.trainer import LoopConfig, Trainer, TrainingError, read_state
from .data.sources import DataOptions, open_data, source_of
from .data.store import DataError, Store, Video
from .evaluation.html_report import write_report
from .footage.choices import (
    Choices,
    choose_hole,
    choose_reading,
    choose_sizes,
    choose_window,
    correct,
    look_at_folder,
    look_at_store,
)
from .footage.survey import NoWorldError, Survey
from .gma.perceptual import load_features
from .gma.pseudo_labels import make_pseudo_labels
from .stages import (
    GmaConfig,
    GmaStage,
    LmaConfig,
    LmaStage,
    LongConfig,
    LongStage,
    PoseConfig,
    PoseStage,
    PriorConfig,
    PriorStage,
    PseudoLabels,
    RefineConfig,
    RefineStage,
    Stage,
)
from .windows.windows import WindowSet, align_windows, track_windows
from .world.build import build_world

try:
    import tyro
except ImportError:  # the command says so; the library works without
    tyro = None


PROBES = (200, 350, 500)
"""Steps of GMA after which it is looked at: was the right thing chosen?"""
FRAMES = 120_000
"""Tracked for the stages after GMA: from half as many, LMA learned more by heart (docs/notes/crispness.md) ..."""
SMALL_WINDOW = 48
"""... of windows of at most so many px, for larger ones need gigabytes."""
VIDEOS_KEPT = 40
"""Tracked between two savings."""
ATTACHED = 0.5
"""An agent that touches the frame's edge in more than this share of the frames hangs on to it."""


@dataclass(kw_only=True)
class TrainConfig(DataOptions):
    """Train a GLASS world on videos."""

    data: Annotated[str, tyro.conf.Positional] if tyro else str
    """`tennis` (recorded from ALE), `wsprites` (generated), a clip store, a folder of videos, or `module:Source`"""
    out: Path = Path("runs/world")
    """run folder"""
    preset: str = "token"
    """token (default), lean or paper"""
    resume: bool = False
    """continue from OUT/state.pt"""
    init: Path | None = None
    """start from another run's state.pt (its finished stages are skipped; GMA only, where LMA's sizes differ)"""
    again: tuple[str, ...] = ()
    """with --init: stages (gma, refine, pose, lma, long, prior) to train once more from the weights that they have"""
    codes: Positive | None = None
    """K, the number of local actions; default: 9 (tennis: 8). Those that explain nothing are left out of the world"""
    poses: Positive | None = None
    """P, the size of the vocabulary of poses (preset token); default: 256, less for little footage"""
    window: Pixels | None = None
    """side of the agent's window, px; default: tennis 32, wsprites 64, else as large as the agent was found to be"""
    agent_radius: Pixels | None = None
    """half size of the agent, px; default: tennis 12, wsprites 24, else measured"""
    foreground_range: Pixels | None = None
    """px, the largest step of the agent that is looked for; default: by the footage"""
    background_range: Pixels | None = None
    """px, the largest move of the camera that is looked for; default: by the footage"""
    placed: bool | None = None
    """tell D where in the frame the agent is (preset token); default: if it mostly hangs on to the frame's edge"""
    scene: bool | None = None
    """let N know the scene, of footage of one scene by a camera that stands still (presets token and lean); default: if
    it is such footage"""
    choose: bool = False
    """let the footage choose where the source has values of its own (tennis, wsprites), too"""
    report: bool = True
    """measure the world at the end, and write report.html"""
    force: bool = False
    """train even where the footage holds no world"""
    window_frames: Positive | None = None
    """about so many frames are tracked for the stages after GMA: every n-th video, where there are more. Default:
    120,000, of windows larger than 48 px 60,000"""
    vgg: Path | None = None
    """VGG16 weights (.safetensors) for the perceptual losses; default: none"""
    code_names: tuple[str, ...] = ()
    """names of the K codes, stored in the checkpoint"""
    gma: GmaConfig = field(default_factory=GmaConfig)
    lma: LmaConfig = field(default_factory=LmaConfig)
    long: LongConfig = field(default_factory=LongConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)
    refine: RefineConfig = field(default_factory=RefineConfig)
    pose: PoseConfig = field(default_factory=PoseConfig)
    token: LmaConfig = field(default_factory=LmaConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    if tyro is None:
        print("training needs tyro: pip install 'glass-gym[train]'", file=sys.stderr)
        return 2
    config = tyro.cli(TrainConfig, args=argv, prog="glass-train", description=__doc__)
    try:
        finished = train(config)
    except KeyboardInterrupt:  # between the stages, which stop by themselves
        finished = False
        how = "the same command and --resume" if (config.out / "state.pt").exists() else "the same command"
        print(f"\nstopped; what is done is kept. Continue with {how}")
    except (DataError, TrainingError, CheckpointError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # a folder that is full, or may not be written
        print(f"error: {error}; free some space or choose another --out or --cache", file=sys.stderr)
        return 1
    return 0 if finished else 3


def train(config: TrainConfig) -> bool:
    """Run the command's work. Returns False if it was interrupted or out of time (saved; --resume continues).

    Raises:
        TrainingError, DataError, ValueError, CheckpointError: options or data that cannot be used.
    """
    check_options(config)
    if unknown := set(config.again) - {"gma", "refine", "pose", "lma", "long", "prior"}:
        raise TrainingError(f"--again takes gma, refine, pose, lma, long and prior, got {', '.join(sorted(unknown))}")
    if not (config.lma.learn_codes or config.init or config.resume):
        raise TrainingError("--lma.no-learn-codes keeps codes that were learned before: add --init OTHER/state.pt")
    if config.long.rows > config.long.agents:
        raise TrainingError(f"--long.rows is {config.long.rows}, more than the --long.agents {config.long.agents}")
    _check_out(config)
    processes = Distributed(config.loop.device)
    with alone(config.out) if processes.is_main else contextlib.nullcontext():
        return _train(config, processes)


def _train(config: TrainConfig, processes: Distributed) -> bool:
    with processes.main_first():
        choices = Choices.load(config.out / "choices.json")
        store = _open(config, choices)
        hints, scene = _look(config, choices, store)
    trainer = _trainer(config, choices, store, processes, scene)
    report = Reporter(config, trainer, store) if processes.is_main else Silence()
    if config.gma.iterations is None:
        config.gma.iterations = choices.values.get("gma.iterations", 2000)
    features = load_features(config.vgg, trainer.device)
    probed = _probing(config, choices, trainer, store, hints, report.step) if hints else report.step
    if not trainer.run(GmaStage(trainer.model, store, config.gma, features, hints), probed, report.sheet):
        return report.interrupted()
    if not _refine(config, choices, trainer, store, features, report):
        return report.interrupted()
    if config.lma.iterations <= 0:
        print(f"GMA is done; LMA was skipped (--lma.iterations 0). State: {trainer.state_file}")
        return True
    with processes.main_first():
        _choose_window(config, choices, trainer.average, store)
    trainer = report.trainer = _resized(trainer, window=choices, agent_radius=choices, hole=choices)
    with processes.main_first():
        windows = _windows(config, trainer, store, "train")
        held_out = _windows(config, trainer, store, "val", windows)
    as_they_stand = dataclasses.replace(config.lma, jitter=0)  # a vocabulary's windows are aligned
    report.held_out = LmaStage(trainer.average, held_out, as_they_stand)
    if isinstance(trainer.model, PoseLMA):
        if not trainer.run(PoseStage(trainer.model, windows, config.pose), report.step, report.sheet):
            return report.interrupted()
    for make in _animation_stages(config, trainer.model, windows, features):
        if not trainer.run(make(), report.step, report.sheet):
            return report.interrupted()
    if processes.is_main:
        _export(config, choices, trainer, store, windows)
    return True


def _refine(config: TrainConfig, choices: Choices, trainer: Trainer, store: Store, features, report) -> bool:
    """Look at the footage again, with M, and train GMA on with what was found. Returns False if it was interrupted."""
    if config.refine.iterations is None:
        chosen = 0 if config.preset == "paper" else choices.values.get("refine.iterations", 0)
        config.refine.iterations = min(chosen, (config.gma.iterations or 0) // 3)
    if not config.refine.iterations or "refine" in trainer.finished or (config.out / "windows-train.npz").exists():
        return True
    path = config.out / "second-look.npz"
    with trainer.processes.main_first():
        hints = _second_look(trainer, store, path)
    if not len(hints.frames):
        print("  too little is sure behind the agent, or about it; M stays as it is")
        return True
    stage = RefineStage(trainer.model, store, config.gma, config.refine, hints, features)
    finished = trainer.run(stage, report.step, report.sheet)
    if finished and trainer.processes.is_main:
        path.unlink()
    return finished


def _second_look(trainer: Trainer, store: Store, path: Path) -> PseudoLabels:
    """By GMA as it was after its own steps: when the refine stage goes on, by what was seen then."""
    if path.exists():
        return PseudoLabels.load(path)
    with tqdm(desc="looking again, with M", unit="frame") as bar, trainer.autocast():
        hints = make_pseudo_labels(trainer.average, store, bar.update)
    hints.save(path)
    return hints


def _check_out(config: TrainConfig) -> None:
    """Before anything is looked at or written."""
    state = config.out / "state.pt"
    if config.resume and not state.exists():
        raise TrainingError(f"{state}: nothing to resume; leave --resume out to start")
    if state.exists() and not config.resume:
        raise TrainingError(f"{state} exists; add --resume to continue it, or choose another --out")


def _look(config: TrainConfig, choices: Choices, store: Store) -> tuple[PseudoLabels | None, np.ndarray | None]:
    """Look at the store's frames, say what was found, and choose what GMA must know, unless that was done before.

    Returns:
        where the agent was seen; None where the source has values of its own. And the scene, where there is one.
    """
    if source_of(store).defaults.theta is not None and not config.choose:
        return None, None
    seen = look_at_store(store)
    scene = seen.one_scene() if config.preset != "paper" else None
    hints = None
    if len(seen.hinted) and config.gma.hint:
        hints = PseudoLabels(seen.hinted, seen.hints, seen.scenes, seen.scene_of, seen.corners)
    if "theta" in choices.values:
        return hints, scene
    print("what the footage shows:", *seen.lines(), sep="\n  ")
    picture = sheets.save_picture(config.out / "samples" / "survey.png", _strip(seen.pictures))
    print(f"  pictures: {picture}")
    _stop_without_world(config, seen)
    print("chosen (an option of the same name overrides it):")
    choose_sizes(choices, seen, store.height, store.width)
    frames = sum(v.length for v in store.videos if v.split == "train")
    if config.preset == "token":
        poses = int(np.clip(frames // 60 // 8 * 8, 32, 256))
        choices.choose("poses", poses, f"the vocabulary of poses (P), for {frames} frames")
        why = f"the agent hangs on to the frame's edge in {seen.at_edge:.0%} of the frames"
        choices.choose("placed", seen.at_edge > ATTACHED, why)
    if scene is not None:
        choices.choose("scene", True, f"the camera stands still in all {seen.shots} shots, before one scene")
    choices.save(config.out / "choices.json")
    return hints, scene


def _probing(config: TrainConfig, choices: Choices, trainer: Trainer, store: Store, hints: PseudoLabels, on_step):
    """`on_step`, and now and then a look at GMA: what was chosen wrongly is corrected before it is trained on."""

    def step(stage: Stage, iteration: int, terms: dict[str, float]) -> None:
        on_step(stage, iteration, terms)
        if iteration + 1 not in PROBES or iteration + 1 >= stage.iterations:
            return
        theta = config.gma.theta if config.gma.theta == choices.values.get("theta") else None
        with trainer.autocast():
            found = correct(choices, trainer.average, store, hints, theta, config.foreground_range is None)
        config.gma.theta = found.get("theta", config.gma.theta)
        config.gma.hint_steps += found.get("hint_steps", 0)
        if "foreground_range" in found:
            for model in (trainer.model, trainer.average):
                model.widen(found["foreground_range"])
        if found and trainer.processes.is_main:
            choices.save(config.out / "choices.json")

    return step


def _stop_without_world(config: TrainConfig, seen: Survey) -> None:
    for reason in seen.reasons_to_stop():
        if not config.force:
            raise NoWorldError(f"{config.data}: {reason}. --force trains nevertheless")
        print(f"warning: {reason}", file=sys.stderr)


def _strip(pictures: list[np.ndarray]) -> np.ndarray:
    return sheets.grid([pictures[i : i + 4] for i in range(0, len(pictures) // 4 * 4, 4)] or [pictures], scale=1)


def _choose_window(config: TrainConfig, choices: Choices, model: Glass, store: Store) -> None:
    """How large the agent is, by the trained M, unless that is known."""
    choices.update(config.out / "choices.json")
    if "first_window" not in choices.values or (config.window and config.agent_radius) or "window" in choices.values:
        return
    choose_window(choices, model, store)
    choose_hole(choices, model, store)
    for name in ("window", "agent_radius"):
        choices.values[name] = getattr(config, name) or choices.values[name]
    choices.save(config.out / "choices.json")


def _resized(trainer: Trainer, **sizes: Choices) -> Trainer:
    """The trainer with sizes as they were chosen; what is finished is kept, the rest starts with new weights."""
    wanted = {name: choices.values[name] for name, choices in sizes.items() if name in choices.values}
    if all(getattr(trainer.model.config, name) == value for name, value in wanted.items()):
        return trainer
    torch.manual_seed(trainer.config.seed)
    model = build_glass(trainer.model.config.replace(**wanted))
    return trainer.with_model(model)


def _animation_stages(config: TrainConfig, model: Glass, windows: WindowSet, features) -> list[Callable[[], Stage]]:
    """Makers of the stages after GMA; a stage is made when its turn comes, for some look at all windows first."""
    if isinstance(model, PoseLMA):
        return [
            lambda: LmaStage(model, windows, config.token),
        ]
    stages: list[Callable[[], Stage]] = [lambda: LmaStage(model, windows, config.lma, features)]
    if config.long.iterations is None:
        config.long.iterations = config.lma.iterations // 3 if model.view.follows else 0
    if config.long.iterations > 0:
        stages.append(lambda: LongStage(model, windows, config.long, config.lma, features))
    if model.prior is not None:
        stages.append(lambda: PriorStage(model, windows, config.prior, config.lma))
    return stages


def _trainer(
    config: TrainConfig, choices: Choices, store: Store, processes: Distributed, scene: np.ndarray | None
) -> Trainer:
    """A trainer over a new model, or one with the weights that the options name."""
    torch.manual_seed(config.loop.seed)
    if config.prior.iterations is None:
        later = config.lma.iterations or LmaConfig().iterations  # of a GMA that is trained alone, LMA may come later
        config.prior.iterations = min(400, later // 8)
    if config.resume:  # sizes may have been chosen on the way
        known = read_state(config.out / "state.pt", torch.device("cpu"))["config"]
        model = build_glass(GlassConfig.from_dict(known).replace(**_given(config)))
    else:
        model = build_glass(preset(config.preset, store.height, store.width, **_sizes(config, choices, store)))
    if model.config.background_plate and scene is not None:
        picture = torch.from_numpy(scene).permute(2, 0, 1)
        model.inpaint.show(to_images(picture[:3]), picture[3:] / 255)
    if config.gma.theta is None:
        config.gma.theta = choices.values.get("theta") or source_of(store).defaults.theta
    trainer = Trainer(model, config.out, config.loop, processes)
    if config.resume:
        trainer.load()
    elif config.init:
        trainer.start_from(config.init)
        if not config.lma.learn_codes and "lma" not in trainer.finished:
            raise TrainingError(f"{config.init}: its codes were not learned; leave out --lma.no-learn-codes")
        trainer.finished = [name for name in trainer.finished if name not in config.again]
    processes.wait()  # all have looked for state.pt before anybody writes it
    if processes.is_main:
        (config.out / "config.json").write_text(json.dumps(dataclasses.asdict(config), default=str, indent=1))
    return trainer


SIZES = ("codes", "poses", "window", "agent_radius", "foreground_range", "background_range", "placed", "scene")


def _given(config: TrainConfig) -> dict[str, int]:
    """Sizes that were given as options."""
    return {name: getattr(config, name) for name in SIZES if getattr(config, name) is not None}


def _sizes(config: TrainConfig, choices: Choices, store: Store) -> dict[str, int]:
    """Sizes as given, else as chosen, else the source's; those that are chosen later are provisional."""
    defaults = source_of(store).defaults
    later = {"window": "first_window", "agent_radius": "first_radius"}
    sizes = {"prior_channels": config.prior.channels if config.prior.iterations else 0}
    for name in SIZES:
        chosen = choices.values.get(name) or choices.values.get(later.get(name, ""))
        value = chosen or getattr(defaults, name, None)
        if value:
            sizes[name] = value
    return sizes | _given(config)


def _open(config: TrainConfig, choices: Choices) -> Store:
    if not (Path(config.data) / "index.json").exists() and Path(config.data).is_dir():
        _choose_reading(config, choices)
    bars: list[tqdm] = []

    def progress(done: int, total: int) -> None:
        if not bars:
            bars.append(tqdm(total=total, desc="data"))
        bars[0].update(min(done, total) - bars[0].n)
        if done >= total:
            bars[0].close()  # else those that follow are drawn below it

    return open_data(config.data, config, progress)


def _choose_reading(config: TrainConfig, choices: Choices) -> None:
    """How videos are read, by a look at some of them, unless that is known."""
    read = config.read
    if "read.size" not in choices.values and (read.size is None or read.skip is None):
        with tqdm(desc="looking at the footage", unit="video") as bar:
            seen, size = look_at_folder(Path(config.data), read.crop, read.skip_broken, lambda: bar.update(1))
        _stop_without_world(config, seen)
        choose_reading(choices, seen, size)
        choices.save(config.out / "choices.json")
    config.read = choices.reading(read)


def _windows(
    config: TrainConfig, trainer: Trainer, store: Store, split: str, like: WindowSet | None = None
) -> WindowSet:
    path = config.out / f"windows-{split}.npz"
    if (known := _known_windows(path)) is not None:
        return known
    videos = [v for v in store.videos if v.length >= 2]
    videos = [v for v in videos if v.split == split] or videos[:1]
    small = trainer.model.view.follows and trainer.model.config.window <= SMALL_WINDOW
    most = config.window_frames or (FRAMES if small else FRAMES // 2)
    most = most if split == "train" else max(1, most // 8)
    videos = videos[:: math.ceil(sum(v.length for v in videos) / most)]
    kept = config.out / f"tracked-{split}"
    tracked = _tracked(trainer.average, store, videos, kept)
    print(f"aligning the agent's windows ({split})", flush=True)
    windows = align_windows(trainer.average, tracked, like)
    windows.save(path)
    shutil.rmtree(kept)
    return windows


def _tracked(model: Glass, store: Store, videos: list[Video], kept: Path) -> WindowSet:
    """Windows where the tracker sees the agent; kept in a folder as they are done: no interruption costs much."""
    kept.mkdir(exist_ok=True)
    parts = []
    with tqdm(total=len(videos), desc=f"tracking the agent ({kept.name.partition('-')[2]})", unit="video") as bar:
        for start in range(0, len(videos), VIDEOS_KEPT):
            some = videos[start : start + VIDEOS_KEPT]
            path = kept / f"{start}-of-{len(videos)}.npz"
            if (part := _known_windows(path)) is None:
                part = track_windows(model, store, some, lambda done: bar.update(1))
                part.save(path)
            else:
                bar.update(len(some))
            parts.append(part)
    return WindowSet.joined(parts)


def _known_windows(path: Path) -> WindowSet | None:
    """Windows that an earlier run kept."""
    if not path.exists():
        return None
    try:
        return WindowSet.load(path)
    except ValueError as error:
        print(f"{error}: it is cut again", file=sys.stderr)
        return None


def _export(config: TrainConfig, choices: Choices, trainer: Trainer, store: Store, windows: WindowSet) -> None:
    """Write world.safetensors and report.html, and say how to play."""
    argv = without_folders(sys.argv[1:])
    about = {"data": store.source, "minutes": trainer.minutes, "argv": argv, "torch": torch.__version__}
    world = build_world(trainer.average.cpu(), store, windows, config.code_names, about)
    path = save_world(config.out / "world.safetensors", world)
    print(f"world: {path} ({path.stat().st_size / 1e6:.1f} MB)", flush=True)
    left_out = trainer.model.config.codes - world.config.codes
    why = f"; {left_out} more explained nothing, or drew the same as another" if left_out else ""
    print(f"  {world.config.codes} local actions{why}")
    print(f"  gymnasium.make('Glass-v0', checkpoint='{path}')")
    print(f"  glass_gym.register_world('MyGame-v0', '{path}')")
    print(f"  glass-play --checkpoint {path}", flush=True)
    if not config.report:
        return
    page = config.out / "report.html"
    samples = config.out / "samples"
    refined = samples / "refine-final.png"
    layers = refined if refined.exists() else samples / "gma-final.png"
    pictures = [("What was seen to move", samples / "survey.png"), ("Layers (GMA)", layers)]
    found = write_report(page, world, store, choices, trainer.minutes, pictures, logged_curves(config.out))
    for score in found:
        print(f"  {score.part}: {score.value}" + f" (naive: {score.naive})" * bool(score.naive), score.verdict)
    print(f"report: {page}")


def logged_curves(out: Path) -> dict[str, list[tuple[int, float]]]:
    """What a run's TensorBoard events hold, by name: (step, value) each."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / "tensorboard"), {"scalars": 400, "images": 1})
    events.Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


class Reporter:
    """Progress bar, TensorBoard and sample sheets."""

    def __init__(self, config: TrainConfig, trainer: Trainer, store: Store):
        from torch.utils.tensorboard import SummaryWriter

        self.config = config
        self.trainer = trainer
        self.store = store
        self.held_out: LmaStage | None = None
        self.writer = SummaryWriter(str(config.out / "tensorboard"))
        self.stage = ""
        self.bar: tqdm | None = None
        self.smooth: dict[str, float] = {}
        self.time_left = TimeLeft(0)

    def step(self, stage: Stage, iteration: int, terms: dict[str, float]) -> None:
        """After every optimiser step."""
        if self.stage != stage.name:
            self.stage = stage.name
            self.smooth = {}
            self.time_left = TimeLeft(stage.iterations)
            self.bar = tqdm(total=stage.iterations, initial=iteration, desc=stage.name, mininterval=2.0)
        self.bar.update(1)
        self._tell_time(stage, iteration)
        for key, value in terms.items():
            self.smooth[key] = value if key not in self.smooth else 0.95 * self.smooth[key] + 0.05 * value
        if iteration % 20 == 0:
            self.bar.set_postfix({k: f"{v:.4f}" for k, v in self.smooth.items()}, refresh=False)
            for key, value in terms.items():
                self.writer.add_scalar(f"{stage.name}/{key}", value, iteration)
        if iteration + 1 == stage.iterations:
            self.sheet(stage, final=True)
            self.bar.close()

    def _tell_time(self, stage: Stage, iteration: int) -> None:
        told = self.time_left.after(iteration)
        if told is None:
            return
        order = list(self.trainer.model.stages)
        left = ", ".join(order[order.index(stage.name) + 1 :]) if stage.name in order else ""
        then = f"; then: {left}" if left else ""
        tqdm.write(
            f"{stage.name}: {told[0]:.2g} steps a second on this machine, about {told[1]:.0f} minutes more{then}"
        )

    def sheet(self, stage: Stage, final: bool = False) -> None:
        """A sample sheet of the averaged weights."""
        average = self.trainer.average
        with self.trainer.autocast():
            if stage.name in ("gma", "refine"):
                picture = sheets.layers_sheet(average, self.store)
            else:
                longest = int(self.held_out.windows.lengths.max()) - 1
                batch = self.held_out.clips(np.random.default_rng(0), min(15, longest))
                if stage.name == "pose":  # which pose comes next, nobody has learned yet
                    picture = sheets.poses_sheet(average, batch)
                else:
                    quantised = final or (self.bar.n if self.bar else 0) > self.config.lma.continuous
                    picture = sheets.rollout_sheet(average, batch, quantised)
        name = "final" if final else time.strftime("%H%M%S")
        sheets.save_picture(self.config.out / "samples" / f"{stage.name}-{name}.png", picture)
        self.writer.add_image(stage.name, picture, self.bar.n if self.bar else 0, dataformats="HWC")

    def interrupted(self) -> bool:
        """Say how to go on."""
        print(f"\nstopped and saved: {self.trainer.state_file}. Continue with the same command and --resume")
        return False


class Silence:
    """The reporter of all processes but the first."""

    held_out: LmaStage | None = None

    def step(self, *_) -> None:
        """Nothing."""

    sheet = step

    def interrupted(self) -> bool:
        """As the first's."""
        return False


if __name__ == "__main__":
    sys.exit(main())
