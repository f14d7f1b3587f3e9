import json
from pathlib import Path

import pytest

from benchmarks.peers import compare
from glass_gym.tools import bench
from glass_gym.worlds.checkpoint import save_world


def test_the_bench_writes_its_table(tiny_world, tmp_path, capsys):
    pytest.importorskip("stable_baselines3")
    path = save_world(tmp_path / "tiny.safetensors", tiny_world)
    out = tmp_path / "bench.json"
    arguments = ["--id", "GlassTennis-v1", "--num-envs", "2", "--seconds", "0.2", "--device", "cpu", "--out", str(out)]
    assert bench.main(arguments) == 0
    report = json.loads(out.read_text())
    row = report["rows"][0]
    assert row["num_envs"] == 2 and report["device"] == "cpu" and report["peak_memory_mb"] > 50
    assert all(row[key] > 0 for key in ("step_numpy_fps", "step_torch_fps", "step_policy_fps"))
    assert row["step_numpy_fps"] == pytest.approx(2000 / row["step_ms"], rel=0.02)
    text = out.with_suffix(".md").read_text()
    assert "| rows | step | step, torch out | step + policy | step + policy + learning | ms a step |" in text
    assert text in capsys.readouterr().out
    assert path.exists()


def test_a_soak_watches_memory_and_values(tmp_path, capsys):
    out = tmp_path / "soak.json"
    assert bench.main(["--soak", "12", "--num-envs", "2", "--device", "cpu", "--out", str(out)]) == 0
    assert json.loads(out.read_text())["steps"] == 12 and "all values finite" in capsys.readouterr().out


def test_a_wrong_argument_is_named(tmp_path, capsys):
    assert bench.main(["--device", "cuda:55", "--out", str(tmp_path / "b.json")]) == 1
    assert "error:" in capsys.readouterr().err and not (tmp_path / "b.json").exists()
    with pytest.raises(SystemExit):
        bench.main(["--num-envs", "0"])


def test_a_peer_is_measured_in_turns_with_ours(tmp_path, capsys):
    out = tmp_path / "against.json"
    short = ["--num-envs", "2", "--seconds", "0.2", "--device", "cpu", "--out", str(out)]
    assert bench.main(["--against", str(Path(bench.__file__).parents[1]), *short]) == 0
    row = json.loads(out.read_text())["rows"][0]
    assert row["peer"] == "glass_gym" and row["ratio"] == pytest.approx(row["ours_fps"] / row["peer_fps"])
    assert "| rows | ours | the peer | ours over the peer |" in capsys.readouterr().out


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


def test_diamond_is_called_as_it_is_shipped(tmp_path):
    folder = tmp_path / "diamond" / "src" / "models" / "diffusion"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("from .denoiser import *")
    (folder / "denoiser.py").write_text(DIAMOND)
    row = compare(tmp_path / "diamond", 2, 0.2, {"id": "GlassTennis-v1", "device": "cpu"})
    assert row["peer"] == "diamond" and row["peer_fps"] > 0


def test_a_peer_that_is_none_is_refused(tmp_path, capfd):
    assert bench.main(["--against", str(tmp_path), "--out", str(tmp_path / "b.json")]) == 1
    assert (
        "is no checkout of a peer that is known here: glass_gym (glass_gym/__init__.py), diam" in capfd.readouterr().err
    )
    (tmp_path / "glass_gym").mkdir()
    (tmp_path / "glass_gym" / "__init__.py").write_text("raise ImportError('damaged')")
    assert bench.main(["--against", str(tmp_path), "--num-envs", "2", "--out", str(tmp_path / "b.json")]) == 1
    said = capfd.readouterr().err
    assert "damaged" in said and "glass_gym ended with 1" in said


def test_processes_step_at_once(tmp_path, capsys):
    out = tmp_path / "scale.json"
    short = ["--num-envs", "2", "--seconds", "0.2", "--device", "cpu", "--out", str(out)]
    assert bench.main(["--processes", "2", *short]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [row["processes"] for row in rows] == [1, 2] and all(row["fps"] > 0 for row in rows)
    assert "| processes | threads each | frames a second |" in capsys.readouterr().out
