"""Quantisers: A's vectors -> one of K local actions, and the losses that make them so (Sec. 3.2)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glass_gym.model.blocks import filled
from glass_gym.model.config import GlassConfig


@dataclass
class Quantised:
    """What a quantiser returns for vectors (N, code_channels).

    Attributes:
        vector: (N, code_channels), what goes on to the RNN; gradients pass straight through to the input.
        index: (N,) int64, the local actions.
        nearest: (N, code_channels), their rows of the codebook.
    """

    vector: Tensor
    index: Tensor
    nearest: Tensor


class Quantiser(nn.Module, ABC):
    """K local actions. A subclass has `codebook` (K, code_channels), a parameter or a buffer.

    Its losses, its codebook's start and its own updates are its own affair: the LMA stage calls the hooks below and
    asks nothing. Register one with :func:`register_quantiser`; a config then names it.
    """

    codebook: Tensor
    resized: tuple[str, ...] = ("codebook",)
    """names of the tensors whose first axis is the code"""

    def normalise(self, z: Tensor) -> Tensor:
        """Vectors (..., code_channels) as they go on while they are not quantised; by default as they are."""
        return z

    @abstractmethod
    def forward(self, z: Tensor) -> Quantised:
        """Quantise (N, code_channels)."""

    @abstractmethod
    def logits(self, z: Tensor) -> Tensor:
        """Vectors (N, code_channels) -> (N, K): how much each speaks for each code."""

    def embed(self, index: Tensor) -> Tensor:
        """Code vectors (N, code_channels) of code indices (N,) int64."""
        return self.codebook[index]

    def auxiliary_losses(self, z: Tensor, quantised: Quantised, commitment: float) -> dict[str, Tensor]:
        """Weighted loss terms beside what the drawn pictures say.

        Args:
            z: (N, code_channels), unquantised.
            quantised: what :meth:`forward` made of it.
            commitment: weight of L_VQ's commitment term.

        Returns:
            scalars by name.
        """
        near = (self.normalise(z) - quantised.nearest.detach()).square().mean()
        return {"commitment": commitment * near}

    def begin(self, z: Tensor, generator: torch.Generator) -> None:
        """Start the codebook from vectors (N, code_channels); by default it goes on as it is."""

    def update(self, z: Tensor, generator: torch.Generator) -> None:
        """After a training step that saw vectors (N, code_channels); by default gradients do everything."""

    def keep(self, index: Sequence[int]) -> None:
        """Make `index` (codes of now) the codes, in this order."""
        for name in self.resized:
            old = getattr(self, name)
            rows = old.detach()[list(index)].clone()
            setattr(self, name, nn.Parameter(rows) if isinstance(old, nn.Parameter) else rows)


class PlainQuantiser(Quantiser):
    """Vector quantisation with a trained codebook K x code_channels and a straight-through gradient (as published)."""

    def __init__(self, config: GlassConfig):
        super().__init__()
        self.codebook = nn.Parameter(filled(torch.empty(config.codes, config.code_channels), torch.randn_like))

    def forward(self, z: Tensor) -> Quantised:
        """The nearest row in Euclidean distance."""
        index = self.logits(z).argmax(1)
        nearest = self.codebook[index]
        return Quantised(z + (nearest - z).detach(), index, nearest)

    def logits(self, z: Tensor) -> Tensor:
        """Minus the Euclidean distances."""
        return -torch.cdist(z.float(), self.codebook)

    def auxiliary_losses(self, z: Tensor, quantised: Quantised, commitment: float) -> dict[str, Tensor]:
        """L_VQ: commitment, and the codebook follows the vectors."""
        terms = super().auxiliary_losses(z, quantised, commitment)
        return terms | {"codebook": (z.detach() - quantised.nearest).square().mean()}


class CosineQuantiser(Quantiser):
    """Codebook on the unit sphere, moved by moving averages of what is assigned to it, dead codes revived.

    Vectors are scaled to length sqrt(code_channels): size one a channel, as loud as the features it modulates.

    Args:
        config: sizes.
        decay: of the moving averages.
        dead: a code used in less than this share of the steps starts anew from a vector of the most used one.
        split: which cluster the k-means of the start splits next, of scikit-learn's `BisectingKMeans`.
    """

    resized = ("codebook", "usage")

    def __init__(self, config: GlassConfig, decay: float = 0.99, dead: float = 0.04, split: str = "largest_cluster"):
        super().__init__()
        self.decay = decay
        self.dead = dead
        self.split = split
        codebook = torch.empty(config.codes, config.code_channels)
        self.register_buffer("codebook", filled(codebook, lambda x: self.normalise(torch.randn_like(x))))
        self.register_buffer("usage", torch.full((config.codes,), 1.0 / config.codes))
        self.usage: Tensor

    def normalise(self, z: Tensor) -> Tensor:
        """To length sqrt(channels)."""
        return F.normalize(z.float(), dim=-1) * z.shape[-1] ** 0.5

    def forward(self, z: Tensor) -> Quantised:
        """The row of the smallest angle."""
        z = self.normalise(z)
        index = (z @ self.codebook.T).argmax(1)
        nearest = self.codebook[index]
        return Quantised(z + (nearest - z).detach(), index, nearest)

    def logits(self, z: Tensor) -> Tensor:
        """Four times the cosine to each code."""
        return 4 * self.normalise(z) @ self.codebook.T / z.shape[-1]

    @torch.no_grad()
    def update(self, z: Tensor, generator: torch.Generator) -> None:
        """Move the codebook toward the vectors assigned to it; revive codes below `dead`."""
        z = self.normalise(z.detach())
        assigned = F.one_hot((z @ self.codebook.T).argmax(1), len(self.codebook)).float()
        count = assigned.sum(0)
        mean = self.normalise(assigned.T @ z / count.clamp_min(1)[:, None])
        rate = (1 - self.decay) * (count > 0).float()[:, None]
        self.codebook.copy_(self.normalise(self.codebook.lerp(mean, rate)))
        self.usage.lerp_(count / count.sum(), 1 - self.decay)
        for code in torch.nonzero(self.usage < self.dead).flatten().tolist():
            crowd = torch.nonzero(assigned[:, int(self.usage.argmax())]).flatten()
            if len(crowd):  # split the most used code: a member of its crowd founds a new one
                pick = crowd[int(torch.randint(len(crowd), (1,), generator=generator))]
                self.codebook[code] = z[pick]
                self.usage[code] = 1.0 / len(self.usage)

    @torch.no_grad()
    def begin(self, z: Tensor, generator: torch.Generator) -> None:
        """Bisecting k-means: a cluster is split until there are K (plain k-means spends codes on outliers).

        Raises:
            ImportError: scikit-learn is not installed.
        """
        try:
            from sklearn.cluster import BisectingKMeans
        except ImportError:
            raise ImportError("the codebook's start needs scikit-learn: pip install 'glass-gym[train]'") from None
        seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
        found = BisectingKMeans(len(self.codebook), n_init=3, bisecting_strategy=self.split, random_state=seed)
        centres = found.fit(self.normalise(z).cpu().numpy()).cluster_centers_
        self.codebook.copy_(self.normalise(torch.from_numpy(centres)))
        self.usage.fill_(1.0 / len(self.usage))


QUANTISERS: dict[str, Callable[[GlassConfig], Quantiser]] = {"cosine": CosineQuantiser, "plain": PlainQuantiser}
"""Names that a config may use."""


def register_quantiser(name: str, make: Callable[[GlassConfig], Quantiser]) -> None:
    """Let configs, and so checkpoints, name a quantiser of your own.

    Args:
        name: for :attr:`GlassConfig.quantiser`.
        make: a class (or function) that makes one of a config.

    Raises:
        ValueError: the name is taken.
    """
    if QUANTISERS.get(name, make) is not make:
        raise ValueError(f"a quantiser called {name!r} is registered already; choose another name")
    QUANTISERS[name] = make


def make_quantiser(config: GlassConfig) -> Quantiser:
    """The quantiser that a config names.

    Returns:
        a new quantiser.

    Raises:
        ValueError: no such name; the message lists the known ones.
    """
    if config.quantiser not in QUANTISERS:
        raise ValueError(
            f"no quantiser called {config.quantiser!r}; there are: {', '.join(QUANTISERS)}. One of your own must be "
            "registered first: glass_gym.register_quantiser"
        )
    return QUANTISERS[config.quantiser](config)
