"""What tasks with poses share: actions are played ahead, poses compared, and pictures of them drawn into the frame."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from glass_gym.simulator.simulator import POSE_LIMIT, Simulator, WorldState
from glass_gym.tasks.base import Scene
from glass_gym.tasks.targets import TARGET_COLOUR
from glass_gym.tensors.convert import pack_layers

SHARE = 3  # A card, the picture of a pose in the frame's upper left corner, has this part of the frame's height.


def simulator_of(scene: Scene) -> Simulator:
    """The simulator; ValueError: there is none, or its agents have no poses (architecture ``paper``)."""
    if scene.simulator is None or scene.simulator.pose_channels == 0:
        raise ValueError("this task needs a learned world whose agents have poses (architecture 'pose')")
    return scene.simulator


def play_ahead(scene: Scene, world: WorldState, moves: Tensor, codes: Tensor) -> Iterator[WorldState]:
    """The states after each of T actions, moves (B, T, 2) px and codes (B, T), which are only tried."""
    for move, code in zip(moves.unbind(1), codes.unbind(1), strict=True):
        world = simulator_of(scene).step(world, move, code)
        yield world


def make_cards(scene: Scene, layer: Tensor) -> Tensor:
    """Pictures of agents (B, 4, h, w) on grey with a yellow border, (B, 3, s, s) uint8."""
    side = max(8, scene.height // SHARE)
    cards = F.adaptive_avg_pool2d(pack_layers(layer)[:, :3].float(), side).round().byte()
    colour = torch.stack([cards.new_full((), v) for v in TARGET_COLOUR])[:, None]
    for edge in (0, -1):
        cards[:, :, edge] = colour
        cards[:, :, :, edge] = colour
    return cards


def draw_cards(frames: Tensor, cards: Tensor) -> Tensor:
    """Put cards (B, 3, s, s) into the upper left corner of frames (B, 3, H, W), which are overwritten."""
    height, width = min(cards.shape[2], frames.shape[2]), min(cards.shape[3], frames.shape[3])
    frames[:, :, :height, :width] = cards[:, :, :height, :width]
    return frames


def pose_distance(one: Tensor, other: Tensor) -> Tensor:
    """The distance of pose vectors (..., C), (...): 0 of equal ones, 1 of two random poses of the world on average."""
    return (one - other).square().sum(-1)


def pose_bounds(simulator: Simulator) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of pose vectors, (C,) float32 each."""
    limit = np.full(simulator.pose_channels, POSE_LIMIT, np.float32)
    return -limit, limit
