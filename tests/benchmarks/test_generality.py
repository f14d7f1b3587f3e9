"""python -m benchmarks.generality."""

import dataclasses
import json
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from benchmarks import generality
from benchmarks.recorded import WORLDS, RecordedWorld, largest_piece, palette_mask, record_world
from glass_gym.model.glass import build_glass
from glass_gym.worlds.checkpoint import save_world
from tests.conftest import block_video, world_of
from training.footage.survey import NoWorldError

GOOD = {"about": "a test", "agent_iou": 0.8, "present_at_100": 0.95, "step_error": 0.1, "error_over_static": 0.6}
"""Exactly what is aimed at."""


def test_a_figure_misses_its_aim_below_the_least_or_above_the_most():
    assert generality.misses(GOOD) == []
    bad = GOOD | {"agent_iou": 0.79, "present_at_100": 0.94, "step_error": 0.11, "error_over_static": 0.61}
    assert generality.misses(bad) == ["agent_iou", "present_at_100", "step_error", "error_over_static"]
    assert generality.misses({"about": "not trained", "step_error": None}) == []


def test_the_table_marks_what_misses_and_says_why_a_world_is_missing():
    results = {
        "good": GOOD | {"training_minutes": 12.4},
        "bad": GOOD | {"training_minutes": 19.0, "agent_iou": 0.784, "step_error": None},
        "racing": {"about": "a camera", "stopped": "the camera turns"},
        "tiles": {"about": "a grid"},
    }
    text = generality.markdown(results)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert lines[0][2:] == [
        "agent IoU", "error of the step length", "error / static, step 10", "present at step 100", "minutes"
    ]  # fmt: skip
    assert lines[2] == ["good", "a test", "0.80", "0.10", "0.60", "0.95", "12"]
    assert lines[3] == ["bad", "a test", "0.78 (missed)", "-", "0.60", "0.95", "19"]
    assert lines[4] == ["racing", "a camera", "-", "-", "-", "-", "-"]
    assert text.endswith("\n\n- racing: the survey stops: the camera turns.\n- tiles: not trained.\n")


@pytest.fixture
def truth(tmp_path):
    """A square of 4 x 4 px that moves by (2, 1) px a frame in 16 x 24 px; the store has every other frame, halved."""
    masks = np.zeros((5, 16, 24), bool)
    for t in range(5):
        masks[t, 2 + t : 6 + t, 4 + 2 * t : 8 + 2 * t] = True
    known = {"a": np.packbits(masks, axis=-1), "width": np.array(24), "b": np.packbits(masks, axis=-1)}
    known["b.moving"] = np.array([[0.0, 0.0], [1, 1], [4, 0], [9, 9], [np.nan, 0]])
    np.savez_compressed(tmp_path / "truth.npz", **known)
    store = type("Store", (), {"width": 12, "height": 8})
    return generality.Truth(tmp_path / "truth.npz", store, 1)


def test_true_masks_have_the_size_and_rate_of_the_store(truth):
    masks = truth.masks("a")
    assert masks.shape == (3, 8, 12) and masks.sum((1, 2)).tolist() == [4, 4, 4]
    assert np.argwhere(masks[1]).min(0).tolist() == [2, 4]


def test_true_moves_are_of_the_bounding_box_or_of_the_recorded_part(truth):
    assert truth.moves("a").tolist() == [[2.0, 1.0], [2.0, 1.0]]
    assert truth.moves("b").tolist() == [[2.0, 0.0]]  # px of the store; the last frame has no position


def test_masks_by_colour_keep_the_largest_piece():
    frames = np.zeros((1, 8, 16, 3), np.uint8)
    frames[0, 1:4, 1:4] = (200, 100, 50)
    frames[0, 1:3, 10:12] = (205, 95, 58)
    frames[0, 6, 14] = (200, 100, 59)  # too far in blue
    mask = palette_mask(frames, [(200, 100, 50)])
    assert mask.sum() == 13 and largest_piece(mask).sum() == 9
    assert palette_mask(frames, [(200, 100, 50), (200, 100, 59)]).sum() == 14


def blocks(videos, seed):
    for video in range(videos):
        yield block_video(seed + video, 20)[:2]


@pytest.fixture
def block_world(monkeypatch):
    monkeypatch.setitem(WORLDS, "tiles", RecordedWorld("a red block", "nothing", blocks))


def test_a_recorded_world_has_videos_and_their_true_masks(block_world, tmp_path):
    done = []
    record_world("tiles", tmp_path, 2, progress=lambda: done.append(1))
    assert sorted(p.name for p in (tmp_path / "videos").iterdir()) == ["000.mp4", "001.mp4"] and len(done) == 2
    store = type("Store", (), {"width": 48, "height": 32})
    masks = generality.Truth(tmp_path / "truth.npz", store, 0).masks("001")
    assert masks.shape == (20, 32, 48) and masks.sum((1, 2)).tolist() == [48] * 20


