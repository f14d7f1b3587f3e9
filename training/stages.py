"""What each stage trains on and with which losses. A stage owns its boxes, its batches and its schedule.

Batches follow from (seed, stage, iteration) alone, so that a resumed training repeats an uninterrupted one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from glass_gym.action_space import COMPASS
from glass_gym.glass import Glass, crop_windows, inside_windows
from training import losses
from training.data.store import Store, Video, frames_to_tensor
from training.export import step_length
from training.windows import MARGIN, Manifold, WindowSet


@dataclass
class GmaConfig:
    """The GMA stage: segmentation, inpainting, shifts."""

    iterations: int = 2000
    """optimiser steps; 0 skips the stage"""
    batch: int = 8
    """pairs of frames a step"""
    rate: float = 1e-3
    """peak learning rate; warms up over 50 steps, then falls on a cosine to 5 %"""
    theta: float | None = None
    """largest share of the frame that the mask may cover for free; default 0.007 for tennis, else 0.06"""
    still_pairs: float = 0.05
    """share of the pairs without motion that are kept"""
    moving_pixels: int = 30
    """a pair moves if more pixels than this change"""
    binary_ramp: int = 400
    """L_BIN grows from zero over this many steps, so that the mask can form first"""
    rec_f: float = 1.0
    rec_b: float = 2.0
    rec_j: float = 4.0
    """four times the paper's: the mask forms twice as early (docs/training.md)"""
    binary: float = 0.5
    size: float = 1.0
    perceptual: float = 0.01
    """weight of the VGG term; used only with --vgg"""


@dataclass
class LmaConfig:
    """The LMA stage: local actions and animation, on windows that follow the agent."""

    iterations: int = 3000
    """optimiser steps; 0 skips the stage"""
    frames: int = 128
    """frames drawn a step: the batch is frames / T clips"""
    rate: float = 1e-3
    """peak learning rate"""
    continuous: int = 700
    """first steps with unquantised, noisy code vectors: the decoder learns to listen before there are K words"""
    noise: float = 0.3
    """of those vectors, a channel"""
    horizons: tuple[int, ...] = (2, 4, 8, 15)
    """free-running lengths T; each takes an equal share of the steps after `continuous`, which uses the first"""
    hide_shift: float = 0.3
    """share of the clips in which the RNN is told that the agent stands still: what the legs do must then come from the
    codes, and a code means the same on the spot (agent-centred models only)"""
    teacher_forced: int = 1
    """T_f: the first steps of a clip that start from the real foreground; 1 is free running (the paper: 5) ..."""
    teacher_steps: int = 25_000
    """... and falls to 1 over this many iterations"""
    jitter: int = 2
    """clips are moved inside their window by up to this many px"""
    mask_weight: float = 4.0
    """extra weight of the agent's pixels, and again of pixels that change"""
    rec_u: float = 1.0
    rec_s: float = 0.5
    """D's coarser scales"""
    mask: float = 0.2
    cycle: float = 0.0
    commitment: float = 0.05
    information: float = 0.05
    """Gumbel actions: weight of the mutual information between directions and actions (CADDY)"""
    perceptual: float = 1.0
    """weight of the VGG term; used only with --vgg"""


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
    """weight of the cross-entropy of A reading the commanded code off what was drawn (L_CYC for random codes)"""


