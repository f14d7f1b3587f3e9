"""glass-train --look and --quick, and the bars that all commands show."""

import functools
import json
import re
import time

import pytest

from glass_gym.model.config import PRESETS, GlassConfig
from tests import videos
from tests.conftest import block_video
from tests.training.test_footage import write
from tests.training.test_survey import walker
from training.config import GmaConfig, ReadConfig, TrainConfig
from training.core import progress
from training.core.distributed import Distributed
from training.core.progress import Bar, each, say
from training.core.run import QUICK, Run
from training.data.store import Store, StoreWriter
from training.data.videos import open_videos, pack
from training.evaluation import estimate
from training.footage.survey import survey
from training.train import main

SMALL = ["--gma.batch", "1", "--pose.batch", "2", "--lma.batch", "2", "--loop.device", "cpu", "--look"]


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    """Two steps of each stage are timed: what is said is tested, not whether it is so."""
    monkeypatch.setattr(estimate, "STEPS", 2)


def minutes_told(said: str) -> list[str]:
    """The names of the parts whose minutes were told."""
    found = re.search(r"training would take about \d+ minutes on this machine: (.*)", said)
    return [re.sub(r" [\d.]+$", "", part) for part in found[1].split(", ")]


PARTS = ["data", "GMA", "refine", "windows", "poses", "local actions", "world and report"]


# --- --look ---


def test_a_look_at_videos_tells_what_training_would_do_and_trains_nothing(tmp_path, capsys):
    folder = write(tmp_path / "mine", *[walker(40, step=s) for s in ((3, 0), (0, 3), (3, 3))])
    run = tmp_path / "run"
    assert main([str(folder), "--out", str(run), "--cache", str(tmp_path / "data"), *SMALL]) == 0
    said = capsys.readouterr().out
    for words in ("what the footage shows", "read.skip = ", "gma.theta = ", "window = ", "pose.iterations = "):
        assert words in said
    assert minutes_told(said) == PARTS
    assert said.splitlines()[-1].startswith("to train: the same command without --look")
    assert [path.name for path in run.rglob("*") if path.is_file()] == ["survey.png"]
    assert not (tmp_path / "data").exists()


def test_a_look_at_one_file_and_at_a_clip_store(tmp_path, capsys):
    folder = write(tmp_path / "mine", walker(40))
    assert main([str(folder / "0.mp4"), "--out", str(tmp_path / "a"), *SMALL]) == 0
    assert minutes_told(capsys.readouterr().out) == PARTS
    writer = StoreWriter(tmp_path / "store", 32, 48, 1.0, "blocks")
    for index in range(3):
        writer.add(f"v{index}", ("train", "val", "test")[index], block_video(index, 20)[0])
    writer.close()
    assert main([str(tmp_path / "store"), "--out", str(tmp_path / "b"), "--window", "16", *SMALL]) == 0
    assert minutes_told(capsys.readouterr().out) == PARTS
    assert main([str(tmp_path / "store"), "--out", str(tmp_path / "b"), "--lma.iterations", "0", *SMALL]) == 0
    assert minutes_told(capsys.readouterr().out) == PARTS[:3]


def test_a_look_at_the_papers_model(tmp_path, capsys, monkeypatch):
    small = {"mask_channels": 8, "feature_channels": 16, "decoder_channels": 16, "bilinear_channels": 16}
    monkeypatch.setitem(PRESETS, "paper", functools.partial(GlassConfig.paper, **small))
    folder = write(tmp_path / "mine", walker(40))
    paper = ["--architecture", "paper", "--paper.frames", "2", "--gma.iterations", "0"]
    assert main([str(folder), "--out", str(tmp_path / "a"), *paper, *SMALL]) == 0
    assert minutes_told(capsys.readouterr().out) == ["data", "GMA", "windows", "LMA", "world and report"]


def test_a_look_at_data_that_is_made_first_says_so(tmp_path, capsys):
    assert main(["wsprites", "--out", str(tmp_path / "a"), "--cache", str(tmp_path), *SMALL]) == 1
    assert "wsprites: nothing to look at yet" in capsys.readouterr().err


