"""The source `mouse`: its package is made here, so nothing is downloaded."""

import hashlib
import subprocess
import zipfile

import pytest

from tests import videos
from tests.training.test_survey import walker
from training.config import DataOptions, ReadConfig, TrainConfig
from training.core.distributed import Distributed
from training.core.run import Run
from training.data import mouse
from training.data.sources import open_data, source_of
from training.data.store import DataError
from training.footage.choices import choose_reading
from training.train import main, open_footage


def write_wheel(folder, members):
    """A wheel of the package that pip accepts, with `members` {name: bytes}."""
    name, version = mouse.PACKAGE.split("==")
    info = f"{name}-{version}.dist-info"
    known = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for member, content in (known | members).items():
            archive.writestr(member, content)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """The bytes of a video."""
    path = tmp_path_factory.mktemp("film") / "a.mp4"
    videos.film(path, walker(60), options={"crf": "5"})
    return path.read_bytes()


@pytest.fixture
def package(film, monkeypatch):
    """package(members): what pip will download; by default the wheel with the film, whose hash is expected."""
    monkeypatch.setattr(mouse, "SHA256", hashlib.sha256(film).hexdigest())

    def holds(members, status=0, said=""):
        def run(command, **_):
            out = mouse.Path(command[command.index("-d") + 1])
            if members is not None:
                write_wheel(out, members)
            return subprocess.CompletedProcess(command, status, "", said)

        monkeypatch.setattr(mouse.subprocess, "run", run)

    holds({mouse.MEMBER: film})
    return holds


def left_in(cache):
    """The files of the source in the cache, without those of the lock."""
    return {path.name for path in (cache / "mouse").rglob("*")} - {".lock"}


def test_pip_brings_the_video_and_nothing_else(tmp_path, film, monkeypatch):
    pytest.importorskip("pip")
    write_wheel(tmp_path / "index", {mouse.MEMBER: film, "animapp/__init__.py": b"raise SystemExit"})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setattr(mouse, "SHA256", hashlib.sha256(film).hexdigest())
    path = mouse.fetch(tmp_path / "data")
    assert path == tmp_path / "data" / "mouse" / "example_vid.mp4" and path.read_bytes() == film
    assert left_in(tmp_path / "data") == {"example_vid.mp4"}


def test_a_video_that_is_there_is_not_fetched_again(tmp_path, film, package):
    package(None, 1, "no network")
    (tmp_path / "mouse").mkdir()
    path = tmp_path / "mouse" / "example_vid.mp4"
    path.write_bytes(film)
    assert mouse.fetch(tmp_path) == path
    path.write_bytes(film[:-1])
    with pytest.raises(DataError, match=r"example_vid\.mp4: is not the video of animapp==0\.1\.5\.6 .*delete it"):
        mouse.fetch(tmp_path)


@pytest.mark.parametrize(
    ("members", "status", "said", "words"),
    [
        (
            None,
            1,
            "WARNING: slow\nERROR: No matching distribution found",
            r"download \(ERROR: No matching distribution",
        ),
        (None, 1, "/usr/bin/python: No module named pip", "No module named pip"),
        (None, 0, "", "no wheel came"),
        ({"animapp/other.mp4": b"x"}, 0, "", f"holds no {mouse.MEMBER}"),
        ({mouse.MEMBER: b"another video"}, 0, "", "another version, or damaged"),
        ({mouse.MEMBER: bytes(1_000_001)}, 0, "", "has 1,000,001 bytes, expected at most 1,000,000"),
    ],
)
def test_what_is_wrong_is_named_with_the_fix_and_nothing_is_left(
    members, status, said, words, tmp_path, package, monkeypatch
):
    monkeypatch.setattr(mouse, "LARGEST", 1_000_000)
    package(members, status, said)
    with pytest.raises(DataError, match=words) as error:
        mouse.fetch(tmp_path)
    assert "animapp" in str(error.value) and f"put {mouse.MEMBER}" in str(error.value)
    assert str(tmp_path / "mouse" / "example_vid.mp4") in str(error.value)
    assert left_in(tmp_path) == set()


