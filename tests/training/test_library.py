"""Libraries of stored windows: what is measured, what is stored, and worlds that draw from them."""

import math

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from glass_gym.model.config import GlassConfig
from glass_gym.model.glass import build_glass, build_lma
from glass_gym.model.library import off_centre, principal_axis, turn, wrapped
from glass_gym.simulator.simulator import Simulator
from glass_gym.tensors.convert import pack_layers
from glass_gym.worlds.checkpoint import CheckpointError, World, load_world, save_world
from training.config import LmaConfig
from training.lma.library_stage import LibraryStage
from training.windows.library import centred, fill_library, headings_of, likeness
from training.windows.windows import MARGIN, WindowSet

SIDE = 48


def wedges(angles: np.ndarray, tail: np.ndarray) -> torch.Tensor:
    """Layers (N, 4, s, s) of a wedge that tapers in a direction (N,) rad, with a bright spot `tail` px to its side."""
    side = SIDE + 2 * MARGIN
    at = torch.arange(side) - (side - 1) / 2
    a = torch.from_numpy(angles).float()[:, None, None]
    along = a.cos() * at + a.sin() * at[:, None]
    across = a.cos() * at[:, None] - a.sin() * at
    mask = ((along.abs() < 14) & (across.abs() < (16 - along) / 4)).float()
    spot = ((along + 6).square() + (across - torch.from_numpy(tail).float()[:, None, None]).square() < 6).float()
    colour = torch.stack([0.8 * spot, 0.4 * mask, -0.6 * mask], 1)
    return torch.cat([colour * mask[:, None], mask[:, None]], 1)


def turning(videos: int = 8, length: int = 30, upright: bool = False) -> tuple[WindowSet, np.ndarray]:
    """Windows of wedges that turn and wag; and their headings."""
    rng = np.random.default_rng(0)
    walk = [rng.uniform(-3, 3) + np.cumsum(rng.normal(0, 0.12, length)) for _ in range(videos)]
    angles = np.concatenate(walk) * (not upright)
    tail = 3 * np.sin(np.arange(videos * length) / 3)
    position = np.tile(np.linspace(60, 90, length)[:, None], (videos, 2)).round()
    starts = np.arange(videos) * length
    layers = pack_layers(wedges(angles, tail)).numpy()
    return WindowSet(layers, position, starts, np.full(videos, length), 96, 160), angles


def library_config(**changes) -> GlassConfig:
    known = {"window": SIDE, "agent_radius": 16, "codes": 4, "poses": 120, "prior_channels": 8, "drawing": "stored"}
    return GlassConfig.pose(96, 160, **known | changes)


def filled(windows: WindowSet, **changes):
    lma = build_lma(library_config(**changes))
    fill_library(lma, windows, headings_of(windows) if lma.config.heading else None)
    return lma.eval()


def test_axes_and_turns_are_clockwise():
    layers = wedges(np.array([0.0, 0.5, -1.2]), np.zeros(3))
    axis = principal_axis(layers[:, 3])
    assert torch.allclose(wrapped(2 * (axis - torch.tensor([0.0, 0.5, -1.2]))), torch.zeros(3), atol=0.05)
    turned = turn(layers, torch.tensor([0.5, 0.0, 0.0]))
    assert (turned[0] - layers[1]).abs().mean() < 0.02
    assert torch.allclose(turned[1:], layers[1:], atol=1e-4)


def test_headings_follow_the_turns():
    windows, angles = turning()
    for sign in (1, -1):  # the agents go to where they taper, or away from it
        windows.position[:] = np.cumsum(sign * 3 * np.stack([np.cos(angles), np.sin(angles)], 1), 0)
        off = wrapped(torch.from_numpy(headings_of(windows) - angles) + math.pi * (sign < 0))
        assert off.abs().max() < 0.1


