"""The token architecture: a vocabulary of poses, and local actions that say which comes next."""

import copy

import numpy as np
import pytest
import torch
from glass_gym.model.token_glass import PoseLMA
from torch import nn
from training.stages import LmaConfig, LmaStage, PaperConfig, PaperStage, PoseConfig, PoseStage

from glass_gym.model.glass import build_glass
from glass_gym.model.pose_model import POSE_CHANNELS
from glass_gym.simulator.simulator import Simulator
from glass_gym.worlds.checkpoint import load_world, save_world
from tests.conftest import world_of
from tests.training.test_long import windows
from training.core import sheets
from training.core.trainer import LoopConfig, Trainer
from training.lma import stage as token
from training.lma.clusters import informative_pose_clusters, pose_clusters
from training.lma.mirror import mirror_images
from training.lma.stage import encode_windows, pose_similarity
from training.poses.identity import PoseTeacher, teach_poses
from training.windows.windows import WindowSet
from training.world import distil as slim


@pytest.fixture(scope="module")
def trained(tiny_config, tmp_path_factory):
    """A world of bars that stand and lie in turns, trained for a few seconds."""
    torch.manual_seed(0)
    model = build_glass(tiny_config.replace(architecture="token", poses=2, codes=2, prior_channels=16))
    assert isinstance(model, PoseLMA)
    trainer = Trainer(model, tmp_path_factory.mktemp("token"), LoopConfig(device="cpu", bf16=False))
    data = windows(videos=4, length=12)
    assert trainer.run(PoseStage(model, data, PoseConfig(iterations=300, batch=16, rate=3e-3)))
    assert trainer.run(LmaStage(model, data, LmaConfig(iterations=150, batch=8, steps=6)))
    return trainer.average.eval(), data


def trained_poses(config, data, folder, iterations, batch):
    """A model after a short pose stage."""
    torch.manual_seed(0)
    trainer = Trainer(build_glass(config), folder, LoopConfig(device="cpu", bf16=False))
    assert trainer.run(PoseStage(trainer.model, data, PoseConfig(iterations=iterations, batch=batch, rate=3e-3)))
    return trainer.average.eval()


def layers_of(data, index):
    return data.layers_at(np.array(index))[..., 4:-4, 4:-4]


def test_the_vocabulary_tells_the_poses_apart_and_not_who_it_is(trained):
    model, data = trained
    tokens = model.lma.encode_poses(layers_of(data, range(48)))
    standing, lying = tokens[0::2], tokens[1::2]
    assert len(standing.unique()) == len(lying.unique()) == 1 and standing[0] != lying[0]


def test_a_pose_is_drawn_in_the_colours_of_the_first_window(trained):
    model, data = trained
    first, other = layers_of(data, [0, 12]), layers_of(data, [1, 13])
    shifts = torch.zeros(2, 1, 2)
    truth = torch.stack([first, other], 1)
    codes = model.lma.quantiser.embed(model.lma.infer_codes(truth, shifts).flatten()).unflatten(0, (2, 1))
    drawn = model.lma.rollout(truth, shifts, codes)[0].layer
    assert (drawn - other).square().mean() < 0.3 * (first - other).square().mean()
    assert (drawn - other).square().mean() < 0.5 * (drawn - other.flip(0)).square().mean()


def test_a_code_is_the_kind_of_pose_that_comes_next(trained):
    model, data = trained
    layers = layers_of(data, range(24)).unflatten(0, (2, 12))
    codes = model.lma.infer_codes(layers, torch.zeros(2, 11, 2))
    tokens = model.lma.encode_poses(layers.flatten(0, 1)).unflatten(0, (2, 12))
    told = encode_windows(model, data).numpy(), model.lma.pose_codebook.codebook.numpy()
    kinds = informative_pose_clusters(*told, data.directions(), data.starts, data.lengths, 2)  # as the stage was told
    assert (codes.numpy() == kinds[tokens[:, 1:].numpy()]).all() and set(kinds) == {0, 1}


