import numpy as np
import pytest
import torch
from training.adversary import Adversary, balance
from training.stages import LongConfig, LongStage, PaperConfig

from glass_gym.model.glass import build_glass
from tests.training.test_long import windows
from training.core.trainer import LoopConfig, Trainer
from training.evaluation.metrics.crispness import _energy, blend_share

PALETTE = np.array([(200, 0, 0), (0, 0, 200)], np.float32)


def test_the_blend_share_counts_the_agents_pixels_that_wear_none_of_its_colours():
    behind = np.full((2, 4, 4, 3), 100, np.uint8)
    frames = behind.copy()
    frames[0, 0, :3] = (200, 0, 0)  # three pure pixels
    frames[0, 1, 0] = (150, 50, 50)  # a blend with the background, 87 from the nearest colour
    frames[0, 2, 0] = (105, 105, 105)  # differs by 15 only: no agent
    assert blend_share(frames, behind, PALETTE).tolist() == [0.25, pytest.approx(np.nan, nan_ok=True)]


def test_blur_has_less_gradient_energy():
    sharp = torch.zeros(1, 4, 16, 16)
    sharp[:, 3] = 1
    sharp[:, :3, :, ::2] = 1
    blurred = torch.nn.functional.avg_pool2d(sharp, 3, 1, 1)
    blurred[:, 3] = 1
    assert _energy(blurred) < 0.6 * _energy(sharp)


def test_a_critic_tells_blends_of_two_poses_from_poses():
    torch.manual_seed(0)
    real = windows().layers_at(np.arange(40))[..., 4:-4, 4:-4]
    blends = (real + real.roll(1, 0)) / 2
    adversary = Adversary(torch.device("cpu"))
    for _ in range(60):
        adversary.update(real, blends)
    assert adversary.critic(real).mean() > 0.5 > -0.5 > adversary.critic(blends).mean()
    mixed = blends[:4].clone().requires_grad_()
    adversary.loss(mixed).backward()
    nearer = blends[:4] - 0.5 * mixed.grad / mixed.grad.flatten(1).norm(dim=1)[:, None, None, None]
    assert adversary.loss(nearer) < adversary.loss(blends[:4])


def test_the_balance_makes_two_losses_equally_loud():
    at = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    weight = balance((3 * at).sum(), (0.5 * at).sum(), at)
    assert float(weight) == pytest.approx(6.0)


def test_the_critic_survives_an_interruption(tiny_config, tmp_path):
    def stage():
        torch.manual_seed(0)
        long = LongConfig(iterations=4, agents=8, rows=4, steps=2, age=32, real_frames=8, adversarial=0.5)
        return LongStage(build_glass(tiny_config), windows(), long, PaperConfig(horizons=(2, 4)))

    loop, seen = LoopConfig(device="cpu", bf16=False), []
    whole = stage()
    assert Trainer(whole.model, tmp_path / "whole", loop).run(whole, lambda s, i, terms: seen.append(terms))
    assert all(np.isfinite(terms["adversarial"]) for terms in seen)
    first = stage()
    halves = Trainer(first.model, tmp_path / "halves", loop)
    assert not halves.run(first, lambda s, i, terms: halves._request_stop() if i == 1 else None)
    second = stage()
    halves = Trainer(second.model, tmp_path / "halves", loop)
    halves.load()
    torch.manual_seed(0)
    assert halves.run(second)
    a, b = whole.adversary.critic.state_dict(), second.adversary.critic.state_dict()
    assert all(torch.allclose(a[key], b[key], atol=1e-6) for key in a)
