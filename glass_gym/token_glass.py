"""TokenGlass: the parts of the token architecture joined; see :mod:`glass_gym.networks.token`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from glass_gym.config import GlassConfig
from glass_gym.glass import SHIFT_UNIT, Glass
from glass_gym.networks.parts import Drawn, State
from glass_gym.networks.quantise import CosineQuantiser
from glass_gym.networks.token import TokenDecoder, TokenDynamics
from glass_gym.tracking import NEAR, cheapest_path

REACH = 3
"""An episode begins with the agent's window moved by up to this many px, to where the vocabulary draws it best."""
OFFSETS = [(x, y) for y in range(-REACH, REACH + 1) for x in range(-REACH, REACH + 1)]
"""Px from where the agent is."""
SETTLED_BY = 8
"""Frames of a video that say where its windows are put."""


class TokenGlass(Glass):
    """A Glass whose foreground is a pose of a vocabulary, drawn with the looks of the first window.

    The RNN's state is (looks, first pose, pose, hidden before that pose, place in px), one row an agent. Its parts are
    those of :class:`Glass`, with E for the looks, Q (`pose_encoder`) and its vocabulary (`poses`) in the place of C.
    """

    stages = {  # noqa: RUF012
        "gma": Glass.stages["gma"],
        "refine": Glass.stages["refine"],
        "pose": ("encoder", "pose_encoder", "poses", "decoder"),
        "lma": ("action", "quantiser", "dynamics", "prior"),
    }

    decoder: TokenDecoder
    dynamics: TokenDynamics
    poses: CosineQuantiser

    def __init__(self, config: GlassConfig, *, pose_encoder: nn.Module, poses: CosineQuantiser, **parts: Any):
        super().__init__(config, compressor=nn.Identity(), **parts)
        self.pose_encoder = pose_encoder
        self.poses = poses

    def codebooks(self) -> list[Tensor]:
        """As :meth:`Glass.codebooks`."""
        return [*super().codebooks(), *self.poses.buffers()]

    def tokens(self, layers: Tensor) -> Tensor:
        """Layers (B, 4, h, w) -> the poses in them (B,) int64."""
        return self.poses.logits(self.pose_encoder(layers)).argmax(1)

    def directions(self, layers: Tensor, shifts: Tensor) -> Tensor:
        """As :meth:`Glass.directions`."""
        vectors = self.poses.embed(self.tokens(layers.flatten(0, 1)))
        return self.action(vectors.unflatten(0, layers.shape[:2]))

    def settle(self, images: Tensor, masks: Tensor, position: Tensor) -> Tensor:
        """The place within REACH px from which the vocabulary draws the agent best."""
        errors = torch.stack(list(self._tried(images, masks, position)), 1)
        return position + position.new_tensor(OFFSETS)[errors.argmin(1)]

    def settle_video(self, images: Tensor, masks: Tensor, position: Tensor, turns: bool = True) -> Tensor:
        """The places, all as far from `position`, from which the vocabulary draws the agent best.

        Args:
            images: (T, 3, H, W) in [-1, 1].
            masks: (T, 1, H, W).
            position: (T, 2) px.
            turns: whether places may lie a px apart: how an agent's two sides are matched is not known to the px.

        Returns:
            (T, 2) px.
        """
        some = torch.linspace(0, len(images) - 1, min(len(images), SETTLED_BY)).long()
        errors = torch.stack([e.sum() for e in self._tried(images[some], masks[some], position[some])])
        position = position + position.new_tensor(OFFSETS)[errors.argmin()]
        if not turns:
            return position
        each = torch.stack(list(self._tried(images, masks, position, NEAR)), 1)
        path = cheapest_path(each, float(each.amin(1).median()))
        return position + position.new_tensor(NEAR)[path.to(position.device)]

    def _tried(
        self, images: Tensor, masks: Tensor, position: Tensor, offsets: Sequence[tuple[int, int]] = OFFSETS
    ) -> Iterator[Tensor]:
        """How badly windows at each of some offsets, of REACH px at most, are drawn, (B,)."""
        wide = self.view.cut(images, masks, position, REACH)
        side = self.config.window
        for x, y in offsets:
            layer = wide[..., REACH + y :, REACH + x :][..., :side, :side].contiguous()
            looks, first, pose, *_ = self.start_state(layer)
            drawn = self.decoder(looks, first, pose, position + position.new_tensor([x, y])).layer
            yield (drawn - layer).square().sum((1, 2, 3))

    def start_state(self, layer: Tensor, position: Tensor | None = None) -> State:
        """As :meth:`Glass.start_state`."""
        looks = self.encoder(layer)
        pose = self.poses.embed(self.tokens(layer))
        place = pose.new_full((layer.shape[0], 2), torch.nan) if position is None else position.float().clone()
        return looks.float(), pose, pose.clone(), self.dynamics.start(layer.shape[0], pose), place

    def place_state(self, state: State, by: Tensor) -> State:
        """As :meth:`Glass.place_state`."""
        *kept, place = state
        return *kept, place + by

    def correct_state(self, state: State, layer: Tensor, where: Tensor) -> State:
        """As :meth:`Glass.correct_state`: the pose is read off the layers."""
        looks, first, pose, hidden, place = state
        seen = self.poses.embed(self.tokens(layer))
        return looks, first, torch.where(where[:, None], seen, pose), hidden, place

    def animate(
        self, layer: Tensor, state: State, shift: Tensor, code_vector: Tensor, scales: bool = False
    ) -> tuple[Drawn, State]:
        """As :meth:`Glass.animate`; what was drawn before is not looked at."""
        state, _ = self.choose_pose(state, shift, code_vector)
        return self.draw_pose(state, state[2]), state

    @property
    def draws_again(self) -> bool:
        """Whether the same looks in the same pose are always drawn alike: D is not told the place."""
        return not self.config.placed

    def choose_pose(self, state: State, shift: Tensor, code_vector: Tensor) -> tuple[State, Tensor]:
        """The RNN's half of :meth:`animate`: the next state, and which pose is next, (B,) int64."""
        looks, first, pose, hidden, place = state
        place = place + shift
        with torch.autocast(place.device.type, enabled=False):  # the choice must not depend on how bfloat16 rounds
            hidden = self.dynamics.remember(pose, hidden)
            chosen = self.dynamics(pose, hidden, shift / SHIFT_UNIT, code_vector, place).argmax(1)
            pose = self.poses.embed(chosen)
        return (looks, first, pose, hidden, place), chosen

    def draw_pose(self, state: State, pose: Tensor) -> Drawn:
        """D's half of :meth:`animate`: the foreground in a state, but in a pose (B, C)."""
        looks, first, _, _, place = state
        return self.decoder(looks, first, pose, place)

    def code_prior(self, layer: Tensor, state: State, shifts: Tensor) -> Tensor:
        """As :meth:`Glass.code_prior`."""
        _, _, pose, hidden, _ = state
        return self.need_prior()(pose, self.dynamics.remember(pose, hidden), shifts / SHIFT_UNIT)
