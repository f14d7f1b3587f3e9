"""All options of training. None marks one that is chosen from the footage; config.json holds what was used."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Gt, Le, MinLen

from .core.options import Common, Count, Minutes, Pixels, Positional, Positive, Rate, Share, Weight


@dataclass(frozen=True)
class ReadConfig:
    """How videos become clips of one size."""

    crop: tuple[Count, Count, Count, Count] | None = None
    """left, top, right, bottom px, before resizing"""
    size: tuple[Pixels, Pixels] | None = None
    """height, width px; default: chosen from what moves"""
    skip: Count | None = None
    """frames left out between two that are kept; default: chosen from the speed"""
    cuts: bool = True
    """split videos where the scene changes at once; shots of less than 8 frames are left out"""
    skip_broken: bool = False
    """leave out videos with unreadable frames, and count them, instead of stopping"""
    pixel_aspect: Annotated[float, Ge(0.1), Le(10)] = 1.0
    """displayed width of a pixel over its height"""


@dataclass(frozen=True)
class DataOptions:
    """Where data is kept, and how it is made."""

    cache: Common[Path] = Path("data")
    """where recorded, generated and decoded data is kept"""
    sheets: Common[Path | None] = None
    """W-Sprites: folder of LPC sheets; default: built-in characters"""
    background: Path | None = None
    """W-Sprites: an image file, or `china` for scikit-learn's photograph; default: a landscape drawn in code"""
    record_frames: Positive = 120_000
    """Tennis: frames to record"""
    read: ReadConfig = field(default_factory=ReadConfig)
    """how videos become clips of one size"""


@dataclass(frozen=True)
class GmaConfig:
    """The GMA stage: segmentation, inpainting, shifts."""

    iterations: Count | None = None
    """optimiser steps; 0 skips the stage. Default: 2000; after a survey 1200 if the camera moves, else 600"""
    batch: Positive = 8
    """pairs of frames a step"""
    rate: Rate = 1e-3
    """peak learning rate; warms up over 50 steps, then falls on a cosine to 5 %"""
    theta: Annotated[float, Gt(0), Le(1)] | None = None
    """largest share of the frame that the mask may cover for free; default: by the survey"""
    moving_pixels: Count = 30
    """a pair moves if more pixels than this change"""
    binary_ramp: Count = 400
    """L_BIN grows from zero over this many steps, so that the mask can form first"""
    pseudo_label_weight: Weight = 0.3
    """weight of the survey's silhouettes; it falls to zero over `pseudo_label_steps`"""
    pseudo_label_steps: Count = 300
    plate_weight: Weight = 2.0
    """weight of N's error where the background plate is known"""
    rec_f: Weight = 1.0
    rec_b: Weight = 2.0
    rec_j: Weight = 4.0
    """four times the paper's: the mask forms twice as early (docs/training.md)"""
    binary: Weight = 0.5
    idle: Weight = 0.5
    """weight of mask where the inpainted background looks the same (ours); grows as L_BIN does"""
    size: Weight = 1.0
    perceptual: Weight = 0.01
    """weight of L_VGG; used only with --vgg"""


@dataclass(frozen=True)
class RefineConfig:
    """The refine stage: GMA goes on with pseudo-labels from the background plates."""

    iterations: Count | None = None
    """optimiser steps; 0 skips the stage. Default: after a survey 300 if the camera moves, else 200; at most a third of
    GMA's; without a survey 0"""


@dataclass(frozen=True)
class PoseConfig:
    """The pose stage: a codebook of P poses, and the decoder that draws them (architecture pose)."""

    iterations: Count | None = None
    """optimiser steps; 0 skips the stage. Default: half the number of frames, within 1200 and 3000"""
    batch: Positive | None = None
    """pairs of windows a step; default: 32, of windows larger than 64 px less"""
    rate: Rate = 1e-3
    """peak learning rate"""
    continuous: Share = 0.4
    """share of the steps with unquantised, noisy poses, before the codebook starts from k-means"""
    distil_share: Share = 0.2
    """share of the steps, right after k-means, in which Q learns poses that do not encode identity, where the first
    codebook does; 0: off"""


@dataclass(frozen=True)
class LmaConfig:
    """The LMA stage of architecture pose: local actions, and which pose comes next."""

    iterations: Count | None = None
    """optimiser steps; 0: stop after GMA. Default: 1500; for little footage three for ten frames, at least 800; for much
    one for twenty"""
    batch: Positive = 32
    """clips a step"""
    steps: Positive = 16
    """T, steps of a clip"""
    rate: Rate = 2e-3
    """peak learning rate"""
    shift_dropout: Share = 0.1
    """share of the clips in which the RNN is told that the agent stands still"""
    action_only_weight: Weight = 0.3
    """weight of predicting the next pose from the code alone, so that a code means the same whatever went before"""
    cluster_weight: Weight = 1.0
    """weight, at the start, of a code being the cluster of the next pose; the K clusters tell most of what pose and shift
    leave open"""
    context_free_weight: Weight = 0.2
    """within those clusters: weight of poses looking alike whatever went before. Less tells more of the next pose, more
    lets a code always mean the same"""
    label_smoothing: Weight = 1.0
    """poses that look like the true one share its label, by a normal distribution this many times as wide as the usual
    distance to the nearest pose; 0: off"""
    mirror: bool = True
    """a pose may be predicted as its mirror image, so that a code means the same whichever way the agent faces"""
    scheduled_sampling: Share = 1.0
    """share of the steps that start from the predicted pose, not from the real one"""
    prior_kl_weight: Weight = 0.03
    """weight of the KL divergence of codes from the prior, nats: codes are chosen among likely ones"""


