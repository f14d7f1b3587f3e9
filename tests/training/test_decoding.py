import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from glass_gym.env.starts import StartStates
from glass_gym.play.recorder import Mp4Writer
from glass_gym.simulator.simulator import Simulator
from glass_gym.worlds.checkpoint import load_world
from tests import videos
from training.config import ReadConfig
from training.data.reader import open_video
from training.data.store import DataError, frames_to_tensor
from training.decoding.command import main as decode_command
from training.decoding.command import unique_names
from training.decoding.decode import Reference, decode
from training.decoding.footage import parts_of, reading_of
from training.decoding.pictures import outline, transitions
from training.decoding.tables import COLUMNS, Rewards, read_actions, write_csv
from training.decoding.transfer import Actions, play
from training.decoding.transfer import main as transfer_command


@pytest.fixture(scope="module")
def tennis():
    return load_world("tennis")


@pytest.fixture(scope="module")
def reference(tennis):
    return Reference(tennis)


@pytest.fixture(scope="module")
def generated(tennis):
    """A start frame, then 3 steps right and 4 left, each with a code of the prior: frames, shifts, codes."""
    simulator = Simulator(tennis.model, "cpu", "float32", tennis.ground)
    states = StartStates(tennis, simulator)
    state = states.at(torch.tensor([0]))
    state = simulator.place(state, torch.tensor([[80.0, 60.0]]))
    frames, shifts, codes = [simulator.frames(state)[0]], [], []
    for dx in (4.0, 4.0, 4.0, -4.0, -4.0, -4.0, -4.0):
        shift = torch.tensor([[dx, 0.0]])
        code = simulator.code_prior(state, shift[:, None])[:, 0].argmax(1)
        state = simulator.step(state, shift, code)
        frames.append(simulator.frames(state)[0])
        shifts.append(shift[0])
        codes.append(code)
    return torch.stack(frames).numpy(), torch.stack(shifts).numpy(), torch.cat(codes).numpy()


def film(path, frames):
    writer = Mp4Writer(path, 15, "yuv444p", crf="2")
    for frame in frames:
        writer.append_data(frame)
    writer.close()
    return path


def test_commanded_actions_are_read_back_and_the_frames_are_known(tennis, reference, generated):
    frames, shifts, codes = generated
    images = frames_to_tensor(frames)
    decoded = decode(tennis.model, images)
    assert decoded.shifts.numpy() == pytest.approx(shifts)
    assert (decoded.codes.numpy() == codes).mean() > 0.8
    assert decoded.probability.sum(1).numpy() == pytest.approx(1, abs=1e-5)
    assert np.abs(decoded.track.position[0].numpy() - [80, 60]).max() <= 1
    assert reference.errors(images, decoded).known.all()


def test_other_footage_is_not_known(tennis, reference, generated):
    frames = generated[0][:4]
    rng = np.random.default_rng(0)
    others = {
        "noise": rng.integers(0, 256, frames.shape, dtype=np.uint8),
        "upside down": frames[:, ::-1].copy(),
        "other colours": frames[..., [1, 2, 0]].copy(),
        "brighter": (frames.astype(int) + 40).clip(0, 255).astype(np.uint8),
    }
    for name, other in others.items():
        images = frames_to_tensor(other)
        assert not reference.errors(images, decode(tennis.model, images)).known.any(), name