def test_kinds_tell_what_pose_and_shift_leave_open():
    left, right, left_raised, right_raised = range(4)  # two strides by turns, now and then with a raised arm
    vectors = np.array([[-0.6, 0.0], [0.6, 0.0], [-0.6, 1.0], [0.6, 1.0]])
    raised = 2 * (np.random.default_rng(0).random(1000) < 0.3)
    tokens = np.arange(1000) % 2 + raised
    steps = np.zeros(999, int), np.array([0]), np.array([1000])
    by_looks = pose_clusters(tokens, vectors, 2)
    assert by_looks[left] == by_looks[left_raised] != by_looks[right]
    telling = informative_pose_clusters(tokens, vectors, *steps, 2)
    assert telling[left] == telling[right] != telling[left_raised] == telling[right_raised]
    more = informative_pose_clusters(tokens, vectors, *steps, 9)  # than there are poses
    assert more[left] == more[right] not in (more[left_raised], more[right_raised])
    shy = informative_pose_clusters(tokens, vectors, *steps, 9, stay=0.0)
    assert shy[left] != shy[right]  # a stride is no action of its own


def test_kinds_are_of_what_is_done_and_not_of_who_does_it():
    """Poses of one of two actions, by one of two bodies that differ more than the actions do."""
    rng = np.random.default_rng(0)
    done, by = np.arange(8) % 2, np.arange(8) // 4
    vectors = np.stack([4.0 * by, 1.0 * done, 0.1 * np.arange(8) % 0.4], 1)
    tokens = []
    for video in range(40):
        doing = (rng.random(24) < 0.2).cumsum() % 2  # now and then the other action
        tokens.append(4 * (video % 2) + 2 * rng.integers(0, 2, 24) + doing)
    frames = np.concatenate(tokens)
    videos = np.arange(40) * 24, np.full(40, 24)
    kind = informative_pose_clusters(frames, vectors, np.zeros(40 * 23, int), *videos, 2)
    assert set(zip(kind.tolist(), done.tolist(), strict=True)) in ({(0, 0), (1, 1)}, {(0, 1), (1, 0)})


class ReadOff(nn.Module):
    """A Q that says what is written into a window: a body, one of four poses, and how exactly it is taken."""

    def forward(self, layers):
        body, pose, way = (layers[:, :3, 0, 0] * 127).round().unbind(1)
        z = torch.zeros(len(layers), POSE_CHANNELS)
        z[:, 0] = 2 * body
        z[torch.arange(len(z)), 1 + pose.long()] = 2
        z[:, 9] = way / 400
        return z


def written(bodies):
    """Windows of 20 videos of 16 frames for ReadOff, of one or two bodies; and which body and pose is in each."""
    rng = np.random.default_rng(0)
    body, pose = np.arange(320) // 16 % bodies * 2 - 1, rng.integers(0, 4, 320)
    layers = np.full((320, 4, 24, 24), 255, np.uint8)
    for channel, value in enumerate((body, pose, rng.integers(-100, 100, 320))):
        layers[:, channel] = (128 + value)[:, None, None]
    return WindowSet(layers, np.full((320, 2), 24.0), np.arange(20) * 16, [16] * 20, 32, 48), body, pose


@pytest.mark.parametrize("bodies", [1, 2])
def test_a_pose_has_the_same_names_whoever_it_is(tiny_token_config, bodies):
    model = build_glass(tiny_token_config.replace(poses=8))
    model.lma.pose_encoder = ReadOff()
    data, body, pose = written(bodies)
    layers = layers_of(data, range(320))
    model.lma.pose_codebook.begin(model.lma.pose_encoder(layers), torch.Generator().manual_seed(0))
    words = model.lma.encode_poses(layers).numpy()
    assert all(len(set(body[words == w])) == 1 for w in set(words))  # words tell who it is
    before = model.lma.pose_codebook.codebook.clone()
    namer = teach_poses(model, data, torch.Generator().manual_seed(0))
    if bodies == 1:
        assert namer is None and torch.equal(model.lma.pose_codebook.codebook, before)
        return
    names = namer(layers).numpy()
    assert len(set(names)) == 8
    for name in set(names):
        assert set(body[names == name]) == {-1, 1} and len(set(pose[names == name])) == 1


def test_kinds_of_one_pose():
    steps = np.zeros(9, int), np.array([0]), np.array([10])
    assert informative_pose_clusters(np.zeros(10, int), np.ones((1, 3)), *steps, 2).tolist() == [0]


def test_poses_that_look_alike_count_as_one_another_and_unseen_ones_as_nothing():
    vectors = torch.tensor([[0.0, 0.0], [0.1, 0.0], [1.0, 0.0], [1.1, 0.0], [0.05, 0.0]])
    seen = torch.tensor([0, 1, 2, 3, 0])
    alike = pose_similarity(seen, vectors, 1.0)
    assert alike.sum(1).tolist() == pytest.approx([1] * 5)
    assert alike[0, 1] == pytest.approx(alike[0, 0].item() * np.exp(-0.5), rel=1e-4)  # a standard deviation away
    assert alike[0, 2] < 1e-6 and alike[:4, 4].sum() == 0
    assert torch.equal(pose_similarity(seen, vectors, 0.0), torch.eye(5))
    assert torch.equal(pose_similarity(seen[:1], vectors, 1.0), torch.eye(5))


