"""python -m benchmarks.soak."""

import json

import numpy as np
import pytest
import torch

from benchmarks import soak
from glass_gym.env.vector_env import GlassVectorEnv
from glass_gym.worlds.checkpoint import save_world


@pytest.fixture
def options(tiny_world, tmp_path):
    world = save_world(tmp_path / "tiny.safetensors", tiny_world)
    return ["--checkpoint", str(world), "--num-envs", "2", "--device", "cpu", "--out", str(tmp_path / "soak.json")]


def test_a_soak_watches_memory_and_values(options, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(soak, "EVERY", 4)
    assert soak.main(["--steps", "12", *options]) == 0
    report = json.loads((tmp_path / "soak.json").read_text(encoding="utf-8"))
    assert report["steps"] == 12 and report["num_envs"] == 2 and report["fps"] > 0
    assert list(report["steps_took"]) == ["4", "8", "12"] and list(report["makes_took"]) == ["1"]
    assert report["steps_took"]["12"]["resident_mb"] > 50
    said = capsys.readouterr().out
    assert "12 random steps of 2 rows" in said and "- after 4 and 12 steps: resident mb" in said


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda world: world.layer.fill_(np.nan), "step 1: a value is not finite"),
        (lambda world: world.position.fill_(-1), "step 1: an agent or a frame is out of bounds"),
    ],
)
def test_a_soak_stops_at_a_wrong_value(damage, message, options, monkeypatch, capsys):
    step = GlassVectorEnv.step

    def damaged(self, actions):
        out = step(self, actions)
        with torch.inference_mode():
            damage(self.unwrapped.core.state.world)
        return out

    monkeypatch.setattr(GlassVectorEnv, "step", damaged)
    assert soak.main(["--steps", "3", *options]) == 1
    assert message in capsys.readouterr().err


def test_no_steps_are_refused(options, capsys):
    assert soak.main(["--steps", "0", *options]) == 1
    assert "--steps takes 1 or more, got 0" in capsys.readouterr().err
