"""The simulator, batched and without gradients: start(frames) -> WorldState; step(state, shift, code) -> WorldState.

All data are tensors on one device. The state is an explicit value with one row per environment. On a GPU no step reads
values on the host, so a step never waits for the device.
"""

from __future__ import annotations

import os
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from glass_gym.model.glass import Glass
from glass_gym.model.library import wrapped
from glass_gym.model.pose_model import POSE_CHANNELS, PoseLMA
from glass_gym.simulator.decoder_cache import cached
from glass_gym.tensors.convert import outside_inference_mode, to_bytes, to_images
from glass_gym.tensors.device import pick_device, pick_precision
from glass_gym.tensors.rows import RowState

POSE_LIMIT = 3.0  # Numbers of a pose vector lie within this of 0; nearly all lie within 1.
PRESENT = 0.25  # An agent is present while its mask has at least this share of its initial mass.

CPU_PIXELS = 64 * 64 * 64
"""Window pixels that a step animates at a time on the CPU; 256 rows of 64 x 64 px at once take half as long again."""

if hasattr(os, "register_at_fork"):
    # a child process does not have its parent's threads, and torch would wait for them for ever
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


class NoAgentError(ValueError):
    """The model finds no agent in a start picture."""


@dataclass
class WorldState(RowState):
    """The state of the simulator, with one row per environment.

    Attributes:
        layer: (B, 4, h, w), the agent: colour * mask and mask, in its window or (``paper``) in the whole frame.
        background: (B, 3, H, W) uint8, the start frame without the agent; it stays the same for the episode.
        position: (B, 2) px, (x, y) of the layer: the window's centre, or (``paper``) the agent's measured position.
        origin: (B, 2) px, the agent's centre of mass in the first layer, relative to `position`.
        mass: (B,), the sum of the first layer's mask, px.
        memory: the LMA's state.
    """

    layer: Tensor
    background: Tensor
    position: Tensor
    origin: Tensor
    mass: Tensor
    memory: tuple[Tensor, ...]


