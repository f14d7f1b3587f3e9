import csv
import dataclasses
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from glass_gym.env.starts import StartStates
from glass_gym.play.recorder import Mp4Writer
from glass_gym.simulator.simulator import Simulator
from glass_gym.worlds.checkpoint import load_world
from tests import videos
from training.config import ReadConfig
from training.data.reader import open_video
from training.data.store import DataError, frames_to_tensor
from training.decoding.command import Decoder, unique_names
from training.decoding.command import main as decode_command
from training.decoding.decode import Reference, decode
from training.decoding.footage import parts_of, reading_of
from training.decoding.pictures import outline, transitions
from training.decoding.tables import COLUMNS, Rewards, read_actions, write_csv
from training.decoding.transfer import Actions, decode_first_shot, play
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


@pytest.mark.parametrize(
    ("provenance", "named"),
    [
        ({"read": "x"}, "'x', no table"),
        ({"read": {"size": [60000, 60000]}}, "read.size is 60000"),
        ({"read": {"crop": ["a", 0, 8, 8]}}, "read.crop"),
        ({"read": {"skip": 1.5}}, "read.skip"),
        ({"read": {"fps": True}}, "read.fps"),
        ({"footage_fps": float("nan")}, "footage_fps is nan"),
        ({"footage_fps": "30"}, "footage_fps is '30'"),
        ({"footage_fps": 0}, "footage_fps is 0"),
    ],
)
def test_a_world_that_tells_odd_things_of_reading_is_named(tennis, tmp_path, provenance, named):
    world = dataclasses.replace(tennis, provenance=provenance)
    with pytest.raises(DataError, match=rf"w\.safetensors: .*{named}"):
        reading_of(ReadConfig(), world, tmp_path / "w.safetensors")


def test_an_odd_config_beside_a_world_is_named(tennis, tmp_path):
    for text in ("[]", "{", '{"read": {"size": [8]}}'):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(DataError, match=r"config\.json: "):
            reading_of(ReadConfig(), tennis, tmp_path / "w.safetensors")


def test_broken_pictures_are_one_note(tennis, tmp_path):
    for n in range(8):
        Image.fromarray(videos.picture(n, (96, 160))).save(tmp_path / f"{n}.png")
    for n in (3, 6):
        file = tmp_path / f"{n}.png"
        file.write_bytes(file.read_bytes()[:200])
    reader = open_video(tmp_path)
    parts = list(parts_of(reader, tennis, ReadConfig()))
    assert [part.index.tolist() for part in parts] == [[0, 1, 2], [4, 5], [7]]
    assert [note for note in reader.notes if "left out" in note] == reader.notes[-1:]
    assert "2 pictures are left out, the first: " in reader.notes[-1] and "3.png" in reader.notes[-1]


def test_one_unreadable_video_does_not_end_the_others(generated, tmp_path, capsys):
    source = tmp_path / "two of them"
    source.mkdir()
    film(source / "b.mp4", generated[0][:3])
    (source / "a.mp4").write_bytes(b"no video")
    Image.fromarray(generated[0][0]).save(source / "0.png")
    out = tmp_path / "my out"
    assert decode_command([str(source), "--world", "tennis", "--out", str(out)]) == 0
    told = capsys.readouterr()
    assert "a.mp4" in told.err and "is left out" in told.err and "1 pictures beside the videos" in told.err
    assert "1 video, 3 frames, 2 actions" in told.out and f"--actions '{out / 'decoded.csv'}' --world" in told.out
    assert not (out / "a-decoded.mp4").exists() and (out / "b-decoded.mp4").exists()
    (source / "b.mp4").write_bytes(b"no video, either")
    assert decode_command([str(source), "--world", "tennis", "--out", str(out)]) == 1
    assert "no video can be read; the first: " in capsys.readouterr().err


def test_the_whole_first_shot_is_transferred(tennis, generated, tmp_path, monkeypatch, capsys):
    path = film(tmp_path / "walk.mp4", generated[0])
    decoder = Decoder(tennis, ReadConfig(), "cpu")
    whole = decode_first_shot(decoder, path)
    monkeypatch.setattr("training.decoding.footage.PIECE", 3)
    pieces = decode_first_shot(decoder, path)
    assert len(pieces.codes) == len(whole.codes) == 7 and pieces.shifts.shape == (7, 2)
    assert (pieces.frames == whole.frames).all()
    monkeypatch.setattr("training.decoding.transfer.MOST", 1)
    assert len(decode_first_shot(decoder, path).codes) == 3
    assert "only the first 3 steps" in capsys.readouterr().err


def test_a_failing_transfer_leaves_the_older_film(tmp_path, capsys):
    out, picture, table = tmp_path / "t.gif", tmp_path / "grey.png", tmp_path / "decoded.csv"
    out.write_bytes(b"older")
    Image.new("RGB", (160, 96), (90, 90, 90)).save(picture)
    write_csv(table, [dict.fromkeys(COLUMNS, "") | {"dx": "4", "dy": "0", "code": "0"}])
    common = ["--actions", str(table), "--world", "tennis", "--out", str(out)]
    assert transfer_command([str(picture), *common]) == 1
    assert "agent" in capsys.readouterr().err and out.read_bytes() == b"older"
    assert transfer_command([str(out), *common]) == 1
    assert "is one of the videos" in capsys.readouterr().err and out.read_bytes() == b"older"


