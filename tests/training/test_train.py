import math
import os
import re
import signal
import threading

import numpy as np
import pytest
import torch
from training.stages import GmaConfig, GmaStage, PaperConfig, PaperStage, PseudoLabels

from glass_gym.model.config import GlassConfig
from glass_gym.model.glass import Glass, build_glass
from glass_gym.worlds.action_space import COMPASS
from glass_gym.worlds.checkpoint import CheckpointError, load_world
from training import train
from training.core import sheets
from training.core import trainer as trainer_module
from training.core.trainer import LoopConfig, Trainer, TrainingError, read_state, schedule
from training.data.store import Store
from training.train import main
from training.windows.tracking import track
from training.windows.windows import (
    MARGIN,
    WindowSet,
    align_windows,
    cut_windows,
    pack_layers,
    track_windows,
    unpack_layers,
)
from training.world.build import CodeStatistics, build_world, order_codes, twin_codes, usual_codes, with_codes

LOOP = LoopConfig(device="cpu", bf16=False)


@pytest.fixture
def gma(tiny_config, block_store):
    def make(out, iterations=8, **loop):
        torch.manual_seed(0)
        model = build_glass(tiny_config)
        config = GmaConfig(iterations=iterations, batch=2, theta=0.04, moving_pixels=3)
        return Trainer(model, out, LoopConfig(**({"device": "cpu", "bf16": False} | loop))), GmaStage(
            model, Store(block_store), config
        )

    return make


def equal(a: Glass, b: Glass) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_interrupted_and_resumed_equals_uninterrupted(gma, tmp_path):
    whole, stage = gma(tmp_path / "whole")
    assert whole.run(stage)
    stop = int(np.random.default_rng().integers(1, 7))
    first, stage = gma(tmp_path / "parts")

    def interrupt(stage, iteration, terms):
        if iteration + 1 == stop:
            os.kill(os.getpid(), signal.SIGTERM)

    assert threading.current_thread() is threading.main_thread()
    assert not first.run(stage, interrupt)
    second, stage = gma(tmp_path / "parts")
    second.load()
    assert second.run(stage)
    assert equal(whole.model, second.model) and equal(whole.average, second.average), f"stopped after {stop}"


def test_dropout_of_a_resumed_run_is_that_of_an_uninterrupted_one(gma, tmp_path):
    drawn = []

    def run(out, stop=None):
        trainer, stage = gma(out)
        losses = stage.losses
        stage.losses = lambda *given: (drawn.append(torch.rand(1).item()), losses(*given))[1]
        if trainer.state_file.exists():
            trainer.load()
        torch.rand(int(torch.randint(5, ())))  # whatever was drawn before
        trainer.run(stage, lambda s, iteration, terms: trainer._request_stop() if iteration == stop else None)

    run(tmp_path / "whole")
    run(tmp_path / "parts", 3)
    run(tmp_path / "parts")
    assert len(set(drawn)) == 8 and drawn[:8] == drawn[8:]


def test_weights_that_no_world_can_hold_are_not_saved(gma, tmp_path):
    trainer, _ = gma(tmp_path)
    trainer.save("gma", 3, None)
    before = trainer.state_file.read_bytes()
    for bad in (2e7, math.nan, math.inf):
        with torch.no_grad():
            next(trainer.model.parameters()).fill_(bad)
        with pytest.raises(TrainingError, match=r"has grown to .*last good checkpoint: .*state\.pt.*--gma\.rate"):
            trainer.save("gma", 4, None)
    assert trainer.state_file.read_bytes() == before


def test_a_state_of_a_later_version_says_so(gma, tmp_path):
    trainer, _ = gma(tmp_path)
    trainer.save("gma", 3, None)
    state = torch.load(trainer.state_file, weights_only=True)
    for version, message in (
        (99, "version 99 is newer than"),
        ("x", "not a whole training state"),
        (None, "not a whole"),
    ):
        torch.save(state | {"version": version}, trainer.state_file)
        with pytest.raises(TrainingError, match=message):
            trainer.load()