def test_the_heading_is_taken_out_where_that_explains_more():
    assert likeness(turning()[0]).drawing[0] == "turned"
    upright = turning(upright=True)[0]
    assert likeness(upright).drawing[0] == "painted"  # its poses repeat, as in rendered footage
    side = -(-upright.layers.shape[-1] // 8)
    fur = np.random.default_rng(0).integers(-40, 40, (len(upright.layers), 3, side, side)).repeat(8, 2).repeat(8, 3)
    fur = fur[..., : upright.layers.shape[-1], : upright.layers.shape[-1]] * (upright.layers[:, 3:] > 127)
    upright.layers[:, :3] = (upright.layers[:, :3] + fur).clip(0, 255).astype(np.uint8)
    found = likeness(upright)
    assert 0.05 < found.nearest / found.apart < 0.8, found
    assert likeness(upright).drawing[0] == "stored"


def test_other_agents_are_not_drawn_from_stored_windows():
    windows, _ = turning(upright=True)
    rng = np.random.default_rng(0)
    for start, length in zip(windows.starts, windows.lengths, strict=True):
        colours = rng.integers(40, 216, (1, 3, windows.layers.shape[-1], 1))
        shown = windows.layers[start : start + length]
        shown[:, :3] = np.where(shown[:, 3:] > 0, colours, 128)
    assert likeness(windows).drawing[0] == "painted"


@pytest.mark.parametrize("heading", [True, False])
def test_a_window_is_drawn_as_it_was_filmed(heading):
    windows, _ = turning(upright=not heading)
    lma = filled(windows, drawing="turned" if heading else "stored", poses=240)
    layers = windows.layers_at(np.array([3, 77, 141]))[..., MARGIN:-MARGIN, MARGIN:-MARGIN]
    with torch.inference_mode():
        entry, heading_ = lma.observe(layers)
        _, hidden, *_, own, began, first = lma.start_state(layers)
        stored = lma.library.embed(entry), hidden, heading_, own + 100, began, torch.zeros_like(first)
        drawn = lma.draw(stored, None).layer
        assert torch.allclose(lma.draw(lma.start_state(layers), None).layer, layers, atol=0.01)
    assert (drawn - layers).abs().mean() < (0.01 if heading else 0.004)


def test_rows_do_not_depend_on_each_other_and_turns_add_up():
    windows, _ = turning()
    lma = filled(windows, drawing="turned")
    layers = windows.layers_at(np.array([3, 77, 141]))[..., MARGIN:-MARGIN, MARGIN:-MARGIN]
    shift, code = torch.tensor([[2.0, 0.0]] * 3), lma.quantiser.embed(torch.tensor([0, 1, 2]))
    with torch.inference_mode():
        with torch.autocast("cpu", torch.bfloat16):
            drawn, _ = lma.animate(layers, lma.start_state(layers), shift, code)
        assert drawn.layer.dtype == torch.float32
        state = lma.start_state(layers)
        _, after = lma.animate(layers, state, shift, code)
        for row in range(3):
            some = slice(row, row + 1)
            _, alone = lma.animate(layers[some], tuple(x[some] for x in state), shift[some], code[some])
            assert all(torch.allclose(a[some], b, atol=1e-5) for a, b in zip(after, alone, strict=True))
    assert after[2].shape == (3,) and not torch.equal(after[2], state[2])


def test_agents_of_other_colours_stay_themselves():
    windows, _ = turning(upright=True)
    blue = windows.layers[windows.starts[4] :]  # another agent in the second half of the videos
    blue[:, [0, 2]] = blue[:, [2, 0]]
    lma = filled(windows)
    layers = windows.layers_at(np.array([3, windows.starts[5] + 3]))[..., MARGIN:-MARGIN, MARGIN:-MARGIN]
    with torch.inference_mode():
        state = lma.start_state(layers)
        is_blue = [(lma.draw(state, None).layer[:, 2] - lma.draw(state, None).layer[:, 0]).sum((1, 2)) > 0]
        torch.nn.init.normal_(lma.dynamics.logits.weight, std=2.0)  # leaps
        for step in range(20):
            code = lma.quantiser.embed(torch.full((2,), step % 4))
            state, _ = lma.predict_pose(state, torch.zeros(2, 2), code, None)
            layer = lma.draw(state, None).layer
            is_blue.append((layer[:, 2] - layer[:, 0]).sum((1, 2)) > 0)
    assert torch.stack(is_blue).tolist() == [[False, True]] * 21


def test_the_stage_learns_poses_and_turns():
    windows, _ = turning()
    lma = build_lma(library_config(drawing="turned"))
    headings = headings_of(windows)
    fill_library(lma, windows, headings)
    stage = LibraryStage(lma, windows, LmaConfig(iterations=60, batch=8), None, headings)
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    stage.prepare(0, generator)
    optimiser = torch.optim.Adam((p for part in lma.modules_of("lma") for p in part.parameters()), 3e-3)
    losses = []
    for iteration in range(60):
        terms = stage.losses(stage.sampler.batch(rng, iteration), iteration, generator)
        optimiser.zero_grad()
        sum(terms.values()).backward()
        optimiser.step()
        losses.append(float(terms["next_pose"].detach()))
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:5])


