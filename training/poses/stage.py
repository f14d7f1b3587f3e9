"""The pose stage: a codebook of P poses, and the decoder that draws them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from glass_gym.model.lma import Drawn
from glass_gym.model.pose_model import PoseLMA
from glass_gym.tensors.convert import pack_layers, unpack_layers

from ..config import PoseConfig
from ..core import losses, sheets
from ..core.progress import Bar, each
from ..core.stage import Batch, Stage
from ..windows.windows import WindowSet, crop_layers
from .identity import PoseTeacher, make_pose_teacher

CONTINUOUS = 0.4  # Share of the steps with unquantised, noisy pose vectors; then k-means initialises the codebook.
DISTIL_SHARE = 0.2
"""Share of the steps, after k-means, in which Q learns poses without identity, if the codebook encodes it."""
NOISE = 0.2  # Standard deviation, per channel, of the noise on unquantised pose vectors.
COMMITMENT = 0.1  # Weight of L_VQ's commitment term.
MASK_WEIGHT = 4.0  # Pixels have weight 1, plus this on the agent.
MASK_ENTROPY = 0.2  # Weight of L_MSK.


class WindowPairs:
    """Samples pairs of windows of one video: layers (B, 2, 4, s, s) uint8, positions of the second ones (B, 2) px.

    Args:
        windows: the windows of the training videos.
        config: options with `batch`, B.
        side: s, the side of the model's window, px.
    """

    def __init__(self, windows: WindowSet, config: Any, side: int):
        self.windows = windows
        self.config = config
        self.side = side

    def batch(self, rng: np.random.Generator, iteration: int) -> Batch:
        """Random pairs, as a batch with layers and positions."""
        pair = self.pairs(rng)
        layers = crop_layers(self.windows, pair.T.flatten(), self.side)
        positions = torch.from_numpy(self.windows.position[pair[1]].astype(np.float32))
        return {"layers": pack_layers(layers).unflatten(0, (-1, 2)), "positions": positions}

    def pairs(self, rng: np.random.Generator) -> np.ndarray:
        """Frame indices of random pairs: (2, B) int64."""
        lengths = self.windows.lengths
        video = rng.choice(len(lengths), self.config.batch, p=lengths / lengths.sum())
        return self.windows.starts[video] + (rng.random((2, len(video))) * lengths[video]).astype(int)


def drawing_losses(drawn: Drawn, target: Tensor) -> dict[str, Tensor]:
    """L_RECU and L_MSK (Sec. 3.2) between D's drawings and target layers (B, 4, s, s)."""
    weight = 1 + MASK_WEIGHT * target[:, 3:]
    return {
        "rec_u": losses.weighted_squared(drawn.layer, target, weight),
        "mask": MASK_ENTROPY * losses.mask_entropy(drawn.logits, target[:, 3:], weight),
    }


def pose_schedule(frames: int, window: int) -> tuple[int, int]:
    """Default number of steps, for a number of frames, and of pairs per step, for windows of side `window` px."""
    return int(np.clip(frames // 2, 1200, 3000)), int(np.clip(32 * (64 / window) ** 2, 8, 32))


class PoseStage(Stage):
    """Trains E, Q, the pose codebook and D to draw any window of a video in the appearance of any other.

    Args:
        model: the LMA to train.
        windows: the windows of the training videos.
        config: schedule; iterations and batch are set.
        shown: clips for sample sheets (:func:`training.core.sheets.poses_sheet`), or None.
    """

    name = "pose"
    rate = 1e-3
    model: PoseLMA

    def __init__(self, model: PoseLMA, windows: WindowSet, config: PoseConfig, shown: dict[str, Tensor] | None = None):
        self.model = model
        self.windows = windows
        self.config = config
        self.shown = shown
        self.sampler = WindowPairs(windows, config, model.config.window)
        self.teacher: PoseTeacher | None = None

    @property
    def _quantised_from(self) -> int:
        return int(CONTINUOUS * self.iterations)

    @property
    def _distilled_until(self) -> int:
        return self._quantised_from + int(DISTIL_SHARE * self.iterations)

    @torch.no_grad()
    def prepare(self, iteration: int, generator: torch.Generator) -> None:
        """After the continuous phase, initialise the codebook by k-means; if it encodes identity, again without."""
        if iteration == self._quantised_from:
            rng = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
            vectors = []
            for _ in each(range(80), "pose vectors"):
                layers = unpack_layers(self.sampler.batch(rng, 0)["layers"].flatten(0, 1).to(self.device))
                vectors.append(self.model.pose_encoder(layers))
            with Bar("k-means"):
                self.model.pose_codebook.begin(torch.cat(vectors), generator)
            with Bar("poses without identity"):
                self.teacher = make_pose_teacher(self.model, self.windows, generator)
        if iteration == self._distilled_until:
            self.teacher = None

    def losses(self, batch: Batch, iteration: int, generator: torch.Generator) -> dict[str, Tensor]:
        """L_RECU and L_MSK of windows drawn in the appearance of others; then L_VQ, or "distil" (Q and the teacher)."""
        model = self.model
        codebook = model.pose_codebook
        layers = unpack_layers(batch["layers"])  # (B, 2, 4, s, s)
        seen, target = layers.unbind(1)
        z = model.pose_encoder(layers.flatten(0, 1))
        terms = {}
        if iteration < self._quantised_from:
            vectors = codebook.normalise(z)
            vectors = vectors + NOISE * torch.randn(vectors.shape, generator=generator).to(vectors)
        elif self.teacher is not None:
            vectors = codebook.embed(self.teacher(layers.flatten(0, 1)))
            terms = {"distil": (codebook.normalise(z) - vectors).square().mean()}
        else:
            quantised = codebook(z)
            vectors = quantised.vector
            terms = codebook.auxiliary_losses(z, quantised, COMMITMENT)
            if torch.is_grad_enabled():
                codebook.update(z, generator)
        first, pose = vectors.unflatten(0, (-1, 2)).unbind(1)
        drawn = model.decoder(model.encoder(seen), first, pose, batch["positions"])
        return terms | drawing_losses(drawn, target)

    def sheet(self, model: PoseLMA, iteration: int) -> np.ndarray | None:
        """As :meth:`Stage.sheet`."""
        return None if self.shown is None else sheets.poses_sheet(model, self.shown)

    def state_dict(self) -> dict[str, Tensor]:
        """The teacher's state during the distillation; else nothing."""
        return {} if self.teacher is None else self.teacher.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """The inverse of :meth:`state_dict`."""
        self.teacher = PoseTeacher(self.model)
        self.teacher.load_state_dict(state)