def test_a_time_budget_stops_saved_and_resumable(gma, tmp_path):
    trainer, stage = gma(tmp_path, max_minutes=0.0)
    assert not trainer.run(stage)
    again, stage = gma(tmp_path)
    again.load()
    assert again.run(stage) and again.finished == ["gma"]


def test_a_finished_or_empty_stage_is_skipped_and_its_weights_stay(gma, tmp_path):
    trainer, stage = gma(tmp_path, iterations=0)
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    assert trainer.run(stage)
    assert all(torch.equal(v, before[k]) for k, v in trainer.model.state_dict().items())
    assert not trainer.state_file.exists()


def test_the_gma_stage_leaves_the_lma_parts_alone(gma, tmp_path):
    trainer, stage = gma(tmp_path)
    before = [p.clone() for part in trainer.model.modules_of("lma") for p in part.parameters()]
    trainer.run(stage)
    after = [p for part in trainer.model.modules_of("lma") for p in part.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(gma, tmp_path):
    trainer, stage = gma(tmp_path)
    trainer.save("gma", 3, None)
    before = trainer.state_file.read_bytes()
    stage.losses = lambda batch, iteration, generator: {"rec_f": torch.tensor(math.nan, requires_grad=True)}
    with pytest.raises(
        TrainingError, match=r"not finite at gma iteration 0.*last good checkpoint: .*state\.pt.*--gma\.rate"
    ):
        trainer.run(stage)
    assert trainer.state_file.read_bytes() == before


def test_a_full_disk_keeps_the_state_before(gma, tmp_path, monkeypatch):
    trainer, _ = gma(tmp_path)
    trainer.save("gma", 3, None)
    before = trainer.state_file.read_bytes()

    def full(state, part):
        part.write_bytes(b"x" * 10)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trainer_module.torch, "save", full)
    with pytest.raises(CheckpointError, match=r"No space left.*is kept"):
        trainer.save("gma", 4, None)
    assert trainer.state_file.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["state.pt"]


def test_resuming_nothing_or_rubbish_or_another_model_says_so(gma, tmp_path, tiny_config):
    trainer, _ = gma(tmp_path)
    with pytest.raises(TrainingError, match="nothing to resume"):
        trainer.load()
    trainer.state_file.write_bytes(b"rubbish")
    with pytest.raises(TrainingError, match="not a whole training state"):
        trainer.load()
    trainer.save("gma", 1, None)
    other = Trainer(build_glass(tiny_config.replace(codes=2)), tmp_path, LOOP)
    with pytest.raises(TrainingError, match="another model config"):
        other.load()


def test_the_rate_warms_up_and_decays_to_five_percent():
    assert schedule(0, 1000) == pytest.approx(1 / 50)
    assert schedule(100, 1000) > schedule(500, 1000) > schedule(999, 1000)
    assert schedule(1000, 1000) == pytest.approx(0.05)


class PerfectMask(torch.nn.Module):
    """Red and yellow are the agent."""

    def forward(self, frames):
        return (frames[:, :1] > 0.5).float()


def test_the_tracker_follows_a_walking_block_exactly(tiny_model, block_store):
    tiny_model.mask = PerfectMask()
    store = Store(block_store)
    for video in store.videos[:4]:
        frames = torch.from_numpy(store.frames[video.start : video.start + 20].copy()).permute(0, 3, 1, 2) / 127.5 - 1
        found = track(tiny_model, frames).position.diff(dim=0)
        true = torch.from_numpy(np.diff(store.labels["position"][video.start : video.start + 20], axis=0))
        assert torch.equal(found, true)


@pytest.fixture
def windows(tiny_model, block_store):
    tiny_model.mask = PerfectMask()
    store = Store(block_store)
    return cut_windows(tiny_model, store, [v for v in store.videos if v.split == "train"])


