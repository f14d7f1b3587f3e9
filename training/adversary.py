"""An adversary: a critic that tells drawn layers from real ones, so that the generator must choose between two poses.

Squared error answers two possible next poses with their mean; no real layer looks like that, and the critic learns to
say so. Inference stays as it is: the critic is thrown away after training.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm


class Critic(nn.Module):
    """Layers (B, 4, s, s) -> a table of scores (B, 1, s/8, s/8), each over a patch of 30 px: real is positive.

    Spectrally normalised convolutions (Miyato et al. 2018); patches, as in pix2pix (Isola et al. 2017).

    Args:
        width: channels of the first convolution.
    """

    def __init__(self, width: int = 32):
        super().__init__()
        widths = (4, width, 2 * width, 4 * width)
        steps: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            steps += [spectral_norm(nn.Conv2d(inputs, outputs, 4, stride=2, padding=1)), nn.LeakyReLU(0.2)]
        self.net = nn.Sequential(*steps, spectral_norm(nn.Conv2d(widths[-1], 1, 3, padding=1)))

    def forward(self, layers: Tensor) -> Tensor:
        """Scores."""
        return self.net(layers.contiguous(memory_format=torch.channels_last)).float()


class Adversary:
    """A critic and its optimiser; hinge losses (Lim & Ye 2017).

    Args:
        device: of the critic.
        rate: of its Adam.
        width: of the critic.
    """

    def __init__(self, device: torch.device, rate: float = 4e-4, width: int = 32):
        self.critic = Critic(width).to(device, memory_format=torch.channels_last)
        self.optimiser = torch.optim.Adam(self.critic.parameters(), lr=rate, betas=(0.0, 0.9))

    def update(self, real: Tensor, drawn: Tensor) -> dict[str, float]:
        """One step of the critic on layers (B, 4, s, s) and (C, 4, s, s), neither with a gradient.

        Returns:
            mean scores of both.
        """
        self.critic.train().requires_grad_(True)
        on_real = self.critic(real)
        on_drawn = self.critic(drawn)
        loss = F.relu(1 - on_real).mean() + F.relu(1 + on_drawn).mean()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        self.critic.eval().requires_grad_(False)
        return {"real": float(on_real.detach().mean()), "drawn": float(on_drawn.detach().mean())}

    def loss(self, drawn: Tensor) -> Tensor:
        """What the generator pays for drawn layers (B, 4, s, s)."""
        return -self.critic(drawn).mean()

    def state_dict(self) -> dict[str, Any]:
        """Critic and optimiser, for a checkpoint."""
        return {"critic": self.critic.state_dict(), "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self.critic.load_state_dict(state["critic"])
        self.optimiser.load_state_dict(state["optimiser"])


def balance(wanted: Tensor, other: Tensor, at: nn.Parameter) -> Tensor:
    """The weight that gives a loss as strong a gradient at a parameter as another has (Esser et al. 2021, eq. 7).

    Args:
        wanted: the loss that rules, a scalar.
        other: the loss to weigh, a scalar.
        at: of the last layer of the generator.

    Returns:
        a scalar without gradient, at most 1e4.
    """
    (rule,) = torch.autograd.grad(wanted, at, retain_graph=True)
    (weigh,) = torch.autograd.grad(other, at, retain_graph=True)
    return (rule.float().norm() / weigh.float().norm().clamp_min(1e-6)).clamp(0, 1e4).detach()
