"""Poses without who it is: a vocabulary that calls a pose the same whichever character is in it."""

from __future__ import annotations

import copy

import numpy as np
import torch
from glass_gym.model.token_glass import PoseLMA
from torch import Tensor, nn

from ..lma.clusters import project_out_identity
from ..windows.windows import WindowSet, iter_batches

FRAMES = 10_000
"""About so many frames, of whole videos, say what a character's words have of their own."""


class PoseTeacher(nn.Module):
    """Names the pose in a window, whoever it is: by Q as it was, its words, and where vectors of each are moved to.

    Args:
        model: of which Q and its vocabulary are copied; vectors stay where they are, and names are the words, until
            :func:`teach_poses` says otherwise.
    """

    moves: Tensor

    def __init__(self, model: PoseLMA):
        super().__init__()
        self.encoder = copy.deepcopy(model.pose_encoder).eval()
        self.words = copy.deepcopy(model.poses)
        self.names = copy.deepcopy(model.poses)
        self.register_buffer("moves", torch.zeros_like(model.poses.codebook))

    @torch.no_grad()
    def moved(self, layers: Tensor) -> Tensor:
        """Layers (B, 4, s, s) -> Q's vectors (B, channels) of the length of words, without who it is."""
        z = self.words.normalise(self.encoder(layers))
        return z + self.moves[self.words.logits(z).argmax(1)]

    def forward(self, layers: Tensor) -> Tensor:
        """Layers (B, 4, s, s) -> names (B,) int64."""
        return self.names.logits(self.moved(layers)).argmax(1)


def teach_poses(model: PoseLMA, windows: WindowSet, generator: torch.Generator) -> PoseTeacher | None:
    """A namer for a model whose vocabulary has just begun, and begins once more, without who it is.

    None, if words do not tell that (:func:`training.lma.clusters.project_out_identity`): of one character. Then nothing
    changes.
    """
    every = -(-len(windows.layers) // FRAMES)
    starts, lengths = windows.starts[::every], windows.lengths[::every]
    frames = np.concatenate([a + np.arange(n) for a, n in zip(starts, lengths, strict=True)])
    namer = PoseTeacher(model)
    words = model.poses.codebook
    z = torch.cat(
        [namer.moved(layers.to(words.device)) for layers in iter_batches(windows, frames, model.config.window)]
    )
    tokens = namer.words.logits(z).argmax(1)
    told = words.double().cpu().numpy()
    poses = project_out_identity(tokens.cpu().numpy(), told, np.r_[0, np.cumsum(lengths)[:-1]], lengths)
    if np.array_equal(poses, told):
        return None
    namer.moves.copy_(torch.from_numpy(poses - told))
    model.poses.begin(z + namer.moves[tokens], generator)
    namer.names.load_state_dict(model.poses.state_dict())
    return namer
