import math
import os
import signal
import threading

import numpy as np
import pytest
import torch

from glass_gym.action_space import COMPASS
from glass_gym.checkpoint import CheckpointError, load_world
from glass_gym.config import GlassConfig
from glass_gym.glass import Glass
from glass_gym.tracking import track
from training import trainer as trainer_module
from training.data.store import Store
from training.export import build_world, drop_dead_codes, twin_codes, usual_codes
from training.stages import GmaConfig, GmaStage, LmaConfig, LmaStage
from training.train import main
from training.trainer import LoopConfig, Trainer, TrainingError, schedule
from training.windows import cut_windows

LOOP = LoopConfig(device="cpu", bf16=False)


@pytest.fixture
def gma(tiny_config, block_store):
    def make(out, iterations=8, **loop):
        torch.manual_seed(0)
        model = Glass(tiny_config)
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


def test_the_gma_stage_leaves_the_lma_boxes_alone(gma, tmp_path):
    trainer, stage = gma(tmp_path)
    before = [p.clone() for box in trainer.model.boxes("lma") for p in box.parameters()]
    trainer.run(stage)
    after = [p for box in trainer.model.boxes("lma") for p in box.parameters()]
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
    other = Trainer(Glass(tiny_config.replace(codes=2)), tmp_path, LOOP)
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
    config = LmaConfig(iterations=40, frames=16, continuous=10, horizons=(2, 4), rate=2e-3, entropy=0.1)
    model = Glass(tiny_config)
    trainer = Trainer(model, tmp_path, LOOP)
    seen = []
    assert trainer.run(LmaStage(model, windows, config), lambda s, i, terms: seen.append(terms["rec_u"]))
    assert np.mean(seen[-5:]) < 0.7 * np.mean(seen[:3])
    trainer.average.mask = PerfectMask()
    world = build_world(trainer.average, Store(block_store), windows)
    assert len(world.start_frames) >= 32 and world.code_names[0] == "neutral" and 1 <= world.step[0] <= 3


@pytest.mark.parametrize("learn", [True, False])
def test_codes_stay_as_they_are_while_the_generator_learns_on(tiny_config, windows, tmp_path, learn):
    config = LmaConfig(iterations=3, frames=16, continuous=0, horizons=(4,), learn_codes=learn)
    trainer = Trainer(Glass(tiny_config), tmp_path, LOOP)
    stage = LmaStage(trainer.model, windows, config)
    clip = stage.clips(np.random.default_rng(0), 4)
    vectors = trainer.model.eval().directions(clip["layers"], clip["shifts"])
    book, head = trainer.model.quantiser.codebook.clone(), trainer.model.decoder.head_full.weight.clone()
    assert trainer.run(stage)
    same = torch.equal(vectors, trainer.model.eval().directions(clip["layers"], clip["shifts"]))
    assert same != learn and torch.equal(book, trainer.model.quantiser.codebook) != learn
    assert not torch.equal(head, trainer.model.decoder.head_full.weight)


@pytest.mark.parametrize(
    ("continuous", "iteration", "starts"), [(2, 1, False), (2, 2, True), (2, 3, False), (0, 0, False)]
)
def test_the_codebook_starts_from_k_means_only_where_a_continuous_phase_ends(
    tiny_model, windows, continuous, iteration, starts
):
    stage = LmaStage(tiny_model, windows, LmaConfig(frames=16, continuous=continuous, horizons=(4,)))
    before = tiny_model.quantiser.codebook.clone()
    stage.prepare(iteration, torch.Generator().manual_seed(0))
    assert torch.equal(before, tiny_model.quantiser.codebook) != starts


def test_codes_that_were_never_learned_cannot_be_kept(block_store, tmp_path, capsys):
    sizes = ["--window", "16", "--agent-radius", "5", "--codes", "3", "--loop.device", "cpu"]
    first = [str(block_store), *sizes, "--out", str(tmp_path / "a")]
    keep = [str(block_store), *sizes, "--out", str(tmp_path / "b"), "--lma.no-learn-codes"]
    assert main(keep) == 1
    assert "add --init OTHER/state.pt" in capsys.readouterr().err
    assert main([*first, "--gma.iterations", "1", "--lma.iterations", "0"]) == 0
    assert main([*keep, "--init", str(tmp_path / "a" / "state.pt")]) == 1
    assert "its codes were not learned" in capsys.readouterr().err


def test_codes_that_the_data_never_uses_are_left_out_of_a_world(tiny_model):
    statistics = {"codes": np.array([0] * 60 + [2] * 60)}
    smaller, kept = drop_dead_codes(tiny_model, statistics)
    assert kept.tolist() == [0, 2] and smaller.config.codes == 2
    assert torch.equal(smaller.quantiser.codebook, tiny_model.quantiser.codebook[[0, 2]])
    Glass(smaller.config).load_state_dict(smaller.state_dict())  # a whole model of its config
    same, kept = drop_dead_codes(tiny_model, {"codes": np.array([0, 1, 2])})
    assert same is tiny_model and kept.tolist() == [0, 1, 2]


