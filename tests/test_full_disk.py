"""A disk that is full, wherever something is written: an error that says so, and what was there before is kept."""

import contextlib

import pytest
import torch

from benchmarks import soak
from glass_gym.model.glass import build_lma
from glass_gym.tools import demo
from glass_gym.worlds.checkpoint import CheckpointError, load_world, save_world

resource = pytest.importorskip("resource")  # POSIX


@contextlib.contextmanager
def full(room: int):
    """No file may grow beyond `room` bytes: writing fails as it does on a full disk, with an OSError in mid-write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def leftovers(folder):
    return [path.name for path in folder.rglob("*part*")]


def test_a_world(tiny_world, tmp_path):
    path = save_world(tmp_path / "w.safetensors", tiny_world)
    with full(10_000), pytest.raises(CheckpointError, match=r"w\.safetensors: could not be saved.*before it is kept"):
        save_world(path, tiny_world)
    with full(10_000), pytest.raises(CheckpointError, match=r"x\.safetensors: could not be saved.*nothing was written"):
        save_world(tmp_path / "x.safetensors", tiny_world)
    assert load_world(path) and not leftovers(tmp_path)


def test_a_training_state(tiny_config, tmp_path):
    pytest.importorskip("tyro")
    from training.config import LoopConfig
    from training.core.trainer import Trainer, read_state

    torch.manual_seed(0)
    trainer = Trainer(build_lma(tiny_config), tmp_path / "lma.pt", LoopConfig(device="cpu", bf16=False))
    trainer.save("pose", 3, None)
    with full(30_000), pytest.raises(CheckpointError, match=r"lma\.pt: could not be saved.*before it is kept"):
        trainer.save("pose", 4, None)
    assert read_state(trainer.state_file, torch.device("cpu"))["iteration"] == 3 and not leftovers(tmp_path)


@pytest.mark.parametrize("room", [300, 8_000, 150_000])
def test_a_training(room, block_store, tmp_path, capsys):
    pytest.importorskip("tyro")
    from training.train import main

    quick = ["--loop.device", "cpu", "--gma.iterations", "2", "--gma.batch", "1", "--lma.iterations", "0", "--force"]
    command = [str(block_store), "--out", str(tmp_path / "run"), *quick]
    with full(room):
        assert main(command) == 1
    assert "error: " in capsys.readouterr().err and not leftovers(tmp_path)
    assert main(command) == 0  # nothing that was left is in the way


def test_a_cache(tmp_path, capsys):
    pytest.importorskip("tyro")
    from tests.training.test_footage import write
    from tests.training.test_survey import walker
    from training.train import main

    folder = write(tmp_path / "videos", *[walker(30) for _ in range(3)])
    command = [str(folder), "--out", str(tmp_path / "run"), "--cache", str(tmp_path / "cache"), "--gma.iterations", "1"]
    command += ["--gma.batch", "1", "--lma.iterations", "0", "--loop.device", "cpu", "--force"]
    with full(100_000):
        assert main(command) == 1
    assert "error: " in capsys.readouterr().err
    assert main(command) == 0


def test_a_policy_and_its_training(tiny_world, tmp_path, capsys):
    pytest.importorskip("stable_baselines3")
    from agents import train
    from tests.agents.test_train import command

    world = save_world(tmp_path / "tiny.safetensors", tiny_world)
    with full(20_000):
        assert train.main(command(world, tmp_path, "-n", "64", "-params", "n_steps:8", "batch_size:16")) == 1
    assert "error: " in capsys.readouterr().err and not leftovers(tmp_path)


def test_what_is_measured_and_shown(tmp_path, capsys):
    with full(10):
        assert demo.main(["--steps", "1", "--out", str(tmp_path / "demo")]) == 1
        assert soak.main(["--steps", "2", "--num-envs", "1", "--out", str(tmp_path / "b.json")]) == 1
    assert capsys.readouterr().err.count("error: ") == 2


def test_a_folder_that_may_not_be_made(tmp_path, capsys):
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert demo.main(["--steps", "1", "--out", str(tmp_path / "file" / "demo")]) == 1
    assert soak.main(["--steps", "2", "--num-envs", "1", "--out", str(tmp_path / "file" / "b.json")]) == 1
    assert capsys.readouterr().err.count("error: ") == 2