def test_nothing_that_was_drawn_is_looked_at_again(trained):
    model, data = trained
    layer = layers_of(data, [0])
    state, shift, code = model.lma.start_state(layer), torch.zeros(1, 2), model.lma.quantiser.codebook[:1]
    drawn, after = model.lma.animate(layer, state, shift, code)
    spoiled, same = model.lma.animate(torch.randn_like(layer), state, shift, code)
    assert torch.equal(drawn.layer, spoiled.layer) and torch.equal(after[3], same[3])


def test_an_agent_seen_off_its_place_begins_where_the_vocabulary_draws_it(trained):
    model, data = trained
    packed = data.layers_at(np.array([0]))[0]  # with a margin of 4 px
    frame = torch.zeros(1, 4, 32, 48)
    frame[0, :, 4:28, 12:36] = packed
    centre = torch.tensor([[24.0, 16.0]])
    off = model.lma.refine_position(frame[:, :3], frame[:, 3:], centre + torch.tensor([2.0, -1.0]))
    assert torch.equal(off, model.lma.refine_position(frame[:, :3], frame[:, 3:], centre))


def test_rows_and_a_clone_go_on_alike(trained):
    model, _ = trained
    simulator = Simulator(model, "cpu", "float32")
    frames = torch.randint(0, 256, (3, 32, 48, 3), dtype=torch.uint8)
    state = simulator.start(frames)
    ways = torch.tensor([[3.0, 0.0]] * 3), torch.tensor([0, 1, 0])
    whole = simulator.step(state, *ways)
    alone = simulator.step(state.rows(torch.tensor([1])), ways[0][:1], ways[1][1:2])
    assert torch.allclose(whole.layer[1], alone.layer[0], atol=1e-5)


def test_each_code_says_what_it_says_alone_and_places_are_heard(trained):
    model, _ = trained
    generator = torch.Generator().manual_seed(0)
    pose = model.lma.pose_codebook.embed(torch.tensor([0, 1, 1]))
    hidden = torch.randn(3, model.lma.dynamics.width, generator=generator)
    shift, place = torch.randn(3, 2, generator=generator), torch.tensor([[8.0, 8.0], [20.0, 9.0], [torch.nan] * 2])
    codes = model.lma.quantiser.codebook
    together = model.lma.dynamics.of_each(pose, hidden, shift, codes, place)
    for k in range(len(codes)):
        alone = model.lma.dynamics(pose, hidden, shift, codes[k].expand(3, -1), place)
        assert torch.allclose(together[:, k], alone, atol=1e-5) and alone.isfinite().all()
    elsewhere = model.lma.dynamics.of_each(pose, hidden, shift, codes, place + 4)
    assert not torch.allclose(together[0], elsewhere[0]) and torch.equal(together[2], elsewhere[2])


@pytest.mark.parametrize("taught", [False, True])
def test_an_interrupted_vocabulary_goes_on_to_the_same_weights(tiny_token_config, tmp_path, monkeypatch, taught):
    config = PoseConfig(iterations=8, batch=4, taught=0.5)
    loop, data = LoopConfig(device="cpu", bf16=False), windows()
    if taught:  # as if there were several characters; from step 3 to 6
        monkeypatch.setattr(token, "teach_poses", lambda model, *_: PoseTeacher(model))
    seen = []

    def stage():
        torch.manual_seed(0)
        return PoseStage(build_glass(tiny_token_config), data, config)

    whole = stage()
    assert Trainer(whole.model, tmp_path / "whole", loop).run(whole, lambda s, i, terms: seen.append(set(terms)))
    assert ["taught" in terms for terms in seen] == [taught and 3 <= i < 7 for i in range(8)]
    first = stage()
    halves = Trainer(first.model, tmp_path / "halves", loop)
    assert not halves.run(first, lambda s, i, terms: halves._request_stop() if i == 3 else None)
    second = stage()
    resumed = Trainer(second.model, tmp_path / "halves", loop)
    resumed.load()
    assert resumed.run(second)
    for a, b in zip(whole.model.state_dict().values(), second.model.state_dict().values(), strict=True):
        assert torch.allclose(a.float(), b.float(), atol=1e-5)


