"""Tracking: find the agent's position in every frame of a video, without drift.

Summing the shifts of neighbouring frames drifts: swinging limbs move the best match by half a pixel, and errors
accumulate. But an animated agent returns to the same pose within a few frames, and there the match is exact. So we
match frames over several lags, weight each match by its quality, and solve for positions by weighted least squares. A
weak pull toward the mask's densest point fixes the absolute position.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from glass_gym.model.glass import Glass
from glass_gym.model.gma import Matte
from glass_gym.model.library import off_centre
from glass_gym.model.pose_model import OFFSETS, PoseLMA
from glass_gym.model.pose_model import SEARCH_PX as MOST_PX
from glass_gym.model.view import ConnectedWindow, View
from glass_gym.tensors.geometry import crop_windows, keep_agent

from ..core.progress import each

LAGS = (1, 2, 3, 4, 6, 8)  # Distances, in frames, over which frames are matched.
SEARCH_PX = 8  # Largest offset, px, at which matches are searched around the masks' densest points.
EXACTNESS = 20.0  # A match has weight exp(EXACTNESS * (quality - 1)); its quality is 1 if all pixels are equal.
REFINED_BY = 8  # Number of frames of a video that determine how its positions are refined.
CHANGE = 4.0
"""Moving a window against the one before costs this many times the usual error of redrawing; a window that fits better
by less is most often a sprite that turns, and was placed well."""
LEASH = 0.001  # Weight of the pull toward the mask's densest point.


@dataclass
class Track:
    """A tracked video.

    Attributes:
        position: (T, 2) whole px, in steps of the model's `window_scale`.
        masks: (T, 1, H, W), M's masks, with only the agent kept.
        raw_masks: (T, 1, H, W), M's masks.
        matte: the agent with sharp outlines, if the model has a matting network; else None.
    """

    position: Tensor
    masks: Tensor
    raw_masks: Tensor
    matte: Matte | None = None

    def layers(self, view: View, frames: Tensor, margin: int = 0) -> Tensor:
        """The agent's layers in the video's frames (T, 3, H, W), (T, 4, h, w); `margin` as in :meth:`View.cut`."""
        if self.matte is None or not isinstance(view, ConnectedWindow):
            return view.cut(frames, self.masks, self.position, margin)
        return view.cut_windows(self.matte.layer, self.matte.corner, self.position, margin)

    def part(self, index: Tensor) -> Track:
        """The frames `index` (N,) alone."""
        matte = self.matte and Matte(self.matte.corner[index], self.matte.layer[index])
        return Track(self.position[index], self.masks[index], self.raw_masks[index], matte)


NEAR = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))  # Offsets to a pixel and its four neighbours.


def cheapest_path(costs: Tensor, change: float) -> Tensor:
    """Choose one of C options for each frame at the least total cost, where every change costs, too (Viterbi, 1967).

    Args:
        costs: (T, C), costs of the options in each frame.
        change: cost of a change between neighbouring frames.

    Returns:
        (T,) int64 on the CPU, the options chosen.
    """
    costs = costs.cpu()
    total = costs[0]
    before = []
    for cost in costs[1:]:
        least, cheapest = total.min(0)
        changes = least + change < total
        before.append(torch.where(changes, cheapest, torch.arange(len(total))))
        total = torch.where(changes, least + change, total) + cost
    path = [total.argmin()]
    for back in reversed(before):
        path.append(back[path[-1]])
    return torch.stack(path[::-1])


def snap_to_grid(position: Tensor, step: tuple[float, float], most: int) -> Tensor:
    """Move the positions of a video to the nearest places on a grid.

    Args:
        position: (T, 2) px.
        step: (x, y) px, the cell; 0: the grid has one column, or one row.
        most: largest move along an axis, px.

    Returns:
        positions (T, 2) px.
    """
    cell = torch.tensor(step, dtype=torch.float64, device=position.device)
    moves = position.double().diff(dim=0)
    cells = torch.where(cell > 0, (moves / cell.clamp_min(1e-6)).round(), torch.zeros_like(moves))
    path = torch.cat([torch.zeros_like(moves[:1]), (cells * cell).cumsum(0)])
    wanted = path + (position.double() - path).median(0).values
    return position + (wanted - position.double()).round().clamp(-most, most).to(position)


@torch.no_grad()
def track(model: Glass, frames: Tensor, refine: bool = False, grid: tuple[float, float] | None = None) -> Track:
    """Track the agent through a video.

    A position is the centre of the agent's window, which begins at frame pixel position - s / 2, if it is s px wide.

    Args:
        model: a trained GMA, and an LMA, which may be untrained.
        frames: (T, 3, H, W) in [-1, 1], the video.
        refine: refine positions by :func:`refine_positions`; needs a trained LMA.
        grid: (x, y) px of a cell, to snap positions to, in a grid world.

    Returns:
        positions and masks of all T frames.
    """
    config = model.config
    scale = config.window_scale
    margin = config.window // 2 + SEARCH_PX
    parts = each(frames.split(16), "masks")  # 16 frames fit a CPU's cache
    matte = None
    if model.gma.matting is None:
        masks = torch.cat([model.gma.mask(part) for part in parts]).float()
        centre = model.gma.locate(masks).round()
        layers = crop_windows(torch.cat([frames * masks, masks], 1), (centre - margin).long(), 2 * margin)
    else:
        found = [model.gma.matte(part) for part in parts]
        matte = Matte(torch.cat([m.corner for m in found]), torch.cat([m.layer for m in found]))
        masks = model.gma.whole_masks(matte)
        half = matte.layer.shape[-1] // 2
        centre = (matte.corner + half).float()
        layers = matte.layer[..., half - margin : half + margin, half - margin : half + margin]
    position = scale * _whole(_solve(layers, centre))
    if grid is not None:
        position = snap_to_grid(position, grid, SEARCH_PX // 2)
    out = Track(position, masks, masks, matte)
    if refine and config.heading:  # as the stored windows (:func:`training.windows.library.centred`)
        most = config.window // 4
        off = off_centre(out.layers(model.lma.view, frames)[:, 3]).round().clamp(-most, most)
        out.position = out.position + scale * off.to(out.position)
    elif refine and isinstance(model.lma, PoseLMA):
        out.position = refine_positions(model.lma, frames, out, jitter=grid is None)
    out.masks = keep_agent(masks, out.position, config.window * scale)
    return out


def refine_positions(lma: PoseLMA, frames: Tensor, track: Track, jitter: bool = True) -> Tensor:
    """Move all positions of a video by the one offset, in px of a layer, at which D redraws its windows best.

    Args:
        lma: a trained pose model.
        frames: (T, 3, H, W) in [-1, 1].
        track: the video, as tracked.
        jitter: then also move single positions by one of these where that lowers the error, with a cost on each change.

    Returns:
        positions (T, 2) px.
    """
    some = torch.linspace(0, len(frames) - 1, min(len(frames), REFINED_BY)).long()
    wide = track.part(some).layers(lma.view, frames[some], MOST_PX)
    errors = torch.stack([e.sum() for e in lma.drawing_errors(wide, track.position[some], OFFSETS)])
    position = track.position + lma.view.scale * track.position.new_tensor(OFFSETS)[errors.argmin()]
    if not jitter:
        return position
    wide = replace(track, position=position).layers(lma.view, frames, MOST_PX)
    each = torch.stack(list(lma.drawing_errors(wide, position, NEAR)), 1)
    path = cheapest_path(each, CHANGE * float(each.amin(1).median()))
    return position + lma.view.scale * position.new_tensor(NEAR)[path.to(position.device)]


def _whole(position: Tensor) -> Tensor:
    """Round positions to whole px, less their common fraction; else those near a half would be rounded up and down."""
    turn = 2 * math.pi * position.double()
    fraction = torch.atan2(turn.sin().mean(0), turn.cos().mean(0)) / (2 * math.pi)  # circular mean, (-0.5, 0.5]
    return (position - fraction.to(position)).round()


def _solve(layers: Tensor, centre: Tensor) -> Tensor:
    """Match layers (T, 4, s, s), cut around centres (T, 2), over all LAGS, and solve for positions (T, 2), all px."""
    steps = len(layers)
    size = layers.shape[-1] + SEARCH_PX
    spectrum = torch.fft.rfft2(layers.float(), (size, size))  # (T, 4, ...), once for all lags
    ruler = torch.arange(-SEARCH_PX, SEARCH_PX + 1, device=layers.device) % size
    energy = layers.square().sum((1, 2, 3))
    laplacian = LEASH * torch.eye(steps, dtype=torch.float64, device=layers.device)
    right = LEASH * centre.double()
    for lag in LAGS:
        if lag >= steps:
            break
        product = (spectrum[:-lag].conj() * spectrum[lag:]).sum(1)
        table = torch.fft.irfft2(product, (size, size))[:, ruler][:, :, ruler]  # (T - lag, R, R), [dy, dx]
        best, index = table.flatten(1).max(1)
        side = 2 * SEARCH_PX + 1
        found = torch.stack([index % side, index // side], 1) - SEARCH_PX
        quality = 2 * best / (energy[:-lag] + energy[lag:]).clamp_min(1e-3)
        weight = (EXACTNESS * (quality.clamp(0, 1) - 1)).exp().double()
        move = (found + centre[lag:] - centre[:-lag]).double()  # (T - lag, 2)
        i = torch.arange(steps - lag, device=layers.device)
        laplacian.index_put_((i, i), weight, accumulate=True)
        laplacian.index_put_((i + lag, i + lag), weight, accumulate=True)
        laplacian.index_put_((i, i + lag), -weight, accumulate=True)
        laplacian.index_put_((i + lag, i), -weight, accumulate=True)
        right.index_add_(0, i + lag, weight[:, None] * move)
        right.index_add_(0, i, -weight[:, None] * move)
    return torch.linalg.solve(laplacian, right).to(centre.dtype)
