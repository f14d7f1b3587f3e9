"""Losses and sample sheets are logged through Accelerate's trackers."""

import contextlib
import importlib.machinery
import sys
import types

import numpy as np
import pytest

from training import train
from training.core.reporter import Reporter, logged_curves

pytest.importorskip("accelerate")


class Trainer:
    """Stands in for a trainer: two losses in each step."""

    finished = ()
    average = None
    autocast = staticmethod(contextlib.nullcontext)

    def run(self, stage, step, sheet):
        for iteration in range(stage.iterations):
            step(stage, iteration, {"loss": float(iteration), "other": 0.5})


def play(out, log):
    """Two stages of 41 steps, as a run does them."""
    reporter = Reporter(out, ("gma", "lma"), log=log)
    for name in ("gma", "lma"):
        sheet = lambda model, done: np.full((8, 12, 3), done, np.uint8)  # noqa: E731
        reporter.run(Trainer(), types.SimpleNamespace(name=name, iterations=41, sheet=sheet))  # pyright: ignore
    reporter.close()


def test_tensorboard(tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    play(tmp_path, "tensorboard")
    curves = logged_curves(tmp_path)
    assert curves["gma/loss"] == [(0, 0), (20, 20), (40, 40)]
    assert curves["lma/loss"] == [(41, 0), (61, 20), (81, 40)]  # steps go on
    assert set(curves) == {f"{stage}/{loss}" for stage in ("gma", "lma") for loss in ("loss", "other")}
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    (picture,) = events.Images("lma")
    assert (picture.width, picture.height, picture.step) == (12, 8, 82)
    assert (tmp_path / "samples" / "lma-final.png").exists()


def test_wandb(tmp_path, monkeypatch):
    logged, begun = [], []
    run = types.SimpleNamespace(log=lambda values, step=None: logged.append((step, values)), finish=begun.clear)
    wandb = types.ModuleType("wandb")
    wandb.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    vars(wandb).update(init=lambda **about: begun.append(about) or run, Image=lambda picture: picture.shape)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    reporter = Reporter(tmp_path / "mine", (), log="wandb")
    assert begun == [{"project": "glass_gym", "name": "mine", "dir": str(tmp_path / "mine")}]
    reporter.close()
    assert not begun
    play(tmp_path / "mine", "wandb")
    assert (61, {"lma/loss": 20.0, "lma/other": 0.5}) in logged and (82, {"lma": [(8, 12, 3)]}) in logged
    steps = [step for step, _ in logged]
    assert steps == sorted(steps)  # it takes no step back
    assert logged_curves(tmp_path / "mine") == {}


def test_nothing_is_logged_and_missing_wandb_is_named(tmp_path, monkeypatch, capsys):
    play(tmp_path, "none")
    assert [path.name for path in tmp_path.iterdir()] == ["samples"]
    capsys.readouterr()
    monkeypatch.setattr(train, "find_spec", lambda name: None)
    assert train.main(["nowhere", "--out", str(tmp_path / "run"), "--log", "wandb"]) == 1
    assert capsys.readouterr().err == "error: --log wandb needs wandb: pip install wandb\n"
    assert not (tmp_path / "run").exists()
