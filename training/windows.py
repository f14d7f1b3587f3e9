"""The LMA stage's data: windows that follow the agent, cut once by the frozen GMA and kept as uint8."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from glass_gym.glass import Glass, crop_windows
from glass_gym.tracking import track
from training.data.store import Store, Video, frames_to_tensor

MARGIN = 4
"""Windows are stored with this many px to spare on each side, so that clips can be moved inside them."""


@dataclass
class Clip:
    """Consecutive windows of one video: layers (T, 4, s + 2 MARGIN, s + 2 MARGIN), position (T, 2) px."""

    layers: Tensor
    position: Tensor


class WindowSet:
    """Windows of all videos of a split.

    Args:
        layers: (N, 4, s, s) uint8: colour * mask as 127.5 * (1 + x), then the mask as 255 x.
        position: (N, 2) px.
        starts, lengths: of the videos, in frames.
    """

    def __init__(self, layers: np.ndarray, position: np.ndarray, starts, lengths, height: int, width: int):
        self.layers, self.position = layers, position
        self.whole = layers.shape[-2:] == (height, width)  # view="whole": frames, not windows
        self.starts, self.lengths = np.asarray(starts), np.asarray(lengths)
        self.height, self.width = height, width

    def layers_at(self, index: np.ndarray) -> Tensor:
        """Windows of frames (N,) as float layers (N, 4, s, s)."""
        packed = torch.from_numpy(self.layers[index]).float()
        return torch.cat([packed[:, :3] / 127.5 - 1, packed[:, 3:] / 255], 1)

    def shifts(self) -> np.ndarray:
        """All moves between neighbouring frames (N, 2) px."""
        return np.concatenate([
            np.diff(self.position[a : a + n].astype(np.float32), axis=0)
            for a, n in zip(self.starts, self.lengths, strict=True)
        ])  # fmt: skip

    def inner(self, rng: np.random.Generator, count: int, side: int) -> np.ndarray:
        """Random frames (count,) int64 whose window of `side` px lies in the frame and holds an agent."""
        if not hasattr(self, "_inner"):
            half = np.array([side / 2, side / 2])
            size = np.array([self.width, self.height])
            cut = np.maximum(0, half - self.position) + np.maximum(0, self.position + half - size)
            seen = (self.layers[:, 3] > 127).sum((1, 2))
            good = (cut.max(1) <= side / 8) & (seen > 0.5 * np.median(seen))
            self._inner = np.flatnonzero(good) if good.any() else np.arange(len(seen))
        return self._inner[rng.integers(len(self._inner), size=count)]

    def clip(self, start: int, length: int) -> Clip:
        """Frames [start, start + length) as float layers."""
        layers = self.layers_at(slice(start, start + length))
        return Clip(layers, torch.from_numpy(self.position[start : start + length]).float())

    def sample(self, rng: np.random.Generator, length: int) -> Clip:
        """A random clip of `length` frames."""
        fits = np.flatnonzero(self.lengths >= length)
        if not len(fits):
            raise ValueError(
                f"no training video has {length} frames (the longest has {self.lengths.max()}); "
                "use shorter --lma.horizons or longer videos"
            )
        video = fits[rng.integers(len(fits))]
        return self.clip(int(self.starts[video] + rng.integers(self.lengths[video] - length + 1)), length)

    def save(self, path: Path) -> None:
        """Write as .npz (no pickle)."""
        np.savez(path, layers=self.layers, position=self.position, starts=self.starts, lengths=self.lengths,
                 size=np.array([self.height, self.width]))  # fmt: skip

    @classmethod
    def load(cls, path: Path) -> WindowSet:
        """The inverse of :meth:`save`."""
        with np.load(path, allow_pickle=False) as file:
            height, width = (int(v) for v in file["size"])
            return cls(file["layers"], file["position"], file["starts"], file["lengths"], height, width)


@torch.no_grad()
def cut_windows(model: Glass, store: Store, videos: list[Video], progress=lambda done: None) -> WindowSet:
    """Track the agent through the videos and cut its windows."""
    side = model.config.window + 2 * MARGIN
    device = next(model.parameters()).device

    def look(frames: Tensor) -> tuple[Tensor, Tensor]:
        frames = frames.to(device)
        with torch.autocast(device.type, torch.bfloat16):
            tracked = track(model, frames)
        layers = torch.cat([frames * tracked.masks, tracked.masks], 1)
        if model.config.view == "agent":
            layers = crop_windows(layers, tracked.position.long() - side // 2, side)
        return layers, tracked.position

    return pack_windows(store, videos, look, store.height, store.width, progress)


def pack_windows(
    store: Store, videos: list[Video], look, height: int, width: int, progress=lambda done: None
) -> WindowSet:
    """What `look` sees in each video, as uint8.

    Args:
        look: maps frames (T, 3, H, W) in [-1, 1] to layers (T, 4, s, s) and positions (T, 2) px.
        height, width: of the frames that the positions are in.
    """
    layers, positions, starts, lengths, total = [], [], [], [], 0
    for done, video in enumerate(videos):
        stack, position = look(frames_to_tensor(store.frames[video.start : video.start + video.length]))
        packed = torch.cat([(stack[:, :3] + 1) * 127.5, stack[:, 3:] * 255], 1)
        layers.append(packed.round().clamp(0, 255).byte().cpu().numpy())
        positions.append(position.cpu().numpy())
        starts.append(total)
        lengths.append(video.length)
        total += video.length
        progress(done + 1)
    return WindowSet(np.concatenate(layers), np.concatenate(positions), starts, lengths, height, width)