def test_the_lma_stage_learns_and_a_world_comes_out(tiny_config, block_store, windows, tmp_path):
    config = PaperConfig(iterations=40, frames=16, continuous=10, horizons=(2, 4), rate=2e-3)
    model = build_glass(tiny_config)
    trainer = Trainer(model, tmp_path, LOOP)
    seen = []
    assert trainer.run(PaperStage(model, windows, config), lambda s, i, terms: seen.append(terms["rec_u"]))
    assert np.mean(seen[-5:]) < 0.7 * np.mean(seen[:3])
    trainer.average.mask = PerfectMask()
    world = build_world(trainer.average, Store(block_store), windows)
    assert len(world.start_frames) >= 32 and world.code_names[0] == "neutral" and 1 <= world.step[0] <= 3


@torch.no_grad()
def test_the_masks_of_a_world_are_surer_than_squared_error_makes_them(tiny_token_config, block_store, windows):
    model = build_glass(tiny_token_config).eval()
    model.gma.mask = PerfectMask()
    world = build_world(model, Store(block_store), windows)
    layer = windows.layers_at(np.arange(8))[..., 4:-4, 4:-4]
    looks, first, pose, _, place = model.lma.start_state(layer)
    before, after = (m.decoder(looks, first, pose, place) for m in (model, world.model.eval()))
    p, surer = before.layer[:, 3:], after.layer[:, 3:]
    assert torch.allclose(surer, p**2 / (p**2 + (1 - p) ** 2), atol=1e-5) and not torch.allclose(surer, p, atol=1e-3)
    torch.testing.assert_close(before.colour, after.colour, atol=1e-4, rtol=0)


def test_the_ground_of_an_agent_that_flies_out_of_the_frame_ends_at_its_edge(tiny_token_config, block_store, windows):
    model = build_glass(tiny_token_config).eval()
    model.gma.mask = PerfectMask()
    windows.position[:40, 1] = -3
    windows.position[40:80, 0] = 60
    _, top, right, _ = build_world(model, Store(block_store), windows).ground
    assert top == 0 and right == tiny_token_config.width


@pytest.mark.parametrize("learn", [True, False])
def test_codes_stay_as_they_are_while_the_generator_learns_on(tiny_config, windows, tmp_path, learn):
    config = PaperConfig(iterations=3, frames=16, continuous=0, horizons=(4,), learn_codes=learn)
    trainer = Trainer(build_glass(tiny_config), tmp_path, LOOP)
    stage = PaperStage(trainer.model, windows, config)
    clip = stage.clips(np.random.default_rng(0), 4)
    vectors = trainer.model.eval().directions(clip["layers"], clip["shifts"])
    book, head = trainer.model.lma.quantiser.codebook.clone(), trainer.model.lma.decoder.head_full.weight.clone()
    assert trainer.run(stage)
    same = torch.equal(vectors, trainer.model.eval().directions(clip["layers"], clip["shifts"]))
    assert same != learn and torch.equal(book, trainer.model.lma.quantiser.codebook) != learn
    assert not torch.equal(head, trainer.model.lma.decoder.head_full.weight)


@pytest.mark.parametrize(
    ("continuous", "iteration", "starts"), [(2, 1, False), (2, 2, True), (2, 3, False), (0, 0, False)]
)
def test_the_codebook_starts_from_k_means_only_where_a_continuous_phase_ends(
    tiny_model, windows, continuous, iteration, starts
):
    stage = PaperStage(tiny_model, windows, PaperConfig(frames=16, continuous=continuous, horizons=(4,)))
    before = tiny_model.quantiser.codebook.clone()
    stage.prepare(iteration, torch.Generator().manual_seed(0))
    assert torch.equal(before, tiny_model.quantiser.codebook) != starts


def test_codes_that_were_never_learned_cannot_be_kept(block_store, tmp_path, capsys):
    sizes = ["--window", "16", "--agent-radius", "5", "--codes", "3", "--loop.device", "cpu"]
    sizes += ["--preset", "lean"]
    first = [str(block_store), *sizes, "--out", str(tmp_path / "a")]
    keep = [str(block_store), *sizes, "--out", str(tmp_path / "b"), "--lma.no-learn-codes"]
    assert main(keep) == 1
    assert "add --init OTHER/state.pt" in capsys.readouterr().err
    assert main([*first, "--gma.iterations", "1", "--lma.iterations", "0"]) == 0
    assert main([*keep, "--init", str(tmp_path / "a" / "state.pt")]) == 1
    assert "its codes were not learned" in capsys.readouterr().err


