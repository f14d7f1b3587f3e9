"""The simulator: a batched, gradient-free world. start(frames) -> WorldState; step(state, shift, code) -> WorldState.

Everything is tensors on one device; the state is an explicit value with one row per environment. Nothing in a step
looks at a value on the host, so a step never waits for the device.
"""

from __future__ import annotations

import functools
import math
import os
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from glass_gym.convert import ordinary, to_bytes, to_images
from glass_gym.drawn import DrawnWindows, name_rows
from glass_gym.geometry import densest_point
from glass_gym.glass import Glass
from glass_gym.rows import RowState
from glass_gym.token_glass import TokenGlass

PRESENT = 0.25
"""An agent is present while its mask keeps this share of the mass it started with."""

CPU_PLACES = 64 * 64 * 64
"""On the CPU a step animates so many window pixels at a time, 64 rows of 64 x 64 px: more fall out of the caches (256
such rows at once take half as long again)."""

PRECISIONS = ("auto", "float32", "bfloat16")
PAYS = 1.25
"""bfloat16 must be so many times as fast."""

if hasattr(os, "register_at_fork"):
    # a child has none of its parent's threads, and torch would wait for them for ever
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


class NoAgentError(ValueError):
    """A start picture in which the model finds no agent."""


def pick_device(name: str | torch.device) -> torch.device:
    """``"auto"`` (CUDA where there is one), ``"cpu"``, ``"cuda"`` or ``"cuda:i"`` -> a device.

    Returns:
        the device.

    Raises:
        ValueError: no such device here; the message names the fix.
    """
    if str(name) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        known = device.type in ("cpu", "cuda")
    except (RuntimeError, TypeError):
        known = False
    if not known:
        raise ValueError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:i', got {name!r}")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(
                f"device {str(name)!r} asked for, but this torch sees no CUDA device; "
                "use 'cpu' or 'auto', or install a CUDA build of torch (README)"
            )
        if (device.index or 0) >= torch.cuda.device_count():
            raise ValueError(f"device {str(name)!r} asked for; there are {torch.cuda.device_count()}, counted from 0")
    return device


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """``"auto"``: bfloat16 where the device multiplies whole tiles of it (CUDA, AMX), else float32.

    With AVX512-BF16 alone it is tried out, once a process: on one CPU M takes 1.5 times as long in bfloat16 as in
    float32, on another half as long.

    Returns:
        float32 or bfloat16.

    Raises:
        ValueError: no name in PRECISIONS.
    """
    if name not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {name!r}")
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported()
    else:
        tiles = torch.backends.cpu.get_cpu_capability() == "AMX" or _cpu_has("amx_tile")
        fast = tiles or (_cpu_has("avx512_bf16") and _bfloat16_pays())
    return torch.bfloat16 if fast else torch.float32


def _cpu_has(what: str) -> bool:
    probe = getattr(torch.cpu, f"_is_{what}_supported", None)  # private: not in every torch
    return probe is not None and probe()


