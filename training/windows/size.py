"""The sizes that a trained M determines: the agent's window and radius, and the hole in the background."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from glass_gym.model.gma import GMA
from glass_gym.tensors.geometry import densest_point, dilate

from ..core.progress import each
from ..core.run import Run
from ..data.store import Store, Video, frames_to_tensor
from ..footage.choices import CLIP, VIDEOS, multiple_of_8
from ..gma.background import SHOT, estimate_background, shots_of

RING = 5  # Px around the mask in which N's error is measured.
MARGINS = 4  # The hole margins 0 to MARGINS - 1 px are compared.


def choose_window(run: Run, gma: GMA, store: Store) -> None:
    """Choose window, agent radius and hole margin, measured with a trained GMA; once in a run."""
    run.reload()
    if "hole_margin" in run.values:
        return
    both_given = run.is_given("window") and run.is_given("agent_radius")
    reach = [] if both_given else measure_agents(gma, store)
    if len(reach) >= 8:
        far, usual = float(np.quantile(reach, 0.95)), float(np.quantile(reach, 0.5))
        window = multiple_of_8(2 * far + 2, store.height, store.width)
        run.choose("window", window, f"px; in M's masks the agent extends {far:.0f} px from its centre")
        run.choose("agent_radius", max(4, round(0.9 * usual)), f"px; in M's masks it usually extends {usual:.0f} px")
    margin, why = best_hole_margin(gma, store)
    run.choose("hole_margin", margin, why)


@torch.no_grad()
def measure_agents(gma: GMA, store: Store, count: int = 256) -> np.ndarray:
    """How far M's agent extends from its densest point along x or y, px: (N,), from `count` random training frames."""
    from scipy import ndimage

    videos = [v for v in store.videos if v.split == "train"] or store.videos
    rng = np.random.default_rng(0)
    device = next(gma.parameters()).device
    index = np.sort([_random_frame(videos, rng) for _ in range(count)])
    reach = []
    for part in each(np.array_split(index, max(1, count // 32)), "measuring the agent"):
        masks = gma.mask(frames_to_tensor(store.frames[part]).to(device)).float()
        centre = densest_point(masks, gma.config.agent_radius).cpu().numpy()
        for mask, (x, y) in zip((masks[:, 0] > 0.5).cpu().numpy(), centre, strict=True):
            blobs, _ = ndimage.label(ndimage.binary_dilation(mask, iterations=3))
            own = mask & (blobs == blobs[round(float(y)), round(float(x))]) & (blobs > 0)
            if own.sum() >= 8:
                ys, xs = np.nonzero(own)
                reach.append(max(np.quantile(np.abs(xs - x), 0.995), np.quantile(np.abs(ys - y), 0.995)))
    return np.array(reach)


def _random_frame(videos: Sequence[Video], rng: np.random.Generator) -> int:
    video = videos[rng.integers(len(videos))]
    return int(video.start + rng.integers(video.length))


@torch.no_grad()
def best_hole_margin(gma: GMA, store: Store) -> tuple[int, str]:
    """The hole margin, px, with which N's error around the mask is smallest; and the reason, in one line.

    N's background is compared with the shot's plate (:func:`training.gma.background.estimate_background`).
    """
    videos = [v for v in store.videos if v.split == "train" and v.length >= 2 * CLIP] or store.videos
    device = next(gma.parameters()).device
    errors = []
    some = videos[:: max(1, len(videos) // VIDEOS)][:VIDEOS]
    for video in each(some, "measuring the background around the agent", "video"):
        frames = np.asarray(store.frames[video.start : video.start + min(video.length, SHOT)])
        if not (shots := shots_of(frames)):
            continue
        plate = estimate_background(gma, frames[shots[0]])
        few = list(range(0, len(plate.frames), max(1, len(plate.frames) // 3)))[:3]
        pictures, known = (np.stack(x) for x in zip(*map(plate.at, few), strict=True))
        truth = torch.from_numpy(pictures).permute(0, 3, 1, 2).to(device)
        images = frames_to_tensor(plate.frames[few]).to(device)
        masks = gma.mask(images).float()
        ring = dilate(masks, RING) * torch.from_numpy(known)[:, None].to(device)
        if ring.sum() < 1:
            continue
        error = []
        for margin in range(MARGINS):
            background = (gma.inpaint_background(images, masks, margin).float() + 1) * 127.5
            error.append(float(((background - truth).abs().mean(1, keepdim=True) * ring).sum() / ring.sum()))
        errors.append(error)
    if not errors:
        return 0, "px; no video shows the background around the agent"
    error = np.median(errors, 0)
    best = int(error.argmin())
    best = best if error[best] < 0.9 * error[0] else 0
    return best, f"px more than the mask; N's error around it is {error[best]:.1f} of 255, {error[0]:.1f} with margin 0"
