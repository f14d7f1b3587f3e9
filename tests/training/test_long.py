import numpy as np
import pytest
import torch

from glass_gym.build import build_glass
from glass_gym.config import GlassConfig
from training.nearest import NearestWindows
from training.stages import LmaConfig, LongConfig, LongStage
from training.trainer import LoopConfig, Trainer
from training.windows import MARGIN, WindowSet

SIDE = 16


def windows(videos=4, length=10, seed=0):
    """A bar that stands (even frames) or lies (odd frames), of another colour in each video."""
    rng = np.random.default_rng(seed)
    side = SIDE + 2 * MARGIN
    layers = np.full((videos * length, 4, side, side), 127, np.uint8)
    layers[:, 3] = 0
    for n in range(len(layers)):
        rows, columns = (slice(8, 16), slice(10, 14)) if n % 2 == 0 else (slice(12, 16), slice(7, 17))
        layers[n, :3, rows, columns] = rng.integers(0, 256, 3)[:, None, None] if n % length == 0 else 0
        layers[n, :3, rows, columns] = (60 * (n // length), 200, 20)[0]
        layers[n, 3, rows, columns] = 255
    position = np.full((len(layers), 2), 24.0, np.float32) + rng.integers(-3, 4, (len(layers), 2))
    return WindowSet(layers, position, np.arange(videos) * length, [length] * videos, 32, 48)


@pytest.fixture
def stage(tiny_config):
    def make(**changes):
        torch.manual_seed(0)
        long = LongConfig(
            **({"iterations": 6, "agents": 8, "rows": 4, "steps": 2, "age": 32, "real_frames": 8} | changes)
        )
        return LongStage(build_glass(tiny_config), windows(), long, LmaConfig(horizons=(2, 4)))

    return make


def test_the_nearest_real_layer_of_a_real_layer_is_itself_at_distance_zero():
    real = windows()
    nearest = NearestWindows(real, SIDE)
    index = np.array([0, 1, 25])
    layers = real.layers_at(index)[..., MARGIN:-MARGIN, MARGIN:-MARGIN]
    masks, appearances, known = nearest.nearest(layers, torch.from_numpy(index))
    assert torch.equal(appearances, layers) and torch.equal(masks, layers[:, 3:]) and known.all()
    assert [float(v) for v in nearest.distances(layers, torch.from_numpy(index))] == [0.0, 0.0]


def test_a_blend_of_two_poses_is_pulled_to_one_of_them():
    real = windows()
    nearest = NearestWindows(real, SIDE)
    stands, lies = real.layers_at(np.array([0, 1]))[..., MARGIN:-MARGIN, MARGIN:-MARGIN]
    blend = (0.6 * stands + 0.4 * lies)[None].requires_grad_(True)
    sum(nearest.distances(blend, torch.tensor([0]))).backward()
    step = -blend.grad[0, 3]
    only_standing, only_lying = (stands[3] > 0) & (lies[3] == 0), (lies[3] > 0) & (stands[3] == 0)
    assert (step[only_standing] > 0).all() and (step[only_lying] < 0).all()


def test_the_appearance_counts_only_where_the_agent_was_seen_in_the_pose():
    real = windows()
    real.layers[10:20] = real.layers[10:11]  # the second video only stands
    lying = real.layers_at(np.array([1]))[..., MARGIN:-MARGIN, MARGIN:-MARGIN]
    _, _, known = NearestWindows(real, SIDE).nearest(lying.repeat(2, 1, 1, 1), torch.tensor([1, 10]))
    assert known.tolist() == [True, False]


def test_agents_live_on_grow_older_and_start_anew_at_their_limit(stage):
    long = stage()
    generator = torch.Generator().manual_seed(0)
    ages = []
    for iteration in range(6):
        long.prepare(iteration, generator)
        batch = long.sampler.batch(np.random.default_rng(iteration), iteration)
        terms = long.losses(batch, iteration, generator)
        assert {"rec_u", "silhouette", "appearance", "action_consistency"} <= set(terms)
        assert all(torch.isfinite(term) for term in terms.values())
        ages.append(int(long.agent_buffer["age"].max()))
        assert (long.agent_buffer["limit"] <= long.age_limit(iteration)).all()
    assert ages[0] == 2 and max(ages) >= 4
    long.agent_buffer["age"][:] = 1000
    long.prepare(5, generator)
    assert (long.agent_buffer["age"] == 0).all()


def test_the_age_limit_doubles_to_its_end(stage):
    long = stage(iterations=100, first_age=8, age=64)
    assert [long.age_limit(i) for i in (0, 24, 25, 50, 75, 99)] == [8, 8, 16, 32, 64, 64]


def test_the_long_stage_trains_what_draws_and_leaves_the_codes_alone(stage, tmp_path):
    long = stage(iterations=3)
    before = {k: v.clone() for k, v in long.model.state_dict().items()}
    assert Trainer(long.model, tmp_path, LoopConfig(device="cpu", bf16=False)).run(long)
    changed = {k.split(".")[0] for k, v in long.model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"compressor", "dynamics", "decoder"}


def test_the_agents_survive_an_interruption(stage, tmp_path):
    whole = stage()
    trainer = Trainer(whole.model, tmp_path / "whole", LoopConfig(device="cpu", bf16=False))
    assert trainer.run(whole)
    first = stage()
    halves = Trainer(first.model, tmp_path / "halves", LoopConfig(device="cpu", bf16=False))
    assert not halves.run(first, lambda stage, iteration, terms: halves._request_stop() if iteration == 2 else None)
    second = stage()
    halves = Trainer(second.model, tmp_path / "halves", LoopConfig(device="cpu", bf16=False))
    halves.load()
    assert halves.run(second)
    pairs = zip(whole.model.state_dict().values(), second.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_whole_frames_have_no_long_stage():
    model = build_glass(GlassConfig.paper(32, 48))
    with pytest.raises(ValueError, match="agent-centred"):
        LongStage(model, windows(), LongConfig(), LmaConfig())
