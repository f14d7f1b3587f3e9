"""Congealing: move the windows of whole videos until equal poses lie at equal places (Learned-Miller, 2006).

The tracker measures motion, not where the window should be centred: each video's windows have a constant offset of a
few px, and the pose codebook would spend entries on it. We treat a video's offset as a latent variable of a mixture of
templates (Frey & Jojic, 2003), and estimate templates and offsets in turns. We start with few templates, so that equal
poses at different offsets have to share a template.

In a second step, single frames are moved by a pixel where they fit better: an agent that turns round becomes its mirror
image, whose best place may be a pixel off. Every change of the move within a video has a cost, and so have rare
templates, so that of two templates of one pose only one remains.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.progress import each
from .tracking import NEAR, cheapest_path

ALIGN_PX = 3  # Largest move of a window along each axis, px.
TEMPLATES = (4, 8, 16, 32, 48)  # Number of templates in each round.
FRAMES_A_VIDEO = 12  # Number of frames of each video, evenly spread, that determine its offset.
VIDEOS = 400  # Maximum number of videos from which templates are learned.
SHAPES = 24  # Maximum number of templates of the second step.
RUNS, RUN = 200, 48  # Maximum numbers of videos, and of consecutive frames of each, from which the second step learns.
ROUNDS = 4  # Number of rounds of the second step.
RARE = 0.002  # Templates to which a smaller share of the frames belongs are left out.


class Congealing:
    """Templates of the agent's silhouette, to which windows are aligned.

    Args:
        templates: (C, s, s) in [0, 1].
    """

    def __init__(self, templates: Tensor):
        self.templates = templates.float()

    @classmethod
    def fit(cls, masks: np.ndarray, starts: np.ndarray, lengths: np.ndarray, seed: int = 0) -> Congealing:
        """Learn the templates from videos.

        Args:
            masks: (N, s + 2 ALIGN_PX, s + 2 ALIGN_PX) uint8, the masks of all videos, one video after the other.
            starts, lengths: (V,) ints, first frames and lengths of the videos.
            seed: for the choice of videos and for k-means.
        """
        some = np.random.default_rng(seed).permutation(len(starts))[:VIDEOS]
        starts = starts[some]
        frames, video = _chosen(starts, lengths[some])
        seen = _solid(masks[frames])
        side = seen.shape[-1] - 2 * ALIGN_PX
        offset = np.full((len(starts), 2), ALIGN_PX)
        out = cls(seen[:, ALIGN_PX : ALIGN_PX + side, ALIGN_PX : ALIGN_PX + side].mean(0, keepdim=True))
        for count in each(TEMPLATES, "templates"):
            placed = _placed(seen, offset[video], side)
            out, _ = cls._clusters(placed, count, seed)
            for _ in range(3):
                offset, member = out._offsets(seen, video, len(starts))
                offset -= np.round(np.median(offset, 0)).astype(int) - ALIGN_PX  # not a move of all videos
                offset = offset.clip(0, 2 * ALIGN_PX)
                placed = _placed(seen, offset[video], side)
                out, _ = out._learned(placed, member)
        return out._without_doubles(masks, starts[:RUNS], lengths[some][:RUNS].clip(max=RUN), seed)

    def _without_doubles(self, masks: np.ndarray, starts: np.ndarray, lengths: np.ndarray, seed: int) -> Congealing:
        """The second step: templates of frames that may move by a pixel; duplicates disappear."""
        corner = (self.offsets(masks, starts, lengths) + ALIGN_PX).repeat(lengths, 0)
        seen = _solid(masks[np.concatenate([np.arange(s, s + n) for s, n in zip(starts, lengths, strict=True)])])
        starts = np.cumsum(lengths) - lengths
        side = self.templates.shape[-1]
        out, used = self._clusters(_placed(seen, corner, side), SHAPES, seed)
        for _ in each(range(ROUNDS), "templates of single frames"):
            moved, member = out._moved(seen, corner, starts, lengths, used / used.sum())
            out, used = out._learned(_placed(seen, (corner + moved).clip(0, 2 * ALIGN_PX), side), member)
        return Congealing(out.templates[used / used.sum() > RARE])

    @classmethod
    def _clusters(cls, placed: Tensor, count: int, seed: int) -> tuple[Congealing, Tensor]:
        """At most `count` templates, by k-means of windows (N, s, s); and the number of windows of each."""
        from sklearn.cluster import KMeans

        different = len({row.tobytes() for row in placed.numpy()})
        found = KMeans(min(count, different), n_init=1, random_state=seed).fit(placed.flatten(1).numpy())
        out = cls(torch.from_numpy(found.cluster_centers_).unflatten(1, placed.shape[1:]))
        return out, torch.bincount(torch.from_numpy(found.labels_).long(), minlength=len(out.templates))

    def _learned(self, placed: Tensor, member: Tensor) -> tuple[Congealing, Tensor]:
        """Templates as means of their member windows, unchanged where there are none; and the number of members."""
        total = torch.zeros_like(self.templates).index_add_(0, member, placed)
        used = torch.bincount(member, minlength=len(total))
        number = used[:, None, None]
        return Congealing(torch.where(number > 0, total / number.clamp_min(1), self.templates)), used

    def _far(self, placed: Tensor) -> Tensor:
        """Squared distances (N, C) between windows (N, s, s) and the templates."""
        flat = self.templates.flatten(1)
        placed = placed.flatten(1)
        return placed.square().sum(1, keepdim=True) + flat.square().sum(1) - 2 * placed @ flat.T

    def moves(self, masks: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """The move of each frame's window: (N, 2) px, (x, y), within ALIGN_PX; arguments as in :meth:`fit`."""
        corner = (self.offsets(masks, starts, lengths) + ALIGN_PX).repeat(lengths, 0)
        parts = []
        chunk = np.cumsum(lengths) // (RUNS * RUN)
        for some in each(np.split(np.arange(len(starts)), np.flatnonzero(np.diff(chunk)) + 1), "moving frames"):
            span = slice(starts[some[0]], starts[some[-1]] + lengths[some[-1]])
            begins = starts[some] - span.start
            parts.append(self._moved(_solid(masks[span]), corner[span], begins, lengths[some])[0])
        return (corner + np.concatenate(parts)).clip(0, 2 * ALIGN_PX) - ALIGN_PX

    def _moved(
        self, seen: Tensor, corner: np.ndarray, starts: np.ndarray, lengths: np.ndarray, share: Tensor | None = None
    ) -> tuple[np.ndarray, Tensor]:
        """The best moves of frames from corners (N, 2) px, each one of NEAR: (N, 2) px; and their templates (N,)."""
        side = self.templates.shape[-1]
        far = [self._far(_placed(seen, (corner + near).clip(0, 2 * ALIGN_PX), side)) for near in NEAR]
        usual = float(torch.stack(far).amin((0, 2)).clamp_min(1e-3).median())
        price = 0.0 if share is None else -usual * share.clamp_min(1e-4).log()
        costs, members = (torch.stack(x, 1) for x in zip(*((f + price).min(1) for f in far), strict=True))
        chosen = torch.cat([cheapest_path(costs[a : a + n], usual) for a, n in zip(starts, lengths, strict=True)])
        return np.array(NEAR)[chosen.numpy()], members[torch.arange(len(seen)), chosen]

    def offsets(self, masks: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """The move of each video's windows: (V, 2) px, (x, y), within ALIGN_PX; arguments as in :meth:`fit`."""
        frames, video = _chosen(starts, lengths)
        return self._offsets(_solid(masks[frames]), video, len(starts))[0] - ALIGN_PX

    def _offsets(self, seen: Tensor, video: np.ndarray, videos: int) -> tuple[np.ndarray, Tensor]:
        """The corners (V, 2), (x, y), at which videos fit the templates best; and each frame's template (N,)."""
        side = self.templates.shape[-1]
        index = torch.from_numpy(video)
        costs = []
        members = []
        for y in range(2 * ALIGN_PX + 1):
            for x in range(2 * ALIGN_PX + 1):
                cost, member = self._far(seen[:, y : y + side, x : x + side]).min(1)
                costs.append(torch.zeros(videos).index_add_(0, index, cost))
                members.append(member)
        best = torch.stack(costs, 1).argmin(1)
        member = torch.stack(members, 1)[torch.arange(len(seen)), best[index]]
        return torch.stack([best % (2 * ALIGN_PX + 1), best // (2 * ALIGN_PX + 1)], 1).numpy(), member


def _chosen(starts: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The frames (N,) that determine the videos' offsets, and the video (N,) of each."""
    videos = zip(starts, lengths, strict=True)
    parts = [start + np.unique(np.linspace(0, n - 1, FRAMES_A_VIDEO).astype(int)) for start, n in videos]
    return np.concatenate(parts), np.repeat(np.arange(len(parts)), [len(p) for p in parts])


def _solid(masks: np.ndarray) -> Tensor:
    """Masks (N, S, S) uint8 -> [0, 1], slightly blurred, so that strokes of one px overlap."""
    return F.avg_pool2d(torch.from_numpy(masks)[:, None].float() / 255, 3, 1, 1)[:, 0]


def _placed(seen: Tensor, corner: np.ndarray, side: int) -> Tensor:
    """Windows of `side` px, cut from (N, S, S) at corners (N, 2), (x, y)."""
    ruler = torch.arange(side)
    x = torch.from_numpy(corner[:, :1]) + ruler
    y = torch.from_numpy(corner[:, 1:]) + ruler
    return seen[torch.arange(len(seen))[:, None, None], y[:, :, None], x[:, None]]
