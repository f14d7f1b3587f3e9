"""LeRobot data sets, versions 2 and 3: the videos of one camera, and where episodes begin in them.

<root>/meta/info.json
<root>/videos/chunk-000/<camera>/episode_000000.mp4                                  version 2
<root>/videos/<camera>/chunk-000/file-000.mp4, meta/episodes/chunk-000/*.parquet     version 3
"""

from __future__ import annotations

import glob
import json
from pathlib import Path

from .store import DataError

INFO = Path("meta", "info.json")


def lerobot_videos(root: Path) -> tuple[list[tuple[str, Path]], dict[Path, list[float]]] | None:
    """Find the videos of a LeRobot data set.

    Args:
        root: its folder; where it has several cameras, followed by one of them: ``set/observation.images.top``.

    Returns:
        names and paths, in the order of the episodes; and for each path the times at which episodes begin, s, if it
        holds several. None: no such data set.

    Raises:
        DataError: a camera must be chosen, there is no such camera or no video of it, or metadata cannot be read.
    """
    folder = root if root.exists() else root.parent
    if not (folder / INFO).is_file():
        return None
    try:
        features = json.loads((folder / INFO).read_text(encoding="utf-8"))["features"]
        cameras = sorted(name for name, about in features.items() if about["dtype"] == "video")
        if strange := [name for name in cameras if name != Path(name).name or not name.isprintable()]:
            raise ValueError(f"{strange[0][:100]!r} is no folder's name")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{folder / INFO}: does not describe a LeRobot data set ({error!r}); copy it again") from None
    camera = root.name if root != folder else cameras[0] if len(cameras) == 1 else ""
    if camera not in cameras:
        has = f"{len(cameras)} cameras; give one of them" if cameras else "no videos, only tables"
        raise DataError(f"{root}: LeRobot data with {has}" + "".join(f"\n  {folder / name}" for name in cameras))
    kept = glob.escape(camera)
    old = sorted(folder.glob(f"videos/chunk-*/{kept}/*.mp4"))
    new = sorted(folder.glob(f"videos/{kept}/chunk-*/*.mp4"))
    if not (old or new):
        raise DataError(f"{folder / 'videos'}: holds no .mp4 of {camera}; download the data set with its videos")
    videos = [(path.stem, path) for path in old] + [(f"{path.parent.name}-{path.stem}", path) for path in new]
    return videos, _episodes(folder, camera) if new else {}


def _episodes(folder: Path, camera: str) -> dict[Path, list[float]]:
    """Times at which episodes begin in each video of version 3, s."""
    try:
        from pyarrow import parquet
    except ImportError:
        raise DataError(f"{folder}: to tell its episodes apart needs pyarrow: pip install pyarrow") from None
    columns = [f"videos/{camera}/{name}" for name in ("chunk_index", "file_index", "from_timestamp")]
    begins: dict[Path, list[float]] = {}
    tables = sorted(folder.glob("meta/episodes/chunk-*/*.parquet"))
    if not tables:
        raise DataError(
            f"{folder / 'meta' / 'episodes'}: holds no .parquet that tells where episodes begin; copy it again"
        )
    for table in tables:
        try:
            rows = parquet.read_table(table, columns=columns).to_pydict()
            for chunk, file, time in zip(*(rows[column] for column in columns), strict=True):
                path = folder / "videos" / camera / f"chunk-{chunk:03d}" / f"file-{file:03d}.mp4"
                begins.setdefault(path, []).append(float(time))
        except Exception as error:  # pyarrow's are of many classes
            raise DataError(f"{table}: cannot be read ({str(error)[:200]}); copy it again") from None
    return {path: sorted(times) for path, times in begins.items()}
