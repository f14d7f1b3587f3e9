"""All options of training. `None` means: chosen from the footage. A run's config.json holds the values in use.

What nobody has to change is a constant beside the code that uses it. Experiments replace it from outside.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Gt, Le, MinLen

from .core.options import Common, Count, Minutes, Pixels, Positional, Positive, Weight

CODES = 9  # K, the default; a source may have another (Tennis: 8, training/data/sources.py)


@dataclass(frozen=True)
class ReadConfig:
    """How videos become clips of one size."""

    crop: tuple[Count, Count, Count, Count] | None = None
    """region to keep, before resizing: left, top, right, bottom, px"""
    size: tuple[Pixels, Pixels] | None = None
    """height and width of frames, px; default: chosen by the survey, from the agent's size"""
    fps: Annotated[float, Gt(0), Le(1000)] | None = None
    """frames a second, by time stamps; none is made up. Default: as filmed, or the lowest of the files' rates"""
    skip: Count | None = None
    """frames between two of one clip, which make other clips; default: chosen by the survey, from the agent's speed"""
    cuts: bool = True
    """split videos at cuts, and drop shots of fewer than 8 frames"""


@dataclass(frozen=True)
class DataOptions:
    """Where data is kept, and how it is made."""

    cache: Common[Path] = Path("data")
    """folder for recorded, generated and decoded data"""
    sheets: Common[Path | None] = None
    """W-Sprites: folder of LPC sprite sheets; default: characters drawn in code"""
    background: Path | None = None
    """W-Sprites: an image file, or `china` for scikit-learn's photograph; default: a landscape drawn in code"""
    record_frames: Positive = 120_000
    """Tennis: number of frames to record"""
    read: ReadConfig = field(default_factory=ReadConfig)
    """how videos become clips of one size"""


@dataclass(frozen=True)
class GmaConfig:
    """The GMA stage: segmentation, inpainting, shifts."""

    iterations: Count | None = None
    """optimiser steps; 0 skips the stage. Default: 2000; after a survey 1200 if the camera moves, else 600"""
    batch: Positive = 8
    """pairs of frames per step"""
    theta: Annotated[float, Gt(0), Le(1)] | None = None
    """largest share of the frame that the mask covers without cost (L_SIZE); default: chosen by the survey"""
    without: tuple[Literal["rec_f", "rec_b", "rec_j", "binary", "idle", "size", "pseudo_label", "vgg"], ...] = ()
    """losses to leave out: L_RECF, L_RECB, L_RECJ, L_BIN, idle mask, L_SIZE, the survey's silhouettes, L_VGG"""


@dataclass(frozen=True)
class RefineConfig:
    """The refine stage: GMA continues with pseudo-labels from the background plates."""

    iterations: Count | None = None
    """optimiser steps; default: 0 without a survey; else 300 if the camera moves, 200 if not; at most GMA's / 3"""


@dataclass(frozen=True)
class PoseConfig:
    """The pose stage (architecture pose): a codebook of P poses, and the decoder that draws them."""

    iterations: Count | None = None
    """optimiser steps; 0 skips the stage. Default: half the number of frames, at least 1200, at most 3000"""
    batch: Positive | None = None
    """pairs of windows per step; default: 32, fewer if windows are larger than 64 px"""


@dataclass(frozen=True)
class LmaConfig:
    """The LMA stage of architecture pose: infers local actions and predicts the next pose."""

    iterations: Count | None = None
    """optimiser steps; 0: stop after GMA. Default: 0.3 per frame, from 800 to the larger of 1500 and 0.05 per frame"""
    batch: Positive = 32
    """clips per step"""
    action_only_weight: Weight = 0.3
    """weight of predicting the next pose from the code alone, so that a code means the same in every state"""
    context_free_weight: Weight = 0.2
    """weight of the clusters that codes start from being compact over all contexts, so that a code means the same in
    every context; not used with stored windows"""