def test_gma_of_a_lean_run_is_taken(tiny_config, tiny_token_config, tmp_path):
    lean = Trainer(build_glass(tiny_config), tmp_path / "lean", LoopConfig(device="cpu"))
    lean.finished = ["gma"]
    lean.save("gma", 1, None)
    token = Trainer(build_glass(tiny_token_config), tmp_path / "token", LoopConfig(device="cpu"))
    token.start_from(tmp_path / "lean/state.pt")
    assert token.finished == ["gma"]
    assert torch.equal(token.model.gma.mask.net.head.weight, lean.model.gma.mask.net.head.weight)


def test_the_vocabulary_of_a_run_is_taken_when_only_the_local_actions_differ(tiny_token_config, tmp_path, capsys):
    loop = LoopConfig(device="cpu")
    old = Trainer(build_glass(tiny_token_config), tmp_path / "old", loop)
    old.finished = ["gma", "pose", "lma"]
    old.save("lma", 1, None)
    more = tiny_token_config.replace(codes=tiny_token_config.codes + 1, hole=2)  # which a run finds out on its way
    new = Trainer(build_glass(more), tmp_path / "new", loop)
    new.start_from(tmp_path / "old/state.pt")
    assert new.finished == ["gma", "pose"]
    assert torch.equal(new.model.lma.pose_codebook.codebook, old.model.lma.pose_codebook.codebook)
    assert not torch.equal(new.model.lma.dynamics.cell.weight_ih, old.model.lma.dynamics.cell.weight_ih)
    assert "only GMA and pose is taken" in capsys.readouterr().out
    larger = Trainer(build_glass(more.replace(poses=2 * more.poses)), tmp_path / "larger", loop)
    larger.start_from(tmp_path / "old/state.pt")
    assert larger.finished == ["gma"]


def test_an_agent_that_hangs_on_to_the_edge_is_drawn_by_where_it_is(tiny_token_config):
    side = tiny_token_config.window
    seen, poses = torch.rand(2, 4, side, side), (torch.randn(2, 32), torch.randn(2, 32))
    places = torch.tensor([[10.0, 10.0], [30.0, 20.0]])
    for placed in (False, True):
        torch.manual_seed(0)
        model = build_glass(tiny_token_config.replace(placed=placed)).eval()
        state = (model.lma.encoder(seen), *poses)
        here, there = model.lma.decoder(*state, places), model.lma.decoder(*state, places.flip(0))
        assert torch.equal(here.layer, there.layer) != placed
        drawn = model.lma.decoder(*state, torch.full_like(places, torch.nan)).layer  # nobody knows where
        assert drawn.isfinite().all()


def test_a_placed_vocabulary_draws_what_the_edge_cuts_off(tiny_token_config, tmp_path):
    """A pole that hangs from the top of the frame: its window tells little, where the window is tells all."""
    data = windows(videos=4, length=24)
    data.position[:, 1] = np.random.default_rng(0).integers(2, 12, len(data.position))
    half = data.layers.shape[-1] // 2
    for layer, (_, y) in zip(data.layers, data.position.astype(int), strict=True):
        layer[:] = np.array([128, 128, 128, 0])[:, None, None]
        layer[:, half - y :, half - 2 : half + 2] = 255
    errors = {}
    for placed in (False, True):
        model = trained_poses(tiny_token_config.replace(placed=placed, poses=2), data, tmp_path / str(placed), 300, 8)
        layers = layers_of(data, range(96))
        looks, first, pose, *_ = model.lma.start_state(layers)
        looks, first = looks.roll(1, 0), first.roll(1, 0)  # of another frame
        drawn = model.lma.decoder(looks, first, pose, torch.from_numpy(data.position)).layer
        errors[placed] = float((drawn - layers).square().mean())
    assert errors[True] < 0.5 * errors[False]