@functools.cache
@torch.no_grad()
@torch.autocast("cpu", enabled=False)
def _bfloat16_pays() -> bool:
    """Whether a convolution as M's and D's takes this CPU clearly longer in float32: 20 ms on one thread, in turns."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # others on the cores disturb two threads more than one
    image = torch.ones(4, 64, 32, 32).to(memory_format=torch.channels_last)
    weight = torch.ones(64, 64, 3, 3).to(memory_format=torch.channels_last)
    fastest = dict.fromkeys((torch.float32, torch.bfloat16), math.inf)
    for _ in range(9):
        for kind in fastest:
            there = image.to(kind), weight.to(kind)
            began = time.perf_counter()
            torch.nn.functional.conv2d(*there, padding=1)
            fastest[kind] = min(fastest[kind], time.perf_counter() - began)
    torch.set_num_threads(threads)
    return fastest[torch.float32] > PAYS * fastest[torch.bfloat16]


@dataclass
class WorldState(RowState):
    """One row per environment.

    Attributes:
        layer: (B, 4, h, w) the agent: colour * mask and mask, in its window or (``paper``) in the whole frame.
        background: (B, 3, H, W) uint8, the inpainted first background; never re-smeared.
        position: (B, 2) px, (x, y), where the layer is: the window's centre, or (``paper``) the drawn agent's.
        origin: (B, 2) px, the agent's centre of mass in its first layer, from there.
        mass: (B,) sum of the mask at the start.
        memory: the RNN's state, one tensor per ConvLSTM.
        looks: (B,) int64, a name for what the agents look like where layers are kept (:mod:`glass_gym.drawn`), else 0.
    """

    layer: Tensor
    background: Tensor
    position: Tensor
    origin: Tensor
    mass: Tensor
    memory: tuple[Tensor, ...]
    looks: Tensor


class Simulator:
    """A trained Glass as a world.

    Args:
        model: trained; put into evaluation mode; its weights stay from now on. Of a model on another device than
            `device`, a copy is moved there.
        device: see :func:`pick_device`.
        precision: of the networks, see :func:`pick_precision`; masks, layers and positions stay in float32.
        ground: left, top, right, bottom px that agents stay in; default: the frame.
    """

    @ordinary
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
        # a GPU would have to be waited for to know what is there
        keeps = self.device.type == "cpu" and isinstance(self.model, TokenGlass) and self.model.draws_again
        self._drawn = DrawnWindows(self.model.view.size, self.config.poses) if keeps else None

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32)

    def masks(self, frames: Tensor) -> Tensor:
        """M on frames (B, 3, H, W) uint8 -> (B, 1, H, W) in [0, 1]."""
        with torch.no_grad(), self._autocast():
            images = to_images(frames).contiguous(memory_format=torch.channels_last)
            return self.model.mask(images).float()

    @ordinary
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
                f"got {frames.dtype} {tuple(frames.shape)}; crop and resize them (glass_gym.pictures.fit_picture)"
            )
        view = self.model.view
        images = to_images(frames.to(self.device).permute(0, 3, 1, 2))
        with self._autocast():
            masks = self.model.mask(images).float()
            background = self.model.behind(images, masks).float()
        centre = densest_point(masks, self.config.agent_radius)
        with self._autocast():
            if position is None:
                place = self.model.settle(images, masks, view.anchor(centre))
            else:
                place = position.to(centre)
            layer = view.cut(images, masks, place)
            memory = tuple(m.clone() for m in self.model.start_state(layer, place))
        mass = layer[:, 3].sum((1, 2))
        looks = torch.zeros(len(mass), dtype=torch.long, device=self.device)
        if self._drawn is not None:
            looks = name_rows(*memory[:2])
        if self.device.type == "cpu":  # as frames are observed
            background = background.contiguous(memory_format=torch.channels_last)
        return WorldState(layer, to_bytes(background), place, centre - place, mass, memory, looks)

    @ordinary
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
        view = self.model.view
        expected = self.clamp(state.position + shift, state.position)
        moved = expected - state.position
        if self._drawn is None:
            layer, *memory = self._in_pieces(self._animate, state.layer, moved, code_index, *state.memory)
        else:
            layer, *memory = self._animate_again(self._drawn, state, moved, code_index)
        position = view.locate(layer, expected)
        return replace(state, layer=layer, position=position, memory=tuple(memory))

    def _in_pieces(self, function: Callable[..., list[Tensor]], *parts: Tensor) -> list[Tensor]:
        """A function of rows, on the CPU of a cacheful at a time."""
        height, width = self.model.view.size
        at_once = max(1, CPU_PLACES // (height * width)) if self.device.type == "cpu" else max(1, len(parts[0]))
        done = [function(*piece) for piece in zip(*(x.split(at_once) for x in parts), strict=True)]
        return done[0] if len(done) == 1 else [torch.cat(x) for x in zip(*done, strict=True)]

    def _animate(self, layer: Tensor, shift: Tensor, code_index: Tensor, *memory: Tensor) -> list[Tensor]:
        with self._autocast():
            drawn, memory = self.model.animate(layer, memory, shift, self.model.quantiser.embed(code_index))
        return [drawn.layer.float(), *memory]

    def _animate_again(
        self, drawn: DrawnWindows, state: WorldState, shift: Tensor, code_index: Tensor
    ) -> tuple[Tensor, ...]:
        """As :meth:`_animate`; only what was not drawn before is drawn."""
        model = self.model
        assert isinstance(model, TokenGlass)
        memory, pose = model.choose_pose(state.memory, shift, model.quantiser.embed(code_index))

        def draw(pose: Tensor, *memory: Tensor) -> list[Tensor]:
            with self._autocast():
                return [model.draw_pose(memory, model.poses.embed(pose)).layer.float()]

        layer = drawn(state.looks, pose, lambda rows, p: self._in_pieces(draw, p, *(m[rows] for m in memory))[0])
        return layer, *memory

    @ordinary
    def place(self, state: WorldState, position: Tensor) -> WorldState:
        """The same agents at other places.

        Args:
            state: B rows.
            position: (B, 2) px, of :attr:`WorldState.position`'s kind.

        Returns:
            B rows.
        """
        by = position - state.position
        layer = self.model.view.place(state.layer, by)
        memory = self.model.place_state(state.memory, by)
        return replace(state, layer=layer, position=position, memory=memory)

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
        return self.model.prior is not None

    @ordinary
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
        return self.model.code_prior(state.layer, state.memory, shifts).exp()

    @ordinary
    def pictures(self, state: WorldState, out: Tensor | None = None) -> Tensor:
        """Composed frames (B, 3, H, W) uint8: the moved layer over the background.

        Args:
            state: B rows.
            out: frames that are not needed any more, which may be written into.

        Returns:
            them, or new ones.
        """
        return self.model.view.draw(state.layer, state.background, state.position, out)

    def frames(self, state: WorldState) -> Tensor:
        """Composed frames (B, H, W, 3) uint8."""
        return self.pictures(state).permute(0, 2, 3, 1).contiguous()

    def agent_position(self, state: WorldState) -> Tensor:
        """Where the agents are: (B, 2) px, their first centres of mass moved as far as their layers."""
        return state.position + state.origin

    def agent_present(self, state: WorldState) -> Tensor:
        """(B,) bool: the mask keeps at least PRESENT of its first mass."""
        return state.layer[:, 3].sum((1, 2)) >= PRESENT * state.mass.clamp_min(1.0)