def test_a_gma_that_is_trained_alone_leaves_room_for_the_prior(block_store, tmp_path):
    quick = ["--gma.iterations", "1", "--gma.batch", "1", "--lma.iterations", "0", "--loop.device", "cpu"]
    assert main([str(block_store), "--out", str(tmp_path), "--window", "16", "--agent-radius", "5", *quick]) == 0
    assert read_state(tmp_path / "state.pt", torch.device("cpu"))["config"]["prior_channels"] > 0


def seen(codes, change=None):
    """Statistics of codes on the spot."""
    codes = np.array(codes)
    change = np.zeros(len(codes)) if change is None else np.array(change)
    return CodeStatistics(codes, np.zeros((len(codes), 2)), change, torch.empty(len(codes), 0))


def test_codes_that_the_data_never_uses_are_left_out_of_a_world(tiny_model):
    order = order_codes(seen([0] * 60 + [2] * 60), 3)
    smaller = with_codes(tiny_model, order)
    assert order == [0, 2] and smaller.config.codes == 2
    assert torch.equal(smaller.quantiser.codebook, tiny_model.quantiser.codebook[[0, 2]])
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


def test_the_paper_preset_trains_on_whole_frames_with_teacher_forcing(block_store, tmp_path):
    torch.manual_seed(0)
    model = build_glass(GlassConfig.paper(32, 48, codes=3, mask_channels=8))
    store = Store(block_store)
    videos = [v for v in store.videos if v.split == "train"][:2]
    windows = cut_windows(model.eval(), store, videos)
    assert windows.whole and windows.layers.shape[1:] == (4, 32, 48)
    config = PaperConfig(iterations=3, frames=4, continuous=1, horizons=(4,), teacher_forced=3, teacher_steps=4)
    stage = PaperStage(model, windows, config)
    assert stage.teacher(0, 1, 4).tolist() == [[True, True, True, False]]
    assert stage.teacher(2, 1, 4).tolist() == [[True, True, False, False]] and stage.teacher(4, 1, 4) is None
    seen = []
    assert Trainer(model, tmp_path, LOOP).run(stage, lambda s, i, terms: seen.append(terms))
    assert len(seen) == 3 and {"rec_u", "mask", "commitment", "codebook"} <= set(seen[-1])


def test_the_command_trains_resumes_exports_and_evaluates(block_store, tmp_path, capsys, quick_report):
    command = [
        str(block_store), "--out", str(tmp_path / "run"), "--window", "16", "--agent-radius", "5", "--codes", "2",
        "--gma.theta", "0.04", "--gma.iterations", "6", "--gma.batch", "2", "--gma.moving-pixels", "3",
        "--lma.iterations", "4", "--lma.continuous", "2", "--lma.frames", "4", "--lma.horizons", "2",
        "--loop.device", "cpu", "--preset", "lean",
    ]  # fmt: skip
    assert main([*command, "--loop.max-minutes", "0"]) == 3
    assert "--resume" in capsys.readouterr().out
    assert main(command) == 1
    assert "add --resume" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0
    world = load_world(tmp_path / "run/world.safetensors")
    assert world.config.codes == 2 and world.provenance["data"] == "blocks"
    assert {p.name for p in (tmp_path / "run/samples").iterdir()} >= {"gma-final.png", "lma-final.png"}
    assert list((tmp_path / "run/tensorboard").iterdir())


