"""A trained model becomes a world."""

import numpy as np
import pytest
import torch

from glass_gym.model.glass import build_glass
from glass_gym.worlds.action_space import COMPASS
from tests.training.bars import PerfectMask, layers_of
from training.data.store import Store
from training.windows.windows import align_windows, track_windows
from training.world.build import CodeStatistics, build_world, order_codes, usual_codes, with_codes


@pytest.fixture
def model(tiny_model):
    tiny_model.gma.mask = PerfectMask()
    return tiny_model


@pytest.fixture
def windows(model, block_store):
    store = Store(block_store)
    return align_windows(model, track_windows(model, store, [v for v in store.videos if v.split == "train"]))


@torch.no_grad()
def test_the_masks_of_a_world_are_surer_than_squared_error_makes_them(model, block_store, windows):
    world = build_world(model, Store(block_store), windows)
    layer = layers_of(windows, range(8))
    appearance, first, pose, _ = model.lma.start_state(layer)
    position = torch.from_numpy(windows.position[:8])
    before, after = (m.lma.decoder(appearance, first, pose, position) for m in (model, world.model.eval()))
    p, surer = before.layer[:, 3:], after.layer[:, 3:]
    assert torch.allclose(surer, p**2 / (p**2 + (1 - p) ** 2), atol=1e-5) and not torch.allclose(surer, p, atol=1e-3)
    torch.testing.assert_close(before.colour, after.colour, atol=1e-4, rtol=0)


def test_the_ground_of_an_agent_that_flies_out_of_the_frame_ends_at_its_edge(model, block_store, windows):
    windows.position[:40, 1] = -3
    windows.position[40:80, 0] = 60
    _, top, right, _ = build_world(model, Store(block_store), windows).ground
    assert top == 0 and right == model.config.width


def seen(codes, change=None):
    """Statistics of codes on the spot."""
    codes = np.array(codes)
    change = np.zeros(len(codes)) if change is None else np.array(change)
    return CodeStatistics(codes, np.zeros((len(codes), 2)), change, torch.empty(len(codes), 0))


def test_codes_that_the_data_never_uses_are_left_out_of_a_world(tiny_config):
    model = build_glass(tiny_config.replace(prior_channels=8))
    order = order_codes(seen([0] * 60 + [2] * 60), 3)
    smaller = with_codes(model, order)
    assert order == [0, 2] and smaller.config.codes == 2 and model.config.codes == 3
    assert torch.equal(smaller.lma.quantiser.codebook, model.lma.quantiser.codebook[[0, 2]])
    build_glass(smaller.config).load_state_dict(smaller.state_dict())  # a whole model of its config
    assert order_codes(seen([0, 1, 2]), 3) == [0, 1, 2]
    assert order_codes(seen([0] * 995 + [1] * 5), 2) == [0, 1]  # seldom is not never
    assert order_codes(seen([0] * 999 + [1]), 2) == [0]


def test_the_neutral_code_is_the_frequent_one_under_which_the_still_agent_changes_least():
    # code 2 changes least but is rare; of the others code 1 changes least; then frequent ones first
    codes, change = [0] * 50 + [1] * 20 + [2] * 2 + [3] * 28, [5.0] * 50 + [1.0] * 20 + [0.1] * 2 + [3.0] * 28
    assert order_codes(seen(codes, change), 4) == [1, 0, 3, 2]
    moving = seen(codes, change)
    moving.shifts[50:70] = 4  # nobody stands still under code 1: nothing is known of it
    assert order_codes(moving, 4) == [3, 0, 1, 2]


def test_a_directions_usual_code_is_the_one_that_most_of_its_steps_have():
    shifts = np.repeat([[0, 0], [3, 0], [-3, 0], [0, 2]], [100, 60, 40, 10], axis=0).astype(np.float32)
    codes = np.array([1] * 100 + [2] * 31 + [0] * 29 + [2] * 15 + [1] * 13 + [0] * 12 + [1] * 10)
    statistics = CodeStatistics(codes, shifts, codes, torch.empty(len(codes), 0))
    usual = dict(zip(COMPASS, usual_codes(statistics, (3.0, 2.0), 3), strict=True))
    assert usual["stay"] == 1 and usual["right"] == 2 == usual["up-right"] == usual["down-right"]
    assert usual["left"] == 2  # though not of half of them
    assert usual["down"] == 0  # ten steps are too few
