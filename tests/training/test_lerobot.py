"""LeRobot data sets as footage: both layouts, a camera of several, episodes as clips."""

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("av")

from tests import videos
from tests.training.test_reading import FAST, packed
from training.config import DataOptions
from training.data.sources import Videos
from training.data.store import DataError
from training.data.videos import find_videos

TOP, WRIST = "observation.images.top", "observation.images.wrist"


def described(root: Path, version: str, *cameras: str) -> Path:
    """A data set without its videos."""
    features = {name: {"dtype": "video", "shape": [96, 128, 3]} for name in cameras}
    features["action"] = {"dtype": "float32", "shape": [6]}
    (root / "meta").mkdir(parents=True)
    info = {"codebase_version": version, "fps": 30, "features": features}
    (root / "meta" / "info.json").write_text(json.dumps(info), encoding="utf-8")
    return root


def film(path: Path, indices) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    videos.write(path, indices, options=FAST)


def test_version_2_has_a_video_an_episode(tmp_path):
    root = described(tmp_path / "set", "v2.1", TOP, WRIST)
    for episode, indices in enumerate((range(10), range(10, 30), range(5, 20))):
        film(root / f"videos/chunk-00{episode // 2}" / TOP / f"episode_{episode:06d}.mp4", indices)
    with pytest.raises(DataError, match="2 cameras; give one of them") as error:
        find_videos(root)
    assert f"{root / TOP}\n  {root / WRIST}" in str(error.value)
    found = find_videos(root / TOP)
    assert [(name, split) for name, split, _ in found.videos] == [
        (f"episode_{episode:06d}", "train") for episode in range(3)
    ]  # so few are split by their shots
    contents, lines = packed(root / TOP, tmp_path / "store")
    assert contents == {
        "episode_000000": list(range(10)), "episode_000001": list(range(10, 30)), "episode_000002": list(range(5, 20)),
    } and not lines  # fmt: skip
    assert Videos(root / TOP).folder(DataOptions()).startswith(f"{TOP}-")
    with pytest.raises(DataError, match=rf"holds no .mp4 of {WRIST}; download"):
        find_videos(root / WRIST)
    with pytest.raises(DataError, match="2 cameras"):
        find_videos(root / "nowhere")


def test_version_3_has_several_episodes_in_a_video(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    root = described(tmp_path / "set", "v3.0", TOP)
    film(root / "videos" / TOP / "chunk-000" / "file-000.mp4", [*range(10), *range(10, 30), *range(12)])
    film(root / "videos" / TOP / "chunk-001" / "file-000.mp4", range(9))
    episodes = root / "meta" / "episodes" / "chunk-000"
    episodes.mkdir(parents=True)
    begins = {"chunk_index": [0, 0, 0, 1], "file_index": [0] * 4, "from_timestamp": [0.0, 10 / 30, 1.0, 0.0]}
    table = pa.table({f"videos/{TOP}/{name}": values for name, values in begins.items()} | {"length": [10, 20, 12, 9]})
    parquet.write_table(table, episodes / "file-000.parquet")
    contents, lines = packed(root, tmp_path / "store")
    assert contents == {
        "chunk-000-file-000": list(range(10)), "chunk-000-file-000-001": list(range(10, 30)),
        "chunk-000-file-000-002": list(range(12)), "chunk-001-file-000": list(range(9)),
    } and not lines  # fmt: skip
    (episodes / "file-000.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"file-000.parquet: cannot be read"):
        find_videos(root)
    (episodes / "file-000.parquet").unlink()
    with pytest.raises(DataError, match=r"episodes: holds no .parquet"):
        find_videos(root)


def test_what_is_wrong_is_named(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="no videos, only tables"):
        find_videos(described(tmp_path / "tables", "v2.1"))
    root = described(tmp_path / "broken", "v2.1", TOP)
    outside = json.dumps({"features": {"../../..": {"dtype": "video"}}})
    for text in ("[]", "[" * 200_000, outside, outside.replace("../../..", "a\\nb")):
        (root / "meta" / "info.json").write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=r"info.json: does not describe a LeRobot data set"):
            find_videos(root)
    root = described(tmp_path / "new", "v3.0", TOP)
    film(root / "videos" / TOP / "chunk-000" / "file-000.mp4", range(10))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match="pip install pyarrow"):
        find_videos(root)
    film(root / "clip.mp4", range(10))
    assert [path.name for *_, path in find_videos(root / "clip.mp4").videos] == ["clip.mp4"]
