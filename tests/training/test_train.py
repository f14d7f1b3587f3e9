"""glass-train: the command."""

import dataclasses
import functools
import json
import re
import shutil

import numpy as np
import pytest
import torch

from glass_gym.model.config import PRESETS, GlassConfig
from glass_gym.worlds.checkpoint import load_world
from tests.conftest import block_video
from training import train
from training.core import sheets
from training.core.distributed import Distributed
from training.core.run import Run, RunError, read_choices
from training.core.trainer import read_state
from training.data.store import StoreWriter
from training.train import TrainConfig, main
from training.windows import windows
from training.windows.windows import WindowSet

SIZES = ["--window", "16", "--poses", "4", "--codes", "2", "--loop.device", "cpu"]
GMA = ["--gma.theta", "0.04", "--gma.iterations", "2", "--gma.batch", "2"]
LMA = ["--pose.iterations", "3", "--pose.batch", "4", "--lma.iterations", "3", "--lma.batch", "4"]
PAINTED = ["--drawing", "painted"]
QUICK = [*SIZES, *GMA, *LMA, *PAINTED, "--no-report"]


def state_of(run, name):
    return read_state(run / f"{name}.pt", torch.device("cpu"))


def same(a, b, *parts):
    """Whether two states have the same weights of some parts."""
    names = [name for name in a["average"] if name.split(".")[0] in parts]
    return all(torch.equal(a["average"][name], b["average"][name]) for name in names)


@pytest.fixture(scope="module")
def clips(made_once):
    """A clip store of six short videos."""

    def fill(folder):
        writer = StoreWriter(folder, 32, 48, 1.0, "blocks")
        for index in range(6):
            writer.add(f"v{index}", ("train", "val", "test")[max(0, index - 3)], block_video(index, 20)[0])
        writer.close()

    return made_once("six-videos", fill)


