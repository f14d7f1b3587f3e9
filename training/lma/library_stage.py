"""The LMA stage of worlds with a library: pose vectors instead of indices, and turns."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from glass_gym.model.library import LibraryLMA, wrapped

from ..config import LmaConfig
from ..core.stage import Batch
from ..windows.library import encode_frames
from ..windows.windows import WindowSet
from .stage import LmaStage, PoseClips

STILL = 0.01  # Rad; a smaller usual turn counts as this.


class LibraryStage(LmaStage):
    """Trains A, the RNN and the prior on clips of pose vectors, by the likelihood of the next one and of the turn.

    Args:
        model: its library is filled.
        windows, config, shown: as of :class:`LmaStage`.
        headings: (N,) rad of all windows; None if the heading is left in.
    """

    cluster_weight = 0.0  # codes need no start here
    model: LibraryLMA  # type: ignore[assignment]

    def __init__(
        self,
        model: LibraryLMA,
        windows: WindowSet,
        config: LmaConfig,
        shown: dict[str, Tensor] | None = None,
        headings: np.ndarray | None = None,
    ):
        self.model = model
        self.windows = windows
        self.config = config
        self.shown = shown
        self.sampler = PoseClips(windows, config)
        known = windows, model.library, np.arange(len(windows.layers)), headings
        self.vectors, self.mirrored = (encode_frames(*known, mirrored) for mirrored in (False, True))  # (N, channels)
        device = self.vectors.device
        heading = np.zeros(len(self.vectors), np.float32) if headings is None else headings
        self.headings = torch.from_numpy(heading).to(device)
        if headings is not None:  # each clip serves as its mirror image, too
            self.vectors, self.mirrored = torch.cat([self.vectors, self.mirrored]), self.mirrored[:0]
            self.headings = torch.cat([self.headings, -self.headings])
        self.poses = model.library.logits(self.vectors).argmax(1)
        inside = torch.ones(len(heading), dtype=torch.bool)
        inside[torch.from_numpy(windows.starts)] = False
        turns = wrapped(self.headings[: len(heading)].diff(prepend=self.headings[:1]))[inside].abs()
        self.usual_turn = max(STILL, float(turns.mean()) if len(turns) else 0.0)

    def losses(self, batch: Batch, iteration: int, generator: torch.Generator) -> dict[str, Tensor]:
        """As :meth:`LmaStage.losses`; where the heading is taken out, half of the clips are mirrored top to bottom."""
        if self.model.config.heading:
            frames, shifts, positions = batch["frames"], batch["shifts"], batch["positions"]
            mirrored = (torch.rand(len(frames), generator=generator) < 0.5).to(frames.device)[:, None]
            sign = torch.where(mirrored, -1.0, 1.0)
            down = torch.where(mirrored, self.windows.height - positions[..., 1], positions[..., 1])
            batch = {
                "frames": frames + len(self.windows.layers) * mirrored,
                "shifts": torch.stack([shifts[..., 0], sign * shifts[..., 1]], -1),
                "positions": torch.stack([positions[..., 0], down], -1),
            }
        return super().losses(batch, iteration, generator)

    def directions(self, poses: Tensor, batch: Batch) -> Tensor:
        """As :meth:`LmaStage.directions`; A sees turns, too."""
        return self.model.action(poses, wrapped(self.headings[batch["frames"]].diff(dim=1)))

    def first_poses(self, batch: Batch) -> Tensor:
        """As :meth:`LmaStage.first_poses`, as they are."""
        return self.vectors[batch["frames"][:, 0]]

    def shifts(self, batch: Batch) -> Tensor:
        """As :meth:`LmaStage.shifts`: in the agent's own frame."""
        return self.model.seen_by_agent(batch["shifts"], self.headings[batch["frames"][:, :-1]])

    def surprises(self, pose: Tensor, out: Tensor, batch: Batch, t: int) -> Tensor:
        """As :meth:`LmaStage.surprises`, up to a constant."""
        frames = batch["frames"]
        vector, precision, turned = self.model.read(pose[:, None], out)
        surprise = gaussian_surprise(self.vectors[frames[:, t + 1], None] - vector, precision)
        if self.model.config.heading:
            true = wrapped(self.headings[frames[:, t + 1]] - self.headings[frames[:, t]])
            surprise = surprise + self._turn_surprise(turned - true[:, None])
        return surprise

    def next_poses(self, pose: Tensor, out: Tensor) -> Tensor:
        """As :meth:`LmaStage.next_poses`."""
        library = self.model.library
        return library.embed(library.logits(self.model.read(pose, out)[0]).argmax(1))

    def action_only(self, codes: Tensor, batch: Batch) -> Tensor:
        """As :meth:`LmaStage.action_only`. Where the heading is taken out, a code alone predicts the turn, not the
        pose: so it means "left by 4 degrees", not "look east"."""
        out = self.without_context(codes)
        vector, precision, turned = self.model.read(torch.zeros_like(out[:, : self.vectors.shape[1]]), out)
        if self.model.config.heading:
            true = wrapped(self.headings[batch["frames"]].diff(dim=1))
            return self._turn_surprise(true[..., None] - turned)
        after = batch["frames"][:, 1:]
        both = torch.stack([self.vectors[after], self.mirrored[after]])[..., None, :]
        return gaussian_surprise(both - vector, precision).amin(0)

    def _turn_surprise(self, off: Tensor) -> Tensor:
        """The surprise, nats, of turns that are `off` rad from the predicted ones."""
        return (off / self.usual_turn).square() / 2


def gaussian_surprise(off: Tensor, precision: Tensor) -> Tensor:
    """The surprise, nats a channel, of vectors that are `off` (..., C) from the mean, given log precisions (...)."""
    return (off.square().mean(-1) * precision.exp() - precision) / 2
