"""`python -m training.train FOLDER` with footage as people have it: a clear answer each, and nothing lost."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image

from glass_gym.worlds.checkpoint import load_world
from tests import videos
from tests.training.test_survey import background, red_and_blue, walker
from training.config import ReadConfig
from training.data.reader import open_video
from training.data.store import DataError, Store
from training.data.videos import open_videos, pack
from training.train import main

QUICK = ["--gma.iterations", "1", "--gma.batch", "1", "--lma.iterations", "0", "--loop.device", "cpu"]


def write(folder: Path, *clips: np.ndarray) -> Path:
    folder.mkdir(parents=True)
    for index, video in enumerate(clips):
        videos.film(folder / f"{index}.mp4", video, options={"crf": "5"})
    return folder


def refused(folder: Path, tmp_path: Path, capsys, *options: str) -> str:
    assert main([str(folder), "--out", str(tmp_path / "run"), "--cache", str(tmp_path / "data"), *QUICK, *options]) == 1
    assert not (tmp_path / "run" / "gma.pt").exists()
    return capsys.readouterr().err


def test_footage_without_motion_is_refused_and_forced(tmp_path, capsys):
    folder = write(tmp_path / "still", *[np.repeat(background()[None], 20, 0)] * 3)
    assert "nothing moves on its own" in refused(folder, tmp_path, capsys)
    out = ["--out", str(tmp_path / "run"), "--cache", str(tmp_path / "data")]
    assert main([str(folder), *out, *QUICK, "--force"]) == 0
    assert "warning: nothing moves" in capsys.readouterr().err


def test_one_still_picture_is_refused(tmp_path, capsys):
    folder = tmp_path / "one" / "video"
    folder.mkdir(parents=True)
    Image.fromarray(background()).save(folder / "00000.png")
    assert "no video has two frames" in refused(tmp_path / "one", tmp_path, capsys)


def test_cuts_everywhere_are_refused(tmp_path, capsys):
    shots = np.concatenate([walker(4, back=background(i) // (1 + i % 2 * 3)) for i in range(12)])
    assert "cuts everywhere" in refused(write(tmp_path / "cuts", shots), tmp_path, capsys)


def test_two_agents_are_refused(tmp_path, capsys):
    one = walker(40)
    two = walker(40, start=(40, 45), colour=(30, 30, 230))
    both = np.where((two == (30, 30, 230)).all(-1)[..., None], two, one)
    error = refused(write(tmp_path / "two", both), tmp_path, capsys)
    assert "a world has one agent: choose it by its number" in error and "or crop the others out (--read.crop)" in error
    assert (tmp_path / "run" / "samples" / "survey.png").exists()


def test_one_of_two_agents_is_chosen_and_the_other_painted_out(tmp_path, capsys):
    both, _red = red_and_blue()
    folder = write(tmp_path / "two", both, both[::-1], both)
    out = ["--out", str(tmp_path / "run"), "--cache", str(tmp_path / "data")]
    assert "expected a number in the survey's picture" in refused(folder, tmp_path, capsys, "--agent", "blue")
    assert "the survey found 2 things" in refused(folder, tmp_path, capsys, "--agent", "7")
    assert main([str(folder), *out, *QUICK, "--agent", "50,50"]) == 0
    assert "the others, number 1: painted out in 100%" in capsys.readouterr().out.replace("number 2", "number 1")
    store = Store(tmp_path / "run" / "clips")
    colours = store.frames[:].reshape(-1, 3).astype(int)
    assert (colours[:, 0] - colours[:, 2] > 120).mean() < 0.001 < (colours[:, 2] - colours[:, 0] > 120).mean()
    assert main([str(folder), *out, *QUICK, "--agent", "50,50", "--resume"]) == 0


def test_tiny_frames_are_refused(tmp_path, capsys):
    video = walker(30)[:, 16:26, 5:27]
    assert "at least 32x32" in refused(write(tmp_path / "tiny", video), tmp_path, capsys)


def test_huge_frames_are_refused_before_they_are_decoded(tmp_path, capsys):
    folder = tmp_path / "huge" / "video"
    folder.mkdir(parents=True)
    for index in range(2):
        Image.new("L", (20_000, 20_000)).save(folder / f"{index:05d}.png", compress_level=1)
    message = refused(tmp_path / "huge", tmp_path, capsys)
    assert "00000.png" in message and "400000000 pixels" in message


def test_an_unreadable_file_is_named_or_left_out(tmp_path, capsys):
    folder = write(tmp_path / "set", walker(40), walker(40, step=(0, 3)), walker(40, step=(2, 2)))
    (folder / "9.mp4").write_bytes(b"nothing of the kind")
    out = ["--out", str(tmp_path / "run"), "--cache", str(tmp_path / "data")]
    assert main([str(folder), *out, *QUICK]) == 0
    said = capsys.readouterr()
    assert "left out: " in said.out and "9.mp4: is no video" in said.out and "9.mp4" in said.err


def test_one_command_makes_a_world_and_a_report(tmp_path, capsys, quick_report):
    clips = [
        walker(40, step=s, start=(10 + 4 * i, 12 + 3 * i)) for i, s in enumerate([(3, 0), (0, 3), (3, 3), (-3, 0)])
    ]
    folder = write(tmp_path / "mine", *clips)
    out = tmp_path / "run"
    steps = ["--gma.iterations", "3", "--gma.batch", "2", "--pose.iterations", "3", "--lma.iterations", "3"]
    sizes = ["--poses", "8", "--pose.batch", "2", "--lma.batch", "2", "--loop.device", "cpu"]
    assert main([str(folder), "--out", str(out), "--cache", str(tmp_path / "data"), *steps, *sizes]) == 0
    said = capsys.readouterr().out
    told = ("what the footage shows", "gma.theta = ", "window = ", "local actions", "report.html", "register_world")
    for words in told:
        assert words in said
    choices = json.loads((out / "choices.json").read_text(encoding="utf-8"))
    assert {"gma.theta", "window", "agent_radius", "foreground_range", "read.skip"} <= set(choices["why"])
    used = json.loads((out / "config.json").read_text(encoding="utf-8"))
    assert used["read"]["skip"] == choices["values"]["read.skip"] is not None
    world = load_world(out / "world.safetensors")
    assert world.config.window == choices["values"]["window"]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Score card" in page and "data:image/gif" in page and "src='http" not in page and "href" not in page


@pytest.mark.slow
def test_five_minutes_of_full_hd_are_read_with_flat_memory(tmp_path):
    """A phone's mp4 (1080p, 30 frames a second, cuts), of a rendered scene."""
    path = tmp_path / "phone" / "clip.mp4"
    path.parent.mkdir()

    shots = [background(i, 1080, 1920) for i in range(12)]

    def draw(index: int, size: tuple[int, int]) -> np.ndarray:
        frame = shots[index // 750].copy()
        x = int(900 + 600 * np.sin(index / 40))
        y = int(500 + 300 * np.cos(index / 55))
        frame[y : y + 160, x : x + 100] = (230, 30, 30)
        return frame

    videos.write(path, range(9000), size=(1080, 1920), draw=draw, options={"preset": "ultrafast"})
    out = ["--out", str(tmp_path / "run"), "--cache", str(tmp_path / "data")]
    code = (
        "import resource, sys\n"
        "from training.train import main\n"
        f"status = main({[str(path.parent), *out, *QUICK]!r})\n"
        "print('PEAK', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)\n"
        "sys.exit(status)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr[-2000:]
    peak = int(done.stdout.split("PEAK")[1])
    print(f"peak {peak} MB")
    assert peak < 2000


def test_a_file_that_ends_too_early_is_told_or_left_out(tmp_path):
    for name in ("a", "b", "c", "cut"):
        videos.film(tmp_path / f"{name}.mp4", walker(40), rate=15, container={"movflags": "faststart"})
    whole = (tmp_path / "cut.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) * 6 // 10])
    lines = open_videos(tmp_path, ReadConfig()).lines()
    assert any(re.fullmatch(r"cut\.mp4: cut off: [\d.]+ of 2.67 seconds are there", line) for line in lines)
    pack(tmp_path, tmp_path / "out", ReadConfig())
    assert {v.name for v in Store(tmp_path / "out").videos} == {"a", "b", "c", "cut"}


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".avi", ".webm", ".gif"])
def test_a_file_of_another_format_opens_nothing(tmp_path, suffix):
    """ffmpeg would follow a playlist, Pillow would start Ghostscript, whatever the file is called."""
    videos.film(tmp_path / "real.mp4", walker(20))
    others = {
        "playlist": f"#EXTM3U\n#EXTINF:1,\n{tmp_path / 'real.mp4'}\n#EXT-X-ENDLIST\n".encode(),
        "concat": f"ffconcat version 1.0\nfile {tmp_path / 'real.mp4'}\n".encode(),
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\nshowpage\n",
    }
    for name, raw in others.items():
        folder = tmp_path / (name + suffix[1:])
        folder.mkdir()
        (folder / f"a{suffix}").write_bytes(raw)
        with pytest.raises(DataError, match=rf"a\{suffix}: "):
            pack(folder, tmp_path / "out", ReadConfig())


def test_a_frame_of_a_gif_that_does_not_fit_in_takes_no_memory(tmp_path):
    """Pillow would grow the picture: one number in a file of 10 kB took 1.4 GB."""
    frames = np.random.default_rng(0).integers(0, 255, (6, 32, 32, 3), dtype=np.uint8)
    iio.imwrite(tmp_path / "a.gif", frames, duration=100)
    raw = bytearray((tmp_path / "a.gif").read_bytes())
    descriptor = b"\x2c" + np.array([0, 0, 32, 32], "<u2").tobytes()
    second = raw.index(descriptor, raw.index(descriptor) + 1)
    raw[second : second + 9] = b"\x2c" + np.array([0, 0, 9_000, 9_000], "<u2").tobytes()
    (tmp_path / "a.gif").write_bytes(raw)
    assert {frame.pixels.shape for frame in open_video(tmp_path / "a.gif").read()} == {(32, 32, 3)}
