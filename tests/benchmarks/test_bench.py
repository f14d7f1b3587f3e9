"""glass-bench."""

import json

import pytest

from glass_gym.tools import bench
from glass_gym.worlds.checkpoint import save_world


@pytest.fixture
def world(tiny_world, tmp_path):
    return save_world(tmp_path / "tiny.safetensors", tiny_world)


def test_the_bench_writes_json_and_prints_a_table(tmp_path, capsys):
    pytest.importorskip("stable_baselines3")
    out = tmp_path / "bench.json"
    assert bench.main(["--num-envs", "2", "--seconds", "0.1", "--device", "cpu", "--out", str(out)]) == 0
    report = json.loads(out.read_text(encoding="utf-8"))
    row = report["rows"][0]
    assert report["id"] == "GlassTennis-v0" and report["device"] == "cpu" and report["peak_memory_mb"] > 50
    assert row["num_envs"] == 2
    assert all(row[key] > 0 for key in ("step_numpy_fps", "step_torch_fps", "step_policy_fps"))
    assert row["step_policy_learning_fps"] > 0
    assert row["step_numpy_fps"] == pytest.approx(2000 / row["step_ms"], rel=0.02)
    said = capsys.readouterr().out
    heads = ["rows", "step", "step, torch out", "step + policy", "step + policy + learning", "ms a step"]
    assert heads in [[cell.strip() for cell in line.strip("|").split("|")] for line in said.splitlines()]
    assert [path.name for path in tmp_path.iterdir() if path.stem == "bench"] == ["bench.json"]


def test_a_report_as_a_table():
    report = {
        "id": "GlassTennis-v0", "device": "cpu", "precision": "float32", "peak_memory_mb": 512.4,
        "machine": {"cores": 2, "processor": "Xeon", "torch": "2.6.0"},
        "rows": [{"num_envs": 1024, "step_numpy_fps": 12345.6, "step_torch_fps": 13000.0, "step_ms": 82.94}],
    }  # fmt: skip
    first, _, heads, _, row = bench.markdown(report).splitlines()
    assert first == "GlassTennis-v0 on 2 cores of Xeon (float32, torch 2.6.0), frames per second; peak memory 512 MB"
    assert [cell.strip() for cell in heads.split("|")[1:-1]] == ["rows", "step", "step, torch out", "ms a step"]
    assert [cell.strip() for cell in row.split("|")[1:-1]] == ["1,024", "12,346", "13,000", "82.9"]


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        ([], ["GlassTennis-v0", "GlassSprites-v0", "GlassArm-v0", "GlassMouse-v0"]),
        (["--id", "GlassTennis-v0"], ["GlassTennis-v0"]),
        (["--checkpoint", "mine.safetensors"], ["Glass-v0"]),
    ],
)
def test_fingerprint_hashes_the_bundled_worlds_or_the_one_that_is_given(options, ids, monkeypatch, capsys):
    monkeypatch.setattr(bench, "fingerprint", lambda id, **settings: f"hash of {settings.get('checkpoint', id)}")
    assert bench.main(["--fingerprint", *options]) == 0
    given = options[1:] if "--checkpoint" in options else ids
    assert capsys.readouterr().out.splitlines() == [f"{id} hash of {name}" for id, name in zip(ids, given, strict=True)]


def test_a_fingerprint_is_equal_for_equal_frames_only(world):
    def hashed(steps):
        return bench.fingerprint("Glass-v0", seeds=1, steps=steps, checkpoint=world, device="cpu")

    assert hashed(3) == hashed(3) != hashed(4)
    assert len(hashed(3)) == 64


def test_a_wrong_argument_is_named(tmp_path, capsys):
    assert bench.main(["--device", "cuda:55", "--out", str(tmp_path / "b.json")]) == 1
    assert "error:" in capsys.readouterr().err and not (tmp_path / "b.json").exists()
    for wrong in (["--num-envs", "0"], ["--seconds", "0"]):
        with pytest.raises(SystemExit):
            bench.main(wrong)
        assert "--num-envs and --seconds must be positive" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_measured(tmp_path, capsys):
    assert bench.main(["--out", str(tmp_path)]) == 1
    assert f"{tmp_path} cannot be written; choose another --out" in capsys.readouterr().err