@dataclass(frozen=True)
class PaperConfig:
    """The LMA stage of architecture paper (Sec. 3.2)."""

    iterations: Count = 3000
    """optimiser steps; 0: stop after GMA"""
    frames: Positive = 128
    """frames drawn a step: the batch is frames / T clips"""
    rate: Rate = 1e-3
    """peak learning rate"""
    continuous: Count = 700
    """first steps with unquantised, noisy code vectors, before the codebook starts from k-means; the paper: 0"""
    horizons: Annotated[tuple[Positive, ...], MinLen(1)] = (2, 4, 8, 15)
    """free-running lengths T; each takes an equal share of the steps after `continuous`, which uses the first"""
    teacher_forced: Positive = 1
    """T_f: the first steps of a clip that start from the real foreground; 1 is free running; the paper: 5"""
    teacher_steps: Count = 25_000
    """T_f falls to 1 over this many iterations"""
    cycle: Weight = 0.0
    """weight of L_CYC; the paper: 0.2"""
    commitment: Weight = 0.05
    """weight of L_VQ's commitment term; the paper: 0.25"""


@dataclass(frozen=True)
class LoopConfig:
    """How long, how often, where."""

    seed: Count = 0
    """of everything random; batches follow from (seed, stage, iteration)"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:i"""
    workers: Count | None = None
    """processes that make batches; default: 2 beside a GPU, else none"""
    bf16: bool | None = None
    """bfloat16 autocast for the networks; losses, FFTs and shifts stay in float32. Default: where it is faster"""
    save_minutes: Minutes = 3.0
    """minutes between checkpoints"""
    max_minutes: Minutes = math.inf
    """stop (saved, resumable) after this time"""


@dataclass(frozen=True, kw_only=True)
class TrainConfig(DataOptions):
    """Train a GLASS world on videos."""

    data: Positional[str]
    """`tennis` (recorded from ALE), `wsprites` (generated), `arm` (recorded), a clip store, a folder of videos, or
    `module:Source`"""
    out: Common[Path] = Path("runs/world")
    """run folder"""
    architecture: Common[str] = "pose"
    """pose or paper"""
    resume: Common[bool] = False
    """continue the run in OUT"""
    init: Common[Path | None] = None
    """start from another run's folder: its finished stages are taken, as far as their sizes fit"""
    again: tuple[str, ...] = ()
    """with --init: stages (gma, refine, pose, lma) to train once more from the weights that they have"""
    codes: Common[Positive | None] = None
    """K, the number of local actions; default: 9 (tennis: 8). Those that explain nothing are left out of the world"""
    poses: Positive | None = None
    """P, the size of the pose codebook; default: 256, less for little footage"""
    window: Common[Pixels | None] = None
    """side of the agent's window, px; default: measured after GMA (tennis 32, wsprites 64)"""
    agent_radius: Pixels | None = None
    """half size of the agent, px; default: measured after GMA (tennis 12, wsprites 24)"""
    foreground_range: Pixels | None = None
    """px, the largest step of the agent that P_f looks for; default: by the survey"""
    background_range: Pixels | None = None
    """px, the largest move of the camera that P_b looks for; default: by the survey"""
    decoder_position: bool | None = None
    """D gets the position of the agent; default: if the frame's edge touches the agent in most frames"""
    background_plate: bool | None = None
    """N copies the background plate; default: for footage of one place by a still camera"""
    choose: Common[bool] = False
    """choose options from the footage where the source has values of its own (tennis, wsprites), too"""
    report: Common[bool] = True
    """measure the world at the end, and write report.html"""
    force: Common[bool] = False
    """train even where the footage holds no world"""
    window_frames: Positive | None = None
    """about so many frames are tracked for the stages after GMA: every n-th video, where there are more. Default:
    120,000, of windows larger than 48 px 60,000"""
    vgg: Path | None = None
    """VGG16 weights (.safetensors) for the perceptual losses; default: none"""
    code_names: tuple[str, ...] = ()
    """names of the K codes, stored in the world"""
    gma: GmaConfig = field(default_factory=GmaConfig)
    refine: RefineConfig = field(default_factory=RefineConfig)
    pose: PoseConfig = field(default_factory=PoseConfig)
    lma: LmaConfig = field(default_factory=LmaConfig)
    paper: PaperConfig = field(default_factory=PaperConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