def test_the_command_alone_makes_a_world_of_poses(block_store, tmp_path, capsys, monkeypatch, quick_report):
    monkeypatch.setattr("glass_gym.tools.time_left.MEASURED", 0.0)
    drawn = []
    poses_sheet = sheets.poses_sheet
    monkeypatch.setattr(sheets, "poses_sheet", lambda model, clips: drawn.append(clips) or poses_sheet(model, clips))
    command = [
        str(block_store), "--out", str(tmp_path / "run"), "--window", "16", "--agent-radius", "5", "--codes", "2",
        "--poses", "4", "--gma.theta", "0.04", "--gma.iterations", "4", "--gma.batch", "2", "--gma.moving-pixels", "3",
        "--pose.iterations", "6", "--pose.batch", "4", "--token.iterations", "4", "--token.batch", "4",
        "--token.steps", "4", "--loop.device", "cpu",
    ]  # fmt: skip
    assert main([*command, "--loop.max-minutes", "0"]) == 3
    capsys.readouterr()
    assert main([*command, "--resume"]) == 0
    told = re.findall(
        r"(\w+): [\d.e+]+ steps a second on this machine, about \d+ minutes more", capsys.readouterr().out
    )
    assert told == ["gma", "pose", "lma"]
    world = load_world(tmp_path / "run/world.safetensors")
    assert world.config.architecture == "token" and world.config.poses == 4 and world.model.lma.prior is not None
    assert {p.name for p in (tmp_path / "run/samples").iterdir()} >= {
        "gma-final.png",
        "pose-final.png",
        "lma-final.png",
    }
    known = WindowSet.load(tmp_path / "run/windows-val.npz").position
    places = (drawn[0]["corner"] + 8).flatten(0, 1).numpy()  # of windows of 16 px
    assert (places[:, None] == known).all(-1).any(1).all()  # no window is shown beside where it was aligned to


def test_tracking_that_was_interrupted_goes_on_where_it_stopped(tiny_model, block_store, tmp_path, monkeypatch):
    tiny_model.mask = PerfectMask()
    store = Store(block_store)
    videos = [v for v in store.videos if v.split == "train"]
    monkeypatch.setattr(train, "VIDEOS_KEPT", 3)
    tracked = []

    def interrupted(model, store, videos, progress):
        if len(tracked) == 2:
            raise KeyboardInterrupt
        tracked.append(len(videos))
        return track_windows(model, store, videos, progress)

    monkeypatch.setattr(train, "track_windows", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train._tracked(tiny_model, store, videos, tmp_path / "tracked-train")
    rest = []
    monkeypatch.setattr(train, "track_windows", lambda *args: rest.append(len(args[2])) or track_windows(*args))
    found = train._tracked(tiny_model, store, videos, tmp_path / "tracked-train")
    assert tracked == [3, 3] and rest == [3, 1]
    whole = track_windows(tiny_model, store, videos)
    for name in ("layers", "position", "starts", "lengths"):
        assert np.array_equal(getattr(found, name), getattr(whole, name)), name


def test_the_second_look_is_taken_once_however_often_its_stage_is_interrupted(block_store, tmp_path, monkeypatch):
    store = Store(block_store)
    bits = np.packbits(store.masks(0, 20).reshape(20, -1), axis=1)
    looked = []

    def look(model, store, progress):
        looked.append(sum(float(p.detach().abs().sum()) for p in model.parameters()))
        return PseudoLabels(np.arange(20), bits, unsure=np.zeros_like(bits))

    first = train.look_at_store(store)
    monkeypatch.setattr(train, "look_at_store", lambda store: first)
    monkeypatch.setattr(train, "make_pseudo_labels", look)
    command = [
        str(block_store), "--window", "16", "--agent-radius", "5", "--gma.theta", "0.04", "--gma.iterations", "2",
        "--gma.batch", "2", "--refine.iterations", "3", "--lma.iterations", "0", "--loop.device", "cpu",
    ]  # fmt: skip
    parted = [*command, "--out", str(tmp_path / "parted"), "--loop.max-minutes", "0"]
    assert main(parted) == 3
    for _ in range(4):
        assert main([*parted, "--resume"]) == 3
    assert main([*parted, "--resume"]) == 0
    assert len(looked) == 1 and not (tmp_path / "parted/second-look.npz").exists()
    assert main([*command, "--out", str(tmp_path / "whole")]) == 0
    assert looked[0] == looked[1]
    a, b = (read_state(tmp_path / run / "state.pt", torch.device("cpu")) for run in ("parted", "whole"))
    assert a["finished"] == ["gma", "refine"]
    assert all(torch.equal(value, b["average"][name]) for name, value in a["average"].items())


def test_an_interruption_between_the_stages_is_no_error(block_store, tmp_path, capsys, monkeypatch):
    def stopped(config, processes):
        (tmp_path / "state.pt").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "_train", stopped)
    assert main([str(block_store), "--out", str(tmp_path)]) == 3
    assert "what is done is kept. Continue with the same command and --resume" in capsys.readouterr().out