def test_a_video_is_decoded_into_tables_films_and_pictures_and_replayed(generated, tmp_path, capsys):
    source, out = film(tmp_path / "walk.mp4", generated[0]), tmp_path / "out"
    assert decode_command([str(source), "--world", "tennis", "--out", str(out)]) == 0
    with (out / "decoded.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(COLUMNS) and len(rows) == 8 and [row["frame"] for row in rows] == list("01234567")
    assert [row["shift_name"] for row in rows] == ["right"] * 3 + ["left"] * 4 + [""]
    assert rows[-1]["code"] == "" and float(rows[3]["time"]) == pytest.approx(0.2, abs=0.01)
    assert {row["known"] for row in rows} == {"True"}
    written = {path.name for path in out.iterdir()} - {"decoded.parquet"}
    assert written == {
        "decoded.csv", "time_line.png", "transitions.png", "map.png", "walk-decoded.mp4", "walk-masks.mp4",
    }  # fmt: skip
    masks = [frame.pixels for frame in open_video(out / "walk-masks.mp4").read()]
    assert len(masks) == 8 and 60 < (masks[0][..., 0] > 127).sum() < 120
    assert len(list(open_video(out / "walk-decoded.mp4").read())) == 8
    assert "does not know" not in capsys.readouterr().err

    replay = tmp_path / "replay.mp4"
    arguments = [str(source), "--actions", str(out / "decoded.csv"), "--world", "tennis", "--out", str(replay)]
    assert transfer_command(arguments) == 0
    assert len(list(open_video(replay).read())) == 8


def test_an_unknown_video_is_told(tmp_path, capsys):
    videos.write(tmp_path / "other.mp4", range(6), size=(96, 160))
    out = tmp_path / "out"
    assert decode_command([str(tmp_path / "other.mp4"), "--world", "tennis", "--out", str(out), "--no-films"]) == 0
    assert "this world does not know 100% of the frames" in capsys.readouterr().err
    arguments = [str(tmp_path / "other.mp4")] * 2 + ["--world", "tennis", "--out", str(tmp_path / "t.mp4")]
    assert transfer_command(arguments) == 1
    assert "does not know" in capsys.readouterr().err and not (tmp_path / "t.mp4").exists()


def test_the_drawn_agent_moves_as_the_source_does(tennis, generated):
    frames, shifts, codes = generated
    drawn = np.stack(list(play(tennis, tennis.start_frames[5], Actions(shifts, codes), "cpu")))
    assert drawn.shape == frames.shape
    found = decode(tennis.model, frames_to_tensor(drawn)).shifts.numpy()
    assert np.abs(found - shifts).mean() <= 0.5


def test_every_kind_of_world_decodes(any_world, block_store):
    from training.data.store import Store

    store = Store(block_store)
    frames = frames_to_tensor(store.frames[:6])
    decoded = decode(any_world.model, frames)
    errors = Reference(any_world).errors(frames, decoded)
    assert decoded.probability.shape == (5, any_world.config.codes) and errors.known.shape == (6,)


def test_a_single_frame_has_a_position_and_no_action(tennis):
    decoded = decode(tennis.model, frames_to_tensor(tennis.start_frames[:1]))
    assert decoded.track.position.shape == (1, 2) and decoded.probability.shape == (0, 8)


def test_parts_join_without_a_gap_and_end_at_cuts(tennis, tmp_path, monkeypatch):
    monkeypatch.setattr("training.decoding.footage.PIECE", 6)
    videos.write(tmp_path / "a.mp4", range(20), size=(96, 160))
    read = ReadConfig()
    parts = list(parts_of(open_video(tmp_path / "a.mp4"), tennis, read))
    assert all(part.frames.shape[1:] == (96, 160, 3) for part in parts)
    numbers = [part.index[: len(part.index) - part.continued] for part in parts]
    assert np.concatenate(numbers).tolist() == list(range(20))
    assert [part.continued for part in parts] == [True] * (len(parts) - 1) + [False]
    skipped = list(parts_of(open_video(tmp_path / "a.mp4"), tennis, dataclasses.replace(read, skip=3)))
    assert np.concatenate([part.index for part in skipped]).tolist() == [0, 4, 8, 12, 16]


def test_videos_are_read_as_in_training_but_what_is_given_wins(tennis, tmp_path):
    world = dataclasses.replace(tennis, provenance={"read": {"crop": [0, 0, 8, 8], "fps": 10.0}})
    read = reading_of(ReadConfig(fps=5.0), world, tmp_path / "w.safetensors")
    assert read.crop == (0, 0, 8, 8) and read.fps == 5.0
    (tmp_path / "config.json").write_text('{"read": {"skip": 2}}')
    assert reading_of(ReadConfig(), tennis, tmp_path / "w.safetensors").skip == 2


def test_rewards_are_those_of_the_task(tennis):
    position = np.array([[60, 60], [64, 60], [68, 60]])
    toward, away = (Rewards("reach", tennis, (x, 60.0))(position) for x in (90.0, 30.0))
    assert min(toward) > 0 > max(away)
    with pytest.raises(ValueError, match="inside the 160x96 frame"):
        Rewards("reach", tennis, (900.0, 60.0))


def test_transitions_count_neighbours_of_one_shot():
    row = {"video": "a", "shot": 0, "known": True}
    rows = [row | {"code": code} for code in (0, 0, 1)] + [row | {"shot": 1, "code": 1}, row | {"code": None}]
    assert transitions(rows, 2).tolist() == [[1, 1], [0, 0]]


def test_an_outline_lies_outside():
    mask = np.zeros((5, 5), bool)
    mask[2, 2] = True
    assert outline(mask).sum() == 4 and not outline(mask)[2, 2]


def test_the_page_has_every_column():
    page = (Path(__file__).parents[2] / "docs" / "decoding.md").read_text()
    for name, meaning in COLUMNS.items():
        assert f"| `{name}` | {meaning} |" in page


def test_names_of_videos_differ(tmp_path):
    paths = [tmp_path / "a" / "x.mp4", tmp_path / "b" / "x.mp4", tmp_path / "y.avi"]
    assert unique_names(paths) == ["x.mp4-0", "x.mp4-1", "y"]


def test_odd_input_is_told(tmp_path, capsys):
    path = tmp_path / "no.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="not a table of decoded actions"):
        read_actions(path)
    write_csv(path, [dict.fromkeys(COLUMNS, "")])
    with pytest.raises(DataError, match="has no actions"):
        read_actions(path)
    assert decode_command([str(tmp_path / "none.mp4"), "--world", "tennis", "--out", str(tmp_path)]) == 1
    assert "none.mp4" in capsys.readouterr().err
    assert decode_command(["x.mp4", "--world", "tennis", "--out", str(tmp_path), "--task", "reach"]) == 1
    assert "--minari" in capsys.readouterr().err
    assert transfer_command(["x.mp4", "--world", "tennis"]) == 1
    assert "SOURCE TARGET" in capsys.readouterr().err


@pytest.mark.slow
def test_minari_reads_the_data_set(generated, tmp_path, monkeypatch):
    minari = pytest.importorskip("minari")
    pytest.importorskip("h5py")
    source = film(tmp_path / "walk.mp4", generated[0])
    task = ["--minari", "--task", "reach", "--target", "100", "60"]
    assert decode_command([str(source), "--world", "tennis", "--out", str(tmp_path), "--no-films", *task]) == 0
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    episode = minari.load_dataset("decoded-v0")[0]
    assert episode.observations.shape == (8, 96, 160, 3) and episode.actions.shape == (7, 2)
    assert episode.actions[:, 0].tolist() == [1, 1, 1, 5, 5, 5, 5] and episode.truncations[-1]
    assert (episode.rewards[:3] > 0).all() and (episode.rewards[3:] < 0).all()
