"""Parts that only the ablation table uses: each replaces one of a default model's."""

from __future__ import annotations

from functools import partial

import torch
from glass_gym.networks.lean import LeanAction, LeanDecoder, LeanDynamics
from torch import Tensor, nn
from torch.nn import functional as F

from glass_gym.model.blocks import SLOPE, ModulatedConv, normaliser
from glass_gym.model.config import GlassConfig
from glass_gym.model.lma import Drawn, drawn_from
from glass_gym.model.paper import PaperAction
from glass_gym.model.quantise import CosineQuantiser, Quantised, Quantiser
from glass_gym.model.shift import RegressorShift

# --- quantisers ------------------------------------------------------------------------------------------------


class GumbelQuantiser(Quantiser):
    """Soft Gumbel-softmax over K actions, each with a trained embedding (CADDY, Menapace et al. 2021).

    In evaluation the probabilities are taken without noise.

    Args:
        config: sizes.
        variability: what the vector holds beyond its action's mean goes on beside the embedding (CADDY's action
            variability).
        information: weight of the mutual information between directions and actions.
        decay: of the means.
    """

    def __init__(self, config: GlassConfig, variability: bool = False, information: float = 0.05, decay: float = 0.99):
        super().__init__()
        size = config.code_channels
        self.information = information
        self.decay = decay
        self.variability = variability
        self.linear = nn.Linear(size, config.codes)
        self.codebook = nn.Parameter(torch.randn(config.codes, size))
        if variability:
            self.rest = nn.Linear(size, size)
            self.register_buffer("centre", torch.zeros(config.codes, size))

    def logits(self, z: Tensor) -> Tensor:
        """A trained linear map."""
        return self.linear(z.float())

    def forward(self, z: Tensor) -> Quantised:
        """Mixed embeddings."""
        logits = self.logits(z)
        share = F.gumbel_softmax(logits, 1.0) if self.training else logits.softmax(-1)
        vector = share @ self.codebook
        if self.variability:
            vector = vector + self.rest(z.float() - share @ self.centre.clone())  # update() moves it
        return Quantised(vector, logits.argmax(1), vector)

    def auxiliary_losses(self, z: Tensor, quantised: Quantised, commitment: float) -> dict[str, Tensor]:
        """Mutual information between vectors and actions, in nats, is wanted: high if all K are used, each surely."""
        share = self.logits(z).softmax(-1)
        return {"information": -self.information * (entropy(share.mean(0)) - entropy(share).mean())}

    @torch.no_grad()
    def update(self, z: Tensor, generator: torch.Generator) -> None:
        """Move each action's mean vector."""
        if self.variability:
            assigned = F.one_hot(self.logits(z).argmax(1), len(self.centre)).float()
            count = assigned.sum(0)[:, None]
            mean = assigned.T @ z.detach().float() / count.clamp_min(1)
            self.centre.lerp_(mean, (1 - self.decay) * (count > 0))


def entropy(share: Tensor) -> Tensor:
    """Entropy, in nats, of distributions (..., K)."""
    return -(share * share.clamp_min(1e-8).log()).sum(-1)


class EntropyBonus(CosineQuantiser):
    """A bonus for using all codes alike.

    Args:
        config: sizes.
        weight: of the entropy of their use.
    """

    def __init__(self, config: GlassConfig, weight: float = 0.1):
        super().__init__(config)
        self.weight = weight

    def auxiliary_losses(self, z: Tensor, quantised: Quantised, commitment: float) -> dict[str, Tensor]:
        """Commitment, and the entropy of how the codes are used, in nats: log K if all are used alike."""
        terms = super().auxiliary_losses(z, quantised, commitment)
        return terms | {"entropy": -self.weight * entropy(self.logits(z).softmax(-1).mean(0))}


without_revival = partial(CosineQuantiser, dead=0.0)

# --- how A compares and what it sees -----------------------------------------------------------------------------


class Difference(nn.Module):
    """psi_{t+1} - psi_t, as in CADDY."""

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """(B, P) each -> (B, P)."""
        return after - before


class ColourAction(LeanAction):
    """A sees colours, as published."""

    def seen(self, layers: Tensor) -> Tensor:
        """All of it."""
        return layers


class CentredPaperAction(PaperAction):
    """The paper's A over windows, which have moved with the agent already."""

    def aligned(self, layers: Tensor, shifts: Tensor) -> Tensor:
        """Frames t as they are."""
        return layers[:, :-1].flatten(0, 1)


def plain_directions(config: GlassConfig) -> LeanAction:
    """A over plain differences."""
    return LeanAction(config, chain=Difference())


def plain_paper_directions(config: GlassConfig) -> PaperAction:
    """The paper's A over plain differences."""
    return PaperAction(config, chain=Difference())


# --- what the RNN and D get of actions -----------------------------------------------------------------------------


class UnmodulatedConv(ModulatedConv):
    """Every input channel counts alike, whatever the action."""

    def scale(self, embedding: Tensor) -> Tensor:
        """Ones."""
        return torch.ones_like(self.style(embedding))


class PlainNorm(nn.Module):
    """Normalise, then LeakyReLU: deaf to the action."""

    def __init__(self, channels: int, embedding: int, norm: str = "group"):
        super().__init__()
        self.norm = normaliser(norm, channels)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """The same shape as x."""
        return F.leaky_relu(self.norm(x).to(x.dtype), SLOPE)


class SeparateInput(LeanDynamics):
    """The first block gets the shift, the others the code, as published."""

    def action_inputs(self, move: Tensor, local: Tensor) -> tuple[Tensor, Tensor]:
        """The other embedding is zero."""
        return torch.cat([move, torch.zeros_like(local)], 1), torch.cat([torch.zeros_like(move), local], 1)


class GatedCopy(LeanDecoder):
    """D may copy the foreground before, pixel by pixel."""

    def __init__(self, config: GlassConfig):
        super().__init__(config, outputs=5)

    def finish(self, full: Tensor, layer: Tensor, coarse: list[Tensor]) -> Drawn:
        """The last channel opens the gate."""
        drawn = drawn_from(full, coarse)
        drawn.layer = torch.lerp(drawn.layer, layer.float(), torch.sigmoid(full[:, 4:]))
        return drawn


class _Nothing(nn.Module):
    def __init__(self, *sizes: int):
        super().__init__()


class NoSkip(LeanDecoder):
    """D does not see E's finer features."""

    def __init__(self, config: GlassConfig):
        super().__init__(config, conv=_Nothing, norm=_Nothing)

    def join(self, y: Tensor, half: Tensor, actions: Tensor) -> Tensor:
        """D's own features."""
        return y


unmodulated_dynamics = partial(LeanDynamics, conv=UnmodulatedConv, norm=PlainNorm)
unmodulated_decoder = partial(LeanDecoder, conv=UnmodulatedConv, norm=PlainNorm)

# --- shifts ------------------------------------------------------------------------------------------------------


def regressor_foreground(config: GlassConfig) -> RegressorShift:
    """P_f of Fig. 9."""
    return RegressorShift(config.foreground_range)


def regressor_background(config: GlassConfig) -> RegressorShift:
    """P_b of Fig. 9."""
    return RegressorShift(config.background_range)