def test_the_command_names_bad_data_and_bad_presets(tmp_path, capsys):
    assert main([str(tmp_path), "--cache", str(tmp_path / "c")]) == 1
    assert "holds no videos" in capsys.readouterr().err
    assert main(["wsprites", "--preset", "huge", "--cache", str(tmp_path), "--sheets", str(tmp_path)]) == 1
    assert "not found" in capsys.readouterr().err


def test_a_run_starts_from_a_state_of_any_name_and_adds_the_long_stage(block_store, tmp_path):
    sizes = ["--window", "16", "--agent-radius", "5", "--codes", "3", "--loop.device", "cpu", "--lma.frames", "8"]
    sizes += ["--preset", "lean", "--no-report"]
    steps = ["--gma.iterations", "1", "--lma.iterations", "2", "--lma.continuous", "1", "--lma.horizons", "2", "4"]
    assert main([str(block_store), "--out", str(tmp_path / "a"), *sizes, *steps]) == 0
    other = (tmp_path / "a" / "state.pt").rename(tmp_path / "before.pt")
    long = ["--long.iterations", "2", "--long.agents", "4", "--long.rows", "2", "--long.real-frames", "8"]
    assert main([str(block_store), "--out", str(tmp_path / "b"), "--init", str(other), *sizes, *steps, *long]) == 0
    a, b = load_world(tmp_path / "a" / "world.safetensors"), load_world(tmp_path / "b" / "world.safetensors")
    assert torch.equal(a.model.gma.mask.net.head.weight, b.model.gma.mask.net.head.weight)
    assert not torch.equal(a.model.lma.decoder.head_full.weight, b.model.lma.decoder.head_full.weight)


def test_a_stage_that_is_not_there_cannot_be_trained_again(block_store, tmp_path, capsys):
    assert main([str(block_store), "--out", str(tmp_path), "--again", "dma"]) == 1
    assert "--again takes gma, refine, pose, lma, long and prior, got dma" in capsys.readouterr().err


def test_a_code_that_draws_like_a_more_frequent_one_is_a_twin(tiny_model, block_store):
    store = Store(block_store)
    windows = cut_windows(tiny_model, store, [v for v in store.videos if v.split == "train"][:3])
    book = tiny_model.quantiser.codebook
    book[2] = book[0]
    book[1] = -book[0]
    found = seen(np.repeat([0, 1, 2], [5, 3, 9]))
    assert twin_codes(tiny_model, windows, found) == [0]
    assert sorted(order_codes(found, 3, [0])) == [1, 2]
    book[1:] = book[0] + 1e-4 * torch.randn(2, book.shape[1])  # none is like another, and all look the same
    assert twin_codes(tiny_model, windows, found) == [0, 1]


def test_an_agent_that_is_lost_for_some_frames_keeps_its_look(tiny_model):
    """Whoever trains a vocabulary of poses would get a word for nothing."""
    side = tiny_model.config.window + 2 * MARGIN
    layers = np.arange(1, 17, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, side, side), np.uint8)
    layers[[0, 3, 4, 5, 7, 9], 3] = 0  # not seen
    windows = WindowSet(layers, np.zeros((16, 2), np.float32), [0, 8], [8, 8], 32, 48)
    assert align_windows(tiny_model, windows).layers[:, 0, 0, 0].tolist() == [
        2,
        2,
        3,
        3,
        3,
        7,
        7,
        7,
        9,
        9,
        *range(11, 17),
    ]