def test_a_world_that_the_survey_stops_is_told_with_the_reason(block_world, tmp_path, monkeypatch, capsys):
    def refuse(options):
        raise NoWorldError(f"{options.data}: nothing moves. --force trains nevertheless")

    monkeypatch.setattr(generality, "train", refuse)
    assert generality.main(["--worlds", "tiles", "--videos", "1", "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "generality.json").read_text(encoding="utf-8")) == {
        "tiles": {"about": "a red block", "stopped": "nothing moves"}
    }
    assert "- tiles: the survey stops: nothing moves." in capsys.readouterr().out
    assert not (tmp_path / "generality.md").exists()


def test_a_stopped_training_stops_the_command_and_is_resumed(block_world, tmp_path, monkeypatch):
    (tmp_path / "tiles" / "run").mkdir(parents=True)
    (tmp_path / "tiles" / "run" / "gma.pt").touch()
    seen = []
    monkeypatch.setattr(generality, "train", lambda options: seen.append(options) or 3)
    assert generality.main(["--worlds", "tiles", "--videos", "1", "--out", str(tmp_path)]) == 3
    assert seen[0].resume and seen[0].data == str(tmp_path / "tiles" / "videos")


def test_a_package_that_is_missing_is_named(tmp_path, monkeypatch, capsys):
    def record(videos, seed):
        raise ModuleNotFoundError("No module named 'box'")

    monkeypatch.setitem(WORLDS, "lander", RecordedWorld("", "gymnasium[box2d]", record))
    assert generality.main(["--worlds", "lander", "--out", str(tmp_path)]) == 1
    assert "error: lander needs pip install gymnasium[box2d] (No module named 'box')" in capsys.readouterr().err
    assert generality.main(["--worlds", "moon", "--out", str(tmp_path)]) == 1
    assert "no worlds called moon; there are: tiles, lander, kangaroo, mont" in capsys.readouterr().err


def test_a_world_is_scored_against_the_true_masks_and_steps(block_world, tiny_config, tmp_path, monkeypatch):
    """The world's mask is the agent's colour; everything else in it is untrained."""
    monkeypatch.setattr(generality, "ROLLOUTS", 4)
    world = world_of(build_glass(tiny_config.replace(prior_channels=8)).eval())
    world = dataclasses.replace(world, step=(3.0, 4.0), provenance={"minutes": {"gma": 1.5, "lma": 2.0}})
    monkeypatch.setattr(generality, "load_world", lambda path: world)
    monkeypatch.setattr(world.model.gma.mask, "forward", lambda frames: (frames[:, :1] > 0.4).float())
    (tmp_path / "tiles" / "run").mkdir(parents=True)
    save_world(tmp_path / "tiles" / "run" / "world.safetensors", world)
    assert generality.main(["--worlds", "tiles", "--videos", "10", "--only-score", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "generality.json").read_text(encoding="utf-8"))["tiles"]
    assert found["frame"] == [32, 48] and found["codes"] == 3 and found["training_minutes"] == 3.5
    assert found["agent_iou"] > 0.95
    assert found["true_step"] == [3.0, 2.0] and found["step_error"] == 1.0  # 4 px instead of 2
    assert found["error_over_static"] > 0
    assert 0 <= found["present_at_100"] <= 1
    film = iio.imread(tmp_path / "tiles.gif")
    assert film.shape[0] == 60 and film.shape[1:] == (64, 48 * 2, 3)  # two held-out videos, real above drawn


def test_folders_of_real_footage_are_trained_and_scored_without_true_masks(
    block_world, tiny_config, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(generality, "REAL", ("lma",))
    world = world_of(build_glass(tiny_config.replace(prior_channels=8)).eval())
    record_world("tiles", tmp_path / "recorded", 10)
    (tmp_path / "mine" / "still").mkdir(parents=True)
    (tmp_path / "recorded" / "videos").rename(tmp_path / "mine" / "cat")

    def train(options):
        if Path(options.data).name == "still":
            raise NoWorldError(f"{options.data}: nothing moves. --force trains nevertheless")
        options.out.mkdir(parents=True)
        (options.out / "choices.json").write_text('{"values": {}, "why": {}}')
        save_world(options.out / "world.safetensors", world)

    monkeypatch.setattr(generality, "train", train)
    assert generality.main(["--real", str(tmp_path / "mine"), "--out", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out" / "generality.json").read_text())
    assert found["cat"]["lma"]["clips"] >= 2 and found["still"] == {"stopped": "nothing moves"}
    out = capsys.readouterr().out
    assert "over the static baseline's" in out and "- still: the survey stops: nothing moves." in out
    assert (tmp_path / "out" / "cat.gif").exists() and not (tmp_path / "out" / "still.gif").exists()
    assert generality.main(["--real", str(tmp_path / "none"), "--out", str(tmp_path)]) == 1
    assert "none: no such folder" in capsys.readouterr().err
