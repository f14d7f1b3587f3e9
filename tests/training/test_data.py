import json

import numpy as np
import pytest
from PIL import Image

from tests import videos
from tests.conftest import block_video
from training.config import DataOptions, ReadConfig
from training.data.reader import open_video
from training.data.sources import SOURCES, open_data
from training.data.store import DataError, GrowingArray, Store, StoreWriter
from training.data.videos import READER, find_videos, pack
from training.data.wsprites import LOCAL_ACTIONS, Sprites, WalkConfig, WSprites, characters, load_background


def opened(root, cache, read=None):
    """A folder of videos, opened as the commands do."""
    return open_data(root, DataOptions(cache=cache, read=read or ReadConfig()))


def write_png_video(folder, seed=0, length=6):
    folder.mkdir(parents=True)
    frames, _, _ = block_video(seed, length)
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{index:05d}.png")
    return frames


def test_a_store_gives_back_what_was_written(block_store):
    store = Store(block_store)
    frames, masks, position = block_video(3, 20)
    video = store.videos[3]
    assert np.array_equal(store.frames[video.start : video.start + 20], frames)
    assert np.array_equal(store.masks(video.start, video.start + 20), masks)
    assert np.array_equal(store.labels["position"][video.start : video.start + 20], position)
    assert isinstance(store.frames, np.memmap)


def test_an_unfinished_store_is_no_store(tmp_path):
    writer = StoreWriter(tmp_path, 32, 48)
    writer.add("a", "train", block_video(0, 4)[0])
    with pytest.raises(DataError, match="no \\(finished\\) clip store"):
        Store(tmp_path)
    writer.close()
    assert len(Store(tmp_path).frames) == 4


def test_a_truncated_frame_array_names_the_file(tmp_path):
    writer = StoreWriter(tmp_path, 32, 48)
    writer.add("a", "train", block_video(0, 4)[0])
    writer.close()
    path = tmp_path / "frames.npy"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"frames\.npy: cannot be mapped"):
        Store(tmp_path)


def test_png_folders_are_read_with_their_splits(tmp_path):
    frames = write_png_video(tmp_path / "set/train/a")
    (tmp_path / "set/train/a/masks").mkdir()  # as the paper's data has them; they are not read
    Image.fromarray(frames[0]).save(tmp_path / "set/train/a/masks/00000.png")
    write_png_video(tmp_path / "set/val/b", 1)
    store = opened(tmp_path / "set", tmp_path / "cache")
    assert [(v.name, v.split, v.length) for v in store.videos] == [("a", "train", 6), ("b", "val", 6)]
    assert np.array_equal(store.frames[:6], frames)


def test_plain_video_files_are_read(tmp_path):
    frames, _, _ = block_video(0, 8)
    (tmp_path / "set").mkdir()
    for name in "abc":
        videos.film(tmp_path / f"set/{name}.mp4", frames)
    store = opened(tmp_path / "set", tmp_path / "cache")
    assert {v.split for v in store.videos} == {"train", "val", "test"}
    assert np.abs(store.frames[:8].astype(int) - frames.astype(int)).mean() < 12


def test_crop_resize_and_skip(tmp_path):
    write_png_video(tmp_path / "s/train/a", length=9)
    config = ReadConfig(crop=(0, 0, 48, 24), size=(32, 64), skip=3)
    assert pack(tmp_path / "s", tmp_path / "c", config) == []
    store = Store(tmp_path / "c")  # the frames between are clips of their own
    assert [v.length for v in store.videos] == [3, 2, 2, 2] and store.frames.shape == (9, 32, 64, 3)


def test_skipped_frames_make_clips_of_the_same_split(tmp_path):
    frames = write_png_video(tmp_path / "s/a", length=420)
    store = opened(tmp_path / "s", tmp_path / "c", ReadConfig(skip=1))
    assert [(v.name, v.split) for v in store.videos] == [("a", "train"), ("a+1", "train"), ("a-001", "train"),
                                                         ("a-001+1", "train")]  # fmt: skip
    assert np.array_equal(store.frames[:192], frames[:384:2]) and np.array_equal(store.frames[192:384], frames[1:384:2])
    assert len(store.frames) == 420 and {v.file for v in store.videos} == {"a"}


def test_a_missing_number_ends_a_shot_and_is_told(tmp_path):
    write_png_video(tmp_path / "s/train/a", length=40)
    (tmp_path / "s/train/a/00013.png").unlink()
    store = opened(tmp_path / "s", tmp_path / "c")
    assert [v.length for v in store.videos] == [13, 26]
    assert any(
        "missing at 1 places, the first before 00014.png" in note for note in open_video(tmp_path / "s/train/a").notes
    )


