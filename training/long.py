"""The long-horizon stage: agents that live on for hundreds of steps under random actions must stay plausible."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glass_gym.action_space import COMPASS
from glass_gym.glass import Glass, crop_windows
from training.export import step_length
from training.stages import LmaConfig, LmaStage
from training.windows import MARGIN, WindowSet


@dataclass
class LongConfig:
    """The long-horizon stage: free running under random actions, for hundreds of steps, must stay plausible."""

    iterations: int | None = None
    """optimiser steps; 0 skips the stage; default: a third of LMA's (agent-centred models only)"""
    rate: float = 4e-4
    """peak learning rate"""
    pool: int = 192
    """agents that live on between optimiser steps"""
    rows: int = 24
    """of them, those that go on in one optimiser step ..."""
    steps: int = 4
    """... for so many steps; gradients end at the first of them (truncated back-propagation)"""
    first_age: int = 8
    """agents start anew from a real window at an age drawn below a limit, which grows from this ..."""
    age: int = 256
    """... to this, doubling at equal shares of the stage"""
    real_frames: int = 60
    """frames of real clips drawn a step, under LMA's losses at its longest horizon"""
    input_noise: float = 0.05
    """standard deviation of the noise on what is fed back, inside the mask's neighbourhood"""
    silhouette: float = 1.0
    """weight of the distance between a drawn mask and the nearest real mask of any agent"""
    look: float = 1.0
    """weight of the distance between a drawn layer and the nearest real layer of the same agent"""
    obey: float = 0.02
    """weight of the cross-entropy of A reading the commanded code off what was drawn (L_CYC for random codes);
    cosine codebooks only"""


