"""Are direction and action of drawn agents recognisable? A classifier trained on real windows reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glass_gym.tensors.geometry import crop_windows

from ...core.progress import each
from ...data.sources import source_of
from ...data.store import Store, frames_to_tensor
from .errors import centroids
from .evaluation import Evaluation

VIDEOS = 400  # Training videos of the classifier, at most.
STEPS = 900
BATCH = 64
JITTER_PX = 5
"""Training windows are shifted at random by up to this many px: the world's own windows need not be centred alike."""


class ActionClassifier(nn.Module):
    """Reads the labels of the middle one of three neighbouring windows; `classes` has their numbers of values."""

    def __init__(self, classes: Mapping[str, int]):
        super().__init__()
        self.classes = classes
        parts: list[nn.Module] = [nn.PixelUnshuffle(4)]
        for before, after, stride in ((3 * 4 * 16, 96, 1), (96, 128, 2), (128, 128, 2)):
            parts += [nn.Conv2d(before, after, 3, stride, 1), nn.BatchNorm2d(after), nn.ReLU()]
        head = nn.Linear(16 * 128, sum(classes.values()))
        self.net = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(0.3), head)

    def forward(self, windows: Tensor) -> dict[str, Tensor]:
        """Windows (B, 3, 4, s, s) -> logits (B, classes) of each label."""
        logits = self.net(windows.flatten(1, 2)).split(list(self.classes.values()), 1)
        return dict(zip(self.classes, logits, strict=True))

    @torch.no_grad()
    def classify(self, clips: Tensor) -> dict[str, np.ndarray]:
        """Clips (N, T, 4, s, s) -> labels (N, T - 2) of all frames but the first and the last."""
        triples = clips.unfold(1, 3, 1).movedim(-1, 2)  # (N, T - 2, 3, 4, s, s)
        parts = [self(part) for part in triples.flatten(0, 1).split(256)]
        return {
            name: torch.cat([p[name].argmax(1) for p in parts]).unflatten(0, triples.shape[:2]).numpy()
            for name in self.classes
        }


def action_classifier(e: Evaluation) -> dict[str, Any]:
    """The classifier's accuracy for each label on clips drawn free running, beside real windows (the upper bound) and
    the static agent (the baseline); empty if the source has no such labels."""
    source = source_of(e.store)
    if not source.class_counts or not e.model.lma.view.follows:
        return {}
    side = e.world.config.window
    masks = (e.clips.layers[:, :, 3] > 0.5).flatten(0, 1).numpy()
    classifier = train_classifier(e.store, side, e.seed, np.nanmean(centroids(masks), 0) - (side - 1) / 2)
    real, first = e.clips.layers, e.clips.layers[:, :1]
    truth = source.readings(e.store, np.asarray(e.clips.starts)[:, None] + np.arange(1, real.shape[1] - 1))
    free = torch.cat([first, e.rolled_out.free], 1)
    out: dict[str, Any] = {}
    for name, clips in (("real", real), ("free_running", free), ("static", first.expand_as(real))):
        found = classifier.classify(clips)
        out[name] = {label: float((found[label] == truth[label]).mean()) for label in truth}
    return out


@torch.inference_mode(False)
@torch.enable_grad()
def train_classifier(store: Store, side: int, seed: int = 0, offset: np.ndarray | float = 0.0) -> ActionClassifier:
    """A classifier of windows of `side` px, trained with the true masks, positions and labels of training videos;
    `offset` is (x, y) px from the middle of a window to the agent's centre of mass, as the world cuts windows."""
    source = source_of(store)
    videos = [v for v in store.videos if v.split == "train"]
    videos = videos[:: max(1, len(videos) // VIDEOS)]
    length = min(v.length for v in videos)
    wide = side + 2 * JITTER_PX
    layers = []
    for video in videos:
        span = slice(video.start, video.start + length)
        image = frames_to_tensor(store.frames[span])
        masks = store.masks(span.start, span.stop)
        position = source.positions(store, video, masks)[:length]
        middle = position + np.nanmean(centroids(masks) - position, 0)  # a label may give the corner of a tile
        mask = torch.from_numpy(masks)[:, None].float()
        corner = torch.from_numpy(np.round(middle - offset)).long() - wide // 2
        layers.append(crop_windows(torch.cat([image * mask, mask], 1), corner, wide).half())
    frames = np.array([v.start for v in videos])[:, None] + np.arange(length)
    truth = {name: torch.from_numpy(label).long() for name, label in source.readings(store, frames).items()}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        out = ActionClassifier(source.class_counts)
        _fit(out, torch.stack(layers), truth, side, torch.Generator().manual_seed(seed))
    return out.eval()


def _fit(
    classifier: ActionClassifier, layers: Tensor, truth: dict[str, Tensor], side: int, generator: torch.Generator
) -> None:
    videos, length = layers.shape[:2]
    optimiser = torch.optim.AdamW(classifier.parameters(), lr=2e-3, weight_decay=1e-2)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, STEPS)
    for _ in each(range(STEPS), "action classifier"):
        video = torch.randint(videos, (BATCH,), generator=generator)
        middle = torch.randint(1, length - 1, (BATCH,), generator=generator)
        x, y = torch.randint(2 * JITTER_PX + 1, (2,), generator=generator).tolist()
        clip = layers[video[:, None], middle[:, None] + torch.arange(-1, 2), :, y : y + side, x : x + side].float()
        losses = [F.cross_entropy(logits, truth[name][video, middle]) for name, logits in classifier(clip).items()]
        loss = torch.stack(losses).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rates.step()
