"""The cache of drawn layers and frames composed on the host: equal to the reference path, and faster."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from glass_gym.env.vector_env import GlassVectorEnv
from glass_gym.model.glass import build_glass
from glass_gym.model.lma import Drawn
from glass_gym.simulator.decoder_cache import DecoderCache, hash_rows
from glass_gym.simulator.simulator import Simulator
from glass_gym.tasks.targets import draw_rings
from glass_gym.tensors.geometry import blend_windows
from tests.conftest import world_of


class Artist:
    """An LMA whose D draws each pair of appearance and pose as one constant, and records the pairs."""

    view = SimpleNamespace(size=(2, 2))
    config = SimpleNamespace(poses=8)
    pose_codebook = SimpleNamespace(embed=lambda poses: poses)

    def __init__(self):
        self.drawn = []

    def draw(self, state, position):
        appearance, _, poses, _ = state
        self.drawn += zip(appearance.tolist(), poses.tolist(), strict=True)
        layers = ((10 * appearance + poses) / 255)[:, None, None, None].expand(-1, 4, 2, 2)
        return Drawn(layers, layers[:, :3], layers[:, 3:], [])


def fetch(cache, appearances, poses):
    """Fetch layers, check them, and return the pairs that were drawn for them."""
    cache.lma.drawn.clear()
    rows = torch.tensor(appearances)
    layers = cache.fetch(rows, torch.tensor(poses), (rows, rows, rows, rows))
    assert layers.dtype == torch.float32
    wanted = [[10 * a + b] * 4 for a, b in zip(appearances, poses, strict=True)]
    assert (layers[:, :, 1, 1] * 255).round().tolist() == wanted
    return cache.lma.drawn


@pytest.fixture
def cache(monkeypatch):
    """Room for four layers; one is drawn at once."""
    monkeypatch.setattr("glass_gym.simulator.decoder_cache.BATCH_PIXELS", 4)
    return DecoderCache(Artist(), most_bytes=4 * 4 * 4)


def test_what_was_drawn_is_not_drawn_again(cache):
    assert fetch(cache, [1, 2, 1], [3, 3, 3]) == [(1, 3), (2, 3)]
    assert fetch(cache, [2, 1], [3, 3]) == []


def test_the_oldest_go_first_and_none_that_is_asked_for_now(cache):
    fetch(cache, [1, 1, 1, 1], [0, 1, 2, 3])
    assert fetch(cache, [1, 1, 1], [0, 4, 3]) == [(1, 4)]  # takes the place of (1, 0), which this step still uses
    assert fetch(cache, [1, 1], [1, 4]) == []
    assert fetch(cache, [1], [0]) == [(1, 0)]


def test_more_rows_than_are_kept_are_drawn_all_the_same(cache):
    everyone = list(range(6))
    assert fetch(cache, everyone, everyone) == list(zip(everyone, everyone, strict=True))
    assert len(cache.slots) == cache.capacity == 4


def test_poses_that_are_needed_often_are_drawn_ahead(monkeypatch):
    monkeypatch.setattr("glass_gym.simulator.decoder_cache.BATCH_PIXELS", 3 * 4)
    cache = DecoderCache(Artist())
    fetch(cache, [1] * 6, [5, 5, 5, 6, 6, 7])
    assert fetch(cache, [2], [7]) == [(2, 7), (2, 5), (2, 6)]
    assert fetch(cache, [2, 2], [5, 6]) == []


def test_a_hash_depends_on_the_values_of_its_row_only():
    a = torch.randn(4, 3)
    a[2] = a[0]
    hashes = hash_rows(a, torch.zeros(4, 1))
    assert hashes[0] == hashes[2] and len(set(hashes.tolist())) == 3
    assert torch.equal(hashes, hash_rows(a.clone(), torch.zeros(4, 1)))


def test_a_world_plays_as_its_networks_say(tiny_config):
    torch.manual_seed(0)
    world = world_of(build_glass(tiny_config))
    fast = Simulator(world.model, "cpu", "float32")
    slow = Simulator(world.model, "cpu", "float32")
    assert isinstance(fast.lma, DecoderCache)
    slow.lma = slow.model.lma
    a, b = (s.start(torch.from_numpy(world.start_frames)) for s in (fast, slow))
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        shift = torch.randint(-3, 4, (len(a), 2), generator=generator).float()
        code = torch.randint(0, world.config.codes, (len(a),), generator=generator)
        a, b = fast.step(a, shift, code), slow.step(b, shift, code)
        assert torch.equal(a.position, b.position)
        assert all(torch.equal(x, y) for x, y in zip(a.memory[:-1], b.memory, strict=True))
        assert (a.layer - b.layer).abs().max() <= 1 / 127
        assert (fast.pictures(a).int() - slow.pictures(b).int()).abs().max() <= 1


@pytest.mark.parametrize("first", [True, False])
def test_a_simulator_made_in_inference_mode_goes_on_outside_and_the_other_way_round(tiny_config, first):
    """As evaluations use it."""
    with torch.inference_mode(first):
        simulator = Simulator(build_glass(tiny_config).eval(), "cpu")
        frames = torch.randint(0, 256, (2, tiny_config.height, tiny_config.width, 3), dtype=torch.uint8)
        state = simulator.start(frames)
    for mode in (not first, first):
        with torch.inference_mode(mode):
            for code in (0, 1, 0):
                state = simulator.step(state, torch.ones(2, 2), torch.full((2,), code))
                simulator.pictures(state)


def test_a_decoder_that_gets_the_position_has_no_cache(tiny_config):
    model = build_glass(tiny_config.replace(decoder_position=True))
    assert Simulator(model, "cpu").lma is model.lma


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("fraction", [0.0, 0.4])
def test_frames_are_composed_on_the_host_as_in_tensors(fraction, last, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(6, 1, 8, 8, generator=generator)
    windows = torch.cat([(torch.rand(6, 3, 8, 8, generator=generator) * 2 - 1) * mask, mask], 1)
    frames = torch.randint(0, 256, (6, 3, 20, 30), dtype=torch.uint8, generator=generator)
    if last:
        frames = frames.contiguous(memory_format=torch.channels_last)
    place = torch.tensor([[15, 10], [0, 0], [30, 20], [2, 19], [-9, 5], [40, 40]]) + fraction
    drawn = {}
    for host in (False, True):
        for module in ("tensors.geometry", "tasks.targets"):
            monkeypatch.setattr(f"glass_gym.{module}.can_read_values", lambda tensor, host=host: host)
        blended = blend_windows(windows, frames, place)
        drawn[host] = blended, draw_rings(blended, place, 4.0, torch.tensor([True] * 5 + [False]))
    for slow, fast in zip(drawn[False], drawn[True], strict=True):
        assert (slow.int() - fast.int()).abs().max() <= 1
        assert (slow != fast).float().mean() < 0.01
    assert torch.equal(drawn[True][0][5], frames[5])  # outside
    again = blend_windows(windows, frames, place, out=torch.zeros_like(frames))
    assert torch.equal(again, drawn[True][0])


def test_states_and_frames_that_were_handed_out_stay_as_they_are(tiny_config):
    envs = GlassVectorEnv(world_of(build_glass(tiny_config)), 3, max_episode_steps=3)
    frames, _ = envs.reset(seed=0)
    state = envs.state()
    kept = [(frames, frames.copy())] + [(x.numpy(), x.numpy().copy()) for x in state.tensors()]
    for _ in range(8):
        frames, *_ = envs.step(envs.action_space.sample())
        kept.append((frames, frames.copy()))
    assert all(np.array_equal(now, before) for now, before in kept)