@dataclass
class GmaStage:
    """Trains M, N, P_f, P_b on pairs of neighbouring frames."""

    model: Glass
    store: Store
    config: GmaConfig
    features: object = None  # VGG features for L_VGG, or None
    name: str = "gma"
    videos: list[Video] = field(init=False)

    def __post_init__(self):
        self.videos = [v for v in self.store.videos if v.split == "train" and v.length >= 2]
        if not self.videos:
            raise ValueError(f"{self.store.root}: no training video of at least 2 frames")

    @property
    def iterations(self) -> int:
        return self.config.iterations

    def batch(self, rng: np.random.Generator, iteration: int) -> dict[str, Tensor]:
        """Random pairs that move: frames (B, 2, 3, H, W)."""
        pairs = []
        for attempt in range(self.config.batch * 50):
            video = self.videos[rng.integers(len(self.videos))]
            start = video.start + rng.integers(video.length - 1)
            pair = self.store.frames[start : start + 2]
            moving = (pair[0] != pair[1]).any(-1).sum() > self.config.moving_pixels
            if moving or rng.random() < self.config.still_pairs or attempt > self.config.batch * 40:
                pairs.append(pair)
            if len(pairs) == self.config.batch:
                break
        return {"frames": frames_to_tensor(np.stack(pairs))}

    def prepare(self, iteration: int, generator: torch.Generator) -> None:
        """Nothing to do between steps."""

    def losses(self, batch: dict[str, Tensor], iteration: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Weighted terms; their sum is the stage's loss."""
        c, frames = self.config, batch["frames"]
        motion = self.model.analyse_pairs(frames)
        layer = frames[:, 1] * motion.masks[:, 1]
        ramp = min(1.0, iteration / max(1, c.binary_ramp))
        terms = {
            "rec_f": c.rec_f * losses.rec_f(motion.moved_layer[:, :3], layer),
            "rec_b": c.rec_b * losses.rec_b(motion.moved_background, motion.backgrounds[:, 1]),
            "rec_j": c.rec_j * losses.rec_j(motion.composed, frames[:, 1], frames[:, 0]),
            "binary": c.binary * ramp * losses.binary(motion.masks),
            "size": c.size * losses.size(motion.masks.flatten(0, 1), c.theta),
        }
        if self.features is not None:
            terms["vgg"] = c.perceptual * (
                losses.perceptual(self.features, motion.moved_layer[:, :3], layer)
                + losses.perceptual(self.features, motion.moved_background, motion.backgrounds[:, 1])
            )
        return terms


@dataclass
class LmaStage:
    """Trains E, C, A, the RNN and D, free-running on windows cut by the frozen GMA."""

    model: Glass
    windows: WindowSet
    config: LmaConfig
    features: object = None  # VGG features, or None
    name: str = "lma"
    learn_codes: bool = True  # False: A and the codebook stay as they are

    @property
    def iterations(self) -> int:
        return self.config.iterations

    def horizon(self, iteration: int) -> int:
        """Free-running length T at an iteration."""
        c = self.config
        if iteration < c.continuous or len(c.horizons) == 1:
            return c.horizons[0]
        share = (iteration - c.continuous) / max(1, c.iterations - c.continuous)
        return c.horizons[min(len(c.horizons) - 1, int(share * len(c.horizons)))]

    def teacher(self, iteration: int, batch: int, steps: int) -> Tensor | None:
        """(B, T) bool: steps that start from the real foreground; None when free running."""
        c = self.config
        left = 1 - min(1.0, iteration / max(1, c.teacher_steps))
        forced = round(1 + (c.teacher_forced - 1) * left)
        return (torch.arange(steps) < forced).expand(batch, steps) if forced > 1 else None

    def batch(self, rng: np.random.Generator, iteration: int) -> dict[str, Tensor]:
        """Random clips of the iteration's horizon T, see :meth:`clips`."""
        return self.clips(rng, self.horizon(iteration))

    def clips(self, rng: np.random.Generator, horizon: int) -> dict[str, Tensor]:
        """layers (B, T + 1, 4, s, s), shifts (B, T, 2) px, inside (B, T + 1, 1, s, s): the part in the frame."""
        side = self.model.config.window
        layers, shifts, inside = [], [], []
        for _ in range(max(1, self.config.frames // horizon)):
            clip = self.windows.sample(rng, horizon + 1)
            if self.windows.whole:
                layers.append(clip.layers)
                shifts.append(clip.position.diff(dim=0))
                inside.append(torch.ones_like(clip.layers[:, 3:]))
                continue
            offset = torch.from_numpy(rng.integers(-self.config.jitter, self.config.jitter + 1, 2))
            corner = (MARGIN + offset).expand(horizon + 1, 2)
            layers.append(crop_windows(clip.layers, corner, side))
            shifts.append(clip.position.diff(dim=0))
            place = clip.position.long() - side // 2 + offset
            inside.append(inside_windows(place, side, self.windows.height, self.windows.width))
        return {"layers": torch.stack(layers), "shifts": torch.stack(shifts), "inside": torch.stack(inside)}

    @torch.no_grad()
    def prepare(self, iteration: int, generator: torch.Generator) -> None:
        """At the end of the continuous phase the codebook starts from k-means over A's vectors."""
        if iteration != self.config.continuous or not hasattr(self.model.quantiser, "kmeans"):
            return
        rng = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
        device = next(self.model.parameters()).device
        vectors = []
        for _ in range(16):
            batch = {key: value.to(device) for key, value in self.clips(rng, 8).items()}
            vectors.append(self.model.directions(batch["layers"], batch["shifts"]).flatten(0, 1))
        self.model.quantiser.kmeans(torch.cat(vectors).cpu(), generator=generator)

    def losses(self, batch: dict[str, Tensor], iteration: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Weighted terms; their sum is the stage's loss."""
        c, model = self.config, self.model
        layers, shifts, inside = batch["layers"], batch["shifts"], batch["inside"]
        with torch.set_grad_enabled(self.learn_codes and torch.is_grad_enabled()):
            z = model.directions(layers, shifts)  # (B, T, code)
        terms: dict[str, Tensor] = {}
        if not self.learn_codes:
            codes = model.quantiser.embed(model.quantise(z).index).unflatten(0, z.shape[:2])
        elif iteration < c.continuous:
            codes = model.quantiser.normalise(z)
            codes = codes + c.noise * torch.randn(codes.shape, generator=generator).to(codes)
        else:
            quantised = model.quantise(z)
            codes = quantised.vector.unflatten(0, z.shape[:2])
            normal = model.quantiser.normalise(z).flatten(0, 1)
            if model.config.quantiser == "gumbel":
                terms["information"] = -c.information * model.quantiser.information(z.flatten(0, 1))
            else:
                terms["commitment"] = c.commitment * losses.code_commitment(normal, quantised.nearest)
            if hasattr(model.quantiser, "update"):
                model.quantiser.update(z.flatten(0, 1), generator)
            elif model.config.quantiser == "plain":
                terms["codebook"] = losses.codebook(normal, quantised.nearest)
        told = shifts
        if c.hide_shift and not self.windows.whole:
            hidden = torch.rand(len(shifts), generator=generator) < c.hide_shift
            told = torch.where(hidden.to(shifts.device)[:, None, None], torch.zeros_like(shifts), shifts)
        teacher = self.teacher(iteration, *shifts.shape[:2])
        teacher = None if teacher is None else teacher.to(shifts.device)
        drawn = model.rollout(layers, told, codes, teacher, scales=True)
        target = layers[:, 1:].transpose(0, 1).flatten(0, 1)  # (T B, 4, s, s)
        before = layers[:, :-1].transpose(0, 1).flatten(0, 1)
        valid = inside[:, 1:].transpose(0, 1).flatten(0, 1)
        weight = (1 + c.mask_weight * (target[:, 3:] + (target[:, 3:] - before[:, 3:]).abs())) * valid
        layer = torch.cat([d.layer for d in drawn])
        logits = torch.cat([d.logits for d in drawn])
        terms["rec_u"] = c.rec_u * losses.weighted_squared(layer, target, weight)
        entropy = F.binary_cross_entropy_with_logits(logits, target[:, 3:].clamp(0, 1), reduction="none")
        terms["mask"] = c.mask * (entropy * weight).mean() / weight.mean()
        for level in range(len(drawn[0].coarse)):
            coarse = torch.cat([d.coarse[level] for d in drawn])
            scale = target.shape[-1] // coarse.shape[-1]
            colour, mask = torch.tanh(coarse[:, :3]), torch.sigmoid(coarse[:, 3:])
            if mask.shape[1]:
                colour = torch.cat([colour, mask], 1)
            wanted = F.avg_pool2d(target[:, : colour.shape[1]], scale)
            terms[f"rec_s{level}"] = c.rec_s * losses.weighted_squared(colour, wanted, F.avg_pool2d(weight, scale))
        if self.features is not None:
            terms["vgg"] = c.perceptual * losses.perceptual(self.features, layer[:, :3], target[:, :3])
        if c.cycle and iteration >= c.continuous:
            again = model.directions(torch.stack([layers[:, 0], drawn[0].layer], 1), shifts[:, :1])
            terms["cycle"] = c.cycle * losses.cycle(codes[:, 0], model.quantiser.normalise(again[:, 0]))
        return terms


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
        real = replace(self.lma, frames=self.config.real_frames, continuous=0)
        self.real = LmaStage(self.model, self.windows, real, self.features, learn_codes=False)
        self.horizon = min(max(self.lma.horizons), int(self.windows.lengths.max()) - 1)
        self.manifold = Manifold(self.windows, self.model.config.window)
        self.shifts = torch.tensor(list(COMPASS.values()), dtype=torch.float32)
        self.shifts = self.shifts * torch.tensor(step_length(self.windows.shifts()))
        self.pool: dict[str, Tensor] = {}

    @property
    def iterations(self) -> int:
        return self.config.iterations or 0

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
        if c.obey:
            z = model.quantiser.normalise(model.directions(clip, torch.zeros(len(clip), c.steps, 2).to(clip)))
            logits = 4 * z.flatten(0, 1) @ model.quantiser.codebook.T / z.shape[-1]
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
