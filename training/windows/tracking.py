"""Where the agent is in every frame of a video, without drift.

Adding up shifts between neighbours drifts: limbs that swing move the best match by half a pixel, and errors
accumulate. An animated agent comes back to the same pose within a few frames, where the match is exact. So frames
are matched over several lags, each match weighs by how exact it is, and positions are the weighted least-squares
solution, held loosely to the mask's centre of mass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from glass_gym.model.glass import Glass
from glass_gym.tensors.geometry import crop_windows, densest_point, keep_agent

LAGS = (1, 2, 3, 4, 6, 8)
REACH = 8
"""Matching looks this far, px, around where the centres of mass say the agent went."""
EXACTNESS = 20.0
"""Weight of a match: exp(EXACTNESS * (quality - 1)), quality 1 being pixel by pixel."""
LEASH = 0.001
"""Weight of the centre of mass."""


@dataclass
class Track:
    """A tracked video.

    Attributes:
        position: (T, 2) whole px.
        masks: (T, 1, H, W), with only the agent kept.
        raw_masks: (T, 1, H, W), M's own.
    """

    position: Tensor
    masks: Tensor
    raw_masks: Tensor


NEAR = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))
"""A place and those beside it, px."""


def cheapest_path(costs: Tensor, change: float) -> Tensor:
    """The cheapest choice for each frame of a video, where a change from frame to frame has its price (Viterbi, 1967).

    Args:
        costs: (T, C), of C choices in T frames.
        change: the price.

    Returns:
        (T,) int64.
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


def on_grid(position: Tensor, step: tuple[float, float], most: int) -> Tensor:
    """The nearest places on a grid: in a grid world a sprite that turns round on the spot has not moved.

    Args:
        position: (T, 2) px, of a video.
        step: (x, y) px of a cell; 0: one column, or one row.
        most: px that a place is moved by, at most.

    Returns:
        (T, 2) px.
    """
    cell = torch.tensor(step, dtype=torch.float64, device=position.device)
    moves = position.double().diff(dim=0)
    cells = torch.where(cell > 0, (moves / cell.clamp_min(1e-6)).round(), torch.zeros_like(moves))
    path = torch.cat([torch.zeros_like(moves[:1]), (cells * cell).cumsum(0)])
    wanted = path + (position.double() - path).median(0).values
    return position + (wanted - position.double()).round().clamp(-most, most).to(position)


@torch.no_grad()
def track(model: Glass, frames: Tensor, settle: bool = False, grid: tuple[float, float] | None = None) -> Track:
    """Track the agent through a video.

    A position is the centre of the agent's window: its pixel i is frame pixel position - window / 2 + i.

    Args:
        model: a trained GMA.
        frames: (T, 3, H, W) in [-1, 1].
        settle: put the windows where the model knows the agent best; its LMA is trained, too.
        grid: px of a cell, in a grid world.

    Returns:
        positions and masks of all T frames.
    """
    config = model.config
    masks = torch.cat(
        [model.gma.mask(part) for part in frames.split(16)]
    ).float()  # more of them fall out of a CPU's cache
    centre = densest_point(masks, config.agent_radius).round()
    margin = config.window // 2 + REACH
    side = 2 * margin
    corner = (centre - margin).long()
    layers = crop_windows(torch.cat([frames * masks, masks], 1), corner, side)
    position = _whole(_solve(layers, centre))
    if grid is not None:
        position = on_grid(position, grid, REACH // 2)
    if settle:
        position = model.settle_video(frames, masks, position, turns=grid is None)
    return Track(position, keep_agent(masks, position, config.window), masks)


def _whole(position: Tensor) -> Tensor:
    """Round to whole px after taking out the path's common fraction: halves would fall to either side."""
    turn = 2 * math.pi * position.double()
    fraction = torch.atan2(turn.sin().mean(0), turn.cos().mean(0)) / (2 * math.pi)  # circular mean, (-0.5, 0.5]
    return (position - fraction.to(position)).round()


def _solve(layers: Tensor, centre: Tensor) -> Tensor:
    """Weighted least squares over matches of several lags -> positions (T, 2)."""
    steps = len(layers)
    size = layers.shape[-1] + REACH
    spectrum = torch.fft.rfft2(layers.float(), (size, size))  # (T, 4, ...), once for all lags
    ruler = torch.arange(-REACH, REACH + 1, device=layers.device) % size
    energy = layers.square().sum((1, 2, 3))
    laplacian = LEASH * torch.eye(steps, dtype=torch.float64, device=layers.device)
    right = LEASH * centre.double()
    for lag in LAGS:
        if lag >= steps:
            break
        product = (spectrum[:-lag].conj() * spectrum[lag:]).sum(1)
        table = torch.fft.irfft2(product, (size, size))[:, ruler][:, :, ruler]  # (T - lag, R, R), [dy, dx]
        best, index = table.flatten(1).max(1)
        side = 2 * REACH + 1
        found = torch.stack([index % side, index // side], 1) - REACH
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
