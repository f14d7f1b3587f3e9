"""The prior over local actions and its users."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from glass_gym.env.window import Event
from glass_gym.model.glass import build_glass
from glass_gym.play.player import Player
from glass_gym.worlds.checkpoint import load_world, save_world
from glass_gym.wrappers import AutoLocalAction
from glass_gym.wrappers.vector import AutoLocalAction as VectorAutoLocalAction
from tests.conftest import world_of


@pytest.fixture
def world(tiny_config):
    """A world with an untrained prior."""
    torch.manual_seed(0)
    return world_of(build_glass(tiny_config.replace(prior_channels=8)).eval())


class RightMeansTurn(torch.nn.Module):
    """Code 2 for every shift to the right, else code 1 three times out of four and code 0 once."""

    def forward(self, *known):
        shift = known[-1]
        right = (shift[..., :1] > 0).float()
        sure, split = torch.tensor([1e-9, 1e-9, 1.0]), torch.tensor([0.25, 0.75, 1e-9])
        return (right * sure + (1 - right) * split).log()


def test_probabilities_are_given_for_every_shift_of_every_row(world):
    env = gym.make("Glass-v0", checkpoint=world)
    env.reset(seed=0)
    chances = env.unwrapped.code_prior()
    assert chances.shape == (9, 3) and np.allclose(chances.sum(1), 1, atol=1e-5) and chances.min() >= 0
    envs = gym.make_vec("Glass-v0", num_envs=4, checkpoint=world)
    envs.reset(seed=0)
    assert envs.unwrapped.code_prior().shape == (4, 9, 3)
    env.step(np.array([1, 0]))
    assert not np.allclose(env.unwrapped.code_prior(), chances)  # it looks at the state


def test_the_local_action_is_drawn_from_the_prior(world):
    world.model.lma.prior = RightMeansTurn()
    envs = VectorAutoLocalAction(gym.make_vec("Glass-v0", num_envs=64, checkpoint=world, max_episode_steps=None))
    assert envs.single_action_space == gym.spaces.Discrete(9)
    envs.reset(seed=0)
    seen = []
    for _ in range(20):
        seen.append(envs.actions(np.zeros(64, int))[:, 1])
        assert (envs.actions(np.ones(64, int)) == [1, 2]).all()
        envs.step(np.zeros(64, int))
    share = np.bincount(np.concatenate(seen), minlength=3) / (20 * 64)
    assert share[2] == 0 and abs(share[1] - 0.75) < 0.04


def test_a_row_draws_what_a_single_environment_draws(world):
    world.model.lma.prior = RightMeansTurn()
    env = AutoLocalAction(gym.make("Glass-v0", checkpoint=world))
    envs = VectorAutoLocalAction(gym.make_vec("Glass-v0", num_envs=3, checkpoint=world))
    env.reset(seed=6)
    envs.reset(seed=5)
    drawn = []
    for _ in range(8):
        pair = env.action(3)
        assert envs.actions(torch.full((3,), 3))[1].tolist() == pair.tolist()
        drawn.append(int(pair[1]))
        env.step(3)
        envs.step(np.full(3, 3))
    assert set(drawn) == {0, 1}


def test_the_wrapped_environment_obeys_the_contract(world):
    env = AutoLocalAction(gym.make("Glass-v0", checkpoint=world))
    check_env(env, skip_render_check=True)
    with pytest.raises(ValueError, match=r"must lie in 0\.\.8, got 9"):
        env.action(9)
    keys = env.get_keys_to_action()
    assert len(keys) == 8 and set(keys.values()) == set(range(1, 9))


def test_a_world_without_a_prior_says_so(any_world):
    with pytest.raises(ValueError, match="world 'tiny' has no prior over local actions; "):
        AutoLocalAction(gym.make("Glass-v0", checkpoint=any_world))
    env = gym.make("Glass-v0", checkpoint=any_world)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="no prior over local actions"):
        env.unwrapped.code_prior()
    assert env.unwrapped.core.choose_code(1) == 0  # the code that went with the shift most often


def test_the_player_lets_the_world_choose_where_no_digit_does(world):
    class Window:
        events = ()

        def poll(self):
            events, self.events = self.events, ()
            return events

        def show(self, frame, lines, page):
            pass

        def wait(self, fps):
            return fps

    world.model.lma.prior = RightMeansTurn()
    player = Player(gym.make("Glass-v0", checkpoint=world, render_mode="rgb_array", target_radius=0.01), Window())
    player.reset(seed=0)
    player.window.events = [Event("press", "right")]
    player.tick()
    assert player.last.tolist() == [1, 2]
    player.window.events = [Event("press", "0")]
    player.tick()
    assert player.last.tolist() == [1, 0]


def test_a_checkpoint_keeps_the_prior(world, tmp_path):
    again = load_world(save_world(tmp_path / "w.safetensors", world, half=False))
    pairs = zip(world.model.lma.prior.parameters(), again.model.lma.prior.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    again.model.lma.prior.keep([2, 0])
    assert again.model.lma.prior.logits.weight.shape == (2, 8)
    assert torch.equal(again.model.lma.prior.logits.weight[0], world.model.lma.prior.logits.weight[2])