def test_a_damaged_wheel_is_refused(tmp_path, package, monkeypatch):
    def run(command, **_):
        folder = mouse.Path(command[command.index("-d") + 1])
        folder.mkdir()
        (folder / "animapp-0.1.5.6-py3-none-any.whl").write_bytes(b"PK\x03\x04 cut off")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(mouse.subprocess, "run", run)
    with pytest.raises(DataError, match=r"\.whl: cannot be read"):
        mouse.fetch(tmp_path)
    assert left_in(tmp_path) == set()


def test_an_interrupted_download_leaves_nothing_and_the_next_one_starts_anew(tmp_path, film, package, monkeypatch):
    def stop(command, **_):
        folder = mouse.Path(command[command.index("-d") + 1])
        folder.mkdir()
        (folder / "half.whl").write_bytes(b"PK")
        raise KeyboardInterrupt

    package({mouse.MEMBER: film})
    complete = mouse.subprocess.run
    monkeypatch.setattr(mouse.subprocess, "run", stop)
    with pytest.raises(KeyboardInterrupt):
        mouse.fetch(tmp_path)
    assert left_in(tmp_path) == set()
    (tmp_path / "mouse" / ".download").mkdir()
    (tmp_path / "mouse" / ".download" / "a.whl").write_bytes(b"PK")  # of a process that was killed
    monkeypatch.setattr(mouse.subprocess, "run", complete)
    assert mouse.fetch(tmp_path).read_bytes() == film and left_in(tmp_path) == {"example_vid.mp4"}


def test_a_run_surveys_the_video_reads_it_in_the_usual_size_and_records_the_source(tmp_path, package, capsys):
    cache = tmp_path / "data"
    run = Run(TrainConfig(data="mouse", cache=cache, out=tmp_path / "run"), Distributed("cpu"))
    store = open_footage(run)
    assert "read.size = 240x432: 432x240 px frames: usual for mouse" in capsys.readouterr().out
    assert (store.height, store.width, store.kind) == (240, 432, "mouse") and store.source == mouse.ABOUT
    assert source_of(store).name == "mouse" and len(store.frames) == 60
    read = run.config.read
    assert read.size == (240, 432) and read.skip is not None
    options = DataOptions(cache=cache, read=read)
    assert open_data("mouse", options).root == store.root  # for glass-evaluate with the run's options ...
    if read.skip == 0:
        assert open_data("mouse", DataOptions(cache=cache)).root == store.root  # ... and with none
    same = Run(TrainConfig(data=str(cache / "mouse" / "example_vid.mp4"), out=tmp_path / "other"), Distributed("cpu"))
    found = choose_reading(same)
    assert (found.skip, found.fps) == (read.skip, read.fps)


def test_a_size_that_is_given_and_a_crop_win(tmp_path, package):
    options = {"data": "mouse", "cache": tmp_path / "data"}
    size = Run(TrainConfig(out=tmp_path / "a", read=ReadConfig(size=(48, 80)), **options), Distributed("cpu"))
    assert choose_reading(size).size == (48, 80)
    crop = Run(TrainConfig(out=tmp_path / "b", read=ReadConfig(crop=(0, 0, 64, 64)), **options), Distributed("cpu"))
    assert choose_reading(crop).size != (240, 432)


def test_a_look_at_the_mouse_fetches_it_and_trains_nothing(tmp_path, package, capsys, monkeypatch):
    monkeypatch.setattr("training.evaluation.estimate.STEPS", 1)
    small = ["--gma.batch", "1", "--pose.batch", "2", "--lma.batch", "2", "--loop.device", "cpu", "--look"]
    out = ["--out", str(tmp_path / "run"), "--cache", str(tmp_path / "data"), "--read.size", "48", "80"]
    assert main(["mouse", *out, *small]) == 0
    assert "training would take about" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["mouse"]


def test_the_command_says_how_to_go_on_without_a_network(tmp_path, package, capsys):
    package(None, 1, "ERROR: no route to host")
    assert main(["mouse", "--out", str(tmp_path / "run"), "--cache", str(tmp_path / "data")]) == 1
    said = capsys.readouterr().err
    assert "animapp==0.1.5.6, which pip could not download (ERROR: no route to host)" in said
    assert said.count("example_vid.mp4") == 2
