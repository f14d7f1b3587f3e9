import numpy as np
import pytest
import torch

from training.evaluation.metrics.crispness import _energy, blend_share

PALETTE = np.array([(200, 0, 0), (0, 0, 200)], np.float32)


def test_the_blend_share_counts_the_agents_pixels_that_have_none_of_its_colours():
    backgrounds = np.full((2, 4, 4, 3), 100, np.uint8)
    frames = backgrounds.copy()
    frames[0, 0, :3] = (200, 0, 0)  # three pure pixels
    frames[0, 1, 0] = (150, 50, 50)  # a blend with the background, 87 from the nearest colour
    frames[0, 2, 0] = (105, 105, 105)  # differs by 15 only: no agent
    assert blend_share(frames, backgrounds, PALETTE).tolist() == [0.25, pytest.approx(np.nan, nan_ok=True)]


def test_blur_has_less_gradient_energy():
    sharp = torch.zeros(1, 4, 16, 16)
    sharp[:, 3] = 1
    sharp[:, :3, :, ::2] = 1
    blurred = torch.nn.functional.avg_pool2d(sharp, 3, 1, 1)
    blurred[:, 3] = 1
    assert _energy(blurred) < 0.6 * _energy(sharp)
