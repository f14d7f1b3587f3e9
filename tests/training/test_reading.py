"""Videos as people have them are read as a person sees them: each picture once, in order, upright, in its colours.

What is unusual is told in a note. What cannot be read is an error that names file, cause and fix, or left out and told.
"""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

av = pytest.importorskip("av")

from tests import videos  # noqa: E402
from tests.videos import FAST, QUIET, SIZE  # noqa: E402
from training.config import ReadConfig  # noqa: E402
from training.data.reader import Frame, VideoReader, open_video  # noqa: E402
from training.data.store import DataError, Store  # noqa: E402
from training.data.videos import find_videos, open_videos, pack, sample_video  # noqa: E402

NEAR = 12.0  # Largest mean difference from what was drawn: what coding and another size cost, not what a fault does.
FIX = re.compile(r"again|leave it out|leave the|repair|convert|reduce|name them|download|remove|--read\.|pip install")
SHORT_GROUPS = FAST | {"g": "10"}


def read(path: Path, **arguments) -> tuple[VideoReader, list[Frame], list[np.ndarray]]:
    reader = open_video(path)
    frames = list(reader.read(**arguments))
    return reader, frames, [frame.pixels for frame in frames]


def numbers(pictures) -> list[int]:
    return [videos.index_of(picture) for picture in pictures]


def all_right(pictures, expected, size: tuple[int, int] = SIZE, near: float = NEAR) -> bool:
    """Whether pictures are those with these numbers, each as it was drawn."""
    assert numbers(pictures) == list(expected)
    assert {(picture.shape, picture.dtype.name) for picture in pictures} == {((*size, 3), "uint8")}
    assert max(videos.error(picture) for picture in pictures) < near
    assert np.abs(videos.patches(pictures[0]) - [(200, 40, 40), (40, 60, 200)]).max() < 16
    return True


def tells(reader: VideoReader, pattern: str) -> bool:
    """Whether one of the notes does; a note is a line."""
    assert all(note and "\n" not in note for note in reader.notes)
    return any(re.search(pattern, note, re.I) for note in reader.notes)


def cut_in(frames: list[Frame]) -> list[int]:
    """Where frames do not follow the one before."""
    return [index for index, frame in enumerate(frames) if not frame.follows]


def packed(root: Path, out: Path, **options) -> tuple[dict[str, list[int]], list[str]]:
    """The numbers of the pictures in a store, by the video's name, and what was told."""
    lines = pack(root, out, ReadConfig(size=SIZE, cuts=False, **options))
    store = Store(out)
    return {v.name: numbers(store.frames[v.start : v.start + v.length]) for v in store.videos}, lines


# --- codecs and containers --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def coded(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("coded")
    return {name: videos.write_codec(folder, name) for name in videos.CODECS}


@pytest.mark.parametrize("name", videos.CODECS)
def test_each_codec_gives_each_picture_once(coded, name):
    reader, frames, pictures = read(coded[name])
    size = (144, 176) if name == "h263" else SIZE
    assert all_right(pictures, range(40), size, 25 if name == "gif" else NEAR)
    assert (reader.height, reader.width) == size and reader.frames == 40 and reader.path == coded[name]
    rate = 25 if name == "gif" else 30
    assert reader.rate == pytest.approx(rate, 0.01) and reader.seconds == pytest.approx(40 / rate, 0.05)
    assert np.allclose([frame.time for frame in frames], np.arange(40) / rate, atol=2e-3)
    assert cut_in(frames) == [0]
    assert reader.pixel_aspect == pytest.approx(12 / 11 if name == "h263" else 1)
    assert name == "h263" or reader.notes == []  # nothing is unusual


@pytest.mark.parametrize("name", videos.CODECS)
def test_reading_can_be_left_and_begun_again(coded, name):
    reader = open_video(coded[name])
    whole = [frame.pixels for frame in reader.read()]
    some = reader.read()
    for expected in whole[:7]:
        assert np.array_equal(next(some).pixels, expected)
    other = next(reader.read()).pixels  # while the first is still being read
    assert np.array_equal(other, whole[0]) and np.array_equal(next(some).pixels, whole[7])
    some.close()
    again = [frame.pixels for frame in reader.read()]
    assert len(again) == len(whole) and all(map(np.array_equal, again, whole))


@pytest.mark.parametrize("name", videos.CODECS)
@pytest.mark.parametrize("most", [1, 3, 8, 21, 100])
def test_a_sample_equals_what_is_read_in_order(coded, name, most):
    whole = [frame.pixels for frame in open_video(coded[name]).read()]
    sample = sample_video(open_video(coded[name]), 1000, most)
    found = numbers(sample)
    assert found == sorted(set(found)) and 1 <= len(found) <= most and (most < 40 or len(found) == 40)
    assert all(np.array_equal(picture, whole[index]) for index, picture in zip(found, sample, strict=True))


