"""The prior over local actions: p(code | state, shift), so that an agent walks when nobody says how (ours)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glass_gym.config import GlassConfig
from glass_gym.networks.parts import State

GRID = 4
"""The state is pooled to a grid of this side."""
SILHOUETTE = 8
"""The mask, which tells the pose when an episode begins, is pooled to a grid of this side."""


class CodePrior(nn.Module):
    """A small head on the RNN's state, the drawn silhouette and the global action -> logits of the K codes.

    Args:
        config: sizes; `prior_channels` is the head's width.
        memories: channels of each tensor of the RNN's state.
    """

    def __init__(self, config: GlassConfig, memories: tuple[int, ...]):
        super().__init__()
        width = config.prior_channels
        self.from_state = nn.Linear(2 * sum(memories) * GRID**2 + SILHOUETTE**2, width)
        self.from_shift = nn.Linear(2, width)
        self.hidden = nn.Linear(width, width)
        self.logits = nn.Linear(width, config.codes)

    def keep(self, index: Sequence[int]) -> None:
        """Make `index` (codes of now) the codes, in this order."""
        kept = nn.Linear(self.logits.in_features, len(index))
        kept.load_state_dict({"weight": self.logits.weight[list(index)], "bias": self.logits.bias[list(index)]})
        self.logits = kept

    def forward(self, layer: Tensor, state: State, shift: Tensor) -> Tensor:
        """Log probabilities of the codes of the next step.

        Args:
            layer: (B, 4, h, w), the foreground as it is.
            state: the RNN's state.
            shift: (B, N, 2) in units of 4 px, N global actions to ask about.

        Returns:
            (B, N, K), float32.
        """
        parts = [F.adaptive_avg_pool2d(m.float().flatten(1, 2), GRID).flatten(1) for m in state]
        mask = F.adaptive_avg_pool2d(layer[:, 3:].float(), SILHOUETTE).flatten(1)
        known = self.from_state(torch.cat([*parts, mask], 1))[:, None]  # (B, 1, width)
        x = F.leaky_relu(known + self.from_shift(shift.float()), 0.2)
        x = F.leaky_relu(self.hidden(x), 0.2)
        return self.logits(x).float().log_softmax(-1)


def lean_prior(config: GlassConfig) -> CodePrior | None:
    """The head of a lean model; None where its config has none."""
    half = config.hidden // 2
    return CodePrior(config, (half, half)) if config.prior_channels else None


def paper_prior(config: GlassConfig) -> CodePrior | None:
    """The head of a paper model; None where its config has none."""
    width = config.hidden
    return CodePrior(config, (width, 2 * width, width)) if config.prior_channels else None
