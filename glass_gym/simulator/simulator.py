"""The simulator: a batched, gradient-free world. start(frames) -> WorldState; step(state, shift, code) -> WorldState.

Everything is tensors on one device; the state is an explicit value with one row per environment. Nothing in a step
looks at a value on the host, so a step never waits for the device.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from glass_gym.model.glass import Glass
from glass_gym.simulator.decoder_cache import cached
from glass_gym.tensors.convert import outside_inference_mode, to_bytes, to_images
from glass_gym.tensors.device import pick_device, pick_precision
from glass_gym.tensors.geometry import densest_point
from glass_gym.tensors.rows import RowState

PRESENT = 0.25
"""An agent is present while its mask keeps this share of the mass it started with."""

CPU_PLACES = 64 * 64 * 64
"""On the CPU a step animates so many window pixels at a time, 64 rows of 64 x 64 px: more fall out of the caches (256
such rows at once take half as long again)."""

if hasattr(os, "register_at_fork"):
    # a child has none of its parent's threads, and torch would wait for them for ever
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


class NoAgentError(ValueError):
    """A start picture in which the model finds no agent."""


@dataclass
class WorldState(RowState):
    """One row per environment.

    Attributes:
        layer: (B, 4, h, w) the agent: colour * mask and mask, in its window or (``paper``) in the whole frame.
        background: (B, 3, H, W) uint8, the inpainted first background; never re-smeared.
        position: (B, 2) px, (x, y), where the layer is: the window's centre, or (``paper``) the drawn agent's.
        origin: (B, 2) px, the agent's centre of mass in its first layer, from there.
        mass: (B,) sum of the mask at the start.
        memory: the RNN's state.
    """

    layer: Tensor
    background: Tensor
    position: Tensor
    origin: Tensor
    mass: Tensor
    memory: tuple[Tensor, ...]


class Simulator:
    """A trained Glass as a world.

    Args:
        model: trained; put into evaluation mode; its weights stay from now on. Of a model on another device than
            `device`, a copy is moved there.
        device: see :func:`pick_device`.
        precision: of the networks, see :func:`pick_precision`; masks, layers and positions stay in float32.
        ground: left, top, right, bottom px that agents stay in; default: the frame.
    """

    @outside_inference_mode
    def __init__(
        self,
        model: Glass,
        device: str | torch.device = "auto",
        precision: str = "auto",
        ground: tuple[float, float, float, float] | None = None,
    ):
        self.device = pick_device(device)
        self.precision = pick_precision(precision, self.device)
        if any(weight.device.type != self.device.type for weight in model.parameters()):
            model = deepcopy(model)  # the caller's may be in use by a simulator elsewhere
        self.model = model.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model.eval().requires_grad_(False)
        self.config = model.config
        self.height = model.config.height
        self.width = model.config.width
        radius = float(model.config.agent_radius)
        self.ground = ground or (radius, radius, self.width - radius, self.height - radius)
        self.lma = cached(self.model.lma, self.device)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32)

    def masks(self, frames: Tensor) -> Tensor:
        """M on frames (B, 3, H, W) uint8 -> (B, 1, H, W) in [0, 1]."""
        with torch.no_grad(), self._autocast():
            images = to_images(frames).contiguous(memory_format=torch.channels_last)
            return self.model.gma.mask(images).float()

    @outside_inference_mode
    def start(self, frames: Tensor, position: Tensor | None = None) -> WorldState:
        """Segment, inpaint, place.

        Args:
            frames: (B, H, W, 3) uint8.
            position: (B, 2) px, of :attr:`WorldState.position`'s kind, where it is known; else it is looked for, which
                takes a ``token`` world long.

        Returns:
            B rows.

        Raises:
            ValueError: frames of another shape or type.
        """
        if frames.ndim != 4 or tuple(frames.shape[1:]) != (self.height, self.width, 3) or frames.dtype != torch.uint8:
            raise ValueError(
                f"start frames must be uint8 (B, {self.height}, {self.width}, 3), "
                f"got {frames.dtype} {tuple(frames.shape)}; crop and resize them (glass_gym.worlds.pictures.fit_picture)"
            )
        view = self.model.lma.view
        images = to_images(frames.to(self.device).permute(0, 3, 1, 2))
        with self._autocast():
            masks = self.model.gma.mask(images).float()
            background = self.model.gma.inpaint_background(images, masks).float()
        centre = densest_point(masks, self.config.agent_radius)
        with self._autocast():
            if position is None:
                place = self.model.lma.refine_position(images, masks, view.anchor(centre))
            else:
                place = position.to(centre)
            layer = view.cut(images, masks, place)
            memory = tuple(m.clone() for m in self.lma.start_state(layer))
        mass = layer[:, 3].sum((1, 2))
        if self.device.type == "cpu":  # as frames are observed
            background = background.contiguous(memory_format=torch.channels_last)
        return WorldState(layer, to_bytes(background), place, centre - place, mass, memory)

    @outside_inference_mode
    def step(self, state: WorldState, shift: Tensor, code_index: Tensor) -> WorldState:
        """Animate and move.

        The agent stays in the frame: a shift is cut short where its centre would come too near to the edge.

        Args:
            state: B rows.
            shift: (B, 2) px, positive right and down.
            code_index: (B,) int64, local actions.

        Returns:
            B rows.
        """
        view = self.model.lma.view
        expected = self.clamp(state.position + shift, state.position)
        moved = expected - state.position
        layer, *memory = self._in_pieces(self._animate, state.layer, moved, code_index, expected, *state.memory)
        position = view.locate(layer, expected)
        return replace(state, layer=layer, position=position, memory=tuple(memory))

    def _in_pieces(self, function: Callable[..., list[Tensor]], *parts: Tensor) -> list[Tensor]:
        """A function of rows, on the CPU of a cacheful at a time."""
        height, width = self.model.lma.view.size
        at_once = max(1, CPU_PLACES // (height * width)) if self.device.type == "cpu" else max(1, len(parts[0]))
        done = [function(*piece) for piece in zip(*(x.split(at_once) for x in parts), strict=True)]
        return done[0] if len(done) == 1 else [torch.cat(x) for x in zip(*done, strict=True)]

    def _animate(
        self, layer: Tensor, shift: Tensor, code_index: Tensor, position: Tensor, *memory: Tensor
    ) -> list[Tensor]:
        with self._autocast():
            code_vector = self.model.lma.quantiser.embed(code_index)
            drawn, memory = self.lma.animate(layer, memory, shift, code_vector, position)
        return [drawn.layer.float(), *memory]

    @outside_inference_mode
    def place(self, state: WorldState, position: Tensor) -> WorldState:
        """The same agents at other places.

        Args:
            state: B rows.
            position: (B, 2) px, of :attr:`WorldState.position`'s kind.

        Returns:
            B rows.
        """
        by = position - state.position
        return replace(state, layer=self.model.lma.view.place(state.layer, by), position=position)

    def clamp(self, position: Tensor, before: Tensor) -> Tensor:
        """Positions (B, 2) px held on the ground: where agents were seen, or the frame but for the agent's half size.

        An agent that starts farther out (at `before`) may stay there, but goes no farther.

        Returns:
            (B, 2) px.
        """
        ground = position.new_empty(2, 2)  # filled in, for a graph may not copy from the host
        for row in range(2):
            for column in range(2):
                ground[row, column] = self.ground[2 * row + column]
        low = torch.minimum(before, ground[0])
        high = torch.maximum(before, ground[1])
        return torch.minimum(torch.maximum(position, low), high)

    @property
    def has_prior(self) -> bool:
        """Whether the world knows which local actions are likely."""
        return self.model.lma.prior is not None

    @outside_inference_mode
    def code_prior(self, state: WorldState, shifts: Tensor) -> Tensor:
        """p(code | state, shift) of the next step.

        Args:
            state: B rows.
            shifts: (B, N, 2) px, N global actions to ask about.

        Returns:
            (B, N, K) probabilities, float32.

        Raises:
            ValueError: the world has no prior.
        """
        return self.lma.code_prior(state.memory, shifts).exp()

    @outside_inference_mode
    def pictures(self, state: WorldState, out: Tensor | None = None) -> Tensor:
        """Composed frames (B, 3, H, W) uint8: the moved layer over the background.

        Args:
            state: B rows.
            out: frames that are not needed any more, which may be written into.

        Returns:
            them, or new ones.
        """
        return self.model.lma.view.draw(state.layer, state.background, state.position, out)

    def frames(self, state: WorldState) -> Tensor:
        """Composed frames (B, H, W, 3) uint8."""
        return self.pictures(state).permute(0, 2, 3, 1).contiguous()

    def agent_position(self, state: WorldState) -> Tensor:
        """Where the agents are: (B, 2) px, their first centres of mass moved as far as their layers."""
        return state.position + state.origin

    def agent_present(self, state: WorldState) -> Tensor:
        """(B,) bool: the mask keeps at least PRESENT of its first mass."""
        return state.layer[:, 3].sum((1, 2)) >= PRESENT * state.mass.clamp_min(1.0)
