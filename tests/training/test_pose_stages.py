"""The pose and the LMA stage of the pose model: a codebook of poses, and local actions that tell which comes next."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from glass_gym.model.glass import Glass, build_gma, build_lma
from glass_gym.model.pose_model import POSE_CHANNELS
from glass_gym.simulator.simulator import Simulator
from glass_gym.worlds.checkpoint import load_world, save_world
from tests.conftest import world_of
from tests.training.bars import bar_windows, layers_of
from training.config import LmaConfig, LoopConfig, PoseConfig
from training.core import sheets
from training.core.trainer import Interrupted, Trainer
from training.lma.clusters import informative_pose_clusters, pose_clusters
from training.lma.mirror import mirror_images
from training.lma.stage import LmaStage, encode_windows, smoothed_labels
from training.poses import stage as pose_stage
from training.poses.identity import PoseTeacher, make_pose_teacher
from training.poses.stage import PoseStage
from training.windows.windows import WindowSet, sample_clips
from training.world import distil
from training.world.build import CodeStatistics, order_codes, twin_codes, with_codes

LOOP = LoopConfig(device="cpu", bf16=False)


def fast(stage):
    """A stage with three times its learning rate."""
    stage.rate *= 3
    return stage


@pytest.fixture(scope="module")
def trained(tiny_config, tmp_path_factory):
    """A model of bars that stand and lie in turns, trained for a few seconds, and its windows."""
    torch.manual_seed(0)
    config = tiny_config.replace(poses=2, codes=2, prior_channels=16)
    gma, lma = build_gma(config), build_lma(config)
    trainer = Trainer(lma, tmp_path_factory.mktemp("pose") / "lma.pt", LOOP)
    data = bar_windows(videos=4, length=12)
    trainer.run(fast(PoseStage(lma, data, PoseConfig(iterations=300, batch=16))))
    trainer.run(LmaStage(lma, data, LmaConfig(iterations=150, batch=8)))
    return Glass(gma, trainer.average).eval(), data


def trained_poses(config, data, folder, iterations, batch):
    """An LMA after a short pose stage."""
    torch.manual_seed(0)
    trainer = Trainer(build_lma(config), folder / "lma.pt", LOOP)
    trainer.run(fast(PoseStage(trainer.model, data, PoseConfig(iterations=iterations, batch=batch))))
    return trainer.average.eval()


# --- the pose stage ---


def test_the_codebook_tells_the_poses_apart_and_does_not_encode_identity(trained):
    model, data = trained
    poses = model.lma.encode_poses(layers_of(data, range(48)))
    standing, lying = poses[0::2], poses[1::2]
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


def test_the_pose_stage_leaves_the_local_actions_alone(tiny_config, tmp_path):
    torch.manual_seed(0)
    lma = build_lma(tiny_config)
    before = copy.deepcopy(lma.state_dict())
    Trainer(lma, tmp_path / "lma.pt", LOOP).run(PoseStage(lma, bar_windows(), PoseConfig(iterations=4, batch=4)))
    changed = {name.split(".")[0] for name, value in lma.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == set(lma.stages["pose"])


class ReadOff(nn.Module):
    """A Q that returns what is written into a window: a body, one of four poses, and how exactly it is taken."""

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
def test_a_pose_has_the_same_index_whoever_the_character_is(tiny_config, bodies):
    lma = build_lma(tiny_config)
    lma.pose_encoder = ReadOff()
    data, body, pose = written(bodies)
    layers = layers_of(data, range(320))
    lma.pose_codebook.begin(lma.pose_encoder(layers), torch.Generator().manual_seed(0))
    poses = lma.encode_poses(layers).numpy()
    assert all(len(set(body[poses == p])) == 1 for p in set(poses))  # k-means gives each its own
    before = lma.pose_codebook.codebook.clone()
    teacher = make_pose_teacher(lma, data, torch.Generator().manual_seed(0))
    if bodies == 1:
        assert teacher is None and torch.equal(lma.pose_codebook.codebook, before)
        return
    poses = teacher(layers).numpy()
    assert len(set(poses)) == 8
    for p in set(poses):
        assert set(body[poses == p]) == {-1, 1} and len(set(pose[poses == p])) == 1


def test_the_clips_of_one_file_show_one_character(tiny_config):
    """What lasts for a clip, such as a heading, is no identity."""
    lma = build_lma(tiny_config)
    lma.pose_encoder = ReadOff()
    data, _, _ = written(2)
    data.files = np.zeros(20, int)
    lma.pose_codebook.begin(lma.pose_encoder(layers_of(data, range(320))), torch.Generator().manual_seed(0))
    assert make_pose_teacher(lma, data, torch.Generator().manual_seed(0)) is None


@pytest.mark.parametrize("distils", [False, True])
def test_an_interrupted_pose_stage_goes_on_to_the_same_weights(tiny_config, tmp_path, monkeypatch, distils):
    config = PoseConfig(iterations=8, batch=4)
    monkeypatch.setattr(pose_stage, "DISTIL_SHARE", 0.5)
    data = bar_windows()
    if distils:  # as if there were several characters; from step 3 to 6
        monkeypatch.setattr(pose_stage, "make_pose_teacher", lambda model, *_: PoseTeacher(model))
    seen = []

    def stage():
        torch.manual_seed(0)
        return PoseStage(build_lma(tiny_config), data, config)

    whole = stage()
    Trainer(whole.model, tmp_path / "whole.pt", LOOP).run(whole, lambda s, i, terms: seen.append(set(terms)))
    assert ["distil" in terms for terms in seen] == [distils and 3 <= i < 7 for i in range(8)]
    first = stage()
    halves = Trainer(first.model, tmp_path / "halves.pt", LOOP)
    with pytest.raises(Interrupted):
        halves.run(first, lambda s, i, terms: halves._request_stop() if i == 3 else None)
    second = stage()
    resumed = Trainer(second.model, tmp_path / "halves.pt", LOOP)
    resumed.load()
    resumed.run(second)
    for a, b in zip(whole.model.state_dict().values(), second.model.state_dict().values(), strict=True):
        assert torch.allclose(a.float(), b.float(), atol=1e-5)


@pytest.mark.parametrize("uses", [False, True])
def test_d_gets_the_position_where_the_option_says_so(tiny_config, uses):
    side = tiny_config.window
    layers, poses = torch.rand(2, 4, side, side), (torch.randn(2, 32), torch.randn(2, 32))
    positions = torch.tensor([[10.0, 10.0], [30.0, 20.0]])
    lma = build_lma(tiny_config.replace(decoder_position=uses)).eval()
    inputs = (lma.encoder(layers), *poses)
    here, there = lma.decoder(*inputs, positions), lma.decoder(*inputs, positions.flip(0))
    assert torch.equal(here.layer, there.layer) != uses
    assert lma.decoder(*inputs, torch.full_like(positions, torch.nan)).layer.isfinite().all()  # an unknown position


def test_with_the_position_d_draws_what_the_edge_cuts_off(tiny_config, tmp_path):
    """A pole that hangs from the top of the frame: its window tells little, its position tells all."""
    data = bar_windows(videos=4, length=24)
    data.position[:, 1] = np.random.default_rng(0).integers(2, 12, len(data.position))
    half = data.layers.shape[-1] // 2
    for layer, (_, y) in zip(data.layers, data.position.astype(int), strict=True):
        layer[:] = np.array([128, 128, 128, 0])[:, None, None]
        layer[:, half - y :, half - 2 : half + 2] = 255
    errors = {}
    for uses in (False, True):
        lma = trained_poses(tiny_config.replace(decoder_position=uses, poses=2), data, tmp_path / str(uses), 220, 8)
        layers = layers_of(data, range(96))
        appearance, first, pose, _ = lma.start_state(layers)
        appearance, first = appearance.roll(1, 0), first.roll(1, 0)  # of another frame
        drawn = lma.decoder(appearance, first, pose, torch.from_numpy(data.position)).layer
        errors[uses] = float((drawn - layers).square().mean())
    assert errors[True] < 0.5 * errors[False]


def test_d_copies_what_it_could_never_paint(tiny_config, tmp_path):
    """Agents that wear noise, of which no two are alike: D has to fetch it from the first window."""
    data = bar_windows(videos=4, length=24)
    data.starts, data.lengths = np.arange(0, 96, 8), np.full(12, 8)
    rng = np.random.default_rng(0)
    for start, length in zip(data.starts, data.lengths, strict=True):
        worn = rng.integers(0, 256, (3, *data.layers.shape[-2:]), np.uint8)
        for layer in data.layers[start : start + length]:
            layer[:3] = np.where(layer[3:] > 127, worn, 128)
    lma = trained_poses(tiny_config.replace(poses=2), data, tmp_path, 120, 16)
    layers = layers_of(data, range(0, 96, 2))  # standing
    appearance, first, *_ = lma.start_state(layers.roll(1, 0))
    pose = lma.pose_codebook.embed(lma.encode_poses(layers))
    same = torch.arange(len(layers)) % 4 != 0  # the frame before is of the same video

    def error(appearance):
        drawn = lma.decoder(appearance, first, pose, None).layer
        return float((drawn - layers)[same].square().mean())

    painted = appearance.clone()
    painted[:, lma.decoder.features :] = 0  # no window to copy from
    assert error(appearance) < 0.5 * error(painted)


def test_the_sheet_of_poses_does_not_depend_on_the_rnn(trained):
    model, data = trained
    clips = sample_clips(data, model.config.window, 4, 6)
    before, rolled = sheets.poses_sheet(model.lma, clips), sheets.rollout_sheet(model.lma, clips)
    changed = copy.deepcopy(model.lma)
    for parameter in changed.dynamics.parameters():
        parameter.data = parameter.data.roll(1, 0)
    assert np.array_equal(sheets.poses_sheet(changed, clips), before)
    assert not np.array_equal(sheets.rollout_sheet(changed, clips), rolled)


# --- the LMA stage ---


def test_a_code_is_the_cluster_of_the_next_pose(trained):
    model, data = trained
    layers = layers_of(data, range(24)).unflatten(0, (2, 12))
    codes = model.lma.infer_codes(layers, torch.zeros(2, 11, 2))
    poses = model.lma.encode_poses(layers.flatten(0, 1)).unflatten(0, (2, 12))
    known = encode_windows(model.lma, data).numpy(), model.lma.pose_codebook.codebook.numpy()
    clusters = informative_pose_clusters(*known, data.directions(), data.starts, data.lengths, 2, 0.2)  # the stage's
    assert (codes.numpy() == clusters[poses[:, 1:].numpy()]).all() and set(clusters) == {0, 1}


def test_the_prior_knows_which_code_comes_next(trained):
    """The bar stands and lies in turns, so the pose tells the code."""
    model, data = trained
    layers = layers_of(data, range(24)).unflatten(0, (2, 12))
    codes = model.lma.infer_codes(layers, torch.zeros(2, 11, 2))
    chances = model.lma.code_prior(model.lma.start_state(layers[:, :-1].flatten(0, 1)), torch.zeros(22, 1, 2))
    assert chances[:, 0].exp().gather(1, codes.flatten()[:, None]).mean() > 0.8


def test_clusters_tell_what_pose_and_shift_leave_open():
    left, right, left_raised, right_raised = range(4)  # two strides by turns, now and then with a raised arm
    vectors = np.array([[-0.6, 0.0], [0.6, 0.0], [-0.6, 1.0], [0.6, 1.0]])
    raised = 2 * (np.random.default_rng(0).random(1000) < 0.3)
    poses = np.arange(1000) % 2 + raised
    steps = np.zeros(999, int), np.array([0]), np.array([1000])
    by_appearance = pose_clusters(poses, vectors, 2)
    assert by_appearance[left] == by_appearance[left_raised] != by_appearance[right]
    found = informative_pose_clusters(poses, vectors, *steps, 2, 0.2)
    assert found[left] == found[right] != found[left_raised] == found[right_raised]
    more = informative_pose_clusters(poses, vectors, *steps, 9, 0.2)  # than there are poses
    assert more[left] == more[right] not in (more[left_raised], more[right_raised])
    free = informative_pose_clusters(poses, vectors, *steps, 9, 0.2, stay=0.0)
    assert free[left] != free[right]  # a stride is no action of its own


def test_clusters_are_of_what_is_done_and_not_of_who_does_it():
    """Poses of one of two actions, by one of two bodies that differ more than the actions do."""
    rng = np.random.default_rng(0)
    done, by = np.arange(8) % 2, np.arange(8) // 4
    vectors = np.stack([4.0 * by, 1.0 * done, 0.1 * np.arange(8) % 0.4], 1)
    poses = []
    for video in range(40):
        doing = (rng.random(24) < 0.2).cumsum() % 2  # now and then the other action
        poses.append(4 * (video % 2) + 2 * rng.integers(0, 2, 24) + doing)
    frames = np.concatenate(poses)
    videos = np.arange(40) * 24, np.full(40, 24)
    found = informative_pose_clusters(frames, vectors, np.zeros(40 * 23, int), *videos, 2, 0.2)
    assert set(zip(found.tolist(), done.tolist(), strict=True)) in ({(0, 0), (1, 1)}, {(0, 1), (1, 0)})


def test_clusters_of_one_pose():
    steps = np.zeros(9, int), np.array([0]), np.array([10])
    assert informative_pose_clusters(np.zeros(10, int), np.ones((1, 3)), *steps, 2, 0.2).tolist() == [0]


def test_similar_poses_share_a_label_and_unseen_ones_get_none_of_it():
    vectors = torch.tensor([[0.0, 0.0], [0.1, 0.0], [1.0, 0.0], [1.1, 0.0], [0.05, 0.0]])
    seen = torch.tensor([0, 1, 2, 3, 0])
    labels = smoothed_labels(seen, vectors, 1.0)
    assert labels.sum(1).tolist() == pytest.approx([1] * 5)
    assert labels[0, 1] == pytest.approx(labels[0, 0].item() * np.exp(-0.5), rel=1e-4)  # a standard deviation away
    assert labels[0, 2] < 1e-6 and labels[:4, 4].sum() == 0
    assert torch.equal(smoothed_labels(seen, vectors, 0.0), torch.eye(5))
    assert torch.equal(smoothed_labels(seen[:1], vectors, 1.0), torch.eye(5))


def test_poses_find_their_mirror_images():
    data = bar_windows(videos=1, length=6)
    data.layers[:, 3] = 0
    middle = slice(8, 16)
    for frame, columns in enumerate(((6, 9), (11, 13), (15, 18))):  # left of the middle, in it, right of it
        data.layers[frame::3, 3, middle, slice(*columns)] = 255
        data.layers[frame::3, 3, 14:16, 6:18] = 255  # all on one foot
    poses = torch.arange(6) % 3
    assert mirror_images(poses, data, 5).tolist() == [2, 1, 0, 3, 4]  # the last two were never seen


# --- what they trained ---


def test_no_drawn_layer_is_fed_back(trained):
    model, data = trained
    layer = layers_of(data, [0])
    state, shift, code = model.lma.start_state(layer), torch.zeros(1, 2), model.lma.quantiser.codebook[:1]
    drawn, after = model.lma.animate(layer, state, shift, code)
    spoiled, same = model.lma.animate(torch.randn_like(layer), state, shift, code)
    assert torch.equal(drawn.layer, spoiled.layer) and all(torch.equal(a, b) for a, b in zip(after, same, strict=True))


def test_an_agent_seen_off_its_place_begins_where_it_is_drawn_best(trained):
    model, data = trained
    packed = data.layers_at(np.array([0]))[0]  # with a margin of 4 px
    frame = torch.zeros(1, 4, 32, 48)
    frame[0, :, 4:28, 12:36] = packed
    centre = torch.tensor([[24.0, 16.0]])
    off = model.lma.refine_position(frame[:, :3], frame[:, 3:], centre + torch.tensor([2.0, -1.0]))
    assert torch.equal(off, model.lma.refine_position(frame[:, :3], frame[:, 3:], centre))


def test_a_row_goes_on_alone_as_in_its_batch(trained):
    model, _ = trained
    simulator = Simulator(model, "cpu", "float32")
    frames = torch.randint(0, 256, (3, 32, 48, 3), dtype=torch.uint8)
    state = simulator.start(frames)
    actions = torch.tensor([[3.0, 0.0]] * 3), torch.tensor([0, 1, 0])
    whole = simulator.step(state, *actions)
    alone = simulator.step(state.rows(torch.tensor([1])), actions[0][:1], actions[1][1:2])
    assert torch.allclose(whole.layer[1], alone.layer[0], atol=1e-5)


def test_logits_of_all_codes_are_those_of_each_and_depend_on_the_position(trained):
    dynamics, lma = trained[0].lma.dynamics, trained[0].lma
    generator = torch.Generator().manual_seed(0)
    pose = lma.pose_codebook.embed(torch.tensor([0, 1, 1]))
    hidden = torch.randn(3, dynamics.width, generator=generator)
    shift, position = torch.randn(3, 2, generator=generator), torch.tensor([[8.0, 8.0], [20.0, 9.0], [torch.nan] * 2])
    codes = lma.quantiser.codebook
    together = dynamics.logits_per_action(pose, hidden, shift, codes, position)
    for k in range(len(codes)):
        alone = dynamics(pose, hidden, shift, codes[k].expand(3, -1), position)
        assert torch.allclose(together[:, k], alone, atol=1e-5) and alone.isfinite().all()
    elsewhere = dynamics.logits_per_action(pose, hidden, shift, codes, position + 4)
    assert not torch.allclose(together[0], elsewhere[0]) and torch.equal(together[2], elsewhere[2])


def test_a_code_that_draws_like_a_more_frequent_one_is_a_twin(trained):
    model, data = trained
    model = with_codes(model, [0, 1, 0])
    found = CodeStatistics(np.repeat([0, 1, 2], [5, 3, 9]), np.zeros((17, 2)), np.zeros(17), torch.empty(17, 0))
    assert twin_codes(model, data, found) == [0]
    assert sorted(order_codes(found, 3, [0])) == [1, 2]
    equal = with_codes(model, [0, 0, 0])
    equal.lma.quantiser.codebook[1:] += 1e-4 * torch.randn(2, model.config.code_channels)
    assert twin_codes(equal, data, found) == [0, 1]


# --- distillation ---


@pytest.fixture
def run(trained, tmp_path):
    """A run folder, as a training leaves it behind."""
    model, data = trained
    data.save(tmp_path / "windows-train.npz")
    save_world(tmp_path / "world.safetensors", world_of(copy.deepcopy(model)), half=False)
    return tmp_path


def test_a_narrow_decoder_learns_from_the_wide_one(trained, run, capsys):
    options = [str(run), "--channels", "8", "--distil.iterations", "200", "--distil.batch", "8", "--loop.device", "cpu"]
    assert distil.main([*options, "--loop.max-minutes", "0"]) == 3 and "--resume" in capsys.readouterr().out
    assert distil.main(options) == 1 and "add --resume" in capsys.readouterr().err
    assert distil.main([*options, "--resume"]) == 0 and "silhouettes overlap by" in capsys.readouterr().out
    wide, narrow = (load_world(run / name / "world.safetensors").model for name in (".", "distilled"))
    sizes = [sum(p.numel() for p in m.lma.decoder.parameters()) for m in (wide, narrow)]
    assert sizes[1] < sizes[0] and narrow.config == wide.config.replace(decoder_channels=8)
    for name, weight in wide.state_dict().items():
        if not name.startswith("lma.decoder."):
            torch.testing.assert_close(narrow.state_dict()[name], weight, rtol=1e-3, atol=1e-3, msg=name)
    _, data = trained
    layers = layers_of(data, range(24))
    drawn = []
    for lma in (wide.lma, narrow.lma, distil.with_decoder(wide.lma, 8)):
        appearance, first, *_ = lma.start_state(layers)
        drawn.append(lma.decoder(appearance, first, first, torch.from_numpy(data.position[:24])).layer)
    assert (drawn[1] - drawn[0]).square().mean() < 0.1 * (drawn[2] - drawn[0]).square().mean()
    assert (run / "distilled" / "distilled.png").is_file()


def test_what_cannot_be_distilled_is_named(run, tiny_paper_config, tmp_path, capsys):
    assert distil.main([str(run / "nowhere")]) == 1 and "nowhere: no such folder" in capsys.readouterr().err
    paper = Glass(build_gma(tiny_paper_config), build_lma(tiny_paper_config))
    save_world(tmp_path / "paper.safetensors", world_of(paper))
    assert distil.main([str(run), "--world", str(tmp_path / "paper.safetensors")]) == 1
    assert "a world of architecture paper; this needs pose" in capsys.readouterr().err
    (run / "windows-train.npz").unlink()
    assert distil.main([str(run)]) == 1 and "windows-train.npz: no such file" in capsys.readouterr().err