def test_rewards_are_those_of_the_task(tennis):
    position = np.array([[60, 60], [64, 60], [68, 60]])
    toward, away = (Rewards("reach", tennis, (x, 60.0))(position) for x in (90.0, 30.0))
    assert min(toward) > 0 > max(away)
    with pytest.raises(ValueError, match="inside the 160x96 frame"):
        Rewards("reach", tennis, (900.0, 60.0))
    with pytest.raises(ValueError, match="task 'collect' has no target"):
        Rewards("collect", tennis, (80.0, 60.0))


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
        read_actions(path, 8)
    write_csv(path, [dict.fromkeys(COLUMNS, "")])
    with pytest.raises(DataError, match="has no actions"):
        read_actions(path, 8)
    step = dict.fromkeys(COLUMNS, "") | {"dx": "4", "dy": "0", "code": "7"}
    for wrong in ({"code": "-1"}, {"code": "8"}, {"dx": "nan"}, {"dy": "1e99"}):
        write_csv(path, [step, step | wrong])
        with pytest.raises(DataError, match=f"row 2 has .*{next(iter(wrong))} = "):
            read_actions(path, 8)
    assert decode_command([str(tmp_path / "none.mp4"), "--world", "tennis", "--out", str(tmp_path)]) == 1
    assert "none.mp4" in capsys.readouterr().err
    assert decode_command(["x.mp4", "--world", "tennis", "--out", str(tmp_path), "--task", "reach"]) == 1
    assert "--datasets" in capsys.readouterr().err
    if not find_spec("lerobot"):
        (tmp_path / "x.mp4").touch()
        assert (
            decode_command(
                [str(tmp_path / "x.mp4"), "--world", "tennis", "--out", str(tmp_path), "--datasets", "lerobot"]
            )
            == 1
        )
        assert "then pip install --no-deps lerobot" in capsys.readouterr().err
    assert transfer_command(["x.mp4", "--world", "tennis"]) == 1
    assert "SOURCE TARGET" in capsys.readouterr().err


def test_a_missing_package_names_the_extra(generated, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "h5py", None)
    source = film(tmp_path / "walk.mp4", generated[0][:2])
    assert (
        decode_command([str(source), "--world", "tennis", "--out", str(tmp_path / "out"), "--datasets", "minari"]) == 2
    )
    assert "glass-decode needs h5py: pip install 'glass-gym[decode]'" in capsys.readouterr().err


@pytest.mark.slow
def test_minari_reads_the_data_set(generated, tmp_path, monkeypatch):
    minari = pytest.importorskip("minari")
    pytest.importorskip("h5py")
    source = film(tmp_path / "walk.mp4", generated[0])
    task = ["--datasets", "minari", "--task", "reach", "--target", "100", "60"]
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    assert decode_command([str(tmp_path / "bad.mp4"), "--world", "tennis", "--out", str(tmp_path), *task]) == 1
    assert decode_command([str(source), "--world", "tennis", "--out", str(tmp_path), "--no-films", *task]) == 0
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    episode = minari.load_dataset("decoded-v0")[0]
    assert episode.observations.shape == (8, 96, 160, 3) and episode.actions.shape == (7, 2)
    assert episode.actions[:, 0].tolist() == [1, 1, 1, 5, 5, 5, 5] and episode.truncations[-1]
    assert (episode.rewards[:3] > 0).all() and (episode.rewards[3:] < 0).all()


@pytest.mark.slow
def test_lerobot_reads_the_data_set(generated, tmp_path):
    """LeRobot is installed without its dependencies, which pin an older PyAV."""
    datasets = pytest.importorskip("lerobot.datasets.lerobot_dataset")
    source = film(tmp_path / "walk.mp4", generated[0])
    task = ["--datasets", "lerobot", "--task", "reach", "--target", "100", "60"]
    assert decode_command([str(source), "--world", "tennis", "--out", str(tmp_path), "--no-films", *task]) == 0
    data = datasets.LeRobotDataset("decoded-v0", root=tmp_path / "lerobot" / "decoded-v0")
    assert len(data) == 7 and data.num_episodes == 1 and data.fps == 15
    steps = [data[t] for t in range(7)]
    assert [int(step["action"][0]) for step in steps] == [1, 1, 1, 5, 5, 5, 5]
    assert [float(step["next.reward"]) > 0 for step in steps] == [True] * 3 + [False] * 4
    seen = (steps[0]["observation.image"].permute(1, 2, 0).numpy() * 255).round()
    assert np.abs(seen - generated[0][0]).mean() < 2 and steps[1]["observation.state"].shape == (2,)