class Manifold:
    """All real windows, to ask how far a drawn one is from the nearest of them.

    Args:
        windows: the real ones.
        side: px of the drawn ones.
        limit: windows looked at for the nearest mask; more are thinned out evenly.
    """

    POOL = 4
    CANDIDATES = 8

    def __init__(self, windows: WindowSet, side: int, limit: int = 40_000):
        self.windows, self.side = windows, side
        self.index = np.arange(0, len(windows.layers), max(1, -(-len(windows.layers) // limit)))
        inner = slice(MARGIN, MARGIN + side)
        coarse = []
        for part in np.array_split(self.index, max(1, len(self.index) // 4096)):
            masks = torch.from_numpy(windows.layers[part, 3, inner, inner]).float()[:, None] / 255
            coarse.append(F.avg_pool2d(masks, self.POOL).flatten(1))
        self.coarse = torch.cat(coarse)
        self.energy = self.coarse.square().sum(1)
        self.video = np.searchsorted(windows.starts, np.arange(len(windows.layers)), side="right") - 1

    def _crop(self, index) -> Tensor:
        layers = self.windows.layers_at(index)
        return layers[..., MARGIN : MARGIN + self.side, MARGIN : MARGIN + self.side]

    def nearest(self, layers: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The nearest real mask of any agent (N, 1, s, s), the nearest real layer of the same agent (N, 4, s, s), and
        whether the same agent was seen in that pose (N,) bool.

        Args:
            layers: (N, 4, s, s), aligned as the real windows are.
            index: (N,) a frame of the agent's video.
        """
        device, area = layers.device, layers.shape[-1] ** 2
        with torch.no_grad():
            drawn = layers.detach().float().cpu()
            coarse = F.avg_pool2d(drawn[:, 3:], self.POOL).flatten(1)
            far = self.energy - 2 * coarse @ self.coarse.T  # (N, windows)
            best = far.topk(min(self.CANDIDATES, far.shape[1]), largest=False).indices.numpy()
            masks, looks, known = [], [], []
            for n, video in enumerate(self.video[index.cpu().numpy()]):
                candidates = self._crop(self.index[best[n]])[:, 3:]
                far_mask = (candidates - drawn[n, 3:]).square().sum((1, 2, 3)) / area
                start, length = int(self.windows.starts[video]), int(self.windows.lengths[video])
                own = self._crop(slice(start, start + length))
                far_own = (own - drawn[n]).square().sum((1, 2, 3))
                pick = int(far_own.argmin())
                masks.append(candidates[int(far_mask.argmin())])
                looks.append(own[pick])
                own_mask = (own[pick, 3:] - drawn[n, 3:]).square().sum() / area
                known.append(bool(own_mask <= 1.5 * far_mask.min() + 1e-3))
        return torch.stack(masks).to(device), torch.stack(looks).to(device), torch.tensor(known, device=device)

    def distances(self, layers: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Squared distances to :meth:`nearest`, over the agent's pixels: of the masks, and of the whole layers where
        the agent was seen in the pose."""
        masks, looks, known = self.nearest(layers, index)
        layers = layers.float()
        weight = 1 + 4 * torch.maximum(masks, layers[:, 3:].detach())
        silhouette = ((layers[:, 3:] - masks).square() * weight).mean() / weight.mean()
        weight = (1 + 4 * looks[:, 3:]) * known[:, None, None, None]
        look = ((layers - looks).square() * weight).mean() / (1 + 4 * looks[:, 3:]).mean()
        return silhouette, look


@dataclass
class LongStage:
    """Trains C, the RNN and D under actions that the data never showed; E, A and the codebook stay as they are.

    A pool of agents lives on under random shifts and codes. No truth exists for them; what is drawn must look like
    *some* real frame: its mask like the nearest real mask, its colours like the nearest real frame of the same agent,
    and A must read the commanded code off it. Beside it LMA's losses go on over real clips.
    """

    model: Glass
    windows: WindowSet
    config: LongConfig
    lma: LmaConfig
    features: object = None  # VGG features, or None
    name: str = "long"

    def __post_init__(self):
        if self.windows.whole:
            raise ValueError("the long-horizon stage needs an agent-centred model (GlassConfig.view='agent')")
        real = replace(self.lma, frames=self.config.real_frames, continuous=0, learn_codes=False)
        self.real = LmaStage(self.model, self.windows, real, self.features)
        self.horizon = min(max(self.lma.horizons), int(self.windows.lengths.max()) - 1)
        self.manifold = Manifold(self.windows, self.model.config.window)
        self.shifts = torch.tensor(list(COMPASS.values()), dtype=torch.float32)
        self.shifts = self.shifts * torch.tensor(step_length(self.windows.shifts()))
        self.pool: dict[str, Tensor] = {}

    @property
    def iterations(self) -> int:
        return self.config.iterations or 0

    @property
    def boxes(self) -> list[nn.Module]:
        """What is trained."""
        return self.model.boxes("long")

    def state_dict(self) -> dict[str, Tensor]:
        """The pool, for a checkpoint."""
        return self.pool

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up the pool where it was left."""
        self.pool = dict(state)

    def age_limit(self, iteration: int) -> int:
        """The oldest that an agent gets at an iteration."""
        doublings = math.log2(max(1, self.config.age / self.config.first_age))
        share = iteration / max(1, self.iterations)
        return int(self.config.first_age * 2 ** min(doublings, math.floor(share * (doublings + 1))))

    def batch(self, rng: np.random.Generator, iteration: int) -> dict[str, Tensor]:
        """Real clips at the longest horizon, and which agents of the pool go on."""
        chosen = rng.choice(self.config.pool, self.config.rows, replace=False)
        return self.real.clips(rng, self.horizon) | {"chosen": torch.from_numpy(chosen)}

    def prepare(self, iteration: int, generator: torch.Generator) -> None:
        """Start the agents that are too old anew (at first, all) from random real windows."""
        device = next(self.model.parameters()).device
        rng = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
        if not self.pool:
            self.pool = self._fresh(rng, self.config.pool, iteration, device)
            return
        old = torch.nonzero(self.pool["age"] >= self.pool["limit"]).flatten()
        if len(old):
            fresh = self._fresh(rng, len(old), iteration, device)
            for key, value in self.pool.items():
                value[old] = fresh[key]

    def _fresh(self, rng: np.random.Generator, count: int, iteration: int, device) -> dict[str, Tensor]:
        side = self.model.config.window
        index = torch.from_numpy(self.windows.inner(rng, count, side))
        jitter = self.lma.jitter
        offset = torch.from_numpy(rng.integers(-jitter, jitter + 1, (count, 2)))
        layers = crop_windows(self.windows.layers_at(index.numpy()), offset + MARGIN, side)
        memory = self.model.start_state(count, side, side)
        limit = rng.integers(self.config.first_age // 2, self.age_limit(iteration) + 1, count)
        fresh = {
            "layer": layers, "index": index, "offset": offset, "age": torch.zeros(count, dtype=torch.long),
            "limit": torch.from_numpy(limit), "keep": torch.from_numpy(rng.choice([0.0, 0.5, 0.9, 1.0], count)),
            "shift": torch.from_numpy(rng.integers(len(self.shifts), size=count)),
            "code": torch.from_numpy(rng.integers(self.model.config.codes, size=count)),
        }  # fmt: skip
        fresh |= {f"memory{n}": m.detach().float().contiguous() for n, m in enumerate(memory)}
        return {key: value.to(device) for key, value in fresh.items()}

    def losses(self, batch: dict[str, Tensor], iteration: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Weighted terms; their sum is the stage's loss."""
        c, model = self.config, self.model
        chosen = batch["chosen"]
        terms = self.real.losses(batch, iteration, generator)
        rows = {key: value[chosen] for key, value in self.pool.items()}
        memory = tuple(rows[f"memory{n}"] for n in range(len([k for k in rows if k.startswith("memory")])))
        layer, shift, code, drawn, codes = rows["layer"], rows["shift"], rows["code"], [], []
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
        clip = torch.stack([rows["layer"], *drawn], 1)  # (rows, steps + 1, 4, s, s)
        made = torch.cat(drawn)
        offset = rows["offset"].repeat(c.steps, 1)
        aligned = crop_windows(made, -offset, made.shape[-1])  # as the real windows are
        silhouette, look = self.manifold.distances(aligned, rows["index"].repeat(c.steps))
        terms["silhouette"] = c.silhouette * silhouette
        terms["look"] = c.look * look
        if c.obey and model.config.quantiser == "ema":
            z = model.directions(clip, torch.zeros(len(clip), c.steps, 2).to(clip))
            logits = model.quantiser.logits(z.flatten(0, 1))
            terms["obey"] = c.obey * F.cross_entropy(logits, torch.stack(codes, 1).flatten())
        with torch.no_grad():
            rows |= {"layer": layer.float(), "shift": shift, "code": code, "age": rows["age"] + c.steps}
            rows |= {f"memory{n}": m.float() for n, m in enumerate(memory)}
            for key, value in rows.items():
                self.pool[key][chosen] = value.detach()
        return terms

    @staticmethod
    def _next(action: Tensor, count: int, keep: Tensor, generator: torch.Generator) -> Tensor:
        """Actions (B,) that are kept with probability `keep` (B,), else drawn anew."""
        fresh = torch.randint(count, action.shape, generator=generator).to(action.device)
        again = torch.rand(action.shape, generator=generator).to(action.device) < keep
        return torch.where(again, action, fresh)
