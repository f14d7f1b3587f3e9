"""The long-horizon stage: agents that live on for hundreds of steps under random actions must stay plausible."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from glass_gym.action_space import COMPASS
from glass_gym.geometry import crop_windows
from glass_gym.glass import Glass

from ..adversary import Adversary, balance
from ..export import step_length
from ..nearest import NearestWindows
from ..options import Count, Positive, Rate, Weight
from ..perceptual import VggFeatures
from ..windows import WindowSet, crop_layers, pack_layers, unpack_layers
from .base import Batch, Stage
from .lma import ClipSampler, LmaConfig, LmaStage


@dataclass
class LongConfig:
    """The long-horizon stage: free running under random actions, for hundreds of steps, must stay plausible."""

    iterations: Count | None = None
    """optimiser steps; 0 skips the stage; default: a third of LMA's (agent-centred models only)"""
    rate: Rate = 4e-4
    """peak learning rate"""
    agents: Positive = 192
    """agents that live on between optimiser steps"""
    rows: Positive = 24
    """of them, those that go on in one optimiser step ..."""
    steps: Positive = 4
    """... for so many steps; gradients end at the first of them (truncated back-propagation)"""
    first_age: Positive = 8
    """agents start anew from a real window at an age drawn below a limit, which grows from this ..."""
    age: Positive = 256
    """... to this, doubling at equal shares of the stage"""
    real_frames: Positive = 60
    """frames of real clips drawn a step, under LMA's losses at its longest horizon"""
    input_noise: Weight = 0.05
    """standard deviation of the noise on what is fed back, inside the mask's neighbourhood"""
    silhouette: Weight = 1.0
    """weight of the distance between a drawn mask and the nearest real mask of any agent"""
    appearance: Weight = 1.0
    """weight of the distance between a drawn layer and the nearest real layer of the same agent"""
    adversarial: Weight = 0.0
    """share of L_RECU's gradient that a critic of real and drawn layers has at the generator's last layer; 0: none"""
    action_consistency: Weight = 0.02
    """weight of the cross-entropy of A reading the commanded code off what was drawn (L_CYC for random codes)"""


class LongSampler:
    """Real clips at one horizon, and which agents of the buffer go on.

    Args:
        clips: of the real clips.
        horizon: their length.
        config: how many agents.
    """

    def __init__(self, clips: ClipSampler, horizon: int, config: LongConfig):
        self.clips = clips
        self.horizon = horizon
        self.config = config

    def batch(self, rng: np.random.Generator, iteration: int) -> Batch:
        """As :meth:`ClipSampler.clips`, chosen (rows,) int64, and for a critic real (rows * steps, 4, s, s) uint8."""
        chosen = rng.choice(self.config.agents, self.config.rows, replace=False)
        batch = self.clips.clips(rng, self.horizon) | {"chosen": torch.from_numpy(chosen)}
        if self.config.adversarial:
            windows = self.clips.windows
            jitter = self.clips.config.jitter
            index = windows.complete(rng, self.config.rows * self.config.steps)
            offset = rng.integers(-jitter, jitter + 1, (len(index), 2))
            batch["real"] = pack_layers(crop_layers(windows, index, self.clips.side, offset))
        return batch


