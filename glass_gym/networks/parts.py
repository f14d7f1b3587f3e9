"""What the parts of a model say to each other, and the parts that both architectures have."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from glass_gym.config import GlassConfig
from glass_gym.geometry import box_mean

State = tuple[Tensor, ...]
"""The RNN's state: one tensor (B, 2, hidden, h, w) for each ConvLSTM. Explicit; nothing is kept inside modules."""


@dataclass
class Drawn:
    """One generated foreground.

    Attributes:
        layer: (B, 4, h, w), colour * mask and mask.
        colour: (B, 3, h, w) in [-1, 1], before it is masked.
        logits: (B, 1, h, w) of the mask.
        coarse: D's heads at 1/4 and 1/2, (B, 3 or 4, ...) before their tanh; empty unless asked for.
    """

    layer: Tensor
    colour: Tensor
    logits: Tensor
    coarse: list[Tensor]


def drawn_from(full: Tensor, coarse: list[Tensor]) -> Drawn:
    """D's full-size output (B, 4, h, w), float32 -> :class:`Drawn`: tanh colours under a sigmoid mask."""
    return masked(torch.tanh(full[:, :3]), full[:, 3:4], [c.float() for c in coarse])


def masked(colour: Tensor, logits: Tensor, coarse: list[Tensor]) -> Drawn:
    """Colours (B, 3, h, w) in [-1, 1] under the mask of logits (B, 1, h, w) -> :class:`Drawn`."""
    mask = torch.sigmoid(logits)
    return Drawn(torch.cat([colour * mask, mask], 1), colour, logits, coarse)


class Compressor(nn.Module):
    """C (Sec. 3.2): 1x1 convolution, F -> C channels: the RNN cannot copy what A should describe."""

    def __init__(self, config: GlassConfig):
        super().__init__()
        self.conv = nn.Conv2d(config.feature_channels, config.compressed_channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """(B, F, h, w) -> (B, C, h, w)."""
        return self.conv(features)


class MaskNet(nn.Module):
    """M (Sec. 3.1): frames -> soft masks, by a network of logits.

    Args:
        net: (B, 3, H, W) in [-1, 1] -> (B, 1, H, W) logits; its last convolution is `net.head`.
        bias: of that convolution at the start; -2 means "almost all background".
    """

    def __init__(self, net: nn.Module, bias: float = 0.0):
        super().__init__()
        self.net = net
        nn.init.constant_(net.head.bias, bias)  # type: ignore[arg-type, union-attr]

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (B, 3, H, W) in [-1, 1] -> mask (B, 1, H, W) in [0, 1], float32."""
        return torch.sigmoid(self.net(frames).float())


HOLE = -1.1
"""Value written into the background's hole before inpainting (outside the image range [-1, 1], App. B)."""


ABOUT = 15
"""So many px about a place say whether the scene there is the known one ..."""
UNLIKE, SURE = 0.15, 40.0
"""... which differs from it by less than this, of 2; how sharply that decides."""


class InpaintNet(nn.Module):
    """N: fills the hole: b^ = b + N * m with b = I * (1 - m), the hole set to -1.1 before N sees it (Sec. 3.1).

    Args:
        net: (B, 3, H, W) -> (B, 3, H, W), before its tanh.
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, frames: Tensor, masks: Tensor) -> Tensor:
        """Frames (B, 3, H, W) in [-1, 1], masks (B, 1, H, W) in [0, 1] -> backgrounds (B, 3, H, W), float32."""
        visible = frames * (1 - masks)
        filled = torch.tanh(self.net(visible + HOLE * masks).float())
        return visible.float() + filled * masks.float()


class SceneInpaintNet(InpaintNet):
    """N for footage of one scene: what has been seen behind the agent is shown, and N paints the rest (ours).

    A picture of another scene is noticed by what lies about the hole, and painted as ever.

    Args:
        net: as for :class:`InpaintNet`.
        height, width: of the frames.
    """

    scene: Tensor
    known: Tensor

    def __init__(self, net: nn.Module, height: int, width: int):
        super().__init__(net)
        self.register_buffer("scene", torch.zeros(3, height, width))
        self.register_buffer("known", torch.zeros(1, height, width))

    def show(self, scene: Tensor, known: Tensor) -> None:
        """Tell the scene (3, H, W) in [-1, 1], and where it was seen (1, H, W) in [0, 1]."""
        self.scene.copy_(scene)
        self.known.copy_(known)

    def forward(self, frames: Tensor, masks: Tensor) -> Tensor:
        """As :meth:`InpaintNet.forward`."""
        filled = super().forward(frames, masks)
        likeness = self.likeness(frames.float(), 1 - masks.float())
        share = likeness * self.known * masks.float()
        return filled + share * (self.scene - filled)

    @torch.no_grad()
    def likeness(self, frames: Tensor, visible: Tensor) -> Tensor:
        """How sure it is, place by place, (B, 1, H, W) in [0, 1], that frames show the known scene where visible."""
        off = (frames - self.scene).abs().mean(1, keepdim=True)
        # what is too far from everything visible goes by the whole frame
        unlike, seen = (box_mean(x, ABOUT) + 0.05 * x.mean((2, 3), keepdim=True) for x in (off * visible, visible))
        return torch.sigmoid((UNLIKE - unlike / seen.clamp_min(1e-6)) * SURE)
