"""Worlds of whole frames: the network moves the agent, and where it is, is read off what was drawn."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from glass_gym.model.config import GlassConfig
from glass_gym.model.glass import build_glass
from glass_gym.model.lma import Drawn
from glass_gym.simulator.simulator import Simulator
from tests.conftest import world_of


class Red(torch.nn.Module):
    """M: what is red is the agent."""

    def forward(self, frames):
        return (frames[:, :1] > 0.5).float() * (frames[:, 1:2] < 0)


class Mover(torch.nn.Module):
    """D: the foreground before, moved by the shift that the RNN got."""

    def __init__(self, lma):
        super().__init__()
        self.layer = self.shift = None
        lma.encoder.register_forward_pre_hook(lambda _, arguments: setattr(self, "layer", arguments[0]))
        lma.dynamics.register_forward_pre_hook(lambda _, arguments: setattr(self, "shift", arguments[2] * 4))

    def forward(self, x):
        pairs = zip(self.layer, self.shift.round().long(), strict=True)
        moved = torch.stack([one.roll((int(dy), int(dx)), (1, 2)) for one, (dx, dy) in pairs])
        return Drawn(moved, moved[:, :3], moved[:, 3:], [])


class Nothing(torch.nn.Module):
    """D: an empty frame."""

    def forward(self, x):
        layer = torch.zeros(len(x), 4, 32, 48)
        return Drawn(layer, layer[:, :3], layer[:, 3:], [])


@pytest.fixture
def world(tiny_paper_config):
    torch.manual_seed(0)
    model = build_glass(tiny_paper_config)
    model.gma.mask = Red()
    model.lma.decoder = Mover(model.lma)
    made = world_of(model.eval())
    made.start_frames[:] = (30, 120, 40)
    made.start_frames[:, 10:16, 20:26] = (250, 20, 20)  # a red block about (22.5, 12.5)
    return made


def test_the_agent_is_where_it_is_drawn(world):
    env = gym.make("Glass-v0", checkpoint=world, task=None)
    _, info = env.reset(seed=0)
    assert info["agent_position"].tolist() == [22.5, 12.5]
    frame, *_, info = env.step(np.array([1, 0]))  # 3 px to the right
    assert info["agent_position"].tolist() == [25.5, 12.5] and info["agent_present"]
    red = np.argwhere((frame[..., 0] > 200) & (frame[..., 1] < 60))
    assert (red.min(0).tolist(), red.max(0).tolist()) == ([10, 23], [15, 28])


def test_a_shift_out_of_the_frame_is_cut_short_before_the_network_hears_it(world):
    envs = gym.make_vec("Glass-v0", num_envs=2, checkpoint=world, task=None, max_episode_steps=None)
    envs.reset(seed=0)
    for _ in range(12):
        _, _, _, _, infos = envs.step(np.array([[1, 0], [5, 0]]))
    x = infos["agent_position"][:, 0]
    assert x[0] <= 48 - 5 and x[1] >= 5 and x[0] > 40 and x[1] < 8  # no nearer to the edge than the agent's half size


def test_an_agent_that_was_not_drawn_is_where_it_should_have_gone(world):
    world.model.lma.decoder = Nothing()
    simulator = Simulator(world.model, "cpu")
    start = simulator.start(torch.from_numpy(world.start_frames[:1]))
    after = simulator.step(start, torch.tensor([[3.0, -2.0]]), torch.tensor([0]))
    assert after.position.tolist() == [[25.5, 10.5]] and simulator.agent_present(after).tolist() == [False]


def test_agents_are_carried_without_a_step(world):
    simulator = Simulator(world.model, "cpu")
    start = simulator.start(torch.from_numpy(world.start_frames[:1]))
    there = simulator.place(start, torch.tensor([[30.5, 20.5]]))
    assert torch.allclose(there.layer[0, 3, 18:24, 28:34], torch.ones(6, 6)) and there.layer[0, 3].sum() == 36


def test_the_mask_outside_the_agents_window_is_left_out(world):
    world.start_frames[:, 28:30, 44:46] = (250, 20, 20)  # something else that is red, far away
    simulator = Simulator(world.model, "cpu")
    assert simulator.start(torch.from_numpy(world.start_frames[:1])).mass.tolist() == [36]


def test_rows_of_full_size_do_not_depend_on_how_many_there_are():
    torch.manual_seed(0)
    model = build_glass(GlassConfig.paper(96, 128, window=64, agent_radius=24, mask_channels=8))
    simulator = Simulator(model, "cpu", "bfloat16")
    three = simulator.start(torch.randint(0, 255, (3, 96, 128, 3)).byte())
    one = three.rows([1])
    shift = torch.tensor([[3.0, 1.0]])
    for _ in range(2):
        three = simulator.step(three, shift.expand(3, 2), torch.tensor([0, 1, 2]))
        one = simulator.step(one, shift, torch.tensor([1]))
    assert (simulator.frames(three)[1].int() - simulator.frames(one)[0].int()).abs().max() <= 2
