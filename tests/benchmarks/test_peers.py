"""python -m benchmarks.peers."""

import json
from pathlib import Path

import pytest

from benchmarks import peers
from glass_gym.worlds.checkpoint import save_world

DIAMOND = """
import torch

class InnerModelConfig:
    def __init__(self, channels, past, cond, depths, widths, attention, actions):
        assert (channels, past, actions) == (3, 4, 18)

class DenoiserConfig:
    def __init__(self, inner, sigma_data, sigma_offset_noise): pass

class DiffusionSamplerConfig:
    def __init__(self, num_steps_denoising): assert num_steps_denoising == 3

class Denoiser(torch.nn.Conv2d):
    def __init__(self, config): super().__init__(12, 3, 3, padding=1)

class DiffusionSampler:
    def __init__(self, denoiser, config): self.denoiser = denoiser

    def sample(self, past, actions):
        assert actions.shape == past.shape[:2]
        return self.denoiser(past.flatten(1, 2)), []
"""


@pytest.fixture
def options(tiny_world, tmp_path):
    world = save_world(tmp_path / "tiny.safetensors", tiny_world)
    return ["--checkpoint", str(world), "--num-envs", "2", "--seconds", "0.1", "--device", "cpu",
            "--out", str(tmp_path / "peers.json")]  # fmt: skip


def heads(said):
    return [cell.strip() for cell in next(line for line in said.splitlines() if "|" in line).split("|")[1:-1]]


def test_another_version_is_measured_in_turns_with_ours(options, tmp_path, capsys):
    assert peers.main(["--against", str(Path(peers.__file__).parents[1]), *options]) == 0
    row = json.loads((tmp_path / "peers.json").read_text(encoding="utf-8"))["rows"][0]
    assert row["peer"] == "glass_gym" and row["ratio"] == pytest.approx(row["ours_fps"] / row["peer_fps"])
    assert heads(capsys.readouterr().out) == ["rows", "ours", "glass_gym", "ours / peer"]


def test_diamond_is_called_as_it_is_shipped(tmp_path):
    folder = tmp_path / "diamond" / "src" / "models" / "diffusion"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("from .denoiser import *", encoding="utf-8")
    (folder / "denoiser.py").write_text(DIAMOND, encoding="utf-8")
    runner = peers.Runner(tmp_path / "diamond", 2, {"id": "GlassTennis-v0", "device": "cpu"})
    assert runner.kind == "diamond" and 0 < runner.time(0.1) < 10
    runner.close()
    assert runner.process.returncode == 0


def test_a_folder_that_is_no_peer_is_refused(options, tmp_path, capfd):
    assert peers.main(["--against", str(tmp_path), *options]) == 1
    said = capfd.readouterr().err
    assert "is not the checkout of a known peer: glass_gym (glass_gym/__init__.py), diamond (src/models/" in said
    (tmp_path / "glass_gym").mkdir()
    (tmp_path / "glass_gym" / "__init__.py").write_text("raise ImportError('damaged')", encoding="utf-8")
    assert peers.main(["--against", str(tmp_path), *options]) == 1
    said = capfd.readouterr().err
    assert "damaged" in said and "glass_gym ended with 1" in said


def test_processes_step_at_once(options, tmp_path, capsys):
    assert peers.main(["--processes", "2", *options]) == 0
    rows = json.loads((tmp_path / "peers.json").read_text(encoding="utf-8"))["rows"]
    assert [row["processes"] for row in rows] == [1, 2] and all(row["fps"] > 0 for row in rows)
    assert heads(capsys.readouterr().out) == ["processes", "threads each", "frames per second"]


def test_wrong_options_are_named(options, capsys):
    assert peers.main(["--processes", "2000", *options]) == 1
    assert "--processes takes 1 to 1024, got 2000" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        peers.main(options)
    assert "one of the arguments --against --processes is required" in capsys.readouterr().err
