"""VGG16 features from a weights file, for the perceptual losses and the feature distance.

The safetensors file has tensors ``conv{b}_{i}.weight`` and ``.bias``, conv1_1 to conv4_3. With the weights
of an edge detector (HED), distances are called VGG-HED; they are not LPIPS.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

LAYERS = ((1, 2), (2, 2), (3, 3), (4, 3))  # Blocks, and their numbers of convolutions.
MEAN = (122.67892, 116.66877, 104.00699)


class VggFeatures(nn.Module):
    """Images (B, 3, H, W) in [-1, 1] -> feature maps after the last convolution of each block."""

    def __init__(self, weights: dict[str, Tensor]):
        super().__init__()
        self.blocks = nn.ModuleList()
        for block, count in LAYERS:
            convs = nn.ModuleList()
            for index in range(1, count + 1):
                weight = weights[f"conv{block}_{index}.weight"].float()
                conv = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
                conv.load_state_dict({"weight": weight, "bias": weights[f"conv{block}_{index}.bias"].float()})
                convs.append(conv)
            self.blocks.append(convs)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = (images + 1) * 127.5 - self.mean
        maps = []
        for number, block in enumerate(self.blocks):
            if number:
                x = F.max_pool2d(x, 2)
            for conv in block:
                x = F.relu(conv(x))
            maps.append(x.float())
        return maps


def load_features(path: Path | None, device) -> VggFeatures | None:
    """The feature network from a weights file, on a device; None without a path.

    Raises:
        ValueError: the file is missing or has other tensors.
    """
    if path is None:
        return None
    try:
        return VggFeatures(load_file(str(path))).to(device)
    except (OSError, SafetensorError, KeyError) as error:
        raise ValueError(f"{path}: no VGG16 weights ({error}); expected safetensors conv1_1 .. conv4_3") from None
