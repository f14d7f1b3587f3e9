import json

import pytest

from glass_gym import bench
from glass_gym.checkpoint import save_world


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
