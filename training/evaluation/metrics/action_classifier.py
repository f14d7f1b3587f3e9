"""A judge reads direction and action off generated windows: a classifier trained on true labels, for scoring only."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from glass_gym.tensors.geometry import crop_windows

from ...data.sources import source_of
from ...data.store import Store, frames_to_tensor
from .evaluation import Evaluation
from .segmentation import centroids

VIDEOS = 400
"""Training videos that the judge learns from."""
STEPS = 900
BATCH = 64
WANDER = 5
"""The judge's own windows are moved by up to this many px: where a tracker puts a window is its own affair."""


class Judge(nn.Module):
    """Three neighbouring windows -> what is done in the middle one: an action is a motion.

    Args:
        kinds: how many values each label has.
    """

    def __init__(self, kinds: dict[str, int]):
        super().__init__()
        self.kinds = kinds
        self.net = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(3 * 4 * 16, 96, 3, padding=1),
            nn.BatchNorm2d(96),
            nn.ReLU(),
            nn.Conv2d(96, 128, 3, stride=2, padding=1),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 128, 3, stride=2, padding=1),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(16 * 128, sum(kinds.values())),
        )

    def forward(self, windows: Tensor) -> dict[str, Tensor]:
        """Windows (B, 3, 4, s, s) -> logits (B, kinds) by label."""
        said = self.net(windows.flatten(1, 2)).split(list(self.kinds.values()), 1)
        return dict(zip(self.kinds, said, strict=True))

    @torch.no_grad()
    def read(self, clips: Tensor) -> dict[str, np.ndarray]:
        """Clips (N, T, 4, s, s) -> labels (N, T - 2) of all frames but the first and the last."""
        triples = clips.unfold(1, 3, 1).movedim(-1, 2)  # (N, T - 2, 3, 4, s, s)
        parts = [self(part) for part in triples.flatten(0, 1).split(256)]
        return {
            name: torch.cat([p[name].argmax(1) for p in parts]).unflatten(0, triples.shape[:2]).numpy()
            for name in self.kinds
        }


def action_classifier(e: Evaluation) -> dict[str, Any]:
    """Shares of windows whose direction and action are read rightly, free running under inferred codes.

    Beside them what the judge says of the real windows (no model can be measured above that), and of a frozen agent.
    Empty where the source has no such labels.
    """
    source = source_of(e.store)
    if not source.judged or not e.model.lma.view.follows:
        return {}
    side = e.world.config.window
    masks = (e.clips.layers[:, :, 3] > 0.5).flatten(0, 1).numpy()
    reader = train_judge(e.store, side, e.seed, np.nanmean(centroids(masks), 0) - (side - 1) / 2)
    frames = np.asarray(e.clips.starts)[:, None] + np.arange(e.clips.layers.shape[1])
    truth = source.readings(e.store, frames[:, 1:-1])
    first = e.clips.layers[:, :1]
    shown = {
        "real": e.clips.layers,
        "free_running": torch.cat([first, e.rolled_out.free], 1),
        "frozen": first.expand_as(e.clips.layers),
    }
    out: dict[str, Any] = {}
    for name, clips in shown.items():
        said = reader.read(clips)
        out[name] = {label: float((said[label] == truth[label]).mean()) for label in truth}
    return out


@torch.inference_mode(False)
@torch.enable_grad()
def train_judge(store: Store, side: int, seed: int = 0, off: np.ndarray | float = 0.0) -> Judge:
    """A judge that learned from the true masks, positions and labels of training videos.

    Args:
        store: with labels.
        side: of the windows, px.
        seed: of the judge's weights, and of what it sees.
        off: (x, y) px, how far from the middle of its window the world sees the agent's centre of mass.

    Returns:
        the judge.
    """
    source = source_of(store)
    videos = [v for v in store.videos if v.split == "train"]
    videos = videos[:: max(1, len(videos) // VIDEOS)]
    length = min(v.length for v in videos)
    wide = side + 2 * WANDER
    layers = []
    for video in videos:
        span = slice(video.start, video.start + length)
        image = frames_to_tensor(store.frames[span])
        masks = store.masks(span.start, span.stop)
        position = source.positions(store, video, masks)
        assert position is not None
        middle = position[:length] + np.nanmean(
            centroids(masks) - position[:length], 0
        )  # of the agent, not of its tile
        mask = torch.from_numpy(masks)[:, None].float()
        corner = torch.from_numpy(np.round(middle - off)).long() - wide // 2
        layers.append(crop_windows(torch.cat([image * mask, mask], 1), corner, wide).half())
    frames = np.array([v.start for v in videos])[:, None] + np.arange(length)
    truth = {name: torch.from_numpy(label).long() for name, label in source.readings(store, frames).items()}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        out = Judge(source.judged)
        _fit(out, torch.stack(layers), truth, side, torch.Generator().manual_seed(seed))
    return out.eval()


def _fit(judge: Judge, shown: Tensor, truth: dict[str, Tensor], side: int, generator: torch.Generator) -> None:
    videos, length = shown.shape[:2]
    optimiser = torch.optim.AdamW(judge.parameters(), lr=2e-3, weight_decay=1e-2)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, STEPS)
    for _ in tqdm(range(STEPS), desc="judge", leave=False):
        video = torch.randint(videos, (BATCH,), generator=generator)
        middle = torch.randint(1, length - 1, (BATCH,), generator=generator)
        x, y = torch.randint(2 * WANDER + 1, (2,), generator=generator).tolist()
        clip = shown[video[:, None], middle[:, None] + torch.arange(-1, 2), :, y : y + side, x : x + side].float()
        said = judge(clip)
        loss = torch.stack([F.cross_entropy(said[name], truth[name][video, middle]) for name in truth]).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rates.step()
