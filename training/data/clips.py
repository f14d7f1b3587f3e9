"""ClipDataset: sliding windows over a store, and open_data(): whatever a user names -> a store."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from training.data.layout import ReadConfig, pack
from training.data.store import DataError, Store


class ClipDataset:
    """All clips of `length` frames, `skip` frames left out between two, of one split.

    Works with torch's DataLoader: items are (length, H, W, 3) uint8 arrays.

    Raises:
        DataError: no video of the split is long enough.
    """

    def __init__(self, store: Store | str | Path, split: str = "train", length: int = 2, skip: int = 0):
        self.store = store if isinstance(store, Store) else Store(store)
        self.step, self.length = skip + 1, length
        span = length + (length - 1) * skip
        videos = [v for v in self.store.videos if v.split == split]
        self.starts = np.concatenate(
            [np.arange(v.start, v.start + v.length - span + 1) for v in videos if v.length >= span]
            or [np.empty(0, int)]
        )
        if not len(self.starts):
            longest = max((v.length for v in videos), default=0)
            raise DataError(
                f"{self.store.root}: no {split} video has the {span} frames of a clip (longest: {longest}); "
                "use shorter clips, a smaller skip or longer videos"
            )

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> np.ndarray:
        start = self.starts[index]
        return self.store.frames[start : start + (self.length - 1) * self.step + 1 : self.step].copy()


def open_data(
    data: str | Path, cache: Path, read: ReadConfig | None = None, sheets: Path | None = None,
    background: Path | None = None, frames: int = 120_000, progress=lambda done, total: None,
) -> Store:  # fmt: skip
    """`tennis` (recorded), `wsprites` (generated), `wsprites-actions` (8 unseen characters, 40 test videos each, to
    measure codes within a character), a clip store, or a folder of videos -> an open store.

    What has to be made is made once, under `cache`.
    """
    if str(data) == "tennis":
        if not (cache / "tennis" / "index.json").exists():
            from training.data.ale_tennis import RecordConfig, record

            record(RecordConfig(out=cache / "tennis", frames=frames), lambda kept: progress(kept, frames))
        return Store(cache / "tennis")
    if str(data) in ("wsprites", "wsprites-actions"):
        out = cache / (f"{data}-sheets" if sheets else str(data))
        if not (out / "index.json").exists():
            from training.data.wsprites import write_store

            videos, cast = ((700, 64, 64), None) if str(data) == "wsprites" else ((40, 0, 320), 8)
            write_store(
                out, sheets, background, videos=videos, cast=cast, progress=lambda done: progress(done, sum(videos))
            )
        return Store(out)
    root = Path(data)
    if (root / "index.json").exists():
        return Store(root)
    out = cache / f"{root.resolve().name}-clips"
    if not (out / "index.json").exists():
        pack(root, out, read or ReadConfig(), progress)
    return Store(out)