@dataclass(frozen=True)
class PaperConfig:
    """The LMA stage of architecture paper (Sec. 3.2)."""

    iterations: Count = 3000
    """optimiser steps; 0: stop after GMA"""
    frames: Positive = 128
    """frames drawn per step: a batch has frames / T clips"""
    continuous: Count = 700
    """first steps, with unquantised, noisy code vectors; then k-means initialises the codebook; the paper: 0"""
    horizons: Annotated[tuple[Positive, ...], MinLen(1)] = (2, 4, 8, 15)
    """lengths T of free-running clips: each for an equal share of the steps after `continuous`, which uses the first"""
    teacher_forced: Positive = 1
    """T_f: number of first steps of a clip that start from the real foreground; 1 is free running; the paper: 5"""
    cycle: Weight = 0.0
    """weight of L_CYC; the paper: 0.2"""


@dataclass(frozen=True)
class LoopConfig:
    """The training loop: seed, device, precision, checkpoints, time limit."""

    seed: Count = 0
    """random seed; batches follow from (seed, stage, step)"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:i or mps"""
    bf16: bool | None = None
    """bfloat16 autocast for the networks; losses, FFTs and shifts stay in float32. Default: on where it is faster"""
    max_minutes: Minutes = math.inf
    """stop after this time, in minutes; the state is saved, and --resume continues"""


@dataclass(frozen=True, kw_only=True)
class TrainConfig(DataOptions):
    """Train a GLASS world on videos."""

    data: Positional[str]
    """a video, a folder of videos, a LeRobot data set, `tennis` (recorded from ALE), `wsprites` (generated), `arm`
    (recorded), `mouse` (fetched), a clip store, or `module:Source`"""
    out: Common[Path] = Path("runs/world")
    """run folder"""
    architecture: Common[str] = "pose"
    """pose or paper"""
    resume: Common[bool] = False
    """continue the run in `out`"""
    init: Common[Path | None] = None
    """another run's folder: start from its finished stages, as far as their sizes fit"""
    again: tuple[str, ...] = ()
    """with --init: stages (gma, refine, matting, pose, lma) to train once more, from the other run's weights"""
    codes: Common[Positive | None] = None
    """K, the number of local actions; default: 9 (tennis: 8). Codes that explain nothing are left out of the world"""
    poses: Positive | None = None
    """P, the size of the pose codebook; default: 256, fewer for little footage. Or the number of stored windows;
    default: up to 2048, and 96 MiB"""
    window: Common[Pixels | None] = None
    """side of the agent's window, px; default: measured after GMA (tennis 32, wsprites 64)"""
    drawing: Literal["painted", "stored", "turned"] | None = None
    """how the agent is drawn: painted by D, from stored windows of the footage, or from these with its heading taken
    out; default: measured"""
    agent: Common[str | None] = None
    """which of several things that move: its number in the survey's picture, such as 2, or its place there, such as
    320,240 (px in the original frame); the others become background. Default: the largest"""
    choose: bool = False
    """survey the footage even if the source has values of its own (tennis, wsprites)"""
    look: Common[bool] = False
    """look at the footage, say what would be chosen and how long training would take, and stop"""
    quick: Common[bool] = False
    """a world worth a first look, in about a third of the time: fewer steps and frames (architecture pose)"""
    report: Common[bool] = True
    """measure the world at the end, and write report.html"""
    log: Literal["tensorboard", "wandb", "none"] = "tensorboard"
    """where losses and sample sheets are logged: in the run folder for TensorBoard, at Weights & Biases, or nowhere"""
    force: Common[bool] = False
    """train even if the survey finds no world that could be learned"""
    vgg: Path | None = None
    """VGG16 weights (.safetensors) for the perceptual losses; default: none"""
    gma: GmaConfig = field(default_factory=GmaConfig)
    refine: RefineConfig = field(default_factory=RefineConfig)
    pose: PoseConfig = field(default_factory=PoseConfig)
    lma: LmaConfig = field(default_factory=LmaConfig)
    paper: PaperConfig = field(default_factory=PaperConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