def test_a_survey_of_other_frames_is_scaled_whole():
    found = survey([walker(40)])
    small = estimate.scaled(found, 32, 48, 2)
    assert small.agent == (found.agent[0] / 2, found.agent[1] / 2) and small.fastest == found.fastest
    assert small.still and small.common_plate().shape == (32, 48, 4) and small.area == found.area


# --- --quick ---


def test_quick_takes_a_share_of_what_is_chosen(tmp_path, capsys):
    def run(**options):
        return Run(TrainConfig(data="x", out=tmp_path, **options), Distributed("cpu"))

    quick = run(quick=True)
    assert quick.choose("gma.iterations", 1000, "the camera stands still") == round(1000 * QUICK["gma.iterations"])
    assert "for --quick" in quick.why["gma.iterations"] and "for --quick" in capsys.readouterr().out
    assert quick.choose("window", 32, "measured") == 32 and quick.choose("refine.iterations", 0, "none") == 0
    assert run(quick=True).values["gma.iterations"] == quick.values["gma.iterations"]
    assert run(quick=True, gma=GmaConfig(iterations=700)).choose("gma.iterations", 1000, "usual") == 700
    assert run().values == {}  # what was chosen for a quick run is chosen again for a whole one


def test_options_of_reading_make_a_run_choose_again(tmp_path):
    Run(TrainConfig(data="x", out=tmp_path), Distributed("cpu")).choose("window", 24, "measured")
    assert json.loads((tmp_path / "choices.json").read_text(encoding="utf-8"))["values"] == {"window": 24}
    assert Run(TrainConfig(data="x", out=tmp_path), Distributed("cpu")).values == {"window": 24}
    assert Run(TrainConfig(data="y", out=tmp_path), Distributed("cpu")).values == {}
    assert Run(TrainConfig(data="y", out=tmp_path, resume=True), Distributed("cpu")).values == {"window": 24}


# --- bars ---


def test_work_within_work_is_named_on_the_outer_bar(capsys):
    with Bar("report", 2, "part") as bar:
        bar.next("films")
        assert "report:   0%" in str(bar._shown) and "films" in str(bar._shown)
        for n in each("abc", "frames"):
            assert f"frames {'abc'.index(n)}/3" in str(bar._shown)
            say("a line", n)
        bar.next("pictures")
        assert "1/2" in str(bar._shown) and "pictures" in str(bar._shown)
    said = capsys.readouterr()
    assert said.out == "a line a\na line b\na line c\n"
    assert "report: 100%" in said.err and "frames:" not in said.err
    assert not Bar._open


def test_a_bar_ends_with_an_error_within_it():
    with pytest.raises(KeyError), Bar("outer") as outer, Bar("inner"):
        raise KeyError
    assert not Bar._open and outer._shown.disable


def test_the_clock_of_a_bar_goes_on_during_a_long_step(capsys, monkeypatch):
    monkeypatch.setattr(progress, "INTERVAL", 0.01)
    said = ""
    with Bar("k-means"):
        while said.count("k-means: ") < 3:
            time.sleep(0.01)
            said += capsys.readouterr().err


def test_only_the_main_process_shows_bars(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with Bar("data", 2) as bar:
        bar.next("one")
        bar.next("two")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("skip", [0, 1])
def test_the_amount_of_footage_is_that_of_the_store(tmp_path, skip):
    videos.write(tmp_path / "a.mp4", range(1000), size=(32, 48), options={"preset": "ultrafast"})
    read = ReadConfig(size=(32, 48), skip=skip)
    pack(tmp_path / "a.mp4", tmp_path / "store", read)
    told = estimate._amount(open_videos(tmp_path / "a.mp4", read), skip + 1)
    store = estimate.Amount.of_store(Store(tmp_path / "store"))
    assert (store.train, store.held_out) == (told.train, told.held_out)