def test_a_world_with_a_library_is_saved_and_loaded(tmp_path):
    windows, _ = turning()
    model = build_glass(library_config(drawing="turned")).eval()
    fill_library(model.lma, windows, headings_of(windows))
    frames = np.random.default_rng(0).integers(0, 256, (2, 96, 160, 3), np.uint8)
    world = World(model, frames, (2.0, 2.0), ("a", "b", "c", "d"))
    loaded = load_world(save_world(tmp_path / "w.safetensors", world, half=False))
    assert torch.equal(loaded.model.lma.library.windows, model.lma.library.windows)
    with safe_open(tmp_path / "w.safetensors", "pt") as file:
        assert file.get_tensor("deflated.lma.library.windows").nbytes < model.lma.library.windows.nbytes / 4
    simulator = Simulator(loaded.model, "cpu", "float32")
    state = simulator.start(torch.from_numpy(frames), torch.tensor([[60.0, 50.0]] * 2))
    state = simulator.step(state, torch.tensor([[2.0, 0.0]] * 2), torch.tensor([0, 3]))
    assert simulator.frames(state).shape == (2, 96, 160, 3)


def test_a_damaged_library_is_refused(tmp_path):
    windows, _ = turning()
    model = build_glass(library_config()).eval()
    fill_library(model.lma, windows, None)
    frames = np.zeros((1, 96, 160, 3), np.uint8)
    path = save_world(tmp_path / "w.safetensors", World(model, frames, (2.0, 2.0), ("a", "b", "c", "d")))
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}
    stored = next(key for key in tensors if key.endswith("library.windows"))
    save_file(tensors | {stored: tensors[stored][:-40]}, path, metadata)
    with pytest.raises(CheckpointError, match=r"w\.safetensors"):
        load_world(path)


def test_no_colour_is_brighter_than_its_mask_when_windows_are_turned():
    windows, _ = turning()
    windows.layers[:, :3] = np.where(windows.layers[:, 3:] > 0, np.where(np.arange(56) % 4 < 2, 1, 255)[:, None], 128)
    lma = filled(windows, drawing="turned")
    with torch.inference_mode():
        layers = windows.layers_at(np.arange(0, 240, 40))[..., MARGIN:-MARGIN, MARGIN:-MARGIN]
        pose, hidden, heading, *first = lma.start_state(layers)
        drawn = lma.draw((pose, hidden, heading + 0.3, *first), None).layer
    assert (drawn[:, :3].abs() <= drawn[:, 3:]).all() and drawn[:, 3:].max() <= 1


def test_sizes_of_a_library_are_checked():
    with pytest.raises(ValueError, match="painted, stored, turned"):
        library_config(drawing="drawn")
    with pytest.raises(ValueError, match="fewer poses"):
        library_config(poses=60_000, window=96)
    with pytest.raises(ValueError, match="architecture"):
        GlassConfig.paper(96, 128, drawing="stored")


def test_windows_are_centred_on_the_agent():
    windows, _ = turning()
    shifted = np.roll(windows.layers, (3, -5), (2, 3))
    moved = centred(
        WindowSet(shifted, windows.position + np.array([5.0, -3.0]), windows.starts, windows.lengths, 96, 160)
    )
    again = centred(windows)
    assert np.abs(off_centre(torch.from_numpy(moved.layers[:, 3]).float() / 255)).max() <= 0.51
    assert np.abs(moved.position - again.position).max() <= 1
    inside = moved.layers[:, :, 8:-8, 8:-8].astype(int) - again.layers[:, :, 8:-8, 8:-8]
    assert np.abs(inside).mean() < 6
