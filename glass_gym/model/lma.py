"""LMA's interface (Sec. 3.2): what a local-motion model must do, whichever architecture it has.

A *layer* is four channels: colour * mask (3) and mask (1). A *state* is a tuple of tensors, one row per agent; nothing
is kept inside modules.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from glass_gym.model.blocks import StagedModel
from glass_gym.model.config import GlassConfig
from glass_gym.model.quantise import Quantised, Quantiser
from glass_gym.model.view import View

SHIFT_UNIT = 4.0
"""Global actions reach the RNN in units of this many px, so that an outside_inference_mode step has size one."""

State = tuple[Tensor, ...]
"""The RNN's state."""


@dataclass
class Drawn:
    """One generated foreground.

    Attributes:
        layer: (B, 4, h, w), colour * mask and mask.
        colour: (B, 3, h, w) in [-1, 1], before it is masked.
        logits: (B, 1, h, w) of the mask.
        coarse: D's heads at 1/4 and 1/2, (B, 3, ...) before their tanh; empty unless asked for.
    """

    layer: Tensor
    colour: Tensor
    logits: Tensor
    coarse: list[Tensor]


def drawn_from(full: Tensor, coarse: list[Tensor]) -> Drawn:
    """D's full-size output (B, 4, h, w), float32 -> :class:`Drawn`: tanh colours under a sigmoid mask."""
    return masked(torch.tanh(full[:, :3]), full[:, 3:4], [c.float() for c in coarse])


def masked(colour: Tensor, logits: Tensor, coarse: list[Tensor]) -> Drawn:
    """Colours (B, 3, h, w) in [-1, 1] under the mask of logits (B, 1, h, w) -> :class:`Drawn`."""
    mask = torch.sigmoid(logits)
    return Drawn(torch.cat([colour * mask, mask], 1), colour, logits, coarse)


class LMA(StagedModel):
    """Local motion analysis: infers local actions from layers, and animates layers under actions.

    Args:
        config: sizes.
        view: how layers are cut from frames.
        quantiser: A's codebook of K local actions.
        prior: p(code | state, shift), or None.
    """

    def __init__(self, config: GlassConfig, view: View, quantiser: Quantiser, prior: nn.Module | None = None):
        super().__init__(config)
        self.view = view
        self.quantiser = quantiser
        self.prior = prior

    def codebooks(self) -> list[Tensor]:
        """Buffers that stages update by moving averages."""
        return list(self.quantiser.buffers())

    @abstractmethod
    def directions(self, layers: Tensor, shifts: Tensor) -> Tensor:
        """A's vectors before quantisation, for every step of a clip.

        Args:
            layers: (B, T + 1, 4, h, w), as :attr:`view` cuts them.
            shifts: (B, T, 2) px.

        Returns:
            (B, T, code_channels), float32.
        """

    @abstractmethod
    def start_state(self, layer: Tensor) -> State:
        """The RNN's initial state for agents that begin as layers (B, 4, h, w)."""

    @abstractmethod
    def animate(
        self,
        layer: Tensor,
        state: State,
        shift: Tensor,
        code_vector: Tensor,
        position: Tensor | None = None,
        scales: bool = False,
    ) -> tuple[Drawn, State]:
        """One step: the next foreground under a global and a local action (Sec. 3.2, Figs. 3 and 10).

        Args:
            layer: (B, 4, h, w).
            state: the RNN's state.
            shift: (B, 2) px.
            code_vector: (B, code_channels).
            position: (B, 2) px, where the layer is after the step; None where it is unknown.
            scales: also run D's coarser heads (training).

        Returns:
            what was drawn, and the next state.
        """

    def correct_state(self, state: State, layer: Tensor, where: Tensor) -> State:
        """The state after teacher forcing: in rows `where` (B,) bool the agent is as in layers (B, 4, h, w)."""
        return state

    def refine_position(self, images: Tensor, masks: Tensor, position: Tensor) -> Tensor:
        """The best place of the layer near (B, 2) px, of images (B, 3, H, W) with masks (B, 1, H, W): (B, 2) px."""
        return position

    def quantise(self, z: Tensor) -> Quantised:
        """Quantise (..., code_channels); the result is flat over the leading axes."""
        return self.quantiser(z.flatten(0, -2))

    def infer_codes(self, layers: Tensor, shifts: Tensor) -> Tensor:
        """Local actions (B, T) int64 that explain a clip; arguments as in :meth:`directions`."""
        z = self.directions(layers, shifts)
        return self.quantise(z).index.unflatten(0, z.shape[:2])

    def code_prior(self, state: State, shifts: Tensor) -> Tensor:
        """How likely each local action is in the next step, given the global one.

        Args:
            state: the RNN's state.
            shifts: (B, N, 2) px, N global actions.

        Returns:
            (B, N, K) log probabilities, float32.

        Raises:
            ValueError: the model has no prior.
        """
        raise ValueError("this world has no prior over local actions: its architecture has none, or it was left out")

    def keep_codes(self, index: list[int]) -> None:
        """Make `index` (codes of now) the codes, in this order."""
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
        scales: bool = False,
        position: Tensor | None = None,
    ) -> list[Drawn]:
        """Generate T foregrounds from frame 0, feeding back what was drawn.

        Args:
            layers: (B, T + 1, 4, h, w); only frame 0 is used, and frames where `teacher` says so.
            shifts: (B, T, 2) px.
            code_vectors: (B, T, code_channels).
            teacher: (B, T) bool, True: step t starts from the real frame t (teacher forcing). None: free running.
            scales: also run D's coarser heads (training).
            position: (B, 2) px of frame 0's layers; None where it is unknown.

        Returns:
            T of :class:`Drawn`.
        """
        layer = layers[:, 0]
        state = self.start_state(layer)
        drawn = []
        for t in range(shifts.shape[1]):
            if teacher is not None and t > 0:
                layer = torch.where(teacher[:, t, None, None, None], layers[:, t], layer)
                state = self.correct_state(state, layer, teacher[:, t])
            position = None if position is None else position + shifts[:, t]
            out, state = self.animate(layer, state, shifts[:, t], code_vectors[:, t], position, scales)
            drawn.append(out)
            layer = out.layer
        return drawn
