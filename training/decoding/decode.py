"""What a world reads off consecutive frames: where the agent is, how it moves, which local actions it takes.

And how well the world knows the frames: its drawing of them is compared with what is seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from glass_gym.env.starts import GATHERED
from glass_gym.model.glass import Glass
from glass_gym.model.gma import NOISE
from glass_gym.model.pose_model import PoseLMA
from glass_gym.simulator.simulator import PRESENT
from glass_gym.tensors.convert import to_images
from glass_gym.worlds.checkpoint import World

from ..windows.tracking import Track, track

CELL = 8  # Frames are compared with backgrounds by the means of cells of about so many px.
USUAL = 0.95  # This share of a world's start frames is drawn no worse than "as usual".
BATCH = 16  # Number of frames that are compared at once.
KNOWN = 3.0  # A frame is known up to this many times the usual error.


@dataclass
class Decoded:
    """What was read off T consecutive frames.

    Attributes:
        track: positions (T, 2) px, and masks.
        layers: (T, 4, h, w), as the model's view cuts them.
        probability: (T - 1, K), of each local action in each step.
    """

    track: Track
    layers: Tensor
    probability: Tensor

    @property
    def shifts(self) -> Tensor:
        """The global actions, (T - 1, 2) px."""
        return self.track.position.diff(dim=0)

    @property
    def codes(self) -> Tensor:
        """The most probable local actions, (T - 1,) int64."""
        return self.probability.argmax(1)


@torch.no_grad()
def decode(model: Glass, frames: Tensor, grid: tuple[float, float] | None = None) -> Decoded:
    """Read positions and actions off the frames (T, 3, H, W) in [-1, 1] of a video with a trained model.

    In a grid world, `grid` is (x, y) px of a cell.
    """
    tracked = track(model, frames, refine=True, grid=grid)
    layers = tracked.layers(model.lma.view, frames)
    z = model.lma.directions(layers[None].float(), tracked.position.diff(dim=0)[None])
    return Decoded(tracked, layers, model.lma.log_posterior(z)[0].exp())


def grid_of_world(world: World) -> tuple[float, float] | None:
    """(x, y) px of a cell, if agents of the world move on a grid."""
    known = world.statistics.get("grid")
    return (float(known[0]), float(known[1])) if known else None


@dataclass
class Errors:
    """How well a world draws frames, (T,) each.

    Attributes:
        present: whether the agent is there, whole and in one place.
        agent: error of the redrawn agent: 1 is the usual one of the world's own start frames.
        scene: the same of the background: 1 is the usual difference between the start frames' own.
    """

    present: np.ndarray
    agent: np.ndarray
    scene: np.ndarray

    @property
    def known(self) -> np.ndarray:
        """Whether the world knows the frames, (T,) bool."""
        return self.present & (self.agent <= KNOWN) & (self.scene <= KNOWN)


class Reference:
    """The errors of a world's own start frames, and those of other frames in their units.

    The agent's window is redrawn from its own pose and appearance. What is around it is compared with the most similar
    background of the start frames; each of these is compared with those of the others.

    Args:
        world: a trained world; its model is used where it is.
    """

    def __init__(self, world: World):
        self.model = world.model
        backgrounds = world.start_frames if world.start_backgrounds is None else world.start_backgrounds
        device, view = self.model.device, self.model.lma.view
        self.backgrounds = torch.cat([self._cells(part) for part in _images(backgrounds, device)])
        known = None if world.start_positions is None else world.start_positions.to(device)
        found = []
        with torch.no_grad():
            for batch, frames in enumerate(_images(world.start_frames, device)):
                masks, colours, _ = self.model.gma.segment(frames)
                own = torch.arange(len(frames), device=device) + BATCH * batch
                place = view.anchor(self.model.gma.locate(masks)) if known is None else known[own]
                found.append(self._measure(frames, masks, view.cut(colours, masks, place), place, own))
        mass, share, agent, scene = (torch.cat(x).float().cpu() for x in zip(*found, strict=True))
        self.mass, self.share = float(mass.median()), float(share.median())
        self.agent = max(1e-6, float(agent.quantile(USUAL)))
        self.scene = max(NOISE, float(scene.quantile(USUAL)))

    @torch.no_grad()
    def errors(self, frames: Tensor, decoded: Decoded) -> Errors:
        """How well the world draws the frames (T, 3, H, W) in [-1, 1] that were decoded."""
        tracked = decoded.track
        rows = zip(
            *(x.split(BATCH) for x in (frames, tracked.raw_masks, decoded.layers, tracked.position)), strict=True
        )
        parts = zip(*(self._measure(*row) for row in rows), strict=True)
        mass, share, agent, scene = (torch.cat(x).float().cpu().numpy() for x in parts)
        present = (mass >= PRESENT * self.mass) & (share >= GATHERED * self.share)
        return Errors(present, agent / self.agent, scene / self.scene)

    def _measure(
        self, frames: Tensor, masks: Tensor, layers: Tensor, position: Tensor, own: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Masses of the agents, px; their shares of the whole masks; errors of agents and scenes; (B,) each.

        `own` (B,): the backgrounds that are not compared.
        """
        mass = layers[:, 3].float().sum((1, 2)) * self.model.lma.view.scale**2
        share = mass / masks.float().sum((1, 2, 3)).clamp_min(1e-6)
        agent = torch.zeros_like(mass)
        if isinstance(self.model.lma, PoseLMA):
            agent = (self.model.lma.drawing_error(layers.float(), position) / mass.clamp_min(1.0)).sqrt()
        seen = self._cells(frames)
        weight = 1 - F.adaptive_max_pool2d((masks.float() > 0.1).float(), seen.shape[2:])
        weight = weight.expand_as(seen).flatten(1)
        seen, plates = seen.flatten(1), self.backgrounds.flatten(1)
        far = (weight * seen**2).sum(1, keepdim=True) - 2 * (weight * seen) @ plates.T + weight @ (plates**2).T
        if own is not None and len(plates) > 1:
            far[torch.arange(len(own)), own] = torch.inf
        return mass, share, agent, (far.amin(1).clamp_min(0) / weight.sum(1).clamp_min(1.0)).sqrt()

    def _cells(self, frames: Tensor) -> Tensor:
        """Mean colours of cells of frames (B, 3, H, W): (B, 3, H / CELL, W / CELL)."""
        height, width = frames.shape[2:]
        return F.adaptive_avg_pool2d(frames.float(), (max(1, height // CELL), max(1, width // CELL)))


def _images(frames: np.ndarray, device: torch.device) -> Iterator[Tensor]:
    """Batches of frames (N, H, W, 3) uint8 as images in [-1, 1]."""
    for batch in torch.from_numpy(frames).permute(0, 3, 1, 2).split(BATCH):
        yield to_images(batch.to(device))
