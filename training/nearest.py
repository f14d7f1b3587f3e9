"""How far a drawn window is from the nearest real one."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .windows import MARGIN, WindowSet


class NearestWindows:
    """All real windows, to ask how far a drawn one is from the nearest of them.

    Args:
        windows: the real ones.
        side: px of the drawn ones.
        limit: windows looked at for the nearest mask; more are thinned out evenly.
    """

    POOL_SIZE = 4
    CANDIDATES = 8

    def __init__(self, windows: WindowSet, side: int, limit: int = 40_000):
        self.windows = windows
        self.side = side
        self.index = np.arange(0, len(windows.layers), max(1, -(-len(windows.layers) // limit)))
        inner = slice(MARGIN, MARGIN + side)
        coarse = []
        for part in np.array_split(self.index, max(1, len(self.index) // 4096)):
            masks = torch.from_numpy(windows.layers[part, 3, inner, inner]).float()[:, None] / 255
            coarse.append(F.avg_pool2d(masks, self.POOL_SIZE).flatten(1))
        self.coarse = torch.cat(coarse)
        self.energy = self.coarse.square().sum(1)
        self.video = np.searchsorted(windows.starts, np.arange(len(windows.layers)), side="right") - 1

    def _crop(self, index) -> Tensor:
        layers = self.windows.layers_at(index)
        return layers[..., MARGIN : MARGIN + self.side, MARGIN : MARGIN + self.side]

    def nearest(self, layers: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The nearest real mask of any agent (N, 1, s, s), the nearest real layer of the same agent (N, 4, s, s), and
        whether the same agent was seen in that pose (N,) bool.

        Args:
            layers: (N, 4, s, s), aligned as the real windows are.
            index: (N,) a frame of the agent's video.
        """
        device = layers.device
        area = layers.shape[-1] ** 2
        with torch.no_grad():
            drawn = layers.detach().float().cpu()
            coarse = F.avg_pool2d(drawn[:, 3:], self.POOL_SIZE).flatten(1)
            far = self.energy - 2 * coarse @ self.coarse.T  # (N, windows)
            best = far.topk(min(self.CANDIDATES, far.shape[1]), largest=False).indices.numpy()
            masks = []
            appearances = []
            known = []
            for n, video in enumerate(self.video[index.cpu().numpy()]):
                candidates = self._crop(self.index[best[n]])[:, 3:]
                far_mask = (candidates - drawn[n, 3:]).square().sum((1, 2, 3)) / area
                start = int(self.windows.starts[video])
                length = int(self.windows.lengths[video])
                own = self._crop(slice(start, start + length))
                far_own = (own - drawn[n]).square().sum((1, 2, 3))
                pick = int(far_own.argmin())
                masks.append(candidates[int(far_mask.argmin())])
                appearances.append(own[pick])
                own_mask = (own[pick, 3:] - drawn[n, 3:]).square().sum() / area
                known.append(bool(own_mask <= 1.5 * far_mask.min() + 1e-3))
        return torch.stack(masks).to(device), torch.stack(appearances).to(device), torch.tensor(known, device=device)

    def distances(self, layers: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Squared distances to :meth:`nearest`, over the agent's pixels: of the masks, and of the whole layers where
        the agent was seen in the pose."""
        masks, appearances, known = self.nearest(layers, index)
        layers = layers.float()
        weight = 1 + 4 * torch.maximum(masks, layers[:, 3:].detach())
        silhouette = ((layers[:, 3:] - masks).square() * weight).mean() / weight.mean()
        weight = (1 + 4 * appearances[:, 3:]) * known[:, None, None, None]
        appearance = ((layers - appearances).square() * weight).mean() / (1 + 4 * appearances[:, 3:]).mean()
        return silhouette, appearance
