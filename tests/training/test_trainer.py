"""The training loop: resumable, interruptible, never losing the last good checkpoint."""

import contextlib
import math
import os
import signal
import threading
import typing

import numpy as np
import pytest
import torch

from glass_gym.model.glass import build_gma, build_lma
from glass_gym.worlds.checkpoint import CheckpointError
from training.config import GmaConfig, LoopConfig
from training.core import trainer as trainer_module
from training.core.trainer import Interrupted, Trainer, TrainingError, schedule
from training.data.store import Store
from training.gma.stage import WEIGHTS, GmaStage

LOOP = LoopConfig(device="cpu", bf16=False)


@pytest.fixture
def gma(tiny_config, block_store):
    def make(out, iterations=8, **loop):
        torch.manual_seed(0)
        model = build_gma(tiny_config)
        config = GmaConfig(iterations=iterations, batch=2, theta=0.04)
        trainer = Trainer(model, out / "gma.pt", LoopConfig(**({"device": "cpu", "bf16": False} | loop)))
        return trainer, GmaStage(model, Store(block_store), config)

    return make


def equal(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_interrupted_and_resumed_equals_uninterrupted(gma, tmp_path):
    whole, stage = gma(tmp_path / "whole")
    whole.run(stage)
    stop = int(np.random.default_rng().integers(1, 7))
    first, stage = gma(tmp_path / "parts")

    def interrupt(stage, iteration, terms):
        if iteration + 1 == stop:
            os.kill(os.getpid(), signal.SIGTERM)

    assert threading.current_thread() is threading.main_thread()
    with pytest.raises(Interrupted, match=r"stopped and saved: .*gma\.pt"):
        first.run(stage, interrupt)
    second, stage = gma(tmp_path / "parts")
    second.load()
    second.run(stage)
    assert whole.finished == second.finished == ["gma"]
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
        with contextlib.suppress(Interrupted):
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
        with pytest.raises(TrainingError, match=r"has grown to .*last good checkpoint: .*gma\.pt.*--loop\.seed"):
            trainer.save("gma", 4, None)
    assert trainer.state_file.read_bytes() == before


@pytest.mark.parametrize(
    ("version", "message"),
    [(99, "version 99, this glass_gym reads 1; upgrade glass_gym"), (0, "version 0, .*; train it again"),
     ("x", "not a whole training state"), (None, "not a whole")],
)  # fmt: skip
def test_a_state_of_another_version_says_so(gma, tmp_path, version, message):
    trainer, _ = gma(tmp_path)
    trainer.save("gma", 3, None)
    state = torch.load(trainer.state_file, weights_only=True)
    torch.save(state | {"version": version}, trainer.state_file)
    with pytest.raises(TrainingError, match=message):
        trainer.load()


def test_a_time_budget_stops_saved_and_resumable(gma, tmp_path):
    trainer, stage = gma(tmp_path, max_minutes=0.0)
    with pytest.raises(Interrupted):
        trainer.run(stage)
    again, stage = gma(tmp_path)
    again.load()
    again.run(stage)
    assert again.finished == ["gma"] and again.minutes["gma"] > 0


def test_a_finished_or_empty_stage_is_skipped_and_its_weights_stay(gma, tmp_path):
    for iterations, finished in ((0, []), (8, ["gma"])):
        trainer, stage = gma(tmp_path, iterations=iterations)
        trainer.finished = finished
        before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
        trainer.run(stage)
        assert all(torch.equal(v, before[k]) for k, v in trainer.model.state_dict().items())
        assert not trainer.state_file.exists()


def test_losses_that_are_left_out_have_no_weight(gma, tmp_path):
    _, stage = gma(tmp_path)
    names = typing.get_args(typing.get_args(typing.get_type_hints(GmaConfig)["without"])[0])
    assert set(names) == set(WEIGHTS) - {"plate"}
    config = GmaConfig(batch=2, theta=0.04, without=("rec_b", "idle"))
    fewer = GmaStage(stage.model, stage.sampler.store, config)
    batch = stage.sampler.batch(np.random.default_rng(0), 0)
    every, some = (s.losses(batch, 200, torch.Generator().manual_seed(0)) for s in (stage, fewer))
    assert every["rec_b"] > 0 and every["idle"] > 0 and some["rec_b"] == some["idle"] == 0
    assert all(torch.equal(some[name], every[name]) for name in ("rec_f", "rec_j", "binary", "size"))


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(gma, tmp_path):
    trainer, stage = gma(tmp_path)
    trainer.save("gma", 3, None)
    before = trainer.state_file.read_bytes()
    stage.losses = lambda batch, iteration, generator: {"rec_f": torch.tensor(math.nan, requires_grad=True)}
    with pytest.raises(
        TrainingError, match=r"not finite at gma iteration 0.*last good checkpoint: .*gma\.pt.*--loop\.seed"
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
    assert trainer.state_file.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["gma.pt"]


def test_resuming_nothing_or_rubbish_or_another_model_says_so(gma, tmp_path, tiny_config):
    trainer, _ = gma(tmp_path)
    with pytest.raises(TrainingError, match="nothing to resume"):
        trainer.load()
    trainer.state_file.write_bytes(b"rubbish")
    with pytest.raises(TrainingError, match="not a whole training state"):
        trainer.load()
    trainer.save("gma", 1, None)
    other = Trainer(build_gma(tiny_config.replace(foreground_range=9)), trainer.state_file, LOOP)
    with pytest.raises(TrainingError, match=r"other sizes \(\{'foreground_range': '6, not 9'\}\); use the same"):
        other.load()


def test_the_rate_warms_up_and_decays_to_five_percent():
    assert schedule(0, 1000) == pytest.approx(1 / 50)
    assert schedule(100, 1000) > schedule(500, 1000) > schedule(999, 1000)
    assert schedule(1000, 1000) == pytest.approx(0.05)


def test_batches_are_the_same_whoever_makes_them(gma, tmp_path):
    trainer, stage = gma(tmp_path / "a")
    alone = list(trainer._batches(stage, 2))
    helped, stage = gma(tmp_path / "b")
    helped.workers = 2
    for (seed, batch), (other_seed, other) in zip(alone, helped._batches(stage, 2), strict=True):
        assert seed == other_seed and torch.equal(batch["frames"], other["frames"])
        assert batch["frames"].dtype == torch.uint8
    assert len(alone) == stage.iterations - 2


def test_stages_of_another_run_are_taken_as_far_as_their_sizes_fit(tiny_config, tmp_path):
    old = Trainer(build_lma(tiny_config), tmp_path / "old.pt", LOOP)
    old.finished = ["pose", "lma"]
    old.save("lma", 1, None)

    def started(config):
        new = Trainer(build_lma(config), tmp_path / "new.pt", LOOP)
        return *new.start_from(tmp_path / "old.pt"), new

    taken, differs, new = started(tiny_config.replace(hole_margin=2))  # which changes no weights
    assert differs == ""
    assert taken == new.finished == ["pose", "lma"] and equal(new.model, old.model) and equal(new.average, old.average)
    taken, differs, new = started(tiny_config.replace(codes=tiny_config.codes + 1))
    assert differs.startswith("lma: ")
    assert taken == new.finished == ["pose"]
    assert torch.equal(new.model.pose_codebook.codebook, old.model.pose_codebook.codebook)
    assert not torch.equal(new.model.dynamics.cell.weight_ih, old.model.dynamics.cell.weight_ih)
    assert started(tiny_config.replace(poses=2 * tiny_config.poses))[0] == []
    with pytest.raises(TrainingError, match="its width is 48, not 40"):
        started(tiny_config.replace(width=40))
