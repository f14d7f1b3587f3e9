import json
import re

import pytest
import torch

from benchmarks.ablations.queue import Queue, main
from benchmarks.ablations.rows import LMA_ROWS, ROWS, tables
from benchmarks.results_page import bars, report
from glass_gym.model.config import preset
from glass_gym.model.glass import build_glass
from training.data.wsprites import write_store


def squeezed(text):
    """Tables without the spaces that align them."""
    return re.sub(" +", " ", text)


@pytest.fixture(scope="module")
def sprites(tmp_path_factory):
    root = tmp_path_factory.mktemp("sprites")
    write_store(root, length=17, videos=(3, 1, 2))
    return root


def command(sprites, out, *rows, **more):
    options = [f"--{k.replace('_', '-')}={v}" for k, v in more.items()]
    return main([str(sprites), "--out", str(out), "--rows", *rows, "--gma-iterations", "2", "--lma-iterations", "3",
                 "--lma-frames", "8", "--loop.device", "cpu", *options])  # fmt: skip


def test_rows_finish_one_by_one_and_a_finished_row_is_not_run_again(sprites, tmp_path):
    assert command(sprites, tmp_path, "gma-base") == 0
    first = (tmp_path / "rows" / "gma-base.json").stat().st_mtime_ns
    assert command(sprites, tmp_path, "gma-base", "lma-base", "lma-gumbel", "caddy") == 0
    assert (tmp_path / "rows" / "gma-base.json").stat().st_mtime_ns == first
    rows = {row["name"]: row for row in json.loads((tmp_path / "ablation.json").read_text())["rows"]}
    assert set(rows) == {"gma-base", "lma-base", "lma-gumbel", "caddy"}
    assert rows["lma-base"]["iterations"] == 3 and 0 <= rows["lma-base"]["nmi_g"] <= 1
    assert rows["caddy"]["minutes"] > 0 and 0 <= rows["caddy"]["miou_re_free"] <= 1
    table = (tmp_path / "ablation.md").read_text()
    assert all(f"| {name} " in table for name in rows)


def test_an_interrupted_queue_goes_on(sprites, tmp_path, capsys):
    assert command(sprites, tmp_path, "gma-base", max_minutes=0) == 3
    assert "run the same command to go on" in capsys.readouterr().out
    assert not (tmp_path / "rows" / "gma-base.json").exists() and (tmp_path / "gma-base" / "state.pt").exists()
    assert command(sprites, tmp_path, "gma-base") == 0
    assert json.loads((tmp_path / "rows" / "gma-base.json").read_text())["iterations"] == 2


def test_every_row_makes_a_model(sprites, tmp_path):
    for row in LMA_ROWS:
        changes = {"codes": 6, "window": 32, "agent_radius": 12} | row.config
        model = build_glass(preset(row.preset, 48, 64, **changes), **row.parts)
        assert all(getattr(model.config, key) == value for key, value in row.config.items())
        side = (32, 32) if row.data == "window" else (48, 64)
        layers, shifts = torch.rand(2, 3, 4, *side), torch.zeros(2, 2, 2)
        found = model.eval().quantise(model.lma.directions(layers, shifts))
        drawn = model.lma.rollout(layers, shifts, found.vector.unflatten(0, (2, 2)))
        assert drawn[-1].layer.shape == (2, 4, *side) and torch.isfinite(drawn[-1].layer).all()
        assert int(found.index.max()) < model.config.codes


def test_an_unknown_row_lists_the_known_ones(sprites, tmp_path, capsys):
    assert command(sprites, tmp_path, "lma-nothing") == 1
    assert "no rows called lma-nothing" in capsys.readouterr().err


def test_data_without_labels_is_refused(block_store, tmp_path, capsys):
    assert main([str(block_store), "--out", str(tmp_path)]) == 1
    assert "local_action" in capsys.readouterr().err


def test_the_report_shows_what_the_json_says_and_what_is_not_measured(tmp_path):
    real = {"segmentation": {"miou": 0.93}, "background_shift": {"mean": 0.5}}
    text = report(tmp_path)
    assert "not measured" in text
    lines = squeezed(bars({"wsprites/evaluation.json": real}.get)).splitlines()
    assert any("W-Sprites mIoU " in line and "0.93" in line and "| yes |" in line for line in lines)
    assert any("background shift error" in line and "**no**" in line for line in lines)


def test_the_report_has_the_tables_of_policies(tmp_path):
    (tmp_path / "policies").mkdir()
    row = {"success": 0.972, "success_95": [0.96, 0.981], "steps_ratio": 1.125, "return": 1.5, "episodes": 1000}
    figures = {"command": "--algo ppo", "timesteps": 500_000, "minutes": 21.5}
    figures["policies"] = {"policy": row, "random": row | {"steps_ratio": None}}
    (tmp_path / "policies" / "ppo_tennis.json").write_text(json.dumps(figures))
    text = squeezed(report(tmp_path))
    assert "### ppo tennis" in text and "`--algo ppo`: 500,000 timesteps, 21.5 minutes" in text
    assert "| policy | 97.2 % | 96.0 % to 98.1 % | 1.12 | 1.5 | 1,000 |" in text
    assert "| random | 97.2 % | 96.0 % to 98.1 % | - | 1.5 | 1,000 |" in text


def test_tables_leave_out_what_a_row_lacks():
    assert tables([]).count("\n") == 5 and "caddy" in ROWS and Queue