class Simulator:
    """A trained model as a simulator.

    Args:
        model: trained. It is put into evaluation mode and frozen. If it is on another device than `device`, a copy is
            moved there.
        device: see :func:`glass_gym.tensors.device.pick_device`.
        precision: of the networks, see :func:`glass_gym.tensors.device.pick_precision`; masks, layers and positions
            stay in float32.
        ground: left, top, right, bottom px of the box that agents stay in; None: the frame without a margin of the
            agent's radius.

    Raises:
        ValueError: the device or the precision is unknown or missing.
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
            model = deepcopy(model)  # the caller's may be in use on its device
        self.model = model.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model.eval().requires_grad_(False)
        self.config = model.config
        self.height = model.config.height
        self.width = model.config.width
        radius = float(model.config.agent_radius)
        self.ground = ground or (radius, radius, self.width - radius, self.height - radius)
        self.lma = cached(self.model.lma, self.device)
        self.pose_channels = 0  # C of agent_pose; 0: the agents have no poses (paper)
        if isinstance(self.model.lma, PoseLMA):
            self.pose_channels = POSE_CHANNELS + 2 * self.config.heading
            book = self.model.lma.pose_codebook
            entries = book.embed(torch.arange(len(book.codebook), device=self.device))
            self._pose_unit = (2 * entries.var(0, correction=0).sum()).sqrt().clamp_min(1e-6)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32)

    def masks(self, frames: Tensor) -> Tensor:
        """M on frames (B, 3, H, W) uint8 -> masks (B, 1, H, W) in [0, 1]."""
        with torch.no_grad(), self._autocast():
            images = to_images(frames).contiguous(memory_format=torch.channels_last)
            return self.model.gma.mask(images).float()

    @outside_inference_mode
    def start(self, frames: Tensor, position: Tensor | None = None, background: Tensor | None = None) -> WorldState:
        """Make states of frames: segment the agent, inpaint the background, encode the agent.

        Args:
            frames: (B, H, W, 3) uint8.
            position: (B, 2) px, the layers' positions as in :attr:`WorldState.position`, if they are known. Otherwise
                they are estimated from the masks, and in ``pose`` worlds refined by redrawing, which takes seconds for
                many frames.
            background: (B, H, W, 3) uint8, the frames without their agents, if they are known. Otherwise N inpaints
                them.

        Returns:
            B rows.

        Raises:
            ValueError: the frames have another shape or type.
        """
        if frames.ndim != 4 or tuple(frames.shape[1:]) != (self.height, self.width, 3) or frames.dtype != torch.uint8:
            raise ValueError(
                f"start frames must be uint8 (B, {self.height}, {self.width}, 3), "
                f"got {frames.dtype} {tuple(frames.shape)}; glass_gym.worlds.pictures.fit_picture makes such a frame"
            )
        view = self.model.lma.view
        images = to_images(frames.to(self.device).permute(0, 3, 1, 2))
        with self._autocast():
            if background is None or self.model.gma.matting is not None:
                masks, colours, inpainted = self.model.gma.segment(images)
            else:
                masks, colours, inpainted = self.model.gma.mask(images).float(), images, None
        centre = self.model.gma.locate(masks)
        if background is None:
            assert inpainted is not None
            background = to_bytes(inpainted)
        else:
            background = background.to(self.device).permute(0, 3, 1, 2)
        with self._autocast():
            if position is None:
                place = self.model.lma.refine_position(colours, masks, view.anchor(centre))
            else:
                place = position.to(centre)
            layer = view.cut(colours, masks, place)
            memory = tuple(m.clone() for m in self.lma.start_state(layer))
        mass = layer[:, 3].sum((1, 2))
        if self.device.type == "cpu":  # the memory format of observed frames
            background = background.contiguous(memory_format=torch.channels_last)
        return WorldState(layer, background, place, centre - place, mass, memory)

    @outside_inference_mode
    def step(self, state: WorldState, shift: Tensor, code_index: Tensor) -> WorldState:
        """Move and animate the agents by one step. A shift is cut short where it would lead out of the ground.

        Args:
            state: B rows.
            shift: (B, 2) px, global actions, positive right and down.
            code_index: (B,) int64, local actions, 0 to K - 1.

        Returns:
            B rows.
        """
        view = self.model.lma.view
        expected = self.clamp(state.position + shift, state.position)
        moved = expected - state.position
        parts = state.layer, moved, code_index, expected, *state.memory
        height, width = view.size
        rows = max(1, CPU_PIXELS // (height * width) if self.device.type == "cpu" else len(moved))
        done = [self._animate(*piece) for piece in zip(*(x.split(rows) for x in parts), strict=True)]
        layer, *memory = done[0] if len(done) == 1 else [torch.cat(x) for x in zip(*done, strict=True)]
        position = view.locate(layer, expected)
        return replace(state, layer=layer, position=position, memory=tuple(memory))

    def _animate(
        self, layer: Tensor, shift: Tensor, code_index: Tensor, position: Tensor, *memory: Tensor
    ) -> list[Tensor]:
        with self._autocast():
            code_vector = self.model.lma.quantiser.embed(code_index)
            drawn, memory = self.lma.animate(layer, memory, shift, code_vector, position)
        return [drawn.layer.float(), *memory]

    @outside_inference_mode
    def place(self, state: WorldState, position: Tensor) -> WorldState:
        """Put the same agents at other positions (B, 2) px (:attr:`WorldState.position`), without a step."""
        by = position - state.position
        return replace(state, layer=self.model.lma.view.place(state.layer, by), position=position)

    def clamp(self, position: Tensor, before: Tensor) -> Tensor:
        """Clamp positions (B, 2) px to the ground; an agent already outside (`before`) cannot go farther out."""
        axes = zip(position.unbind(1), before.unbind(1), self.ground[:2], self.ground[2:], strict=True)
        return torch.stack([p.maximum(b.clamp_max(low)).minimum(b.clamp_min(high)) for p, b, low, high in axes], 1)

    @property
    def has_prior(self) -> bool:
        """Whether the model has a prior over local actions."""
        return self.model.lma.prior is not None

    @outside_inference_mode
    def code_prior(self, state: WorldState, shifts: Tensor) -> Tensor:
        """The prior p(code | state, shift), (B, N, K), for shifts (B, N, 2) px; ValueError: there is none."""
        return self.lma.code_prior(state.memory, shifts).exp()

    @outside_inference_mode
    def pictures(self, state: WorldState, out: Tensor | None = None) -> Tensor:
        """The layers over the backgrounds, (B, 3, H, W) uint8; `out`: frames that may be overwritten."""
        return self.model.lma.view.draw(state.layer, state.background, state.position, out)

    def frames(self, state: WorldState) -> Tensor:
        """As :meth:`pictures`, (B, H, W, 3) uint8."""
        return self.pictures(state).permute(0, 2, 3, 1).contiguous()

    def agent_position(self, state: WorldState) -> Tensor:
        """The agents' positions, (B, 2) px: the layers' positions plus :attr:`WorldState.origin`."""
        return state.position + state.origin

    def agent_heading(self, state: WorldState) -> Tensor | None:
        """The agents' headings, (B,) rad in [-pi, pi), clockwise from the right; None: the world leaves them in."""
        return wrapped(state.memory[2]) if self.config.heading else None

    def agent_pose(self, state: WorldState) -> Tensor:
        """The agents' poses as vectors, in worlds that have poses.

        Their squared distance is 0 for equal poses, and 1 on average for two entries of the codebook (of a painted
        agent) or two stored windows. Where the heading is taken out, its cosine and sine are appended, so that opposite
        headings add 2.

        Returns:
            (B, C), within POSE_LIMIT.
        """
        lma = self.model.lma
        assert isinstance(lma, PoseLMA)
        parts = [lma.present_pose(state.memory).float() / self._pose_unit]
        if (heading := self.agent_heading(state)) is not None:
            parts.append(torch.stack([heading.cos(), heading.sin()], 1) / 2**0.5)
        return torch.cat(parts, 1).clamp(-POSE_LIMIT, POSE_LIMIT)

    def agent_present(self, state: WorldState) -> Tensor:
        """Whether the agents are present, (B,) bool: their masks have at least PRESENT of the initial mass."""
        return state.layer[:, 3].sum((1, 2)) >= PRESENT * state.mass.clamp_min(1.0)