def test_another_window_keeps_the_gma_of_a_run_and_another_gma_is_refused(block_store, tmp_path, capsys):
    steps = ["--gma.iterations", "1", "--lma.iterations", "2", "--lma.continuous", "1", "--lma.horizons", "2"]
    rest = ["--codes", "3", "--loop.device", "cpu", "--lma.frames", "8", "--long.iterations", "0", *steps]
    lean = ["--preset", "lean", "--no-report", *rest]
    sizes = ["--window", "16", "--agent-radius", "5"]
    assert main([str(block_store), "--out", str(tmp_path / "a"), *sizes, *lean]) == 0
    state = str(tmp_path / "a" / "state.pt")
    capsys.readouterr()
    wider = ["--window", "24", "--agent-radius", "5"]
    assert main([str(block_store), "--out", str(tmp_path / "b"), "--init", state, *wider, *lean]) == 0
    assert "only GMA is taken, since its LMA is another ({'window': '16, not 24'})" in capsys.readouterr().out
    a, b = load_world(tmp_path / "a" / "world.safetensors"), load_world(tmp_path / "b" / "world.safetensors")
    assert b.config.window == 24 and torch.equal(a.model.gma.mask.net.head.weight, b.model.gma.mask.net.head.weight)
    paper = ["--preset", "paper", *rest]
    assert main([str(block_store), "--out", str(tmp_path / "c"), "--init", state, *sizes, *paper]) == 1
    assert "its GMA is another" in capsys.readouterr().err


def test_a_missing_state_to_start_from_is_named(block_store, tmp_path, capsys):
    command = [str(block_store), "--window", "16", "--out", str(tmp_path / "a")]
    assert main([*command, "--init", str(tmp_path / "none.pt")]) == 1
    assert "none.pt: no such file; --init takes the state.pt of another run" in capsys.readouterr().err


def test_windows_hold_nothing_as_exactly_nothing():
    layers = torch.zeros(2, 4, 8, 8)
    layers[1] = torch.rand(4, 8, 8)
    again = unpack_layers(pack_layers(layers))
    assert (again[0] == 0).all() and (again - layers).abs().max() <= 0.5 / 127 + 1e-6


def test_windows_of_an_earlier_version_are_cut_again(windows, tmp_path):
    windows.save(tmp_path / "w.npz")
    with np.load(tmp_path / "w.npz") as file:
        parts = {name: file[name] for name in file.files if name != "version"}
    np.savez(tmp_path / "w.npz", **parts)
    with pytest.raises(ValueError, match=r"w\.npz: version 1, expected 3"):
        WindowSet.load(tmp_path / "w.npz")


def test_batches_are_the_same_whoever_makes_them(gma, tmp_path):
    trainer, stage = gma(tmp_path / "a")
    alone = list(trainer._batches(stage, 2))
    helped, stage = gma(tmp_path / "b", workers=2)
    for (seed, batch), (other_seed, other) in zip(alone, helped._batches(stage, 2), strict=True):
        assert seed == other_seed and torch.equal(batch["frames"], other["frames"])
        assert batch["frames"].dtype == torch.uint8
    assert len(alone) == stage.iterations - 2


def test_no_output_is_shown_as_a_flag(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    assert "--read.skip-broken" in out and "--read.broken" not in out and "--lma.entropy" not in out


@pytest.mark.slow
def test_a_checkpoint_trained_with_the_paper_preset_is_a_world(block_store, tmp_path):
    import gymnasium as gym

    path = tmp_path / "run" / "world.safetensors"
    command = [
        str(block_store), "--preset", "paper", "--out", str(path.parent), "--window", "16", "--agent-radius", "5",
        "--codes", "2", "--gma.iterations", "1", "--gma.batch", "1", "--gma.moving-pixels", "3",
        "--lma.iterations", "2", "--lma.frames", "4", "--lma.horizons", "2", "--lma.continuous", "0",
        "--loop.device", "cpu", "--no-report",
    ]  # fmt: skip
    assert main(command) == 0
    for rows in (1, 5):
        envs = gym.make_vec("Glass-v0", num_envs=rows, checkpoint=str(path))
        frames, _ = envs.reset(seed=0)
        for _ in range(3):
            frames, _, _, _, infos = envs.step(envs.action_space.sample())
        assert frames.shape == (rows, 32, 48, 3) and envs.unwrapped.core.state.world.layer.shape == (rows, 4, 32, 48)
        assert np.isfinite(infos["agent_position"]).all()