def test_a_directions_usual_code_is_the_one_that_more_than_half_of_its_steps_have():
    shifts = np.repeat([[0, 0], [3, 0], [-3, 0], [0, 2]], [100, 60, 40, 10], axis=0).astype(np.float32)
    codes = np.array([1] * 100 + [2] * 31 + [0] * 29 + [2] * 20 + [1] * 20 + [1] * 10)
    usual = dict(zip(COMPASS, usual_codes({"shifts": shifts, "codes": codes}, (3.0, 2.0), 3), strict=True))
    assert usual["stay"] == 1 and usual["right"] == 2 == usual["up-right"] == usual["down-right"]
    assert usual["left"] == 0  # a tie is no majority
    assert usual["down"] == 0  # ten steps are too few


def test_the_paper_preset_trains_on_whole_frames_with_teacher_forcing(block_store, tmp_path):
    torch.manual_seed(0)
    model = Glass(GlassConfig.paper(32, 48, codes=3, mask_channels=8))
    store = Store(block_store)
    videos = [v for v in store.videos if v.split == "train"][:2]
    windows = cut_windows(model.eval(), store, videos)
    assert windows.whole and windows.layers.shape[1:] == (4, 32, 48)
    config = LmaConfig(iterations=3, frames=4, continuous=1, horizons=(4,), teacher_forced=3, teacher_steps=4)
    stage = LmaStage(model, windows, config)
    assert stage.teacher(0, 1, 4).tolist() == [[True, True, True, False]]
    assert stage.teacher(2, 1, 4).tolist() == [[True, True, False, False]] and stage.teacher(4, 1, 4) is None
    seen = []
    assert Trainer(model, tmp_path, LOOP).run(stage, lambda s, i, terms: seen.append(terms))
    assert len(seen) == 3 and {"rec_u", "mask", "commitment", "codebook"} <= set(seen[-1])


def test_the_command_trains_resumes_exports_and_evaluates(block_store, tmp_path, capsys):
    command = [
        str(block_store), "--out", str(tmp_path / "run"), "--window", "16", "--agent-radius", "5", "--codes", "2",
        "--gma.theta", "0.04", "--gma.iterations", "6", "--gma.batch", "2", "--gma.moving-pixels", "3",
        "--lma.iterations", "4", "--lma.continuous", "2", "--lma.frames", "4", "--lma.horizons", "2",
        "--loop.device", "cpu",
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


def test_the_command_names_bad_data_and_bad_presets(tmp_path, capsys):
    assert main([str(tmp_path), "--cache", str(tmp_path / "c")]) == 1
    assert "holds no videos" in capsys.readouterr().err
    assert main(["wsprites", "--preset", "huge", "--cache", str(tmp_path), "--sheets", str(tmp_path)]) == 1
    assert "not found" in capsys.readouterr().err


def test_a_run_starts_from_a_state_of_any_name_and_adds_the_long_stage(block_store, tmp_path):
    sizes = ["--window", "16", "--agent-radius", "5", "--codes", "3", "--loop.device", "cpu", "--lma.frames", "8"]
    steps = ["--gma.iterations", "1", "--lma.iterations", "2", "--lma.continuous", "1", "--lma.horizons", "2", "4"]
    assert main([str(block_store), "--out", str(tmp_path / "a"), *sizes, *steps]) == 0
    other = (tmp_path / "a" / "state.pt").rename(tmp_path / "before.pt")
    long = ["--long.iterations", "2", "--long.pool", "4", "--long.rows", "2", "--long.real-frames", "8"]
    assert main([str(block_store), "--out", str(tmp_path / "b"), "--init", str(other), *sizes, *steps, *long]) == 0
    a, b = load_world(tmp_path / "a" / "world.safetensors"), load_world(tmp_path / "b" / "world.safetensors")
    assert torch.equal(a.model.mask.net.head.weight, b.model.mask.net.head.weight)
    assert not torch.equal(a.model.decoder.head_full.weight, b.model.decoder.head_full.weight)


def test_a_stage_that_is_not_there_cannot_be_trained_again(block_store, tmp_path, capsys):
    assert main([str(block_store), "--out", str(tmp_path), "--again", "dma"]) == 1
    assert "--again takes gma, lma and long, got dma" in capsys.readouterr().err


def test_a_code_that_draws_like_a_more_frequent_one_is_a_twin(tiny_model, block_store):
    store = Store(block_store)
    windows = cut_windows(tiny_model, store, [v for v in store.videos if v.split == "train"][:3])
    book = tiny_model.quantiser.codebook
    book[2] = book[0]
    book[1] = -book[0]
    codes = np.repeat([0, 1, 2], [5, 3, 9])
    assert twin_codes(tiny_model, windows, {"codes": codes}) == [0]
    _, kept = drop_dead_codes(tiny_model, {"codes": codes}, [0])
    assert kept.tolist() == [1, 2]