def test_a_corrupt_frame_ends_a_shot(tmp_path, capsys):
    frames = write_png_video(tmp_path / "s/train/a", length=30)
    broken = tmp_path / "s/train/a/00012.png"
    broken.write_bytes(broken.read_bytes()[:60])
    store = opened(tmp_path / "s", tmp_path / "c")
    assert [v.length for v in store.videos] == [12, 17] and np.array_equal(store.frames[12:], frames[13:])
    assert "00012.png: broken image" in capsys.readouterr().err


def test_a_broken_video_file_is_named(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s/x.mp4").write_bytes(b"no video at all")
    with pytest.raises(DataError, match=r"x\.mp4: is no video that ffmpeg can read"):
        opened(tmp_path / "s", tmp_path / "c")


def test_mixed_frame_sizes_are_named(tmp_path, capsys):
    write_png_video(tmp_path / "s/train/a")
    Image.new("RGB", (64, 64)).save(tmp_path / "s/train/a/00006.png")
    assert opened(tmp_path / "s", tmp_path / "c").videos[0].length == 6
    assert "00006.png: is 64x64 px, the first" in capsys.readouterr().err


def test_a_video_of_another_shape_is_left_out(tmp_path, capsys):
    write_png_video(tmp_path / "s/train/a")
    (tmp_path / "s/train/b").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "s/train/b/00000.png")
    assert [v.name for v in opened(tmp_path / "s", tmp_path / "c").videos] == ["a"]
    assert "b: 64x64 px are another shape than most have" in capsys.readouterr().err


def test_a_store_of_another_reader_is_made_anew(tmp_path, capsys):
    write_png_video(tmp_path / "s/train/a")
    root = opened(tmp_path / "s", tmp_path / "c").root
    index = json.loads((root / "index.json").read_text(encoding="utf-8"))
    (root / "index.json").write_text(json.dumps({k: v for k, v in index.items() if k != "reader"}), encoding="utf-8")
    assert opened(tmp_path / "s", tmp_path / "c").reader == READER
    assert "made by another reader, and is made anew" in capsys.readouterr().err


def test_a_folder_without_videos_says_what_is_expected(tmp_path):
    with pytest.raises(DataError, match="holds no videos; expected"):
        find_videos(tmp_path)
    with pytest.raises(DataError, match="no such file or folder"):
        find_videos(tmp_path / "nowhere")


def test_w_sprites_are_the_same_for_the_same_seed_and_differ_otherwise():
    a, b, c = WSprites(seed=1).video("train", 5, 6), WSprites(seed=1).video("train", 5, 6), WSprites(seed=2)
    assert all(np.array_equal(a[key], b[key]) for key in a)
    assert not np.array_equal(a["frames"], c.video("train", 5, 6)["frames"])


def test_w_sprites_labels_are_in_pixels_and_fit_the_picture():
    video = WSprites(seed=0).video("train", 0, 40)
    assert np.array_equal(np.diff(video["position"], axis=0), video["foreground_shift"][:-1])
    assert set(np.abs(video["foreground_shift"]).max(1)) <= {0.0, 7.0}
    assert set(np.abs(video["background_shift"]).max(1)) <= {0.0, 2.0}
    assert video["position"].min() >= 0 and (video["position"].max(0) <= [63, 31]).all()
    assert 0.02 < video["masks"].mean() < 0.12 and video["local_action"].max() < len(LOCAL_ACTIONS)


def test_characters_are_split_8_1_1_and_never_mixed():
    parts = [set(characters(s).tolist()) for s in ("train", "val", "test")]
    assert [len(p) for p in parts] == [1036, 130, 130] and len(set.union(*parts)) == 1296


def test_every_attribute_of_the_built_in_characters_changes_the_picture():
    sprites = Sprites()
    base = sprites.character(0)
    for index in (1, 6, 36, 216):
        assert not np.array_equal(base, sprites.character(index))
    assert len({base[a].tobytes() for a in range(9)}) == 9


def test_missing_sheets_name_the_file(tmp_path):
    with pytest.raises(DataError, match=r"body/0\.png: not found"):
        Sprites(tmp_path).character(0)
    (tmp_path / "body").mkdir()
    Image.new("RGBA", (64, 64)).save(tmp_path / "body/0.png")
    with pytest.raises(DataError, match=r"sheet is \(64, 64\), expected \(832, 1344\)"):
        Sprites(tmp_path).character(0)


def test_the_drawn_scene_is_the_same_every_time_and_has_structure_everywhere():
    one, two = load_background(None, WalkConfig()), load_background(None, WalkConfig())
    assert one.shape == (146, 178, 3) and np.array_equal(one, two)
    rows = one[60:].reshape(-1, 178 * 3).astype(int)
    assert np.abs(np.diff(one[60:].astype(int), axis=1)).mean() > 2 and rows.std(1).min() > 5
    assert not np.array_equal(one, load_background("china", WalkConfig()))


