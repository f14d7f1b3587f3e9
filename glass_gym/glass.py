"""Glass: the parts joined. GMA splits frames into layers and measures shifts; LMA animates the foreground.

Tensors are (batch, time, channels, height, width); images in [-1, 1]; shifts in px, positive right and down.
A *layer* is four channels: colour * mask (3) and mask (1). :func:`glass_gym.build.build_glass` makes a model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from glass_gym.config import GlassConfig
from glass_gym.geometry import compose, dilate
from glass_gym.networks.parts import Drawn, State
from glass_gym.networks.quantise import Quantised, Quantiser
from glass_gym.networks.shift import translate
from glass_gym.networks.view import View

SHIFT_UNIT = 4.0
"""Global actions reach the RNN in units of this many px, so that an ordinary step has size one."""


@dataclass
class Motion:
    """What GMA says about pairs of frames (Fig. 2).

    Attributes:
        masks: (B, 2, 1, H, W) in [0, 1].
        backgrounds: (B, 2, 3, H, W), inpainted.
        foreground_shift, background_shift: (B, 2) px.
        moved_layer: (B, 4, H, W), the layer of frame t, moved onto frame t + 1.
        moved_background: (B, 3, H, W).
        composed: (B, 3, H, W), frame t + 1 from the moved layers of frame t.
    """

    masks: Tensor
    backgrounds: Tensor
    foreground_shift: Tensor
    background_shift: Tensor
    moved_layer: Tensor
    moved_background: Tensor
    composed: Tensor


class Glass(nn.Module):
    """The whole model.

    Args:
        config: its sizes.
        mask: M, frames (B, 3, H, W) -> masks (B, 1, H, W).
        inpaint: N, frames and masks -> backgrounds (B, 3, H, W).
        shift_foreground: P_f, frames (B, 2, 3, H, W) and masks -> (B, 2) px.
        shift_background: P_b, the same of what the masks leave.
        encoder: E, layers (B, 4, h, w) -> features, attention, finer features or None.
        compressor: C.
        action: A, E and clips of layers -> directions (B, T, code_channels).
        quantiser: A's codebook.
        dynamics: the RNN.
        decoder: D.
        view: what LMA looks at.
        prior: p(code | state, shift), or None.
    """

    stages: ClassVar[dict[str, tuple[str, ...]]] = {
        "gma": ("mask", "inpaint", "shift_foreground", "shift_background"),
        "refine": ("mask", "inpaint", "shift_foreground", "shift_background"),
        "lma": ("encoder", "compressor", "action", "quantiser", "dynamics", "decoder"),
        "long": ("compressor", "dynamics", "decoder"),
        "prior": ("prior",),
    }
    """The parts that each stage trains."""

    def __init__(
        self,
        config: GlassConfig,
        *,
        mask: nn.Module,
        inpaint: nn.Module,
        shift_foreground: nn.Module,
        shift_background: nn.Module,
        encoder: nn.Module,
        compressor: nn.Module,
        action: nn.Module,
        quantiser: Quantiser,
        dynamics: nn.Module,
        decoder: nn.Module,
        view: View,
        prior: nn.Module | None = None,
    ):
        super().__init__()
        self.config = config
        self.view = view
        self.mask = mask
        self.inpaint = inpaint
        self.shift_foreground = shift_foreground
        self.shift_background = shift_background
        self.encoder = encoder
        self.compressor = compressor
        self.action = action
        self.quantiser = quantiser
        self.dynamics = dynamics
        self.decoder = decoder
        self.prior = prior

    def modules_of(self, stage: str) -> list[nn.Module]:
        """The parts that a stage (a key of :attr:`stages`) trains."""
        return [part for name in self.stages[stage] if (part := getattr(self, name)) is not None]

    def codebooks(self) -> list[Tensor]:
        """Buffers that stages move by averages."""
        return list(self.quantiser.buffers())

    # --- GMA ---------------------------------------------------------------------------------------------------

    def behind(self, images: Tensor, masks: Tensor, grow: int | None = None) -> Tensor:
        """What is behind the agent: N, on holes a little larger than the mask.

        Args:
            images: (B, 3, H, W) in [-1, 1].
            masks: (B, 1, H, W) in [0, 1].
            grow: px by which the mask falls short of what has to go; default: the config's `hole`.

        Returns:
            (B, 3, H, W).
        """
        grow = self.config.hole if grow is None else grow
        if grow:
            masks = dilate(masks, grow)
        return self.inpaint(images, masks)

    def widen(self, foreground_range: int) -> None:
        """Let P_f report shifts of up to so many px."""
        self.config = self.config.replace(foreground_range=foreground_range)
        self.shift_foreground.reach = foreground_range  # type: ignore[assignment]

    def analyse_pairs(self, frames: Tensor, grow: int = 0) -> Motion:
        """GMA's forward pass on pairs (B, 2, 3, H, W) (Sec. 3.1, Fig. 2), with holes grown by so many px (ours)."""
        flat = frames.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        masks = self.mask(flat)
        backgrounds = self.behind(flat, masks, grow).unflatten(0, frames.shape[:2])
        masks = masks.unflatten(0, frames.shape[:2])  # (B, 2, 1, H, W)
        forward = self.shift_foreground(frames, masks)
        behind = self.shift_background(frames, 1 - masks)
        layer = torch.cat([frames[:, 0] * masks[:, 0], masks[:, 0]], 1)
        moved_layer = translate(layer, forward)
        moved_background = translate(backgrounds[:, 0], behind, "border")
        composed = compose(moved_layer, moved_background)
        return Motion(masks, backgrounds, forward, behind, moved_layer, moved_background, composed)

    # --- LMA ---------------------------------------------------------------------------------------------------

    def directions(self, layers: Tensor, shifts: Tensor) -> Tensor:
        """A's vectors before quantisation, for every step of a clip (Sec. 3.2).

        Args:
            layers: (B, T + 1, 4, h, w), as :attr:`view` cuts them.
            shifts: (B, T, 2) px.

        Returns:
            (B, T, code_channels), float32.
        """
        return self.action(self.encoder, layers, shifts)

    def infer_codes(self, layers: Tensor, shifts: Tensor) -> Tensor:
        """Local actions (B, T) int64 that explain a clip; arguments as in :meth:`directions`."""
        z = self.directions(layers, shifts)
        return self.quantise(z).index.unflatten(0, z.shape[:2])

    def quantise(self, z: Tensor) -> Quantised:
        """Quantise (..., code_channels); the result is flat over the leading axes."""
        return self.quantiser(z.flatten(0, -2))

    def settle(self, images: Tensor, masks: Tensor, position: Tensor) -> Tensor:
        """Where exactly to look at agents near (B, 2) px in images (B, 3, H, W) with masks (B, 1, H, W): (B, 2) px."""
        return position

    def settle_video(self, images: Tensor, masks: Tensor, position: Tensor, turns: bool = True) -> Tensor:
        """As :meth:`settle`, for a video of T frames: positions (T, 2) px, moved alike, or a px apart if it `turns`."""
        return position

    def start_state(self, layer: Tensor, position: Tensor | None = None) -> State:
        """The RNN's initial state for agents that begin as layers (B, 4, h, w), at (B, 2) px where that is known."""
        return self.dynamics.start(layer.shape[0], *self.view.size)  # type: ignore[operator]

    def place_state(self, state: State, by: Tensor) -> State:
        """The state of agents that are carried `by` (B, 2) px without a step."""
        return state

    def correct_state(self, state: State, layer: Tensor, where: Tensor) -> State:
        """The state of agents that turn out to be as in layers (B, 4, h, w), in the rows `where` (B,) bool."""
        return state

    def animate(
        self, layer: Tensor, state: State, shift: Tensor, code_vector: Tensor, scales: bool = False
    ) -> tuple[Drawn, State]:
        """One step of LMA: the next foreground under a global and a local action (Sec. 3.2, Figs. 3 and 10).

        Args:
            layer: (B, 4, h, w).
            state: the RNN's state.
            shift: (B, 2) px.
            code_vector: (B, code_channels).
            scales: also run D's coarser heads (training).

        Returns:
            what was drawn, and the next state.
        """
        features, _, half = self.encoder(layer.contiguous(memory_format=torch.channels_last))
        hidden, state, actions = self.dynamics(self.compressor(features), state, shift / SHIFT_UNIT, code_vector)
        return self.decoder(hidden, layer, half, actions, scales), state

    def code_prior(self, layer: Tensor, state: State, shifts: Tensor) -> Tensor:
        """What the local action of the next step may be, given the global one.

        Args:
            layer: (B, 4, h, w), the foreground as it is.
            state: the RNN's state.
            shifts: (B, N, 2) px, N global actions to ask about.

        Returns:
            (B, N, K) log probabilities, float32.

        Raises:
            ValueError: the model has no prior.
        """
        return self.need_prior()(layer, state, shifts / SHIFT_UNIT)

    def need_prior(self) -> nn.Module:
        """Where there is a prior.

        Returns:
            the prior.

        Raises:
            ValueError: the model has none.
        """
        if self.prior is None:
            raise ValueError(
                "this world has no prior over local actions; train one (training.train --prior.iterations)"
            )
        return self.prior

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
            position: (B, 2) px of frame 0's layers, where it is known.

        Returns:
            T of :class:`Drawn`.
        """
        layer = layers[:, 0]
        state = self.start_state(layer, position)
        drawn = []
        for t in range(shifts.shape[1]):
            if teacher is not None and t > 0:
                layer = torch.where(teacher[:, t, None, None, None], layers[:, t], layer)
                state = self.correct_state(state, layer, teacher[:, t])
            out, state = self.animate(layer, state, shifts[:, t], code_vectors[:, t], scales)
            drawn.append(out)
            layer = out.layer
        return drawn
