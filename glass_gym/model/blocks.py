"""Building blocks of the networks. Unless stated otherwise, a block maps (B, C, H, W) -> (B, C', H', W')."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glass_gym.model.config import GlassConfig

SLOPE = 0.2


def filled(room: Tensor, fill: Callable[[Tensor], Tensor]) -> Tensor:
    """Fill an empty tensor; on the meta device nothing is computed: that would import torch's compiler, 2 seconds."""
    return room if room.is_meta else fill(room)


def normaliser(kind: str, channels: int) -> nn.Module:
    """BatchNorm (``"batch"``, the paper) or GroupNorm with 16 channels a group (``"group"``, ours)."""
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    return RowwiseGroupNorm(max(1, channels // 16), channels)


class RowwiseGroupNorm(nn.GroupNorm):
    """GroupNorm whose result for one row does not depend on the batch, in evaluation.

    On the CPU torch splits large channels-last maps over threads in a way that depends on the batch size, and sums
    round differently; in bfloat16 a generated frame then drifts by up to 5 grey levels in 100 steps. The kernel for
    contiguous maps sums each group alone, so it is used there.
    """

    SPLIT = 1024  # Maps of at least this many pixels are split: aten/src/ATen/native/cpu/group_norm_kernel.cpp.

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        if self.training or x.device.type != "cpu" or x.shape[2] * x.shape[3] < self.SPLIT:
            return super().forward(x)
        return super().forward(x.contiguous()).contiguous(memory_format=torch.channels_last)


class StagedModel(nn.Module):
    """A model of named parts, which become its attributes. It is trained in stages."""

    stages: ClassVar[dict[str, tuple[str, ...]]] = {}  # Stage -> names of the parts that it trains.

    def __init__(self, config: GlassConfig, **parts: Any):
        super().__init__()
        self.config = config
        for name, part in parts.items():
            setattr(self, name, part)

    def modules_of(self, stage: str) -> list[nn.Module]:
        """The parts that a stage (a key of :attr:`stages`) trains."""
        return [part for name in self.stages[stage] if (part := getattr(self, name)) is not None]

    def codebooks(self) -> list[Tensor]:
        """Buffers that are updated by moving averages in training, not by gradients."""
        return []


class ConvBlock(nn.Module):
    """3x3 convolution without bias -> normalisation -> LeakyReLU 0.2.

    With `up`, nearest-neighbour upsampling by 2 comes before it. With `down`, 2x2 average pooling follows the
    convolution.
    """

    def __init__(self, inputs: int, outputs: int, down: bool = False, norm: str = "batch", up: bool = False):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm = normaliser(norm, outputs)
        self.down = down
        self.up = up

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H', W')."""
        if self.up:
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        x = self.conv(x)
        if self.down:
            x = F.avg_pool2d(x, 2)
        return F.leaky_relu(self.norm(x), SLOPE)


class ResBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution where channels or size change."""

    def __init__(self, inputs: int, outputs: int, down: bool = False, norm: str = "batch"):
        super().__init__()
        self.first = ConvBlock(inputs, outputs, norm=norm)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm = normaliser(norm, outputs)
        self.shortcut = nn.Identity()
        if inputs != outputs or down:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), normaliser(norm, outputs))
        self.down = down

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H', W')."""
        y = self.second(self.first(x))
        x = self.shortcut(x)
        if self.down:
            y = F.avg_pool2d(y, 2)
            x = F.avg_pool2d(x, 2)
        return F.leaky_relu(self.norm(y) + x, SLOPE)


class ModulatedConv(nn.Module):
    """3x3 convolution whose input channels are scaled by a style (StyleGAN2's modulation and demodulation).

    The style is a linear map of an embedding. Its bias starts at one, so that a zero embedding changes nothing.
    """

    def __init__(self, inputs: int, outputs: int, embedding: int, down: bool = False):
        super().__init__()
        weight = torch.empty(outputs, inputs, 3, 3)
        self.weight = nn.Parameter(filled(weight, lambda x: torch.randn_like(x) * (1 / (inputs * 9) ** 0.5)))
        self.style = nn.Linear(embedding, inputs)
        nn.init.ones_(self.style.bias)
        self.down = down

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Inputs (B, inputs, H, W), embedding (B, S) -> (B, outputs, H, W), with `down` at half the size."""
        style = self.style(embedding)
        y = F.conv2d(x * style[:, :, None, None], self.weight.to(x.dtype), padding=1)
        energy = self.weight.float().square().sum((2, 3))  # (outputs, inputs)
        demodulate = torch.rsqrt(style.float().square() @ energy.T + 1e-6)  # (B, outputs)
        y = y * demodulate[:, :, None, None].to(y.dtype) * 1.4142
        return F.avg_pool2d(y, 2) if self.down else y


class AdaptiveNorm(nn.Module):
    """AdaIN: normalise, scale and shift every channel by a linear map of an embedding, then LeakyReLU 0.2."""

    def __init__(self, channels: int, embedding: int, norm: str = "group"):
        super().__init__()
        self.norm = normaliser(norm, channels)
        self.affine = nn.Linear(embedding, 2 * channels)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Inputs (B, channels, H, W), embedding (B, S) -> the same shape as x."""
        scale, shift = self.affine(embedding)[:, :, None, None].to(x.dtype).chunk(2, 1)
        return F.leaky_relu(self.norm(x).to(x.dtype) * (1 + scale) + shift, SLOPE)


class BilinearStep(nn.Module):
    """One map of A's chain: x -> bilinear(psi_t, x) + linear(psi_t) (App. B).

    All but the last are followed by normalisation and LeakyReLU 0.2.
    """

    def __init__(self, psi: int, inputs: int, outputs: int, last: bool, norm: str):
        super().__init__()
        weight = torch.empty(outputs, psi, inputs)
        self.weight = nn.Parameter(filled(weight, lambda x: x.uniform_(-1, 1) / psi**0.5))
        self.linear = nn.Linear(psi, outputs)
        self.last = last
        if not last:
            self.norm = nn.BatchNorm1d(outputs) if norm == "batch" else nn.LayerNorm(outputs)

    def forward(self, psi: Tensor, x: Tensor) -> Tensor:
        """Vectors psi (B, P) of frame t and x (B, inputs) -> (B, outputs)."""
        products = (psi[:, :, None] * x[:, None, :]).flatten(1)  # one matrix product; nn.Bilinear loops over outputs
        y = F.linear(products, self.weight.flatten(1)) + self.linear(psi)
        return y if self.last else F.leaky_relu(self.norm(y), SLOPE)


class BilinearChain(nn.ModuleList):
    """The direction of a step, d = psi^4_{t+1} - psi_t: four bilinear maps, each conditioned on psi_t (Sec. 3.2)."""

    def __init__(self, size: int, width: int, norm: str):
        widths = [size, width, width, width, size]
        super().__init__(BilinearStep(size, a, b, last=i == 3, norm=norm) for i, (a, b) in enumerate(pairwise(widths)))

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """The vectors psi_t and psi_{t+1}, both (B, size) -> d (B, size)."""
        x = after
        for link in self:
            x = link(before, x)
        return x - before


def code_mlp(inputs: int, outputs: int) -> nn.Sequential:
    """The MLP U: a direction (B, inputs) -> the vector that is quantised (B, outputs) (Sec. 3.2)."""
    return nn.Sequential(
        nn.Linear(inputs, 128), nn.LeakyReLU(SLOPE), nn.Linear(128, 64), nn.LeakyReLU(SLOPE), nn.Linear(64, outputs)
    )


class ConvLSTM(nn.Module):
    """Convolutional LSTM cell with an explicit state (h, c), each (B, hidden, H, W).

    The initial state is learned and spatially constant, so that a network fits every frame size.
    """

    def __init__(self, inputs: int, hidden: int):
        super().__init__()
        self.gates = nn.Conv2d(inputs + hidden, 4 * hidden, 3, padding=1)
        self.initial = nn.Parameter(torch.zeros(2, hidden))
        self.hidden = hidden

    def start(self, batch: int, height: int, width: int) -> Tensor:
        """The initial state (B, 2, hidden, H, W)."""
        return self.initial[None, :, :, None, None].expand(batch, -1, -1, height, width)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Input x (B, inputs, H, W) and state (B, 2, hidden, H, W) -> h (B, hidden, H, W) and the next state."""
        h, c = state.unbind(1)
        i, f, o, g = self.gates(torch.cat([x, h.to(x.dtype)], 1)).float().chunk(4, 1)
        c = torch.sigmoid(f + 1) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return h, torch.stack([h, c], 1)


class HalfResolutionUNet(nn.Module):
    """A three-level U-Net between pixel-unshuffle 2 and pixel-shuffle 2: no convolution runs at full resolution.

    H and W must be multiples of 8.
    """

    def __init__(self, inputs: int, outputs: int, width: int = 32, norm: str = "batch"):
        super().__init__()
        a, b, c = width, 2 * width, 4 * width
        self.stem = ConvBlock(4 * inputs, a, norm=norm)
        self.down1 = ConvBlock(a, b, down=True, norm=norm)
        self.mid1 = ConvBlock(b, b, norm=norm)
        self.down2 = ConvBlock(b, c, down=True, norm=norm)
        self.mid2 = ConvBlock(c, c, norm=norm)
        self.up1 = ConvBlock(c, b, up=True, norm=norm)
        self.join1 = ConvBlock(2 * b, b, norm=norm)
        self.up2 = ConvBlock(b, a, up=True, norm=norm)
        self.join2 = ConvBlock(2 * a, a, norm=norm)
        self.head = nn.Conv2d(a, 4 * outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W)."""
        x0 = self.stem(F.pixel_unshuffle(x, 2))  # (B, a, H/2, W/2)
        x1 = self.mid1(self.down1(x0))  # (B, b, H/4, W/4)
        x2 = self.mid2(self.down2(x1))  # (B, c, H/8, W/8)
        y = self.join1(torch.cat([self.up1(x2), x1], 1))
        y = self.join2(torch.cat([self.up2(y), x0], 1))
        return F.pixel_shuffle(self.head(y), 2)