@pytest.mark.parametrize(
    "read",
    [ReadConfig(size=(32, 64)), ReadConfig(crop=(0, 0, 40, 24)), ReadConfig(skip=1)],
    ids=("size", "crop", "skip"),
)
def test_videos_read_in_another_way_are_decoded_again(tmp_path, read):
    write_png_video(tmp_path / "s/train/a")
    first = opened(tmp_path / "s", tmp_path / "c")
    assert opened(tmp_path / "s", tmp_path / "c").root == first.root  # nothing changed: the cache is used
    again = opened(tmp_path / "s", tmp_path / "c", read)
    assert len(again.videos) != len(first.videos) or again.frames.shape != first.frames.shape
    assert opened(tmp_path / "s", tmp_path / "c").root == first.root


def test_another_folder_of_the_same_name_is_another_data_set(tmp_path):
    one = write_png_video(tmp_path / "a/set/train/v", 0)
    other = write_png_video(tmp_path / "b/set/train/v", 1)
    for root, frames in (("a", one), ("b", other)):
        assert np.array_equal(opened(tmp_path / root / "set", tmp_path / "c").frames, frames)


def test_new_and_changed_files_are_decoded(tmp_path):
    write_png_video(tmp_path / "s/train/a", 0)
    assert len(opened(tmp_path / "s", tmp_path / "c").videos) == 1
    write_png_video(tmp_path / "s/train/b", 1)
    assert len(opened(tmp_path / "s", tmp_path / "c").videos) == 2
    other = block_video(7, 6)[0][0]
    Image.fromarray(other).save(tmp_path / "s/train/a/00000.png")
    assert np.array_equal(opened(tmp_path / "s", tmp_path / "c").frames[0], other)


def test_recordings_and_generated_data_made_in_another_way_are_kept_apart(tmp_path):
    tennis, sprites = SOURCES["tennis"], SOURCES["wsprites"]
    usual = DataOptions()
    (tmp_path / "scene.png").write_bytes(b"x")
    assert tennis.folder(usual) == "tennis" and tennis.folder(DataOptions(record_frames=480)) == "tennis-480"
    folders = {
        sprites.folder(options)
        for options in (
            usual,
            DataOptions(sheets=tmp_path),
            DataOptions(background=tmp_path / "scene.png"),
            DataOptions(background="china"),
        )
    }
    assert len(folders) == 4 and "wsprites" in folders


def test_a_store_grows_in_place_and_its_header_says_how_many(tmp_path):
    array = GrowingArray(tmp_path / "a.npy", (2, 3))
    rows = np.arange(30, dtype=np.uint8).reshape(5, 2, 3)
    array.append(rows[:2])
    array.append(rows[2:])
    array.close()
    assert np.array_equal(np.load(tmp_path / "a.npy"), rows)


def scenes(*seeds, length=12):
    """Shots of different scenes, one after the other."""
    shots = []
    for seed in seeds:
        frames, _, _ = block_video(seed, length)
        shots.append(255 - frames if seed % 2 else frames)
    return np.concatenate(shots)


def test_videos_are_split_at_cuts_and_a_single_long_one_is_held_out_in_parts(tmp_path):
    (tmp_path / "s").mkdir()
    frames = scenes(*range(10))
    videos.film(tmp_path / "s/one.mp4", frames)
    store = opened(tmp_path / "s", tmp_path / "c")
    assert [v.length for v in store.videos] == [12] * 10
    assert [v.split for v in store.videos] == ["train"] * 8 + ["val", "test"]
    assert [v.name for v in store.videos][:2] == ["one", "one-001"]
    whole = opened(tmp_path / "s", tmp_path / "c", ReadConfig(cuts=False))
    assert [v.length for v in whole.videos] == [120]


def test_of_few_videos_each_is_trained_on(tmp_path):
    (tmp_path / "s").mkdir()
    for name, shots in (("a", 3), ("b", 1), ("c", 2)):
        videos.film(tmp_path / f"s/{name}.mp4", scenes(*range(shots)))
    store = opened(tmp_path / "s", tmp_path / "c")
    splits = [(v.name, v.split) for v in store.videos]
    assert splits == [("a", "train"), ("a-001", "train"), ("a-002", "test"), ("b", "train"), ("c", "train"),
                      ("c-001", "val")]  # fmt: skip


def test_cuts_everywhere_are_an_error(tmp_path):
    folder = tmp_path / "s/train/a"
    folder.mkdir(parents=True)
    for index in range(24):
        Image.fromarray(np.full((32, 48, 3), 255 * (index // 2 % 2), np.uint8)).save(folder / f"{index:05d}.png")
    with pytest.raises(DataError, match="no shot has 8 frames"):
        opened(tmp_path / "s", tmp_path / "c")
