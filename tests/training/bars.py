"""Windows of a made-up agent: a bar that stands (even frames) or lies (odd frames)."""

import numpy as np
import torch

from training.windows.windows import MARGIN, WindowSet

SIDE = 16


def bar_windows(videos=4, length=10, seed=0):
    """The bar has another colour in each video; what is about it is nothing."""
    rng = np.random.default_rng(seed)
    side = SIDE + 2 * MARGIN
    layers = np.full((videos * length, 4, side, side), 127, np.uint8)
    layers[:, 3] = 0
    for n in range(len(layers)):
        rows, columns = (slice(8, 16), slice(10, 14)) if n % 2 == 0 else (slice(12, 16), slice(7, 17))
        layers[n, :3, rows, columns] = 60 * (n // length)
        layers[n, 3, rows, columns] = 255
    position = np.full((len(layers), 2), 24.0, np.float32) + rng.integers(-3, 4, (len(layers), 2))
    return WindowSet(layers, position, np.arange(videos) * length, [length] * videos, 32, 48)


def layers_of(windows, index):
    """Layers of some frames, without their margin."""
    return windows.layers_at(np.array(index))[..., MARGIN:-MARGIN, MARGIN:-MARGIN]


class PerfectMask(torch.nn.Module):
    """M of the fixture `block_store`: red and yellow are the agent."""

    def forward(self, frames):
        return (frames[:, :1] > 0.5).float()
