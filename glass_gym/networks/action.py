"""A: two aligned feature maps -> a direction -> one of K local actions.

psi(E(f_t) moved) and psi(E(f_{t+1})) are compared by a chain of four bilinear maps; d = psi^4 - psi_t (Sec. 3.2);
a small MLP U and a vector quantiser turn d into a code.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glass_gym.config import GlassConfig
from glass_gym.networks.blocks import ResBlock


class BilinearStep(nn.Module):
    """One link: x -> bilinear(psi_t, x) + linear(psi_t), normalised (App. B)."""

    def __init__(self, psi: int, inputs: int, outputs: int, last: bool, norm: str):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, psi, inputs).uniform_(-1, 1) / psi**0.5)
        self.linear = nn.Linear(psi, outputs)
        self.last = last
        if not last:
            self.norm = nn.BatchNorm1d(outputs) if norm == "batch" else nn.LayerNorm(outputs)

    def forward(self, psi: Tensor, x: Tensor) -> Tensor:
        products = (psi[:, :, None] * x[:, None, :]).flatten(1)  # one wide product; nn.Bilinear loops over outputs
        y = F.linear(products, self.weight.flatten(1)) + self.linear(psi)
        return y if self.last else F.leaky_relu(self.norm(y), 0.2)


class ActionNet(nn.Module):
    """A without its quantiser: features of two aligned foregrounds -> a code-sized vector z (B, code_channels)."""

    def __init__(self, config: GlassConfig):
        super().__init__()
        size, wide, norm = config.psi_channels, config.bilinear_channels, config.norm
        self.attend = config.joint_attention
        self.pooled = config.dynamics == "paper"
        if self.pooled:
            self.psi = nn.Sequential(
                ResBlock(config.feature_channels, 128, down=True, norm=norm), ResBlock(128, size, norm=norm)
            )
        else:  # a pose is spatial: flatten a 4x4 grid instead of averaging it away
            self.psi = nn.Sequential(
                ResBlock(config.feature_channels, size, down=True, norm=norm), nn.AdaptiveAvgPool2d(4),
                nn.Flatten(), nn.Linear(16 * size, size), nn.LayerNorm(size),
            )  # fmt: skip
        widths = [size, wide, wide, wide, size] if config.directions == "bilinear" else []
        self.chain = nn.ModuleList(
            BilinearStep(size, a, b, last=i == 3, norm=norm) for i, (a, b) in enumerate(pairwise(widths))
        )
        self.mlp = nn.Sequential(
            nn.Linear(size, 128), nn.LeakyReLU(0.2), nn.Linear(128, 64), nn.LeakyReLU(0.2),
            nn.Linear(64, config.code_channels),
        )  # fmt: skip
        # vectors that differ by little collapse to one direction; batch statistics keep their spread
        self.spread = nn.Identity() if self.pooled else nn.BatchNorm1d(config.code_channels, affine=False)

    def forward(self, before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor]) -> Tensor:
        """(features, attention) of frame t, moved onto frame t + 1, and of frame t + 1 -> z (B, code_channels)."""
        psi = self._psi(*before)  # (B, psi)
        x = self._psi(*after)
        for link in self.chain:
            x = link(psi, x)
        return self.spread(self.mlp(x - psi).float())

    def _psi(self, features: Tensor, attention: Tensor) -> Tensor:
        y = self.psi(features * attention if self.attend else features).float()
        return y.mean((2, 3)) if self.pooled else y


@dataclass
class Quantised:
    """What a quantiser returns: the code vector that goes on, the index (B,), and the nearest codebook row."""

    vector: Tensor
    index: Tensor
    nearest: Tensor


def entropy(share: Tensor) -> Tensor:
    """Entropy, in nats, of distributions (..., K)."""
    return -(share * share.clamp_min(1e-8).log()).sum(-1)


class PlainQuantiser(nn.Module):
    """Vector quantisation with a trained codebook K x code_channels and a straight-through gradient (as published)."""

    def __init__(self, config: GlassConfig):
        super().__init__()
        self.codebook = nn.Parameter(torch.randn(config.codes, config.code_channels))

    def normalise(self, z: Tensor) -> Tensor:
        """Plain VQ leaves vectors as they are."""
        return z

    def forward(self, z: Tensor) -> Quantised:
        index = torch.cdist(z.float(), self.codebook).argmin(1)
        nearest = self.codebook[index]
        return Quantised(z + (nearest - z).detach(), index, nearest)

    def embed(self, index: Tensor) -> Tensor:
        """Code vectors (B, code_channels) of code indices (B,)."""
        return self.codebook[index]


class CosineQuantiser(nn.Module):
    """Codebook on the unit sphere, moved by moving averages of what is assigned to it, dead codes revived.

    Vectors are scaled to length sqrt(code_channels): size one a channel, as loud as the features it modulates.
    """

    def __init__(self, config: GlassConfig, decay: float = 0.99, dead: float = 0.04):
        super().__init__()
        self.decay, self.dead = decay, dead
        self.register_buffer("codebook", self.normalise(torch.randn(config.codes, config.code_channels)))
        self.register_buffer("usage", torch.full((config.codes,), 1.0 / config.codes))

    @staticmethod
    def normalise(z: Tensor) -> Tensor:
        """To length sqrt(channels)."""
        return F.normalize(z.float(), dim=-1) * z.shape[-1] ** 0.5

    def forward(self, z: Tensor) -> Quantised:
        z = self.normalise(z)
        index = (z @ self.codebook.T).argmax(1)
        nearest = self.codebook[index]
        return Quantised(z + (nearest - z).detach(), index, nearest)

    def logits(self, z: Tensor) -> Tensor:
        """Vectors z (N, code_channels) -> (N, K): four times the cosine to each code."""
        return 4 * self.normalise(z) @ self.codebook.T / z.shape[-1]

    def entropy(self, z: Tensor) -> Tensor:
        """Entropy, in nats, of how the codes are used by vectors z (N, code_channels): log K if all are used alike."""
        return entropy(self.logits(z).softmax(-1).mean(0))

    @torch.no_grad()
    def update(self, z: Tensor, generator: torch.Generator | None = None, revive: bool = True) -> None:
        """Move the codebook toward the vectors z (N, code_channels) assigned to it; revive codes below `dead`."""
        z = self.normalise(z.detach())
        assigned = F.one_hot((z @ self.codebook.T).argmax(1), len(self.codebook)).float()
        count = assigned.sum(0)
        mean = self.normalise(assigned.T @ z / count.clamp_min(1)[:, None])
        rate = (1 - self.decay) * (count > 0).float()[:, None]
        self.codebook.copy_(self.normalise(self.codebook.lerp(mean, rate)))
        self.usage.lerp_(count / count.sum(), 1 - self.decay)
        for code in torch.nonzero(self.usage < self.dead).flatten().tolist() if revive else ():
            crowd = torch.nonzero(assigned[:, int(self.usage.argmax())]).flatten()
            if len(crowd):  # split the most used code: a member of its crowd founds a new one
                pick = crowd[torch.randint(len(crowd), (1,), generator=generator).item()]
                self.codebook[code] = z[pick]
                self.usage[code] = 1.0 / len(self.usage)

    @torch.no_grad()
    def kmeans(self, z: Tensor, iterations: int = 30, generator: torch.Generator | None = None) -> None:
        """Start the codebook from bisecting spherical k-means over vectors z (N, code_channels).

        The largest cluster is split in two, along its principal direction, until there are K: plain k-means spends
        codes on a handful of outliers.
        """
        z = self.normalise(z).to(self.codebook)
        member = torch.zeros(len(z), dtype=torch.long, device=z.device)
        for new in range(1, len(self.codebook)):
            crowd = z[member == member.bincount(minlength=new).argmax()]
            middle = crowd.mean(0)
            axis = torch.linalg.svd(crowd - middle, full_matrices=False).Vh[0]
            halves = self.normalise(torch.stack([middle - axis, middle + axis]))
            for _ in range(iterations):
                near = (crowd @ halves.T).argmax(1)
                halves = torch.stack([self.normalise(crowd[near == k].mean(0)) if (near == k).any() else halves[k]
                                      for k in range(2)])  # fmt: skip
            largest = member == member.bincount(minlength=new).argmax()
            member[largest] = torch.where((z[largest] @ halves.T).argmax(1) == 0, member[largest], new)
        self.codebook.copy_(torch.stack([
            self.normalise(z[member == k].mean(0)) if (member == k).any() else self.codebook[k]
            for k in range(len(self.codebook))
        ]))  # fmt: skip
        self.usage.fill_(1.0 / len(self.usage))

    def embed(self, index: Tensor) -> Tensor:
        """Code vectors (B, code_channels) of code indices (B,)."""
        return self.codebook[index]


class GumbelQuantiser(nn.Module):
    """Soft Gumbel-softmax over K actions, each with a trained embedding (CADDY, Menapace et al. 2021).

    With `variability` what the vector holds beyond its action's mean goes on beside the embedding. In evaluation the
    probabilities are taken without noise.
    """

    def __init__(self, config: GlassConfig, decay: float = 0.99):
        super().__init__()
        size, self.decay, self.variability = config.code_channels, decay, config.variability
        self.logits = nn.Linear(size, config.codes)
        self.codebook = nn.Parameter(torch.randn(config.codes, size))
        if self.variability:
            self.rest = nn.Linear(size, size)
            self.register_buffer("centre", torch.zeros(config.codes, size))

    def normalise(self, z: Tensor) -> Tensor:
        """Vectors stay as they are."""
        return z

    def forward(self, z: Tensor) -> Quantised:
        logits = self.logits(z.float())
        share = F.gumbel_softmax(logits, 1.0) if self.training else logits.softmax(-1)
        vector = share @ self.codebook
        if self.variability:
            vector = vector + self.rest(z.float() - share @ self.centre)
            if self.training:
                self._move(z.detach().float(), logits.argmax(1))
        return Quantised(vector, logits.argmax(1), vector)

    @torch.no_grad()
    def _move(self, z: Tensor, index: Tensor) -> None:
        assigned = F.one_hot(index, len(self.centre)).float()
        count = assigned.sum(0)[:, None]
        self.centre.lerp_(assigned.T @ z / count.clamp_min(1), (1 - self.decay) * (count > 0))

    def information(self, z: Tensor) -> Tensor:
        """Mutual information between vectors (N, code_channels) and actions, in nats: high if all K are used."""
        share = self.logits(z.float()).softmax(-1)
        return entropy(share.mean(0)) - entropy(share).mean()

    def embed(self, index: Tensor) -> Tensor:
        """Code vectors (B, code_channels) of code indices (B,); no variability."""
        return self.codebook[index]


QUANTISERS = {"ema": CosineQuantiser, "plain": PlainQuantiser, "gumbel": GumbelQuantiser}


def build_quantiser(config: GlassConfig) -> nn.Module:
    """The quantiser that the config names."""
    return QUANTISERS[config.quantiser](config)
