"""The matting stage: trains the network that makes M's masks sharp, on windows of whole frames.

GMA sees a reduced copy of large frames. In whole frames we measure alpha, how much each pixel near M's mask shows of
the agent, by its difference from the background plate. The network learns alpha from frame, background and mask, so
that new pictures get sharp masks, too (Lin et al., Background Matting V2, 2021). Shadows, motion blur and thin parts
get small alphas: with colours from which the background is taken out (:func:`glass_gym.tensors.geometry.unmixed`) they
look as they were filmed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from glass_gym.model.gma import GMA, least_alpha
from glass_gym.tensors.convert import to_images
from glass_gym.tensors.geometry import compose, crop_windows, unmixed
from glass_gym.worlds import sheets

from ..core.progress import Bar
from ..core.stage import Batch, Stage
from ..data.cuts import farthest
from ..data.store import Store, Video, frames_to_tensor
from ..footage.registration import CHANGED
from ..footage.tracks import CONTRAST
from .background import SAMPLES, SHOT, BackgroundPlate, estimate_background, shots_of
from .pseudo_labels import AGREED, BACKGROUND, rim_share

FOUND = 1 / 3  # A frame is labelled if M has found at least this share of what differs from the plate and touches M.
SEEN, LABELLED, FEWEST = 1600, 500, 30
"""About so many frames are looked at, so many are labelled, and with fewer the network is not trained."""


@dataclass(frozen=True)
class MattingConfig:
    """The schedule of the matting stage."""

    iterations: int = 300
    batch: int = 8


class LabelledWindows:
    """Windows of labelled frames: samples batches.

    Args:
        windows: (N, 9, s, s) uint8: frame and background, RGB each, M's mask, alpha, and where alpha is known.
        batch: windows a batch.
    """

    def __init__(self, windows: np.ndarray, batch: int):
        self.windows = windows
        self.size = batch

    def batch(self, rng: np.random.Generator, iteration: int) -> Batch:
        """{"windows": (B, 9, s, s) uint8}."""
        return {"windows": torch.from_numpy(self.windows[rng.integers(len(self.windows), size=self.size)])}


class MattingStage(Stage):
    """Trains the matting network by the squared error of alpha.

    Args:
        model: a trained GMA, with the window's sizes.
        windows: as of :class:`LabelledWindows`.
        config: the schedule.
    """

    name = "matting"
    rate = 2e-3
    model: GMA

    def __init__(self, model: GMA, windows: np.ndarray, config: MattingConfig):
        self.model = model
        self.config = config
        self.sampler = LabelledWindows(windows, config.batch)

    def losses(self, batch: Batch, iteration: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Squared and absolute error of alpha where it is known; of some masks the network sees a half.

        M finds only parts of agents that it does not know, and the network is to find the rest.
        """
        frames, backgrounds, masks, alpha, known = _unpacked(batch["windows"])
        drawn = self.model.matting(frames, backgrounds, masks * _halves(masks, generator))  # type: ignore[misc]
        error = F.l1_loss(drawn, alpha, reduction="none") + F.mse_loss(drawn, alpha, reduction="none")
        return {"alpha": (error * known).sum() / alpha.sum().clamp_min(1)}

    def sheet(self, model: GMA, iteration: int) -> np.ndarray | None:
        """As :meth:`Stage.sheet`: frames, M's masks, alphas, the network's, and the agents over grey."""
        some = np.linspace(0, len(self.sampler.windows) - 1, 12).astype(int)
        frames, backgrounds, masks, alpha, _ = _unpacked(torch.from_numpy(self.sampler.windows[some]))
        seen = (x.to(self.device) for x in (frames, backgrounds, masks))
        drawn = model.matting(*seen).float().cpu()  # type: ignore[misc]
        layer = torch.cat([drawn * unmixed(frames, drawn, backgrounds), drawn], 1)
        over = compose(layer, torch.full_like(frames, 0.5))
        shown = (frames, *((2 * x - 1).expand_as(frames) for x in (masks, alpha, drawn)), over)
        return sheets.grid([[sheets.to_picture(x) for x in row] for row in zip(*shown, strict=True)], scale=1)


def _unpacked(windows: Tensor) -> tuple[Tensor, ...]:
    """Windows as of :class:`LabelledWindows` as float tensors: frames and backgrounds in [-1, 1], masks in [0, 1]."""
    colours, masks = windows[:, :6], windows[:, 6:].float() / 255
    return *to_images(colours).split(3, 1), *masks.split(1, 1)


def _halves(masks: Tensor, generator: torch.Generator) -> Tensor:
    """For every second of masks (B, 1, s, s) one side of a random line near the middle, for others all: 0 or 1."""
    turn, offset, cut = torch.rand(3, len(masks), 1, 1, 1, generator=generator, device=generator.device)
    turn, offset, cut = (x.to(masks.device) for x in (2 * torch.pi * turn, (offset - 0.5) / 4, cut))
    along = torch.linspace(-0.5, 0.5, masks.shape[-1], device=masks.device)
    side = along * turn.cos() + along[:, None] * turn.sin() > offset
    return (side | (cut > 0.5)).float()


@torch.no_grad()
def labelled_windows(gma: GMA, store: Store) -> np.ndarray | None:
    """Measure alpha in windows of whole frames of the training videos.

    Args:
        gma: a trained M and N, with the window's sizes.
        store: the videos, in full size.

    Returns:
        (N, 9, s, s) uint8 as of :class:`LabelledWindows`; None if too few frames could be labelled.
    """
    videos = [v for v in store.videos if v.split == "train" and v.length >= SAMPLES]
    total = sum(min(v.length, SHOT) for v in videos)
    videos = videos[:: max(1, round(total / SEEN))]
    every = max(1, round(sum(min(v.length, SHOT) for v in videos) / LABELLED))
    rows = []
    with Bar("measuring the agent in whole frames", len(videos), "video") as bar:
        for video in videos:
            rows += _labelled(gma, store, video, every)
            bar.update()
    return np.concatenate(rows) if len(rows) >= FEWEST else None


