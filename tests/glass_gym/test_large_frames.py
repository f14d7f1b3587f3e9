"""Worlds whose frames are larger than what the networks see: GMA a reduced copy, LMA reduced windows."""

import gymnasium
import numpy as np
import pytest
import torch

from glass_gym.export.graphs import Segment
from glass_gym.model.config import GlassConfig
from glass_gym.model.glass import build_glass
from glass_gym.model.gma import GMA
from glass_gym.model.view import ConnectedWindow
from glass_gym.simulator.simulator import Simulator
from glass_gym.tensors.convert import to_bytes, to_images
from glass_gym.tensors.geometry import FAINT, blend_windows, enlarged, reduced, unmixed
from glass_gym.worlds.checkpoint import World, load_world, save_world

LARGE = GlassConfig.pose(
    64, 96, window=16, agent_radius=10, mask_channels=16, feature_channels=16, hidden=16, decoder_channels=16,
    psi_channels=8, bilinear_channels=8, code_channels=4, codes=3, poses=8, foreground_range=6, background_range=2,
    gma_scale=2, window_scale=2, background_plate=True,
)  # fmt: skip


@pytest.fixture
def large_model():
    torch.manual_seed(0)
    return build_glass(LARGE).eval()


@pytest.fixture
def frames():
    """Four frames, (4, 3, 64, 96) in [-1, 1]: a bright square on a dark texture."""
    generator = torch.Generator().manual_seed(1)
    out = torch.rand(4, 3, 64, 96, generator=generator) * 0.4 - 1
    out[:, :, 20:40, 30:50] = 0.8
    return out


def test_sizes_must_fit_the_reduced_frames():
    with pytest.raises(ValueError, match="multiples of 24"):
        LARGE.replace(gma_scale=3)
    with pytest.raises(ValueError, match="gma_scale and window_scale must be 1"):
        GlassConfig.paper(64, 96, window_scale=2)


def test_gma_finds_the_same_in_whole_frames_and_in_their_copies(large_model, frames):
    gma: GMA = large_model.gma
    copies = reduced(frames, 2)
    assert torch.allclose(reduced(gma.mask(frames), 2), gma.mask(copies), atol=0.1)
    whole, small = (gma.analyse_pairs(x.unflatten(0, (2, 2))) for x in (frames, copies))
    for name in ("foreground_shift", "background_shift"):
        assert torch.allclose(getattr(whole, name), 2 * getattr(small, name), atol=1)
    assert whole.composed.shape == (2, 3, 64, 96) and small.composed.shape == (2, 3, 32, 48)


def test_the_agents_centre_is_in_px_of_the_frames_given(large_model):
    mask = torch.zeros(1, 1, 64, 96)
    mask[..., 20:40, 30:50] = 1
    assert torch.allclose(large_model.gma.locate(mask), torch.tensor([[39.5, 29.5]]), atol=0.01)
    assert torch.allclose(large_model.gma.locate(reduced(mask, 2)), torch.tensor([[19.5, 14.5]]), atol=0.01)


def test_the_plate_is_copied_at_full_detail(large_model, frames):
    plate = frames[0].clone()
    plate[:, 20:40, 30:50] = -0.9
    plate[:, 25, 33] = 1.0  # a detail that the copy does not have
    large_model.gma.inpaint.set_plate(plate, torch.ones(1, 64, 96))
    hole = torch.zeros(1, 1, 64, 96)
    hole[..., 20:40, 30:50] = 1
    background = large_model.gma.inpaint_background(frames[:1], hole)[0]
    assert (background - plate).abs().max() < 0.1
    large_model.gma.inpaint.set_plate(reduced(plate[None], 2)[0], torch.ones(1, 32, 48))
    assert (large_model.gma.inpaint.plate - plate).abs().mean() < 0.1


def test_an_untrained_matting_network_finds_what_differs(large_model, frames):
    gma = large_model.gma
    gma.mask.net.head.bias.data.fill_(9.0)  # everything is the agent
    masks = gma.sharp_mask(frames)
    assert masks.max() > 0.8 and masks.shape == (4, 1, 64, 96)
    assert (masks > 0.4).float().mean() > 0.5


def test_unmixed_colours_give_the_frame_again(frames):
    background = torch.full_like(frames, -0.5)
    alpha = torch.rand(4, 1, 64, 96, generator=torch.Generator().manual_seed(2))
    agent = torch.rand(4, 3, 64, 96, generator=torch.Generator().manual_seed(3))
    mixed = agent * alpha + background * (1 - alpha)
    colours = unmixed(mixed, alpha, background)
    assert torch.allclose(colours * alpha + background * (1 - alpha), mixed, atol=1e-3)
    assert colours.abs().max() <= 1


