"""LMA, the local motion analysis (Sec. 3.2): the interface that both architectures implement.

A *layer* is a foreground in four channels: colour * mask (3) and mask (1). A *state* is a tuple of tensors with one row
per agent; modules keep no state of their own.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from glass_gym.model.blocks import StagedModel
from glass_gym.model.quantise import Quantised, Quantiser
from glass_gym.model.view import View

SHIFT_UNIT = 4.0  # The RNN gets global actions in units of this many px of a layer; a typical step has size one.

SHARPNESS = 3.0  # Factor on the quantiser's scores of the codes, before the softmax that gives q(code).

State = tuple[Tensor, ...]  # The RNN's state.


@dataclass
class Drawn:
    """A generated foreground."""

    layer: Tensor  # (B, 4, h, w), colour * mask and mask
    colour: Tensor  # (B, 3, h, w) in [-1, 1], before it is multiplied by the mask
    logits: Tensor  # (B, 1, h, w), the mask before its sigmoid
    coarse: Sequence[Tensor] = ()  # (B, 3, ...) at 1/4 and 1/2 of the size, before tanh (the paper's D, in training)


def masked(colour: Tensor, logits: Tensor, coarse: Sequence[Tensor] = ()) -> Drawn:
    """Colours (B, 3, h, w) in [-1, 1] and mask logits (B, 1, h, w) -> :class:`Drawn`."""
    mask = torch.sigmoid(logits)
    return Drawn(torch.cat([colour * mask, mask], 1), colour, logits, coarse)


class LMA(StagedModel):
    """Local motion analysis: infers local actions from layers, and animates layers under actions."""

    view: View  # cuts layers out of frames and draws them back
    quantiser: Quantiser  # A's codebook of K local actions
    prior: nn.Module | None  # p(code | state, shift)

    @property
    def shift_unit(self) -> float:
        """SHIFT_UNIT in px of a frame."""
        return SHIFT_UNIT * self.config.window_scale

    def codebooks(self) -> list[Tensor]:
        """Buffers that are updated by moving averages in training, not by gradients."""
        return list(self.quantiser.buffers())

    @abstractmethod
    def directions(self, layers: Tensor, shifts: Tensor) -> Tensor:
        """A's vectors before quantisation: layers (B, T + 1, 4, h, w), shifts (B, T, 2) px -> (B, T, C) float32."""

    @abstractmethod
    def start_state(self, layer: Tensor) -> State:
        """The RNN's initial state for agents whose first layers are (B, 4, h, w)."""

    @abstractmethod
    def animate(
        self, layer: Tensor, state: State, shift: Tensor, code_vector: Tensor, position: Tensor | None = None
    ) -> tuple[Drawn, State]:
        """One step: the next foreground under a global and a local action (Sec. 3.2, Figs. 3 and 10).

        Args:
            layer: (B, 4, h, w), the present one.
            state: the RNN's state.
            shift: (B, 2) px, the global action.
            code_vector: (B, code_channels), the local action.
            position: (B, 2) px of the layer after the step; None: unknown.

        Returns:
            the next foreground, and the next state.
        """

    def correct_state(self, state: State, layer: Tensor, where: Tensor) -> State:
        """The state after teacher forcing with layers (B, 4, h, w), in the rows of `where`, (B,) bool."""
        return state

    def refine_position(self, images: Tensor, masks: Tensor, position: Tensor) -> Tensor:
        """Improve positions (B, 2) px, so that the model fits the first layers of images and masks best."""
        return position

    def quantise(self, z: Tensor) -> Quantised:
        """Quantise A's vectors (..., code_channels); the result has one flat leading axis."""
        return self.quantiser(z.flatten(0, -2))

    def log_posterior(self, z: Tensor) -> Tensor:
        """Log q(code | what A saw), (..., K), of A's vectors (..., code_channels)."""
        return (SHARPNESS * self.quantiser.logits(z.flatten(0, -2)).float()).log_softmax(-1).unflatten(0, z.shape[:-1])

    def infer_codes(self, layers: Tensor, shifts: Tensor) -> Tensor:
        """A with its quantiser: layers (B, T + 1, 4, h, w), shifts (B, T, 2) px -> codes (B, T) int64."""
        z = self.directions(layers, shifts)
        return self.quantise(z).index.unflatten(0, z.shape[:2])

    def code_prior(self, state: State, shifts: Tensor) -> Tensor:
        """Log p(code | state, shift), (B, N, K), of N global actions (B, N, 2) px; ValueError: no prior."""
        raise ValueError("this world has no prior over local actions; glass-train --architecture pose trains one")

    def keep_codes(self, index: list[int]) -> None:
        """Keep only the codes in `index`; they are renumbered in this order."""
        self.config = self.config.replace(codes=len(index))
        self.quantiser.keep(index)
        if self.prior is not None:
            self.prior.keep(index)  # type: ignore[operator]

    def rollout(
        self,
        layers: Tensor,
        shifts: Tensor,
        code_vectors: Tensor,
        teacher: Tensor | None = None,
        position: Tensor | None = None,
    ) -> list[Drawn]:
        """Generate T foregrounds from frame 0: each step starts from the layer that the step before drew.

        Args:
            layers: (B, T + 1, 4, h, w). Frame 0 is used, and other frames where `teacher` is True.
            shifts: (B, T, 2) px.
            code_vectors: (B, T, code_channels).
            teacher: (B, T) bool; where True, step t starts from the real layer of frame t (teacher forcing).
                None: nowhere.
            position: (B, 2) px of frame 0's layers; None: unknown.

        Returns:
            T foregrounds.
        """
        layer = layers[:, 0]
        state = self.start_state(layer)
        drawn = []
        for t in range(shifts.shape[1]):
            if teacher is not None and t > 0:
                layer = torch.where(teacher[:, t, None, None, None], layers[:, t], layer)
                state = self.correct_state(state, layer, teacher[:, t])
            position = None if position is None else position + shifts[:, t]
            out, state = self.animate(layer, state, shifts[:, t], code_vectors[:, t], position)
            drawn.append(out)
            layer = out.layer
        return drawn
