"""Parts that only ablation rows use."""

import math

import pytest
import torch
from glass_gym.networks.lean import LeanDynamics

from benchmarks.ablations.parts import EntropyBonus, GatedCopy, GumbelQuantiser, SeparateInput
from glass_gym.model.config import GlassConfig
from glass_gym.model.glass import build_glass


def test_the_entropy_of_the_codes_use_is_highest_if_all_are_used_alike_and_draws_vectors_apart():
    quantiser = EntropyBonus(GlassConfig.lean(codes=2), weight=1.0)
    quantiser.codebook.copy_(quantiser.normalise(torch.eye(2, 16)))
    alike, one = torch.eye(2, 16).repeat(8, 1), torch.eye(2, 16)[:1].repeat(16, 1)

    def used(z):
        return -float(quantiser.auxiliary_losses(z, quantiser(z), 0.0)["entropy"])

    assert used(alike) == pytest.approx(math.log(2))
    assert used(one) < 0.1
    vectors = one.requires_grad_()
    (-quantiser.auxiliary_losses(vectors, quantiser(vectors), 0.0)["entropy"]).backward()
    assert (vectors.grad[:, 1] > 0).all()  # towards the code that nobody uses


def test_an_open_gate_copies_the_foreground_before_and_a_closed_one_does_not(tiny_config):
    model = build_glass(tiny_config, decoder=GatedCopy).eval()
    layer = torch.rand(1, 4, 16, 16)
    state = model.lma.start_state(layer)
    head = model.lma.decoder.head_full
    torch.nn.init.zeros_(head.weight)
    for bias, copied in ((30.0, True), (-30.0, False)):
        torch.nn.init.zeros_(head.bias)
        head.bias.data[16:] = bias
        drawn, _ = model.lma.animate(layer, state, torch.zeros(1, 2), torch.zeros(1, tiny_config.code_channels))
        assert torch.allclose(drawn.layer, layer, atol=1e-5) == copied


def test_with_separate_inputs_the_code_does_not_reach_the_first_blocks(tiny_config):
    for dynamics, reaches in ((LeanDynamics, True), (SeparateInput, False)):
        torch.manual_seed(0)
        model = build_glass(tiny_config, dynamics=dynamics).eval()
        states = []
        for code in (-1.0, 1.0):
            vector = torch.full((1, tiny_config.code_channels), code)
            model.lma.dynamics.map.weight.data.zero_()  # the map is heard before the blocks
            _, state = model.lma.animate(
                torch.ones(1, 4, 16, 16), model.lma.start_state(torch.ones(1, 4, 16, 16)), torch.ones(1, 2), vector
            )
            states.append(state[0])  # of block 2
        assert torch.equal(*states) != reaches


def test_soft_gumbel_actions_are_sure_in_evaluation_and_random_in_training(tiny_config):
    torch.manual_seed(0)
    quantiser = GumbelQuantiser(tiny_config, variability=True)
    z = torch.randn(64, tiny_config.code_channels)
    assert not torch.equal(quantiser.train()(z).vector, quantiser(z).vector)
    quantiser.update(z, torch.Generator())
    assert quantiser.centre.abs().sum() > 0
    quantiser.eval()
    assert torch.equal(quantiser(z).vector, quantiser(z).vector)
    assert quantiser.auxiliary_losses(z, quantiser(z), 0.0)["information"].item() <= 0
    assert torch.equal(quantiser.embed(torch.tensor([1])), quantiser.codebook[1:2])
