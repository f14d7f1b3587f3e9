"""Quantisers: A's vectors -> one of K local actions, and their losses (Sec. 3.2)."""

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
    """The output of a quantiser for vectors (N, code_channels)."""

    vector: Tensor  # (N, code_channels), input of the RNN; gradients pass straight through to the given vectors
    index: Tensor  # (N,) int64, the local actions
    nearest: Tensor  # (N, code_channels), their rows of the codebook


class Quantiser(nn.Module, ABC):
    """K local actions. A subclass has `codebook` (K, code_channels), a parameter or a buffer.

    Its losses, the start of its codebook and its own updates are methods, which the stages of training call. Register a
    quantiser of your own with :func:`register_quantiser`; a config then names it.
    """

    codebook: Tensor
    resized: tuple[str, ...] = ("codebook",)  # names of the tensors whose first axis is the code

    def normalise(self, z: Tensor) -> Tensor:
        """Vectors (..., code_channels) as the RNN gets them where they are not quantised; by default unchanged."""
        return z

    @abstractmethod
    def forward(self, z: Tensor) -> Quantised:
        """Quantise (N, code_channels)."""

    @abstractmethod
    def logits(self, z: Tensor) -> Tensor:
        """Vectors (N, code_channels) -> scores (N, K) of the codes."""

    def embed(self, index: Tensor) -> Tensor:
        """Code vectors (N, code_channels) of code indices (N,) int64."""
        return self.codebook[index]

    def auxiliary_losses(self, z: Tensor, quantised: Quantised, commitment: float) -> dict[str, Tensor]:
        """Weighted losses by name, of vectors z (N, code_channels); `commitment` weighs L_VQ's first term."""
        distance = (self.normalise(z) - quantised.nearest.detach()).square().mean()
        return {"commitment": commitment * distance}

    def begin(self, z: Tensor, generator: torch.Generator) -> None:
        """Initialise the codebook from vectors (N, code_channels); by default it stays as it is."""

    def update(self, z: Tensor, generator: torch.Generator) -> None:
        """Called after a training step with its vectors (N, code_channels); by default nothing happens."""

    def keep(self, index: Sequence[int]) -> None:
        """Keep only the codes in `index`; they are renumbered in this order."""
        for name in self.resized:
            old = getattr(self, name)
            rows = old.detach()[list(index)].clone()
            setattr(self, name, nn.Parameter(rows) if isinstance(old, nn.Parameter) else rows)


class PlainQuantiser(Quantiser):
    """The paper's quantiser: a trained codebook (K, code_channels) and a straight-through gradient."""

    def __init__(self, config: GlassConfig):
        super().__init__()
        self.codebook = nn.Parameter(filled(torch.empty(config.codes, config.code_channels), torch.randn_like))

    def forward(self, z: Tensor) -> Quantised:
        """The row with the smallest Euclidean distance."""
        index = self.logits(z).argmax(1)
        nearest = self.codebook[index]
        return Quantised(z + (nearest - z).detach(), index, nearest)

    def logits(self, z: Tensor) -> Tensor:
        """The negative Euclidean distances."""
        return -torch.cdist(z.float(), self.codebook)

    def auxiliary_losses(self, z: Tensor, quantised: Quantised, commitment: float) -> dict[str, Tensor]:
        """L_VQ: the commitment term, and the term that moves the codebook to the vectors."""
        terms = super().auxiliary_losses(z, quantised, commitment)
        return terms | {"codebook": (z.detach() - quantised.nearest).square().mean()}


class CosineQuantiser(Quantiser):
    """A codebook on a sphere. Rows follow moving averages of the vectors assigned to them; unused codes are replaced.

    Vectors are scaled to length sqrt(code_channels), one per channel.

    Args:
        config: sizes.
        decay: of the moving averages.
        dead: a code that gets a smaller share of the vectors is replaced by a vector of the most frequent code.
        split: which cluster k-means splits next at the start: `bisecting_strategy` of scikit-learn's `BisectingKMeans`.
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
        """Scale to length sqrt(code_channels)."""
        return F.normalize(z.float(), dim=-1) * z.shape[-1] ** 0.5

    def forward(self, z: Tensor) -> Quantised:
        """The row with the smallest angle."""
        z = self.normalise(z)
        index = (z @ self.codebook.T).argmax(1)
        nearest = self.codebook[index]
        return Quantised(z + (nearest - z).detach(), index, nearest)

    def logits(self, z: Tensor) -> Tensor:
        """Four times the cosine of the angle to each code."""
        return 4 * self.normalise(z) @ self.codebook.T / z.shape[-1]

    @torch.no_grad()
    def update(self, z: Tensor, generator: torch.Generator) -> None:
        """Move the codebook toward the vectors assigned to it, and replace codes below `dead`."""
        z = self.normalise(z.detach())
        assigned = F.one_hot((z @ self.codebook.T).argmax(1), len(self.codebook)).float()
        count = assigned.sum(0)
        mean = self.normalise(assigned.T @ z / count.clamp_min(1)[:, None])
        rate = (1 - self.decay) * (count > 0).float()[:, None]
        self.codebook.copy_(self.normalise(self.codebook.lerp(mean, rate)))
        self.usage.lerp_(count / count.sum(), 1 - self.decay)
        for code in torch.nonzero(self.usage < self.dead).flatten().tolist():
            members = torch.nonzero(assigned[:, int(self.usage.argmax())]).flatten()
            if len(members):  # split the most frequent code: one of its vectors becomes the new code
                pick = members[int(torch.randint(len(members), (1,), generator=generator))]
                self.codebook[code] = z[pick]
                self.usage[code] = 1.0 / len(self.usage)

    @torch.no_grad()
    def begin(self, z: Tensor, generator: torch.Generator) -> None:
        """Initialise by bisecting k-means (plain k-means spends codes on outliers); ImportError: no scikit-learn."""
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
"""Name in a config -> function that makes the quantiser."""


def register_quantiser(name: str, make: Callable[[GlassConfig], Quantiser]) -> None:
    """Let configs, and so checkpoints, name a quantiser of your own; ValueError: the name is taken."""
    if QUANTISERS.get(name, make) is not make:
        raise ValueError(f"a quantiser called {name!r} is registered already; choose another name")
    QUANTISERS[name] = make


def make_quantiser(config: GlassConfig) -> Quantiser:
    """A new quantiser, as the config names it; ValueError: the name is unknown."""
    if config.quantiser not in QUANTISERS:
        known = f"there are: {', '.join(QUANTISERS)}. One of your own must be registered: glass_gym.register_quantiser"
        raise ValueError(f"no quantiser called {config.quantiser!r}; {known}")
    return QUANTISERS[config.quantiser](config)
