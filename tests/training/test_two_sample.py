"""The two-sample test finds blur, and nothing where there is nothing to find."""

import torch

from training.evaluation.metrics.two_sample import accuracy


def clips(seed: int) -> torch.Tensor:
    """Layers (8, 6, 4, 24, 24) with fine stripes at random places."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.randint(0, 8, (8, 6, 1, 1, 1), generator=generator)
    stripes = ((torch.arange(24)[:, None] + places) // 2 % 2 * 2.0 - 1).expand(8, 6, 3, 24, 24)
    return torch.cat([stripes, torch.ones(8, 6, 1, 24, 24)], 2)


def test_equal_windows_cannot_be_told_apart_and_blurred_ones_can():
    real, other = clips(0), clips(1)
    assert 0.3 < accuracy(real, other) < 0.7
    with torch.inference_mode():
        assert accuracy(real, 0.5 * other) > 0.9