def test_a_decoder_that_copies_keeps_what_it_could_never_paint(tiny_token_config, tmp_path):
    """Agents that wear noise, of which no two are alike: D has to fetch it from the first window."""
    data = windows(videos=4, length=24)
    data.starts, data.lengths = np.arange(0, 96, 8), np.full(12, 8)
    rng = np.random.default_rng(0)
    for start, length in zip(data.starts, data.lengths, strict=True):
        worn = rng.integers(0, 256, (3, *data.layers.shape[-2:]), np.uint8)
        for layer in data.layers[start : start + length]:
            layer[:3] = np.where(layer[3:] > 127, worn, 128)
    errors = {}
    for copies in (False, True):
        model = trained_poses(tiny_token_config.replace(copies=copies, poses=2), data, tmp_path / str(copies), 200, 16)
        layers = layers_of(data, range(0, 96, 2))  # standing
        looks, first, pose, *_ = model.lma.start_state(layers.roll(1, 0))
        same = torch.arange(len(layers)) % 4 != 0  # the frame before is of the same video
        drawn = model.lma.draw_pose((looks, first, None, None, torch.zeros(48, 2)), pose).layer
        errors[copies] = float((drawn - layers)[same].square().mean())
    assert errors[True] < 0.5 * errors[False]


def test_the_sheet_of_poses_knows_nothing_of_what_comes_next(trained):
    model, data = trained
    batch = PaperStage(model, data, PaperConfig()).clips(np.random.default_rng(0), 4)
    before, rolled = sheets.poses_sheet(model, batch), sheets.rollout_sheet(model, batch, True)
    changed = copy.deepcopy(model)
    for parameter in changed.dynamics.parameters():
        parameter.data = parameter.data.roll(1, 0)
    assert np.array_equal(sheets.poses_sheet(changed, batch), before)
    assert not np.array_equal(sheets.rollout_sheet(changed, batch, True), rolled)


def test_poses_find_their_mirror_images():
    data = windows(videos=1, length=6)
    data.layers[:, 3] = 0
    middle = slice(8, 16)
    for frame, columns in enumerate(((6, 9), (11, 13), (15, 18))):  # left of the middle, in it, right of it
        data.layers[frame::3, 3, middle, slice(*columns)] = 255
        data.layers[frame::3, 3, 14:16, 6:18] = 255  # all on one foot
    tokens = torch.arange(6) % 3
    assert mirror_images(tokens, data, 5).tolist() == [2, 1, 0, 3, 4]  # the last two were never seen


@pytest.fixture
def run(trained, tmp_path):
    """A run folder, as a training leaves it behind."""
    model, data = trained
    data.save(tmp_path / "windows-train.npz")
    save_world(tmp_path / "world.safetensors", world_of(copy.deepcopy(model)), half=False)
    return tmp_path


def test_a_narrow_decoder_learns_from_the_wide_one(trained, run, capsys):
    options = [str(run), "--channels", "8", "--slim.iterations", "200", "--slim.batch", "8", "--loop.device", "cpu"]
    assert slim.main([*options, "--loop.max-minutes", "0"]) == 3 and "--resume" in capsys.readouterr().out
    assert slim.main(options) == 1 and "add --resume" in capsys.readouterr().err
    assert slim.main([*options, "--resume"]) == 0 and "silhouettes overlap by" in capsys.readouterr().out
    wide, narrow = (load_world(run / name / "world.safetensors").model for name in (".", "slim"))
    sizes = [sum(p.numel() for p in m.decoder.parameters()) for m in (wide, narrow)]
    assert sizes[1] < sizes[0] and narrow.config == wide.config.replace(decoder_channels=8)
    for name, weight in wide.state_dict().items():
        if not name.startswith("decoder."):
            torch.testing.assert_close(narrow.state_dict()[name], weight, rtol=1e-3, atol=1e-3, msg=name)
    _, data = trained
    layers = layers_of(data, range(24))
    drawn = []
    for model in (wide, narrow, slim.narrowed(wide, 8)):
        state = model.lma.start_state(layers, torch.from_numpy(data.position[:24]))
        drawn.append(model.lma.draw_pose(state, state[1]).layer)
    assert (drawn[1] - drawn[0]).square().mean() < 0.1 * (drawn[2] - drawn[0]).square().mean()
    assert (run / "slim" / "slim.png").is_file()


def test_what_cannot_be_made_faster_is_named(run, tiny_model, tmp_path, capsys):
    assert slim.main([str(run / "nowhere")]) == 1 and "nowhere: no such folder" in capsys.readouterr().err
    save_world(tmp_path / "lean.safetensors", world_of(tiny_model))
    assert slim.main([str(run), "--world", str(tmp_path / "lean.safetensors")]) == 1
    assert "a world of preset lean" in capsys.readouterr().err
    (run / "windows-train.npz").unlink()
    assert slim.main([str(run)]) == 1 and "windows-train.npz: no such file" in capsys.readouterr().err