def test_windows_are_cut_reduced_and_drawn_back_enlarged(frames):
    view = ConnectedWindow(LARGE)
    mask = torch.zeros(4, 1, 64, 96)
    mask[:, :, 20:40, 30:50] = 1
    layer = view.cut(frames, mask, torch.tensor([[40.0, 30.0]]).expand(4, 2))
    assert layer.shape == (4, 4, 16, 16)
    assert torch.equal(layer[0, 3, 3:13, 3:13], torch.ones(10, 10)) and layer[0, 3].sum() == 100
    dark = torch.zeros(4, 3, 64, 96, dtype=torch.uint8)
    drawn = view.draw(layer, dark, torch.tensor([[40.0, 30.0]]).expand(4, 2))
    seen = to_images(drawn).mean((0, 1)) > 0
    ys, xs = seen.nonzero().unbind(1)
    assert (xs.min(), xs.max(), ys.min(), ys.max()) == (30, 49, 20, 39)


@pytest.mark.parametrize("place", [(40.0, 30.0), (40.4, 30.7), (3.0, 60.5)])
def test_both_ways_of_drawing_agree(monkeypatch, place):
    """The CPU's, which crops and pastes, and the one without reading values, which a GPU takes."""
    layer = torch.rand(2, 4, 16, 16, generator=torch.Generator().manual_seed(4))
    layer[:, 3, :3] = 0
    layer[:, :3] *= layer[:, 3:]
    background = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    position = torch.tensor([place, (50.0, 20.0)])
    one = blend_windows(layer, background, position, scale=3)
    monkeypatch.setattr("glass_gym.tensors.geometry.can_read_values", lambda tensor: False)
    other = blend_windows(layer, background, position, scale=3)
    off = (one.int() - other.int()).abs()
    assert (off > 1).float().mean() < 0.02, off.max()  # edges fade over a pixel more in the one


@pytest.mark.parametrize("scale", [2, 3])
def test_a_bright_agent_on_white_stays_bright(scale):
    """Sums of bytes do not overflow, also where the window reaches out of the frame or all of it is outside."""
    mask = torch.rand(5, 1, 16, 16, generator=torch.Generator().manual_seed(5))
    white = torch.full((5, 3, 64, 96), 255, dtype=torch.uint8)
    position = torch.tensor([[40.0, 30.0], [0.0, 0.0], [96.0, 64.0], [500.0, 30.0], [40.0, -500.0]])
    assert blend_windows(mask.expand(-1, 4, -1, -1), white, position, scale=scale).min() >= 254


def test_an_empty_or_hardly_visible_layer_leaves_the_frame_as_it_is():
    background = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    layer = torch.zeros(2, 4, 16, 16)
    layer[1, 3, 0] = FAINT
    assert torch.equal(blend_windows(layer, background, torch.tensor([[40.0, 30.0]] * 2), scale=2), background)
    layer[:, 3, 4, 4] = 1
    out = blend_windows(layer, background, torch.tensor([[40.0, 30.0]] * 2), scale=2)
    ys, xs = (out != background).any(1).any(0).nonzero().unbind(1)
    assert ys.min() >= 20 and ys.max() <= 25 and xs.min() >= 30 and xs.max() <= 35


def test_an_episode_in_a_large_world(large_model, tmp_path):
    large_model.gma.mask.net.head.bias.data.fill_(9.0)
    frames = np.random.default_rng(0).integers(0, 256, (3, 64, 96, 3), dtype=np.uint8)
    world = World(large_model, frames, (4.0, 4.0), ("neutral", "swing", "turn"), 1.0, {}, {"by": "test"}, "large")
    path = save_world(tmp_path / "world.safetensors", world)
    assert load_world(path).config == LARGE
    env = gymnasium.make("Glass-v0", checkpoint=str(path))
    seen, _ = env.reset(seed=0)
    shape = seen["frame"].shape if isinstance(seen, dict) else seen.shape
    assert shape[:2] == (64, 96)
    for _ in range(3):
        env.step(env.action_space.sample())
    env.close()
    simulator = Simulator(large_model, "cpu", "float32")
    state = simulator.start(torch.from_numpy(frames))
    moved = simulator.step(state, torch.tensor([[4.0, 0.0]] * 3), torch.zeros(3, dtype=torch.long))
    assert torch.equal(moved.position, simulator.clamp(state.position + torch.tensor([4.0, 0.0]), state.position))
    assert moved.layer.shape == (3, 4, 16, 16) and simulator.frames(moved).shape == (3, 64, 96, 3)


def test_reduced_and_enlarged_are_inverse_on_flat_pictures():
    flat = torch.full((1, 3, 8, 8), 0.3)
    assert torch.allclose(enlarged(reduced(flat, 4), 4), flat) and to_bytes(flat).float().mean() == 166


def test_any_number_of_rows_can_be_exported(large_model, frames):
    graph = Segment(Simulator(large_model, "cpu", "float32"), 0)
    pictures = to_bytes(frames).permute(0, 2, 3, 1).contiguous()
    with torch.no_grad():
        torch.export.export(graph.eval(), (pictures,), dynamic_shapes=({0: torch.export.Dim("rows", min=1, max=64)},))