def _labelled(gma: GMA, store: Store, video: Video, every: int) -> list[np.ndarray]:
    """Labelled windows of every n-th frame of a video, each (1, 9, s, s) uint8."""
    device = next(gma.parameters()).device
    scale = gma.config.window_scale
    frames = np.asarray(store.frames[video.start : video.start + min(video.length, SHOT)])
    step = gma.config.gma_scale
    out = []
    for shot in shots_of(frames[:, ::step, ::step]):
        plate = estimate_background(gma, frames[shot], scale=scale)
        for t in range(0, len(plate.frames), every):
            if (found := measure_alpha(plate, t)) is None:
                continue
            corner, *seen = gma.matting_input(frames_to_tensor(frames[shot][t : t + 1]).to(device))
            truth = torch.from_numpy(np.stack(found)[None]).float().to(device)
            cut = crop_windows(truth, corner, seen[0].shape[-1])
            colours, masks = torch.cat(seen[:2], 1), torch.cat([seen[2], cut], 1)
            packed = torch.cat([(colours + 1) * 127.5, masks * 255], 1)
            out.append(packed.round().clamp(0, 255).byte().cpu().numpy())
    return out


def measure_alpha(plate: BackgroundPlate, t: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Measure how much each pixel of frame t shows of the agent.

    The agent's outline is the strongest edge between the middle of M's mask and the plate: a shadow beside it is on the
    plate's side of that edge, grey clothes are not (watershed; Beucher & Lantuejoul, 1979). Beyond it, what differs by
    CONTRAST of the agent's usual difference is the agent's as well, unless half a shadow would explain it. There alpha
    is 1, on the rim the share of the agent's colour. Shadows that touch the agent, and what the plate mixed with the
    agent's nearest colour explains, such as motion blur and thin parts, have the least alpha that explains them, if
    they differ from the plate by more than without the agent. Other pixels, such as bedding that it throws up, have
    alpha 0.

    Args:
        plate: of the shot.
        t: the frame.

    Returns:
        alpha (H, W) in [0, 1], and (H, W) bool, where it is known; None if M's mask does not fit the plate, or misses
        most of what differs from it.
    """
    from scipy import ndimage

    mask = plate.masks[t]
    picture, known = plate.at(t)
    far = farthest(plate.frames[t], picture)
    middle = _middle(mask)
    sure = middle & known & (far > CHANGED)
    if not sure.any():
        return None
    off = plate.frames[t] - picture
    hidden = least_alpha(*(torch.from_numpy(x / 127.5 - 1).permute(2, 0, 1)[None] for x in (plate.frames[t], picture)))
    hidden = hidden[0, 0].numpy()
    seeds = sure * 2 + (known & (far < BACKGROUND) & ~middle).astype(np.int16)
    inside = ndimage.watershed_ift(far.clip(0, 255).astype(np.uint8), seeds, np.ones((3, 3))) == 2
    usual = CONTRAST * float(np.quantile(far[mask & known], 0.9))
    shadow = (off < BACKGROUND).all(-1) & (hidden < 0.5)
    rests = ndimage.maximum_filter(plate.unrest, 5)  # what moves without the agent is not its own
    solid = known & (far > np.maximum(rests, max(CHANGED, usual))) & ~shadow
    names, _ = ndimage.label(inside | solid, np.ones((3, 3)))
    count = np.bincount(names[mask])
    count[:1] = 0
    core = ndimage.binary_fill_holes(names == count.argmax())
    mixed_in = shadow | _explained(plate.frames[t], picture, core)
    names, _ = ndimage.label(core | (known & (far > rests + BACKGROUND) & mixed_in), np.ones((3, 3)))
    own = np.isin(names, np.unique(names[core]))
    clear = own & (far > CHANGED)
    if (core & mask).sum() < AGREED * core.sum() or (clear & mask).sum() < FOUND * clear.sum():
        return None
    mixed, of_rim = np.zeros(core.shape, bool), np.zeros(core.shape)
    box = tuple(slice(max(0, side.start - 2), side.stop + 2) for side in ndimage.find_objects(core.astype(int))[0])
    mixed[box], of_rim[box] = rim_share(off[box], core[box])
    alpha = np.where(core, np.where(mixed, of_rim.clip(0, 1), 1), np.where(own, hidden, 0))
    return alpha.astype(np.float32), known | core


def _explained(frame: np.ndarray, plate: np.ndarray, core: np.ndarray) -> np.ndarray:
    """Whether a mix of the plate (H, W, 3) and the colour of the nearest pixel of `core` (H, W) explains a pixel of the
    frame (H, W, 3) up to CHANGED, (H, W) bool."""
    from scipy import ndimage

    nearest = ndimage.distance_transform_edt(~core, return_distances=False, return_indices=True)
    agent = frame.astype(np.float32)[tuple(nearest)] - plate
    off = frame - plate
    share = (off * agent).sum(-1) / np.square(agent).sum(-1).clip(1)
    return np.abs(off - share.clip(0, 1)[..., None] * agent).max(-1) < CHANGED


def _middle(mask: np.ndarray) -> np.ndarray:
    """The pixels of a mask (H, W) bool that are at least half as far from its outline as the innermost one."""
    from scipy import ndimage

    depth = ndimage.distance_transform_edt(np.pad(mask, 1, mode="edge"))[1:-1, 1:-1]
    return mask & (depth >= depth.max() / 2)
