"""The sizes that a trained M determines: the agent's window and radius, and the hole in the background.

Windows of more than LARGEST px are reduced by a whole factor, `window_scale`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from glass_gym.model.gma import GMA, PlateInpaintNet
from glass_gym.tensors.geometry import dilate

from ..core.progress import each
from ..core.run import Run
from ..data.store import Store, Video, frames_to_tensor
from ..footage.choices import CLIP, VIDEOS, multiple_of_8
from ..gma.background import SAMPLES, SHOT, estimate_background, masks_of, shots_of
from ..gma.matting import measure_alpha

LARGEST = 160  # Largest side of a window as LMA sees it, px.
PLATES = 8  # Number of videos whose plates are made.
CROPPED = 1.1  # The agent may need so much more than LARGEST, rather than be reduced: the tip of a tail is cut off.
SOLID = 0.3  # Pixels whose alpha is above this count as the agent's.
RING = 5  # Px, of a layer, around the mask in which N's error is measured.
MARGINS = 4  # The hole margins 0 to MARGINS - 1 px, of a layer, are compared.


def choose_window(run: Run, gma: GMA, store: Store) -> None:
    """Choose window and agent radius, measured with a trained GMA on the working copy of `store`; once in a run."""
    run.reload()
    if "window_scale" in run.values:
        return
    scale = gma.config.gma_scale
    measure = measure_agents if gma.matting is None else measure_alphas
    reach = scale * measure(gma, store.copy)
    with run.together():
        needed = float(run.values["window"])
        if len(reach) >= 8:
            far, usual = float(np.quantile(reach[:, 0], 0.95)), float(np.median(reach[:, 1]))
            needed = 2 * far + 2 * scale
            run.choose("agent_radius", max(4, round(0.9 * usual)), f"px; most of it extends {usual:.0f} px")
        side = run.config.window if run.config.window and run.is_given("window") else LARGEST
        factor = 1 if scale == 1 else math.ceil(needed / (CROPPED * side))
        shown = needed if scale == 1 else min(needed / factor, side)
        window = multiple_of_8(shown, store.height, store.width)
        run.choose("window", window, f"px; the agent needs {needed:.0f} px of a frame")
        run.choose("window_scale", factor, f"a pixel of the window is {factor} px of a frame wide")


def choose_hole_margin(run: Run, gma: GMA, store: Store) -> None:
    """Choose the hole margin, measured with a trained GMA; once in a run."""
    run.reload()
    if "hole_margin" not in run.values:
        run.choose("hole_margin", *best_hole_margin(gma, store))


@torch.no_grad()
def measure_agents(gma: GMA, store: Store, count: int = 256) -> np.ndarray:
    """How far M's agent, and most of it, extends from its densest point along x or y, px.

    Returns:
        (N, 2), from about `count` random training frames.
    """
    from scipy import ndimage

    videos = [v for v in store.videos if v.split == "train"] or store.videos
    rng = np.random.default_rng(0)
    device = next(gma.parameters()).device
    index = np.sort([_random_frame(videos, rng) for _ in range(count)])
    reach = []
    for part in each(np.array_split(index, max(1, count // 32)), "measuring the agent"):
        masks = gma.mask(frames_to_tensor(store.frames[part]).to(device)).float()
        centre = gma.locate(masks).cpu().numpy()
        for mask, (x, y) in zip((masks[:, 0] > 0.5).cpu().numpy(), centre, strict=True):
            blobs, _ = ndimage.label(ndimage.binary_dilation(mask, iterations=3))
            own = mask & (blobs == blobs[round(float(y)), round(float(x))]) & (blobs > 0)
            if own.sum() >= 8:
                ys, xs = np.nonzero(own)
                reach.append([max(np.quantile(np.abs(xs - x), 0.995), np.quantile(np.abs(ys - y), 0.995))] * 2)
    return np.array(reach)


@torch.no_grad()
def measure_alphas(gma: GMA, store: Store, count: int = 256) -> np.ndarray:
    """As :func:`measure_agents`, by alpha (:mod:`training.gma.matting`), which has thin parts that M misses.

    Distances are in any direction, so that the agent may be turned, and from its centre of mass, plus how far that is
    off the densest point (windows of agents that turn are moved there). "Most of it" is 0.9 of it, without a tail.
    """
    videos = [v for v in store.videos if v.split == "train" and v.length >= SAMPLES] or store.videos
    some = videos[:: max(1, len(videos) // PLATES)][:PLATES]
    reach = []
    for video in each(some, "measuring the agent", "video"):
        frames = np.asarray(store.frames[video.start : video.start + min(video.length, SHOT)])
        for shot in shots_of(frames):
            plate = estimate_background(gma, frames[shot])
            centre = gma.locate(torch.from_numpy(plate.masks[:, None]).float()).numpy()
            for t in range(0, len(plate.frames), max(1, sum(min(v.length, SHOT) for v in some) // count)):
                if (found := measure_alpha(plate, t)) is not None:
                    at = np.argwhere(found[0] > SOLID)[:, ::-1]
                    middle = at.mean(0)
                    far = np.hypot(*(at - middle).T)
                    off = np.hypot(*(middle - centre[t]))
                    reach.append([off + np.quantile(far, 0.995), np.quantile(far, 0.9)])
    return np.array(reach)


def _random_frame(videos: Sequence[Video], rng: np.random.Generator) -> int:
    video = videos[rng.integers(len(videos))]
    return int(video.start + rng.integers(video.length))


@torch.no_grad()
def best_hole_margin(gma: GMA, store: Store) -> tuple[int, str]:
    """The hole margin, px, with which N's error around the sharp mask is smallest; and the reason, in one line.

    N's background is compared with the shot's plate (:func:`training.gma.background.estimate_background`).
    """
    videos = [v for v in store.videos if v.split == "train" and v.length >= 2 * CLIP] or store.videos
    device = next(gma.parameters()).device
    errors = []
    unit = gma.config.window_scale
    count = VIDEOS if gma.matting is None else PLATES
    some = videos[:: max(1, len(videos) // count)][:count]
    for video in each(some, "measuring the background around the agent", "video"):
        frames = np.asarray(store.frames[video.start : video.start + min(video.length, SHOT)])
        if not (shots := shots_of(frames)):
            continue
        every = gma.config.gma_scale if isinstance(gma.inpaint, PlateInpaintNet) else 1
        shown = frames[shots[0]][::every]
        plate = estimate_background(gma, shown, masks_of(gma, shown))
        few = list(range(0, len(plate.frames), max(1, len(plate.frames) // 3)))[:3]
        pictures, known = (np.stack(x) for x in zip(*map(plate.at, few), strict=True))
        truth = torch.from_numpy(pictures).permute(0, 3, 1, 2).to(device)
        images = frames_to_tensor(plate.frames[few]).to(device)
        masks = gma.sharp_mask(images)
        ring = dilate(masks, RING * unit) * torch.from_numpy(known)[:, None].to(device)
        if ring.sum() < 1:
            continue
        error = []
        for margin in range(MARGINS):
            background = (gma.inpaint_background(images, masks, margin * unit).float() + 1) * 127.5
            error.append(float(((background - truth).abs().mean(1, keepdim=True) * ring).sum() / ring.sum()))
        errors.append(error)
    if not errors:
        return 0, "px; no video shows the background around the agent"
    error = np.median(errors, 0)
    best = int(error.argmin())
    best = best if error[best] < 0.9 * error[0] else 0
    told = f"N's error around it is {error[best]:.1f} of 255, {error[0]:.1f} with margin 0"
    return best * unit, f"px more than the mask; {told}"