class LongStage(Stage):
    """Trains C, the RNN and D under actions that the data never showed; E, A and the codebook stay as they are.

    A buffer of agents lives on under random shifts and codes. No truth exists for them; what is drawn must look like
    *some* real frame: its mask like the nearest real mask, its colours like the nearest real frame of the same agent,
    and A must read the commanded code off it. Beside it LMA's losses go on over real clips.

    Args:
        model: under training, one whose layers follow the agent.
        windows: the agent's layers.
        config: weights and schedule.
        lma: LMA's, of the real clips.
        features: VGG features for L_VGG, or None.

    Raises:
        ValueError: a model of whole frames.
    """

    name = "long"

    def __init__(
        self,
        model: Glass,
        windows: WindowSet,
        config: LongConfig,
        lma: LmaConfig,
        features: VggFeatures | None = None,
    ):
        if not model.view.follows:
            raise ValueError("the long-horizon stage needs an agent-centred model (architecture='lean')")
        self.model = model
        self.windows = windows
        self.config = config
        self.lma = lma
        real = replace(lma, frames=config.real_frames, continuous=0, learn_codes=False)
        self.real = LmaStage(model, windows, real, features)
        horizon = min(max(lma.horizons), int(windows.lengths.max()) - 1)
        self.sampler = LongSampler(self.real.sampler, horizon, config)
        self.nearest = NearestWindows(windows, model.config.window)
        self.shifts = torch.tensor(list(COMPASS.values()), dtype=torch.float32)
        self.shifts = self.shifts * torch.tensor(step_length(windows.shifts()))
        self.agent_buffer: dict[str, Tensor] = {}
        self.adversary: Adversary | None = None
        self._adversary_state: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """The agents, and the critic, for a checkpoint."""
        critic = self.adversary.state_dict() if self.adversary else self._adversary_state
        return self.agent_buffer | ({"adversary": critic} if critic else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the agents, and the critic, where they were left."""
        self._adversary_state = state.get("adversary", {})
        self.agent_buffer = {key: value for key, value in state.items() if key != "adversary"}

    def age_limit(self, iteration: int) -> int:
        """The oldest that an agent gets at an iteration."""
        doublings = math.log2(max(1, self.config.age / self.config.first_age))
        share = iteration / max(1, self.iterations)
        return int(self.config.first_age * 2 ** min(doublings, math.floor(share * (doublings + 1))))

    def prepare(self, iteration: int, generator: torch.Generator) -> None:
        """Start the agents that are too old anew (at first, all) from random real windows."""
        rng = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
        if not self.agent_buffer:
            self.agent_buffer = self._fresh(rng, self.config.agents, iteration)
            return
        old = torch.nonzero(self.agent_buffer["age"] >= self.agent_buffer["limit"]).flatten()
        if len(old):
            fresh = self._fresh(rng, len(old), iteration)
            for key, value in self.agent_buffer.items():
                value[old] = fresh[key]

    def _fresh(self, rng: np.random.Generator, count: int, iteration: int) -> dict[str, Tensor]:
        """New agents; `index` is the frame that each began from, `offset` how its window lies about the agent."""
        index = self.windows.complete(rng, count)
        offset = rng.integers(-self.lma.jitter, self.lma.jitter + 1, (count, 2))
        layer = crop_layers(self.windows, index, self.model.config.window, offset)
        memory = self.model.start_state(layer.to(self.device))
        limit = rng.integers(self.config.first_age // 2, self.age_limit(iteration) + 1, count)
        fresh = {
            "layer": layer,
            "index": torch.from_numpy(index),
            "offset": torch.from_numpy(offset),
            "age": torch.zeros(count, dtype=torch.long),
            "limit": torch.from_numpy(limit),
            "keep": torch.from_numpy(rng.choice([0.0, 0.5, 0.9, 1.0], count)),
            "shift": torch.from_numpy(rng.integers(len(self.shifts), size=count)),
            "code": torch.from_numpy(rng.integers(self.model.config.codes, size=count)),
        }
        fresh |= {f"memory{n}": m.detach().float().contiguous() for n, m in enumerate(memory)}
        return {key: value.to(self.device) for key, value in fresh.items()}

    def losses(self, batch: Batch, iteration: int, generator: torch.Generator) -> dict[str, Tensor]:
        """LMA's losses on real clips; silhouettes, appearances and codes read back on others."""
        c = self.config
        model = self.model
        terms, drawn_clips, real_clips = self.real.draw(batch, iteration, generator)
        rows = {key: value[batch["chosen"]] for key, value in self.agent_buffer.items()}
        memory = tuple(rows[key] for key in sorted(rows) if key.startswith("memory"))
        layer = rows["layer"]
        shift = rows["shift"]
        code = rows["code"]
        drawn = []
        codes = []
        for _ in range(c.steps):
            shift = self._next(shift, len(self.shifts), rows["keep"], generator)
            code = self._next(code, model.config.codes, rows["keep"], generator)
            noise = c.input_noise * torch.randn(layer.shape, generator=generator).to(layer)
            near = F.max_pool2d(layer[:, 3:].detach(), 5, 1, 2)
            moves = self.shifts.to(layer.device)[shift]
            out, memory = model.animate(layer + noise * near, memory, moves, model.quantiser.embed(code))
            layer = out.layer
            drawn.append(layer)
            codes.append(code)
        offset = rows["offset"].repeat(c.steps, 1)
        aligned = crop_windows(torch.cat(drawn), -offset, layer.shape[-1])  # as the real windows are
        silhouette, appearance = self.nearest.distances(aligned, rows["index"].repeat(c.steps))
        terms["silhouette"] = c.silhouette * silhouette
        terms["appearance"] = c.appearance * appearance
        if c.action_consistency:
            clip = torch.stack([rows["layer"], *drawn], 1)  # (rows, steps + 1, 4, s, s)
            z = model.directions(clip, torch.zeros(len(clip), c.steps, 2).to(clip))
            read = model.quantiser.logits(z.flatten(0, 1))
            terms["action_consistency"] = c.action_consistency * F.cross_entropy(read, torch.stack(codes, 1).flatten())
        if c.adversarial:
            played = torch.cat(drawn)
            real = torch.cat([real_clips, unpack_layers(batch["real"])])
            terms["adversarial"] = c.adversarial * self._adversarial(terms["rec_u"], played, drawn_clips, real)
        self._write_back(batch["chosen"], rows, layer, shift, code, memory)
        return terms

    def _adversarial(self, rec_u: Tensor, played: Tensor, drawn_clips: Tensor, real: Tensor) -> Tensor:
        """What the critic says of random play and of drawn clips, as loud as L_RECU; the critic learns a step first."""
        if self.adversary is None:
            self.adversary = Adversary(self.device)
            if self._adversary_state:
                self.adversary.load_state_dict(self._adversary_state)
        drawn = torch.cat([played.float(), drawn_clips.float()])
        self.adversary.update(real.detach(), drawn.detach())
        loss = self.adversary.loss(drawn)
        if not torch.is_grad_enabled():
            return loss
        return balance(rec_u, loss, self.model.decoder.head_full.weight) * loss

    @torch.no_grad()
    def _write_back(self, chosen: Tensor, rows: dict[str, Tensor], layer, shift, code, memory) -> None:
        """The chosen agents, as old as they are now."""
        rows |= {"layer": layer.float(), "shift": shift, "code": code, "age": rows["age"] + self.config.steps}
        rows |= {f"memory{n}": m.float() for n, m in enumerate(memory)}
        for key, value in rows.items():
            self.agent_buffer[key][chosen] = value.detach()

    @staticmethod
    def _next(action: Tensor, count: int, keep: Tensor, generator: torch.Generator) -> Tensor:
        """Actions (B,) that are kept with probability `keep` (B,), else drawn anew."""
        fresh = torch.randint(count, action.shape, generator=generator).to(action.device)
        again = torch.rand(action.shape, generator=generator).to(action.device) < keep
        return torch.where(again, action, fresh)
