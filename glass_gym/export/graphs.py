"""The functions of a world that become ONNX graphs, as modules that torch can trace."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from glass_gym.model.pose_model import PoseLMA
from glass_gym.simulator.simulator import Simulator
from glass_gym.tasks.targets import draw_rings
from glass_gym.tensors.convert import to_bytes, to_images
from glass_gym.tensors.observe import observed_frames


class ExportError(RuntimeError):
    """A world or policy that cannot be exported; the message says what to do."""


class Graph(nn.Module):
    """A function of a world (float32, CPU) that torch can trace; `memory` stands for the tensors of the LMA's state."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def __init__(self, simulator: Simulator, memories: int):
        super().__init__()
        self.simulator = simulator
        self.model = simulator.model
        self.inputs, self.outputs = (
            tuple(each for name in names for each in _numbered(name, memories)) for names in (self.inputs, self.outputs)
        )


def _numbered(name: str, count: int) -> list[str]:
    """The name "memory" -> memory_0, memory_1, ...; other names stay."""
    return [f"{name}_{i}" for i in range(count)] if name.endswith("memory") else [name]


class Segment(Graph):
    """Find agents: frames (B, H, W, 3) uint8 -> masks (B, H, W), their colours, backgrounds, centres (B, 2) px."""

    inputs = ("frame",)
    outputs = ("mask", "colours", "background", "centre")

    def forward(self, frame: Tensor) -> tuple[Tensor, ...]:
        """The first part of :meth:`Simulator.start`: mask, inpainted background, the agent's centre."""
        images = to_images(frame.permute(0, 3, 1, 2))
        masks, *pictures = self.model.gma.segment(images)
        colours, background = (to_bytes(x).permute(0, 2, 3, 1) for x in pictures)
        return masks[:, 0], colours, background, self.model.gma.locate(masks)


class Begin(Graph):
    """Start an episode: colours, masks and positions (B, 2) px of the layers -> the state, and the drawing error (B,).

    The drawing error is the squared error of the first layer as the model redraws it; 0 in the paper's model. The
    position with the least error is the best of several.
    """

    inputs = ("colours", "mask", "position")
    outputs = ("layer", "memory", "error")

    def forward(self, colours: Tensor, mask: Tensor, position: Tensor) -> tuple[Tensor, ...]:
        """The second part of :meth:`Simulator.start`: the layer at a position, and the LMA's first state."""
        images = to_images(colours.permute(0, 3, 1, 2))
        layer = self.model.lma.view.cut(images, mask[:, None], position)
        lma = self.model.lma
        memory = lma.start_state(layer)
        error = layer.new_zeros(1).expand(layer.shape[0])
        if isinstance(lma, PoseLMA):
            error = lma.placing_error(layer, position)
        return layer, *(m.clone() for m in memory), error.clone()


class Step(Graph):
    """One step: state, positions, backgrounds, shifts (B, 2) px, codes (B,) -> next state, next positions, frames."""

    inputs = ("layer", "memory", "position", "background", "shift", "code")
    outputs = ("next_layer", "next_memory", "next_position", "frame")

    def forward(self, layer: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        """As :meth:`Simulator.step`, then :meth:`Simulator.frames`."""
        *memory, position, background, shift, code = rest
        view = self.model.lma.view
        expected = self.simulator.clamp(position + shift, position)
        vector = self.model.lma.quantiser.embed(code)
        drawn, memory = self.model.lma.animate(layer, tuple(memory), expected - position, vector, expected)
        after = drawn.layer.float()
        position = view.locate(after, expected)
        frame = view.draw(after, background.permute(0, 3, 1, 2), position).permute(0, 2, 3, 1)
        return after, *(m.clone() for m in memory), position, frame


class Prior(Graph):
    """The prior: a state and shifts (B, N, 2) px -> p(code | state, shift), (B, N, K)."""

    inputs = ("layer", "memory", "shifts")
    outputs = ("probability",)

    def forward(self, layer: Tensor, *rest: Tensor) -> Tensor:
        """As :meth:`Simulator.code_prior`."""
        *memory, shifts = rest
        return self.model.lma.code_prior(tuple(memory), shifts).exp()


class PolicyGraph(nn.Module):
    """A policy: frames (B, H, W, 3) uint8 and targets (B, 2) px -> the most likely actions (B, 2) int64.

    Args:
        policy: an actor-critic policy of Stable-Baselines3 (PPO, A2C) whose observation is the frame.
        radius: of the ring that marks the target in the frame, px.

    Raises:
        ExportError: another kind of policy.
    """

    inputs = ("frame", "target")
    outputs = ("action",)

    def __init__(self, policy: Any, radius: float):
        super().__init__()
        net = getattr(policy.model, "policy", policy.model)
        space = net.observation_space
        if not hasattr(net, "action_net") or hasattr(net, "lstm_actor"):
            raise ExportError(f"only policies of PPO and A2C can be exported, not {type(net).__name__}")
        shape = tuple(getattr(space, "shape", None) or ())
        if len(shape) != 3 or shape[0] != 3 or not hasattr(net.action_space, "nvec"):
            raise ExportError(
                f"only policies that map a frame to (shift, code) can be exported; this one observes {space}"
            )
        self.net = net
        self.radius = radius
        self.size = shape[1:]
        self.counts = net.action_space.nvec.tolist()

    def forward(self, frame: Tensor, target: Tensor) -> Tensor:
        """Draw the target into the frame, resize it as the policy observes it, take the most likely action."""
        shown = draw_rings(frame.permute(0, 3, 1, 2).contiguous(), target, self.radius)
        seen = observed_frames(shown, self.size, channels_first=True)
        features = self.net.extract_features(seen, self.net.pi_features_extractor)
        latent = self.net.mlp_extractor.forward_actor(features)
        logits = self.net.action_net(latent).split(self.counts, 1)
        return torch.stack([part.argmax(1) for part in logits], 1)