def test_a_sample_of_a_long_group_equals_what_is_read_in_order(tmp_path):
    path = tmp_path / "a.mp4"
    videos.write(path, range(1800), options=FAST | {"g": "9999", "sc_threshold": "0"})
    reader, _, whole = read(path)
    assert numbers(whole) == list(range(1800)) and reader.frames == 1800
    sample = sample_video(open_video(path), 1000, 48)
    found = numbers(sample)
    assert found == sorted(set(found)) and len(found) <= 48 and found[-1] - found[0] > 900  # from all over it
    assert all(np.array_equal(picture, whole[index]) for index, picture in zip(found, sample, strict=True))


@pytest.mark.parametrize("suffix", ".mkv .m4v .mov .ts .mts .m2ts .flv .avi .3gp .MP4 .Mov .MTS".split())
def test_suffixes(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    camera = {"mpegts_m2ts_mode": "1"} if suffix.lower() in (".mts", ".m2ts") else {}  # packets of 192 bytes
    videos.write(path, range(12), "mpeg4" if suffix == ".avi" else "libx264", options={"b": "4M"}, container=camera)
    assert [found[2] for found in find_videos(tmp_path).videos] == [path]
    assert all_right(read(path)[2], range(12))


# --- time -------------------------------------------------------------------------------------------------------------

IRREGULAR = [*range(10), *range(10, 60, 2)]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_variable_rate_gives_the_real_pictures_at_their_times(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    videos.write(path, IRREGULAR, times=[index / 30 for index in IRREGULAR], options=FAST)
    reader, frames, pictures = read(path)
    assert all_right(pictures, IRREGULAR) and len(pictures) == 35
    assert np.allclose([frame.time for frame in frames], np.array(IRREGULAR) / 30, atol=2e-3)
    assert cut_in(frames) == [0] and tells(reader, "variable|irregular")
    assert reader.seconds == pytest.approx(2, 0.05)


@pytest.mark.parametrize("fps", [5, 10, 15, 30])
def test_resampling_is_by_time_and_makes_no_copies(tmp_path, fps):
    videos.write(tmp_path / "even.mp4", range(60), options=FAST)
    assert numbers(read(tmp_path / "even.mp4", fps=fps)[2]) == list(range(0, 60, 30 // fps))
    path = tmp_path / "uneven.mp4"
    videos.write(path, IRREGULAR, times=[index / 30 for index in IRREGULAR], options=FAST)
    kept = numbers(read(path, fps=fps)[2])
    assert kept == sorted(set(kept)) and set(kept) <= set(IRREGULAR)
    assert all(abs(np.diff(kept) - 30 / fps) <= 2) and abs(len(kept) - min(2 * fps, 35)) <= 2


def test_a_higher_rate_than_the_files_makes_no_copies(tmp_path):
    videos.write(tmp_path / "a.mp4", range(20), rate=12, options=FAST)
    _, frames, pictures = read(tmp_path / "a.mp4", fps=60)
    assert numbers(pictures) == list(range(20)) and cut_in(frames) == [0]


def test_what_a_browser_records(tmp_path):
    videos.browser(tmp_path / "a.webm")
    reader, frames, pictures = read(tmp_path / "a.webm")
    assert all_right(pictures, range(40)) and reader.frames == 40 and cut_in(frames) == [0]
    assert reader.seconds == pytest.approx(40 / 30, 0.25) and not tells(reader, "cut|end")
    assert numbers(read(tmp_path / "a.webm", fps=30)[2])[::39] == [0, 39]


@pytest.mark.parametrize(("rate", "count"), [(0.1, 20), (240, 240), (23.976, 48)])
def test_slow_and_fast(tmp_path, rate, count):
    videos.write(tmp_path / "a.mp4", range(count), rate=rate, options=FAST)
    reader, frames, pictures = read(tmp_path / "a.mp4")
    assert all_right(pictures, range(count)) and reader.rate == pytest.approx(rate, 0.01)
    assert frames[-1].time == pytest.approx((count - 1) / rate, 0.01) and cut_in(frames) == [0]
    assert not tells(reader, "cut|variable")


def test_stamps_of_whole_milliseconds_are_a_constant_rate(tmp_path):
    videos.write(tmp_path / "a.mkv", range(100), rate=120, options=FAST)
    reader, _, pictures = read(tmp_path / "a.mkv")
    assert all_right(pictures, range(100)) and reader.rate == pytest.approx(120, 0.02) and reader.notes == []
    assert numbers(read(tmp_path / "a.mkv", fps=60)[2]) == list(range(0, 100, 2))


def test_footage_of_two_rates_is_brought_to_one(tmp_path):
    root = tmp_path / "both"
    root.mkdir()
    videos.write(root / "a.mp4", range(40), rate=30, options=FAST)
    videos.write(root / "b.mp4", range(40), rate=15, options=FAST)
    found, _ = packed(root, tmp_path / "store", fps=15)
    assert found == {"a": list(range(0, 40, 2)), "b": list(range(40))}


# --- what is shown ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_turned_and_mirrored_files_are_read_upright(tmp_path, quarters, mirrored):
    path = tmp_path / "a.mp4"
    videos.turned(path, quarters, mirrored, indices=range(12))
    size = (96, 64) if quarters % 2 else SIZE
    reader, _, pictures = read(path)
    assert all_right(pictures, range(12), size) and (reader.height, reader.width) == size
    assert tells(reader, "turn|rotat|mirror") == bool(quarters or mirrored)
    small = read(path, size=(size[0] // 2, size[1] // 2))[2]
    assert numbers(small) == list(range(12)) and small[0].shape[:2] == (size[0] // 2, size[1] // 2)
    crop = read(path, crop=(4, 2, size[1] - 8, size[0] - 6))[2]
    assert all(np.array_equal(c, p[2:-6, 4:-8]) for c, p in zip(crop, pictures, strict=True))


def test_crop_and_size(tmp_path):
    path = tmp_path / "a.mp4"
    videos.write(path, range(12), options=FAST)
    whole = read(path)[2]
    half = read(path, crop=(0, 0, 96, 40))[2]
    assert all(np.array_equal(h, w[:40]) for h, w in zip(half, whole, strict=True))
    for size in ((32, 48), (128, 192), (50, 70)):
        scaled = read(path, size=size)[2]
        assert numbers(scaled) == list(range(12)) and {s.shape for s in scaled} == {(*size, 3)}
        assert max(map(videos.error, scaled)) < 16
    both = read(path, crop=(0, 32, 48, 64), size=(64, 96))[2]
    assert np.abs(both[0][-10:, :20].mean((0, 1)) - (200, 40, 40)).max() < 16
    with pytest.raises(DataError, match=r"a\.mp4.*crop.*96x64"):
        list(open_video(path).read(crop=(0, 0, 97, 64)))


@pytest.mark.parametrize(("aspect", "quarters", "shown"), [("2", 0, 2), ("1/2", 0, 0.5), ("2", 1, 0.5)])
def test_pixels_that_are_not_square(tmp_path, aspect, quarters, shown):
    videos.turned(tmp_path / "a.mp4", quarters, indices=range(12), aspect=Fraction(aspect))
    reader, _, pictures = read(tmp_path / "a.mp4")
    assert all_right(pictures, range(12), (96, 64) if quarters else SIZE)
    assert reader.pixel_aspect == pytest.approx(shown) and tells(reader, "pixels are|not square|aspect")


def test_the_aspect_of_pixels_reaches_the_store(tmp_path):
    root = tmp_path / "wide"
    root.mkdir()
    for name in "abc":
        videos.write(root / f"{name}.mp4", range(20), aspect=Fraction(2), options=FAST)
    packed(root, tmp_path / "store")
    assert Store(tmp_path / "store").pixel_aspect == pytest.approx(2)


@pytest.mark.parametrize("pix_fmt", ["yuv444p", "yuv422p", "gray"])
def test_odd_sizes_and_other_chroma(tmp_path, pix_fmt):
    size = (63, 97) if pix_fmt == "yuv444p" else (63, 96)
    videos.write(tmp_path / "a.mkv", range(12), "ffv1", size=size, pix_fmt=pix_fmt)
    reader, _, pictures = read(tmp_path / "a.mkv")
    assert numbers(pictures) == list(range(12)) and (reader.height, reader.width) == size
    assert pix_fmt == "gray" or all_right(pictures, range(12), size)
    videos.write(tmp_path / "b.mp4", range(12), size=(63, 97), pix_fmt="yuv444p", options=FAST)
    assert all_right(read(tmp_path / "b.mp4")[2], range(12), (63, 97))


@pytest.mark.parametrize(("matrix", "tag"), [("ITU709", 1), ("ITU601", 6)])
@pytest.mark.parametrize("full", [False, True])
def test_colours_are_those_that_the_file_tells(tmp_path, matrix, tag, full):
    def coded(index, size):
        frame = av.VideoFrame.from_ndarray(videos.picture(index, size), "rgb24")
        frame = frame.reformat(format="yuv444p", dst_colorspace=matrix, dst_color_range="JPEG" if full else "MPEG")
        frame.color_range = 2 if full else 1
        return frame

    path = tmp_path / "a.mp4"
    arguments = {"pix_fmt": "yuv444p", "colours": (1, 1, tag), "full": full}
    videos.write(path, range(12), draw=coded, options=FAST, **arguments)
    _, _, pictures = read(path)
    assert numbers(pictures) == list(range(12)) and max(map(videos.error, pictures)) < 4
    assert np.abs(videos.patches(pictures[0]) - [(200, 40, 40), (40, 60, 200)]).max() < 6


@pytest.mark.parametrize("suffix", [".mp4", ".mts"])
def test_interlaced_frames_are_not_woven(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    videos.interlaced(path)
    with path.open("rb") as file, av.open(file) as container:
        assert min(videos.comb(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)) > 15
    reader, _, pictures = read(path)
    found = numbers(pictures)
    assert found in (list(range(30)), sorted([*range(30)] * 2))  # a picture a frame, or a picture a field
    assert max(map(videos.comb, pictures)) < 12 and {p.shape[:2] for p in pictures} == {SIZE}
    assert tells(reader, "interlaced")


@pytest.mark.parametrize("transfer", ["pq", "hlg"])
def test_high_dynamic_range_is_mapped(tmp_path, transfer):
    path = tmp_path / "a.mp4"
    videos.hdr(path, transfer)
    reader, _, pictures = read(path)
    assert numbers(pictures) == list(range(12)) and tells(reader, f"HDR|dynamic range.*{transfer}")
    assert max(map(videos.error, pictures)) < 20
    red, blue = videos.patches(pictures[0])
    assert np.abs(red - (200, 40, 40)).max() < 40 and np.abs(blue - (40, 60, 200)).max() < 40
    square = (videos.picture(3) == (250, 245, 60)).all(-1)
    assert pictures[3][square].mean(0)[:2].min() > 200  # brighter than white: bright, and neither dark nor wrapped


@pytest.mark.parametrize("suffix", [".mov", ".gif"])
def test_what_is_transparent_has_one_colour(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    (videos.transparent if suffix == ".mov" else videos.transparent_gif)(path)
    reader, _, pictures = read(path)
    assert numbers(pictures) == list(range(12)) and tells(reader, "transparent|alpha")
    assert max(picture[videos.see_through()].std() for picture in pictures) < 2
    assert np.abs(videos.patches(pictures[5]) - [(200, 40, 40), (40, 60, 200)]).max() < 16
    square = (videos.picture(5) == (250, 245, 60)).all(-1)
    assert np.abs(pictures[5][square].mean(0) - (250, 245, 60)).max() < 16


def test_a_gif_that_stores_changes_only(tmp_path):
    images = [Image.fromarray(videos.picture(i)).quantize(200, dither=Image.Dither.NONE) for i in range(12)]
    images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:], duration=[40, 200] * 6, loop=0)
    reader, frames, pictures = read(tmp_path / "a.gif")
    assert all_right(pictures, range(12)) and frames[2].time == pytest.approx(0.24, abs=0.02)
    assert not tells(reader, "transparent")


# --- what else is in a file -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_the_main_one_of_two_streams_is_read_and_told(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    videos.two_streams(path)
    reader, _, pictures = read(path)
    assert all_right(pictures, range(40)) and (reader.height, reader.width) == SIZE and tells(reader, "2 video streams")
    found = numbers(sample_video(open_video(path), 1000, 8))
    assert -1 not in found and len(found) == 8


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_cover_art_is_no_video(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    videos.cover_art(path)
    reader, frames, pictures = read(path)
    assert all_right(pictures, range(40)) and reader.frames == 40 and cut_in(frames) == [0]


@pytest.mark.parametrize("first", [10, 13])
def test_what_an_edit_list_hides_is_not_read(tmp_path, first):
    videos.trimmed(tmp_path / "a.mp4", first)
    reader, frames, pictures = read(tmp_path / "a.mp4")
    assert all_right(pictures, range(first, 40)) and frames[0].time == 0 and cut_in(frames) == [0]
    assert reader.frames == 40 - first and not tells(reader, "cut|lost|damaged|variable")


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_sound_that_is_longer_than_the_picture(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    videos.write(path, range(40), sound=8, options=FAST)
    reader, frames, pictures = read(path)
    assert all_right(pictures, range(40)) and reader.seconds == pytest.approx(40 / 30, 0.1)
    assert not tells(reader, "cut|end|lost|damaged") and cut_in(frames) == [0]


@pytest.mark.parametrize("flags", ["frag_keyframe+empty_moov", "faststart", "frag_every_frame+empty_moov"])
def test_fragmented_files(tmp_path, flags):
    path = tmp_path / "a.mp4"
    videos.write(path, range(40), options=SHORT_GROUPS, container={"movflags": flags})
    reader, frames, pictures = read(path)
    assert all_right(pictures, range(40)) and reader.frames == 40 and reader.notes == [] and cut_in(frames) == [0]


# --- damaged files ----------------------------------------------------------------------------------------------------

CUT: dict[str, dict] = {
    "faststart.mp4": {"options": SHORT_GROUPS, "container": {"movflags": "faststart"}},
    "fragments.mp4": {"options": SHORT_GROUPS, "container": {"movflags": "frag_keyframe+empty_moov"}},
    "a.mkv": {"options": SHORT_GROUPS},
    "a.ts": {"options": SHORT_GROUPS},
    "a.flv": {"options": SHORT_GROUPS},
    "a.avi": {"codec": "mpeg4", "options": {"b": "4M"}},
    "a.webm": {"codec": "libvpx", "options": {"deadline": "realtime", "cpu-used": "8", "b": "2M", "g": "10"}},
    "a.mpg": {"codec": "mpeg1video", "options": {"b": "4M"}},
}


@pytest.mark.parametrize("name", CUT)
def test_of_a_file_that_was_cut_off_what_is_there_is_read_and_told(tmp_path, name):
    path = tmp_path / name
    videos.write(path, range(60), **CUT[name])
    videos.cut(path)
    reader, frames, pictures = read(path)
    count = len(pictures)
    assert count > 24 and all_right(pictures, range(count)) and cut_in(frames) == [0]
    if name not in ("a.ts", "a.mpg", "fragments.mp4"):  # these do not tell how long they are
        assert tells(reader, "cut|truncat|ends")
    found = numbers(sample_video(open_video(path), 1000, 12))
    assert found == sorted(set(found)) and -1 not in found and found[-1] < count


DAMAGED: dict[str, tuple[dict, int]] = {
    "a.mp4": ({"options": SHORT_GROUPS}, 10),
    "b_frames.mp4": ({"options": {"x264-params": "keyint=10:bframes=2"}}, 10),
    "mjpeg.avi": ({"codec": "mjpeg", "pix_fmt": "yuvj420p", "options": {"qmin": "2", "qmax": "4"}}, 1),
    "prores.mov": ({"codec": "prores_ks", "pix_fmt": "yuv422p10le"}, 1),
    "ffv1.mkv": ({"codec": "ffv1", "pix_fmt": "yuv444p"}, 12),
    "mpeg2.ts": ({"codec": "mpeg2video", "options": {"b": "4M"}}, 12),
    "wmv2.wmv": ({"codec": "wmv2", "options": {"b": "4M"}}, 12),
}
"""Arguments of :func:`videos.write`, and the length of a group of pictures that refer to one another."""


@pytest.mark.parametrize("damaged", [1, 20, 23, 39])
@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_pictures_are_left_out_and_counted(tmp_path, name, damaged):
    path = tmp_path / name
    arguments, group = DAMAGED[name]
    videos.write(path, range(40), **arguments)
    videos.damage(path, damaged)
    reader, frames, pictures = read(path)
    found = numbers(pictures)
    assert found == sorted(set(found)) and max(map(videos.error, pictures)) < NEAR
    missing = sorted(set(range(40)) - set(found))
    start = damaged // group * group
    early = 2 if name == "b_frames.mp4" else 0  # pictures that are in the decoder when it meets the damaged packet
    assert set(missing) <= set(range(start - early, start + group))
    assert missing or damaged == 1  # few bytes: what they say may be the same
    assert cut_in(frames) == [0, *(i for i in range(1, len(found)) if found[i] > found[i - 1] + 1)]
    lost = [note for note in reader.notes if re.search("damaged|lost|left out", note)]
    assert not missing or str(len(missing)) in re.findall(r"\d+", " ".join(lost))


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_frames_are_told_by_pack(tmp_path, name):
    root = tmp_path / "set"
    root.mkdir()
    for other in ("good.mp4", name):
        arguments = DAMAGED[name][0] if other == name else {"options": FAST}
        videos.write(root / other, range(40), **arguments)
    videos.damage(root / name, 23)
    found, lines = packed(root, tmp_path / "store")
    assert found["good"] == list(range(40))
    assert any(name in line for line in lines) and not any("good" in line for line in lines)
    pieces = [indices for video, indices in found.items() if video != "good"]
    assert all(indices == list(range(indices[0], indices[-1] + 1)) for indices in pieces)  # no jump inside a clip


LACKING: dict[str, dict] = {
    "a.ts": {"options": SHORT_GROUPS},
    "h264_open.mkv": {"options": {"x264-params": "keyint=10:bframes=2:open-gop=1"}},
    "mpeg2.ts": {"codec": "mpeg2video", "options": {"b": "4M", "bf": "2"}},
    "mpeg4.mkv": {"codec": "mpeg4", "options": {"b": "4M"}},
    "hevc.mkv": {"codec": "libx265", "options": {"preset": "ultrafast", "x265-params": f"keyint=10:{QUIET}"}},
    "hevc_open.mkv": {
        "codec": "libx265",
        "options": {"preset": "veryfast", "x265-params": f"keyint=10:open-gop=1:bframes=4:{QUIET}"},
    },
}


@pytest.mark.parametrize("name", LACKING)
@pytest.mark.parametrize("lost", [(0, 1, 2, 3), (23,)])
def test_pictures_whose_references_are_missing_are_no_footage(tmp_path, name, lost):
    path = tmp_path / name
    videos.lacking(path, *lost, **LACKING[name])
    _, frames, pictures = read(path)
    found = numbers(pictures)
    assert found == sorted(set(found)) and max(map(videos.error, pictures)) < NEAR
    assert set(range(30, 40)) <= set(found) and (lost[0] < 20 or set(range(20)) <= set(found))
    # a packet that is not there, and that nothing refers to, may be a variable rate
    assert {0} <= set(cut_in(frames)) <= {0, *(i for i in range(1, len(found)) if found[i] > found[i - 1] + 1)}
    sample = numbers(sample_video(open_video(path), 1000, 8))
    assert set(sample) <= set(found)


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
@pytest.mark.parametrize("lost", [0.3, 0.5, 0.7])
def test_packets_that_a_broadcast_lost_are_no_footage(tmp_path, codec, lost):
    path = tmp_path / "a.ts"
    options = SHORT_GROUPS if codec == "libx264" else {"b": "4M"}
    videos.write(path, range(60), codec=codec, options=options)
    raw = path.read_bytes()
    at = int(len(raw) // 188 * lost) * 188
    path.write_bytes(raw[:at] + raw[at + 5 * 188 :])
    reader, frames, pictures = read(path)
    found = numbers(pictures)
    assert found == sorted(set(found)) and max(map(videos.error, pictures)) < NEAR and len(found) > 30
    assert tells(reader, "damaged") and len(cut_in(frames)) == 2


def test_a_pause_of_a_constant_rate_ends_a_shot(tmp_path):
    times = [index / 30 + (index >= 20) for index in range(90)]
    videos.write(tmp_path / "a.mp4", range(90), times=times, options=FAST)
    reader, frames, pictures = read(tmp_path / "a.mp4")
    assert all_right(pictures, range(90)) and cut_in(frames) == [0, 20]
    assert tells(reader, "missing at 1 place")


def test_a_file_whose_end_is_zeros(tmp_path):
    path = tmp_path / "a.mp4"
    videos.write(path, range(60), options=SHORT_GROUPS, container={"movflags": "faststart"})
    videos.zeroed(path, 0.6)
    reader, _, pictures = read(path)
    assert len(pictures) > 24 and all_right(pictures, range(len(pictures)))
    assert tells(reader, "damaged|lost|cut")


# --- files that cannot be read ----------------------------------------------------------------------------------------


def _good(path: Path) -> None:
    videos.write(path, range(40), options=FAST)


def _text(path: Path) -> None:
    path.write_text("<html><title>Sign in to download</title></html>" * 40, encoding="utf-8")


def _list(path: Path) -> None:
    videos.write(path.with_name("other.mkv"), range(40), options=FAST)
    path.write_text("ffconcat version 1.0\nfile other.mkv\n", encoding="utf-8")


def _playlist(path: Path) -> None:
    videos.write(path.with_name("other.ts"), range(40), options=FAST)
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.3,\nother.ts\n#EXT-X-ENDLIST\n", encoding="utf-8")


def _head(path: Path) -> None:
    _good(path)
    path.write_bytes(path.read_bytes()[:4096])


def _zeros(path: Path) -> None:
    _good(path)
    videos.zeroed(path)


def _cut(path: Path) -> None:
    _good(path)
    videos.cut(path)


def _sound(path: Path) -> None:
    with av.open(str(path), "w") as out:
        videos._add_tone(out, 1)


UNREADABLE = {
    "empty": (lambda path: path.write_bytes(b""), "empty|0 bytes"),
    "head": (_head, "cut|incomplete|index|copy|half|whole"),
    "zeros": (_zeros, "zero|empty"),
    "placeholder": (videos.placeholder, "cloud|not on this|download"),
    "html": (_text, "not a video|no video|not .*video|format"),
    "list of files": (_list, "not a video|no video|not .*video|format"),
    "playlist": (_playlist, "not a video|no video|not .*video|format"),
    "cut off": (_cut, "cut|incomplete|index|copy|half|whole"),
    "sound only": (_sound, "no video|only audio|sound"),
}
"""What writes a file, and what the error says about the cause."""


@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_file_that_cannot_be_read_is_named_with_cause_and_fix(tmp_path, kind):
    path = tmp_path / "bad.mp4"
    make, cause = UNREADABLE[kind]
    make(path)
    with pytest.raises(DataError) as raised:
        list(open_video(path).read())
    message = str(raised.value)
    assert "bad.mp4" in message and re.search(cause, message, re.I), message
    assert FIX.search(message), message
    assert "\n" not in message and len(message) < 400


@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_bad_file_takes_no_good_ones_along(tmp_path, kind):
    root = tmp_path / "set"
    root.mkdir()
    for name in ("a.mp4", "c.mp4"):
        videos.write(root / name, range(40), options=FAST)
    UNREADABLE[kind][0](root / "bad.mp4")
    found, lines = packed(root, tmp_path / "store")
    assert found["a"] == found["c"] == list(range(40)) and not any("bad" in name for name in found)
    assert len([line for line in lines if "bad.mp4" in line]) == 1
    assert not any(re.search(r"\b[ac]\.mp4", line) for line in lines)


def test_nothing_but_bad_files_is_an_error(tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    for name in "abc":
        (root / f"{name}.mp4").write_bytes(b"")
    with pytest.raises(DataError, match=r"empty|0 bytes"):
        packed(root, tmp_path / "store")


# --- what is in a folder ----------------------------------------------------------------------------------------------


def found_in(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for _, _, path in find_videos(root).videos)


def test_hidden_files_companions_links_and_folders(tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    videos.write(root / "a.mp4", range(40), options=FAST)
    videos.apple_double(root / "._a.mp4")
    videos.write(root / ".b.mp4", range(40), options=FAST)
    (root / "old.mp4").mkdir()
    (root / "notes.txt").write_text("ours", encoding="utf-8")
    (root / "Thumbs.db").write_bytes(b"\0" * 100)
    (root / "broken.mp4").symlink_to("/nowhere/b.mp4")
    (root / "link.mp4").symlink_to(root / "a.mp4")
    found = find_videos(root)
    assert {"a.mp4", "link.mp4"} <= set(found_in(root)) <= {"a.mp4", "link.mp4", "broken.mp4"}
    contents, lines = packed(root, tmp_path / "store")
    assert contents == {"a": list(range(40)), "link": list(range(40))}
    said = "\n".join([*found.notes, *lines])
    assert "broken.mp4" in said and "._a" not in said and "notes.txt" not in said


def test_a_folder_called_as_a_file_is_read_as_a_folder(tmp_path):
    videos.pictures(tmp_path / "old.mp4", [f"{i}.png" for i in range(12)])
    videos.write(tmp_path / "a.mp4", range(12), options=FAST)
    assert found_in(tmp_path) == ["a.mp4", "old.mp4"]
    assert all_right(read(tmp_path / "old.mp4")[2], range(12))


NAMES = """2024-01-01T12:30:01.mp4
ü ñ 视频 %03d.mp4
-i.MP4
file:a.mp4
a|b.mp4
a'b "c".mp4
#1?.mp4
a*[0].mp4""".splitlines()


@pytest.mark.parametrize("name", NAMES)
def test_names(tmp_path, name, monkeypatch):
    videos.write(tmp_path / name, range(12), options=FAST)
    assert found_in(tmp_path) == [name]
    assert all_right(read(tmp_path / name)[2], range(12))
    monkeypatch.chdir(tmp_path)
    assert all_right(read(Path(name))[2], range(12))
    assert packed(Path("."), tmp_path / "store")[0] == {Path(name).stem: list(range(12))}


def test_names_that_differ_in_the_suffix_only(tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    for suffix in (".mp4", ".mov", ".MP4"):
        videos.write(root / f"a{suffix}", range(12), options=FAST, format="mp4")
    names = [name for name, _, _ in find_videos(root).videos]
    assert len(set(names)) == 3
    found, _ = packed(root, tmp_path / "store")
    assert len(found) == 3 and all(indices == list(range(12)) for indices in found.values())


@pytest.mark.parametrize("name", ["a.mp4", "a.MKV", "pages.tif"])
def test_a_single_file_is_accepted(tmp_path, name):
    path = tmp_path / name
    videos.stack(path, 12) if name == "pages.tif" else videos.write(path, range(12), options=FAST)
    videos.write(tmp_path / "other.mp4", range(12), options=FAST)
    assert [found for _, _, found in find_videos(path).videos] == [path]
    assert packed(path, tmp_path / "store")[0] == {path.stem: list(range(12))}


def test_split_folders(tmp_path):
    for split in ("train", "val", "test"):
        (tmp_path / split).mkdir()
        videos.write(tmp_path / split / "a.mkv", range(12), options=FAST)
    found = find_videos(tmp_path).videos
    assert sorted((split, path.parent.name) for _, split, path in found) == [(s, s) for s in ("test", "train", "val")]


@pytest.mark.parametrize("kind", ["nothing", "empty", "text"])
def test_nothing_to_read(tmp_path, kind):
    root = tmp_path / "set"
    if kind != "nothing":
        root.mkdir()
    if kind == "text":
        (root / "readme.txt").write_text("no video", encoding="utf-8")
    with pytest.raises(DataError, match="set"):
        find_videos(root)


# --- pictures ---------------------------------------------------------------------------------------------------------

TWELVE = range(12)
SERIES = {
    "numbers": ([f"{i}.png" for i in TWELVE], None, NEAR),
    "zeros first": ([f"{i:05d}.png" for i in TWELVE], None, NEAR),
    "prefix": ([f"frame_{i + 1:04d}.png" for i in TWELVE], None, NEAR),
    "prefix without zeros": ([f"frame{i + 1}.png" for i in TWELVE], None, NEAR),
    "prefix with digits": ([f"cam2_run-3_{i}.png" for i in TWELVE], None, NEAR),
    "upper case": ([f"IMG_{i + 8995}.JPG" for i in TWELVE], None, NEAR),
    "tif": ([f"{i}.tif" for i in TWELVE], None, NEAR),
    "tiff": ([f"img_{i:03d}.tiff" for i in TWELVE], None, NEAR),
    "bmp": ([f"{i}.bmp" for i in TWELVE], None, NEAR),
    "webp": ([f"{i}.webp" for i in TWELVE], None, NEAR),
    "palette": ([f"{i}.png" for i in TWELVE], videos.save_palette, NEAR),
    "cmyk": ([f"{i}.jpg" for i in TWELVE], videos.save_cmyk, 20),
    "turned by EXIF": ([f"{i}.jpg" for i in TWELVE], videos.save_turned, NEAR),
    "16-bit colours, png": ([f"{i}.png" for i in TWELVE], videos.save_16_bits(), NEAR),
    "16-bit colours, tif": ([f"{i}.tif" for i in TWELVE], videos.save_16_bits(), NEAR),
    "12 of 16 bits, png": ([f"{i}.png" for i in TWELVE], videos.save_16_bits(12), NEAR),
    "12 of 16 bits, tif": ([f"{i}.tif" for i in TWELVE], videos.save_16_bits(12), NEAR),
}
"""File names, what saves them, and how near they are to what was drawn."""


@pytest.mark.parametrize("kind", SERIES)
def test_folders_of_pictures(tmp_path, kind):
    names, save, near = SERIES[kind]
    folder = videos.pictures(tmp_path / "root" / "video", names, save=save)
    reader, frames, pictures = read(folder)
    assert all_right(pictures, TWELVE, near=near) and cut_in(frames) == [0] and reader.frames == 12
    assert reader.rate is None and frames[3].time is None
    assert ("16 bits" in "".join(reader.notes)) == ("16" in kind)
    assert found_in(tmp_path / "root") == ["video"]
    sample = sample_video(open_video(folder), 1000, 8)
    assert all(np.array_equal(picture, pictures[videos.index_of(picture)]) for picture in sample)
    assert [p.shape for p in read(folder, size=(32, 48))[2]] == [(32, 48, 3)] * 12


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_grey_is_scaled_by_what_is_there_and_told(tmp_path, bits, suffix):
    save = videos.save_16_bits(bits, grey=True)
    folder = videos.pictures(tmp_path / "v", [f"{i}{suffix}" for i in TWELVE], save=save)
    reader, _, pictures = read(folder)
    drawn = [np.asarray(Image.fromarray(videos.picture(i)).convert("L"))[..., None].astype(int) for i in TWELVE]
    assert numbers(pictures) == list(TWELVE)
    assert max(np.abs(p - d).mean() for p, d in zip(pictures, drawn, strict=True)) < 2
    assert tells(reader, f"16 bits a pixel, of which {bits} are in use")


def test_pictures_directly_in_the_folder_that_is_given(tmp_path):
    videos.pictures(tmp_path / "root", [f"{i}.png" for i in range(20)])
    (found,) = find_videos(tmp_path / "root").videos
    assert found[2] == tmp_path / "root" and all_right(read(found[2])[2], range(20))
    assert list(packed(tmp_path / "root", tmp_path / "store")[0].values()) == [list(range(20))]


def test_a_gap_in_the_numbers_ends_a_clip(tmp_path):
    there = [*range(10), *range(13, 24)]
    folder = videos.pictures(tmp_path / "root" / "v", [f"{i}.png" for i in there], there)
    reader, frames, pictures = read(folder)
    assert all_right(pictures, there) and cut_in(frames) == [0, 10] and tells(reader, "missing|gap")
    found, lines = packed(tmp_path / "root", tmp_path / "store")
    assert sorted(found.values()) == [there[:10], there[10:]]
    told = [*open_videos(tmp_path / "root", ReadConfig()).lines(), *lines]
    assert any(re.match(r"v: .*missing", line) for line in told)


def test_every_fifth_number_is_no_gap(tmp_path):
    folder = videos.pictures(tmp_path / "v", [f"{i * 5}.png" for i in TWELVE])
    reader, frames, pictures = read(folder)
    assert all_right(pictures, TWELVE) and cut_in(frames) == [0] and reader.notes == []


def test_a_stray_picture_is_left_alone(tmp_path):
    folder = videos.pictures(tmp_path / "root" / "v", [f"{i}.png" for i in TWELVE])
    Image.new("RGB", (20, 20)).save(folder / "thumb.png")
    Image.new("RGB", (20, 20)).save(folder / "cover.jpg")
    videos.apple_double(folder / "._3.png")
    (folder / "Thumbs.db").write_bytes(b"\0" * 100)
    assert all_right(read(folder)[2], TWELVE) and found_in(tmp_path / "root") == ["v"]


def test_a_broken_picture_is_named_and_its_neighbours_are_read(tmp_path):
    folder = videos.pictures(tmp_path / "root" / "v", [f"{i}.png" for i in range(24)])
    (folder / "11.png").write_bytes((folder / "11.png").read_bytes()[:600])
    found, lines = packed(tmp_path / "root", tmp_path / "store")
    assert sorted(found.values()) == [list(range(11)), list(range(12, 24))]
    assert len(lines) == 1 and "11.png" in lines[0]


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_the_pages_of_a_tiff_are_a_video(tmp_path, bits):
    path = tmp_path / "root" / "pages.tif"
    path.parent.mkdir()
    videos.stack(path, bits=bits)
    reader, frames, pictures = read(path)
    assert numbers(pictures) == list(TWELVE) and cut_in(frames) == [0] and reader.frames == 12
    assert bits > 8 or all_right(pictures, TWELVE)
    assert bits == 8 or tells(reader, f"16 bits a pixel, of which {bits} are in use")
    assert found_in(tmp_path / "root") == ["pages.tif"]
