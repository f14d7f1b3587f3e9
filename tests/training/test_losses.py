import pytest
import torch

from training.core import losses


def test_rec_j_weighs_a_pixel_by_how_much_it_moves():
    previous = torch.zeros(1, 1, 1, 2)
    target = torch.tensor([[[[1.0, 0.0]]]])
    composed = torch.tensor([[[[0.5, 0.0]]]])
    # moving pixel: error 0.5, weight 1 + 0.5 + 0.001; still pixel: error 0
    assert losses.rec_j(composed, target, previous).item() == pytest.approx(0.5 * 1.501 / 2)
    assert losses.rec_j(composed, target, previous, weighted=False).item() == pytest.approx(0.25)


def test_binary_is_largest_at_one_half():
    assert losses.binary(torch.tensor([0.0, 0.5, 1.0, 0.9])).item() == pytest.approx(0.6 / 4)


def test_size_counts_only_what_exceeds_theta_in_each_frame():
    mask = torch.zeros(2, 1, 2, 2)
    mask[0] = 1.0
    assert losses.size(mask, 0.25).item() == pytest.approx((0.75 + 0) / 2)


def test_a_mask_is_idle_where_the_background_looks_the_same():
    mask = torch.tensor([[[[1.0, 1.0, 1.0, 0.0]]]], requires_grad=True)
    image = torch.zeros(1, 3, 1, 4)
    background = torch.zeros(1, 3, 1, 4, requires_grad=True)
    seen = image.clone()
    seen[0, 1] = torch.tensor([0.0, 0.03, 0.9, 0.0])
    idle = losses.idle(mask, seen, background)
    assert idle.item() == pytest.approx((1 + 0.5) / 4)
    idle.backward()
    assert background.grad is None and mask.grad.flatten().tolist() == pytest.approx([0.25, 0.125, 0, 0.25])


def test_weighted_squared_ignores_pixels_of_weight_zero():
    predicted, target = torch.tensor([[[[1.0, 5.0]]]]), torch.zeros(1, 1, 1, 2)
    assert losses.weighted_squared(predicted, target, torch.tensor([[[[1.0, 0.0]]]])).item() == pytest.approx(1.0)


def test_l1_losses_are_means():
    assert losses.rec_f(torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)).item() == 1.0
    assert losses.rec_b(torch.full((1, 1, 2, 2), 3.0), torch.ones(1, 1, 2, 2)).item() == 2.0
