"""Poses without who it is: a vocabulary that calls a pose the same whichever character is in it."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glass_gym.token_glass import TokenGlass

from .token_counts import without_identity
from .windows import WindowSet, crop_layers

FRAMES = 10_000
"""About so many frames, of whole videos, say what a character's words have of their own."""


class Namer(nn.Module):
    """Names the pose in a window, whoever it is: by Q as it was, its words, and where vectors of each are moved to.

    Args:
        encoder: Q, of which a copy is kept.
        words: (P, channels), its vocabulary.
        moves: (P, channels), from vectors of each word to where they lie without who it is.
        poses: (P, channels), the new words.
    """

    words: Tensor
    moves: Tensor
    poses: Tensor

    def __init__(self, encoder: nn.Module, words: Tensor, moves: Tensor, poses: Tensor):
        super().__init__()
        self.encoder = copy.deepcopy(encoder).eval()
        for name, value in (("words", words), ("moves", moves), ("poses", poses)):
            self.register_buffer(name, value.clone())

    @torch.no_grad()
    def moved(self, layers: Tensor) -> Tensor:
        """Layers (B, 4, s, s) -> Q's vectors (B, channels) of the length of words, without who it is."""
        z = F.normalize(self.encoder(layers).float(), dim=-1) * self.words.shape[1] ** 0.5
        return z + self.moves[(z @ self.words.T).argmax(1)]

    def forward(self, layers: Tensor) -> Tensor:
        """Layers (B, 4, s, s) -> new words (B,) int64."""
        return (self.moved(layers) @ self.poses.T).argmax(1)


def name_poses(model: TokenGlass, windows: WindowSet, generator: torch.Generator) -> Namer | None:
    """A namer for a model whose vocabulary has just begun, and begins once more, without who it is.

    None, if words do not tell that (:func:`training.token_counts.without_identity`): of one character. Then nothing
    changes.
    """
    every = -(-len(windows.layers) // FRAMES)
    starts, lengths = windows.starts[::every], windows.lengths[::every]
    frames = np.concatenate([a + np.arange(n) for a, n in zip(starts, lengths, strict=True)])
    words = model.poses.codebook
    namer = Namer(model.pose_encoder, words, torch.zeros_like(words), words)
    parts = np.array_split(frames, max(1, len(frames) // 1024))
    side = model.config.window
    z = torch.cat([namer.moved(crop_layers(windows, part, side).to(words.device)) for part in parts])
    tokens = (z @ words.T).argmax(1)
    told = words.double().cpu().numpy()
    poses = without_identity(tokens.cpu().numpy(), told, np.r_[0, np.cumsum(lengths)[:-1]], lengths)
    if np.array_equal(poses, told):
        return None
    namer.moves.copy_(torch.from_numpy(poses - told))
    model.poses.begin(z + namer.moves[tokens], generator)
    namer.poses.copy_(model.poses.codebook)
    return namer
