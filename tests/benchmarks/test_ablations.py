"""python -m benchmarks.ablations."""

import json

import pytest
import torch

from benchmarks.ablations import ROWS, main, table
from glass_gym.model.config import preset
from glass_gym.model.glass import GMA_PARTS, build_gma
from glass_gym.model.shift import CorrelationShift, RegressorShift
from training.data.store import StoreWriter
from training.data.wsprites import write_store


@pytest.fixture(scope="module")
def sprites(tmp_path_factory):
    root = tmp_path_factory.mktemp("sprites")
    write_store(root, length=17, videos=(3, 1, 2))
    return root


def command(sprites, out, *rows, **more):
    options = [f"--{k}={v}" for k, v in more.items()]
    return main(
        [str(sprites), "--out", str(out), "--rows", *rows, "--iterations", "2", "--loop.device", "cpu", *options]
    )


def cells(text):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]


def test_rows_finish_one_by_one_and_a_finished_row_is_not_run_again(sprites, tmp_path, capsys):
    assert command(sprites, tmp_path, "gma-base") == 0
    first = (tmp_path / "rows" / "gma-base.json").stat().st_mtime_ns
    assert command(sprites, tmp_path, "gma-base", "gma-regressor") == 0
    assert (tmp_path / "rows" / "gma-base.json").stat().st_mtime_ns == first
    report = json.loads((tmp_path / "ablation.json").read_text(encoding="utf-8"))
    rows = {row["name"]: row for row in report["rows"]}
    assert set(rows) == {"gma-base", "gma-regressor"} and report["test_videos"] == 2
    for row in rows.values():
        assert row["iterations"] == 2 and row["minutes"] > 0 and 0 <= row["segmentation"]["miou"] <= 1
        assert row["background_shift"]["mean"] >= 0 and row["foreground_shift_pairwise"]["pairs"] == 32
    assert rows["gma-regressor"]["row"]["paper_parts"] == ["shift_foreground", "shift_background"]
    assert {line[0] for line in cells(capsys.readouterr().out)} >= set(rows)
    assert not (tmp_path / "ablation.md").exists()


def test_an_interrupted_queue_goes_on(sprites, tmp_path, capsys):
    assert command(sprites, tmp_path, "gma-base", **{"loop.max-minutes": 0}) == 3
    assert "run the same command to continue" in capsys.readouterr().out
    assert not (tmp_path / "rows" / "gma-base.json").exists()
    state = torch.load(tmp_path / "gma-base" / "gma.pt", weights_only=True)
    assert state["iteration"] == 1 and state["finished"] == []
    assert command(sprites, tmp_path, "gma-base") == 0
    assert json.loads((tmp_path / "rows" / "gma-base.json").read_text(encoding="utf-8"))["iterations"] == 2
    assert torch.load(tmp_path / "gma-base" / "gma.pt", weights_only=True)["finished"] == ["gma"]


def test_a_row_that_needs_vgg_is_skipped_without_it(sprites, tmp_path, capsys):
    assert command(sprites, tmp_path, "gma-vgg") == 0
    assert "gma-vgg: skipped, it needs --vgg" in capsys.readouterr().err
    assert json.loads((tmp_path / "ablation.json").read_text(encoding="utf-8"))["rows"] == []


def test_rows_change_what_they_say():
    assert len(ROWS) == 10
    changed = {name: row.weights | row.schedule for name, row in ROWS.items()}
    assert changed["gma-base"] == {} and changed["gma-no-recb"] == {"rec_b": 0.0}
    assert changed["gma-paper"] == {"rec_j": 1.0, "size": 0.1, "binary_ramp": 0, "rate": 4e-4}
    kinds = {"gma-base": CorrelationShift, "gma-regressor": RegressorShift, "gma-paper": RegressorShift}
    for name, kind in kinds.items():
        row = ROWS[name]
        parts = {part: GMA_PARTS["paper"][part] for part in row.paper_parts}
        gma = build_gma(preset(row.architecture, 32, 48, window=16), **parts)
        assert type(gma.shift_foreground) is type(gma.shift_background) is kind


def test_an_unknown_row_lists_the_known_ones(sprites, tmp_path, capsys):
    assert command(sprites, tmp_path, "gma-nothing") == 1
    assert "no rows called gma-nothing; there are: gma-base, gma-no-recf" in capsys.readouterr().err


def test_data_without_masks_is_refused(tmp_path, capsys):
    writer = StoreWriter(tmp_path / "store", 32, 48, 1.0, "grey")
    for split in ("train", "test"):
        writer.add(split, split, torch.full((20, 32, 48, 3), 128, dtype=torch.uint8).numpy())
    writer.close()
    assert main([str(tmp_path / "store"), "--out", str(tmp_path / "out")]) == 1
    assert "ablations need true masks and test videos of more than 15 frames" in capsys.readouterr().err


def test_the_table_has_known_rows_and_leaves_out_what_a_row_lacks():
    measured = {"name": "gma-base", "iterations": 400, "minutes": 1.5936, "segmentation": {"miou": 0.86685}}
    heads, _, row = cells(table([measured, {"name": "lma-gone", "nmi_g": 0.5}]))
    assert heads == ["row", "what", "mIoU", "bg error px", "fg error px", "angle accuracy", "steps", "minutes"]
    assert row[0] == "gma-base" and row[2:] == ["0.867", "-", "-", "-", "400", "1.6"]