@pytest.fixture(scope="module")
def finished(clips, made_once):
    """The folder of a small run of the default architecture, from frames to a world."""

    def fill(folder):
        assert main([str(clips), "--out", str(folder), *QUICK]) == 0

    return made_once("finished-run", fill)


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of that run, to go on with."""
    return shutil.copytree(finished, tmp_path / "run")


# --- the whole way ---


def test_the_command_alone_makes_a_world(clips, tmp_path, capsys, monkeypatch, quick_report):
    monkeypatch.setattr("glass_gym.tools.time_left.MEASURED", 0.0)
    drawn = []
    poses_sheet = sheets.poses_sheet
    monkeypatch.setattr(sheets, "poses_sheet", lambda model, clips: drawn.append(clips) or poses_sheet(model, clips))
    run = tmp_path / "run"
    command = [str(clips), "--out", str(run), *SIZES, *GMA, *LMA, *PAINTED, "--gma.iterations", "4"]
    assert main([*command, "--loop.max-minutes", "0"]) == 3
    assert "stopped and saved: " in (out := capsys.readouterr().out) and "the same command and --resume" in out
    assert main(command) == 1
    assert "add --resume to continue it" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0
    said = capsys.readouterr()
    told = re.findall(r"(\w+): [\d.e+]+ steps a second on this machine, about \d+ minutes more", said.out)
    assert told == ["gma", "pose", "lma"]
    for bar in ("surveying the clips", "gma", "measuring the background around the agent", "tracking the agent (train)",
                "aligning the agent's windows (val)", "pose", "encoding poses", "lma", "exporting the world",
                "report"):  # fmt: skip
        assert f"{bar}: " in said.err
    world = load_world(run / "world.safetensors")
    assert world.config.architecture == "pose" and world.config.poses == 4 and world.config.window == 16
    assert world.model.lma.prior is not None and world.provenance["data"] == "blocks"
    assert set(world.provenance["minutes"]) == {"gma", "pose", "lma"}
    pictures = {"survey.png", "gma-final.png", "pose-final.png", "lma-final.png"}
    assert {p.name for p in (run / "samples").iterdir()} >= pictures
    assert list((run / "tensorboard").iterdir()) and (run / "report.html").exists()
    known = WindowSet.load(run / "windows-val.npz").position
    shown = drawn[0]["positions"].flatten(0, 1).numpy()
    assert (shown[:, None] == known).all(-1).any(1).all()  # no window is shown beside where it was aligned to


def test_the_papers_architecture_makes_a_world(clips, tmp_path, monkeypatch):
    import gymnasium as gym

    small = {"mask_channels": 8, "feature_channels": 16, "decoder_channels": 16, "bilinear_channels": 16}
    monkeypatch.setitem(PRESETS, "paper", functools.partial(GlassConfig.paper, **small))
    monkeypatch.setattr(windows, "MOST_FRAMES", 80)
    path = tmp_path / "run" / "world.safetensors"
    command = [
        str(clips), "--architecture", "paper", "--out", str(path.parent), "--window", "16", "--codes", "2",
        "--gma.iterations", "1", "--gma.batch", "1", "--paper.iterations", "2", "--paper.frames", "2",
        "--paper.horizons", "2", "--paper.continuous", "0", "--loop.device", "cpu", "--no-report",
    ]  # fmt: skip
    assert main(command) == 0
    used = json.loads((path.parent / "config.json").read_text(encoding="utf-8"))
    assert used["refine"]["iterations"] == 0
    assert read_choices(path.parent / "choices.json")[0]["window_frames"] == 40
    envs = gym.make_vec("Glass-v0", num_envs=3, checkpoint=str(path))
    frames, _ = envs.reset(seed=0)
    for _ in range(3):
        frames, _, _, _, infos = envs.step(envs.action_space.sample())
    assert frames.shape == (3, 32, 48, 3) and envs.unwrapped.core.state.world.layer.shape == (3, 4, 32, 48)
    assert np.isfinite(infos["agent_position"]).all()


# --- options ---


def test_options_are_frozen():
    config = TrainConfig(data="x")
    for part, name in ((config, "codes"), (config.gma, "theta"), (config.read, "size"), (config.loop, "seed")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(part, name, 1)


MAY_BE_NONE = {"agent", "sheets", "background", "init", "vgg", "read.crop", "read.size", "read.fps", "read.skip"}
"""Options that a run on a clip store does not use."""


def test_config_json_holds_the_options_as_they_were_used(finished):
    def nulls(values, prefix=""):
        for name, value in values.items():
            if isinstance(value, dict):
                yield from nulls(value, f"{prefix}{name}.")
            elif value is None:
                yield prefix + name

    used = json.loads((finished / "config.json").read_text(encoding="utf-8"))
    assert set(nulls(used)) <= MAY_BE_NONE
    assert used["codes"] == 2 and used["gma"]["theta"] == 0.04 and used["pose"]["batch"] == 4
    config = state_of(finished, "lma")["config"]
    chosen = read_choices(finished / "choices.json")[0]
    for name in ("codes", "poses", "window"):
        assert used[name] == chosen[name] == config[name], name
    for name in ("agent_radius", "foreground_range", "background_range", "decoder_position", "background_plate"):
        assert chosen[name] == config[name] and name not in used, name
    assert used["loop"]["device"] == "cpu" and used["loop"]["bf16"] in (True, False)


def test_a_source_with_values_of_its_own_leaves_no_null_either(clips, tmp_path):
    """As `tennis` does."""
    index = json.loads((clips / "index.json").read_text(encoding="utf-8"))
    store = shutil.copytree(clips, tmp_path / "store")
    (store / "index.json").write_text(json.dumps(index | {"kind": "tennis"}), encoding="utf-8")
    command = [str(store), "--out", str(tmp_path / "run"), "--gma.iterations", "0", "--lma.iterations", "0"]
    assert main([*command, "--loop.device", "cpu"]) == 0
    used = json.loads((tmp_path / "run/config.json").read_text(encoding="utf-8"))
    chosen = read_choices(tmp_path / "run/choices.json")[0]
    expected = {"codes": 8, "poses": 256, "window": 32, "agent_radius": 12, "foreground_range": 12}
    assert chosen == chosen | expected | {"decoder_position": False}
    assert used["gma"]["theta"] == 0.007 and used["refine"]["iterations"] == 0


def test_choices_json_says_what_was_suggested_instead_of_an_option(finished):
    values, why = read_choices(finished / "choices.json")
    assert values["window"] == 16 and re.match(r"given; suggested was \d+: px; ", why["window"])
    assert values["pose.iterations"] == 3 and why["pose.iterations"] == "given; suggested was 1200: for 80 frames"
    assert re.match(r"given; suggested was 0\.\d+: the agent covers", why["gma.theta"])
    assert not why["foreground_range"].startswith("given")
    assert {"gma.iterations", "lma.iterations", "codes", "poses", "hole_margin", "window_frames"} <= set(values)


def test_a_run_keeps_its_choices_and_an_option_wins(tmp_path):
    def run(**options):
        return Run(TrainConfig(data="x", out=tmp_path, **options), Distributed("cpu"))

    first = run()
    assert first.choose("window", 24, "measured") == 24 and first.config.window == 24 and first.given.window is None
    first.choose("hole_margin", 1, "because")  # no option
    again = run()
    assert again.values == first.values and again.why == first.why and again.config.window == 24
    other = run(window=32)
    assert other.config.window == other.values["window"] == 32
    assert other.why["window"] == "given; suggested was 24: measured"
    other.choose("window", 40, "measured again")
    assert other.values["window"] == 32 and other.why["window"] == "given; suggested was 40: measured again"
    assert run(window=16).why["window"] == "given; suggested was 40: measured again"
    (tmp_path / "choices.json").write_text("{", encoding="utf-8")
    with pytest.raises(RunError, match=r"choices\.json: not a whole record"):
        run()


def test_help_shows_what_people_change_and_help_all_the_rest(capsys):
    def shown(option):
        with pytest.raises(SystemExit):
            main([option])
        out = capsys.readouterr().out
        return out, set(re.findall(r"^\W*(--[a-z][a-z.-]*)", out, re.MULTILINE))

    text, few = shown("--help")
    assert "glass-train --help-all" in text and {"--out", "--codes", "--resume", "--init"} <= few
    assert len(few) <= 13
    text, every = shown("--help-all")
    assert few < every and len(every) <= 52
    assert {"--gma.theta", "--gma.without", "--read.skip", "--paper.cycle"} <= every


# --- interrupted, resumed ---


def test_resume_goes_on_with_lma(copied, clips, capsys):
    state = torch.load(copied / "lma.pt", weights_only=True)
    torch.save(state | {"finished": ["pose"], "stage": "pose"}, copied / "lma.pt")
    kept = ("gma.pt", "windows-train.npz", "windows-val.npz", "choices.json")
    before = {name: (copied / name).read_bytes() for name in kept}
    command = [str(clips), "--out", str(copied), *QUICK, "--resume"]
    assert main([*command, "--loop.max-minutes", "0"]) == 3
    assert "lma.pt. Continue with the same command and --resume" in capsys.readouterr().out
    half = state_of(copied, "lma")
    assert (half["stage"], half["iteration"], half["finished"]) == ("lma", 1, ["pose"])
    (copied / "world.safetensors").unlink()
    assert main(command) == 0
    after = state_of(copied, "lma")
    assert after["finished"] == ["pose", "lma"] and same(state, after, "encoder", "decoder", "pose_encoder")
    assert before == {name: (copied / name).read_bytes() for name in kept}  # nothing of this was made again
    assert load_world(copied / "world.safetensors").config.poses == 4


@pytest.mark.parametrize(
    ("option", "message"),
    [(["--codes", "3"], r"lma\.pt: .*'codes': '2, not 3'"), (["--poses", "5"], r"lma\.pt: .*'poses': '4, not 5'"),
     (["--architecture", "paper"], r"gma\.pt: .*'pose, not paper'")],
)  # fmt: skip
def test_other_sizes_cannot_be_resumed(copied, clips, capsys, option, message):
    assert main([str(clips), "--out", str(copied), *QUICK, *option, "--resume"]) == 1
    assert re.search(message + r".*; use the same options", capsys.readouterr().err)


def test_an_interruption_between_the_stages_is_no_error(clips, tmp_path, capsys, monkeypatch):
    def stopped(run):
        (tmp_path / "gma.pt").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "_train", stopped)
    assert main([str(clips), "--out", str(tmp_path)]) == 3
    assert "what is done is kept. Continue with the same command and --resume" in capsys.readouterr().out


def test_a_gma_that_is_trained_alone_leaves_room_for_the_prior(clips, tmp_path, capsys):
    quick = ["--gma.iterations", "1", "--gma.batch", "1", "--lma.iterations", "0", "--loop.device", "cpu"]
    assert main([str(clips), "--out", str(tmp_path), "--window", "16", *quick]) == 0
    assert "GMA is done; LMA was skipped" in capsys.readouterr().out and not (tmp_path / "lma.pt").exists()
    assert state_of(tmp_path, "gma")["config"]["prior_channels"] > 0


# --- --init ---


@pytest.fixture
def no_world(monkeypatch):
    """Nothing is exported at the end."""
    monkeypatch.setattr(train, "export_world", lambda *_: None)


def started(finished, clips, out, *options):
    return main([str(clips), "--out", str(out), "--init", str(finished), *QUICK, *options])


def test_init_with_other_codes_takes_all_but_lma(finished, clips, tmp_path, capsys, no_world):
    assert started(finished, clips, tmp_path, "--codes", "4") == 0
    said = capsys.readouterr().out
    assert "gma.pt: taken are gma" in said and "lma.pt: taken are pose (lma: " in said
    old, new = state_of(finished, "lma"), state_of(tmp_path, "lma")
    assert new["config"]["codes"] == 4 and same(old, new, "encoder", "pose_encoder", "pose_codebook", "decoder")
    assert not same(old, new, "dynamics")
    assert same(state_of(finished, "gma"), state_of(tmp_path, "gma"), "mask", "inpaint")


def test_init_with_another_window_takes_gma_alone(finished, clips, tmp_path, capsys, no_world):
    assert started(finished, clips, tmp_path, "--window", "24", "--lma.iterations", "1") == 0
    assert "lma.pt: taken are none of its stages (pose: decoder" in capsys.readouterr().out
    assert state_of(tmp_path, "lma")["config"]["window"] == 24
    assert same(state_of(finished, "gma"), state_of(tmp_path, "gma"), "mask", "inpaint")


def test_init_trains_stages_again_that_are_named(finished, clips, tmp_path, no_world):
    assert started(finished, clips, tmp_path, "--again", "pose", "--gma.iterations", "9") == 0
    old, new = state_of(finished, "lma"), state_of(tmp_path, "lma")
    assert set(new["finished"]) == {"pose", "lma"} and not same(old, new, "decoder") and same(old, new, "dynamics")


def test_init_refuses_another_gma_and_a_folder_without_one(finished, clips, tmp_path, capsys):
    assert started(finished, clips, tmp_path / "a", "--architecture", "paper") == 1
    assert "its architecture is pose, not paper; use the same options and data" in capsys.readouterr().err
    assert main([str(clips), "--out", str(tmp_path / "b"), "--init", str(tmp_path / "none")]) == 1
    assert "none/gma.pt: no such file; --init takes the folder of another run" in capsys.readouterr().err


# --- errors ---


def test_a_stage_that_is_not_there_cannot_be_trained_again(clips, tmp_path, capsys):
    assert main([str(clips), "--out", str(tmp_path), "--again", "dma"]) == 1
    assert "--again takes gma, refine, matting, pose, lma, got dma" in capsys.readouterr().err


def test_the_command_names_bad_data_and_architectures(clips, tmp_path, capsys):
    assert main([str(tmp_path), "--cache", str(tmp_path / "c"), "--out", str(tmp_path / "a")]) == 1
    assert "holds no videos" in capsys.readouterr().err
    missing = ["wsprites", "--cache", str(tmp_path), "--sheets", str(tmp_path), "--out", str(tmp_path / "b")]
    assert main(missing) == 1
    assert "not found" in capsys.readouterr().err
    assert main([str(clips), "--architecture", "huge", "--out", str(tmp_path / "c")]) == 1
    assert "no preset called 'huge'; there are: pose, paper" in capsys.readouterr().err


@pytest.mark.parametrize("drawing", ["stored", "turned"])
def test_worlds_with_stored_windows_are_made_and_resumed(clips, tmp_path, capsys, drawing):
    run = tmp_path / "run"
    command = [str(clips), "--out", str(run), *SIZES, *GMA, *LMA, "--drawing", drawing, "--no-report"]
    assert main([*command, "--lma.iterations", "0"]) == 0  # GMA alone
    assert main([*command, "--resume"]) == 0
    world = load_world(run / "world.safetensors")
    assert world.config.drawing == drawing and world.config.poses == 4
    before = state_of(run, "lma")["model"]["library.codebook"]
    assert main([*command, "--resume"]) == 0
    assert torch.equal(state_of(run, "lma")["model"]["library.codebook"], before)
    assert main([*command[:-3], "--drawing", "painted", "--no-report", "--resume"]) == 1
    assert f"'drawing': '{drawing}, not painted'" in capsys.readouterr().err
