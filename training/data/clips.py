"""ClipDataset: sliding windows over a store."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .store import DataError, Store


class ClipDataset:
    """All clips of `length` frames, `skip` frames left out between two, of one split.

    Works with torch's DataLoader: items are (length, H, W, 3) uint8 arrays.

    Raises:
        DataError: no video of the split is long enough.
    """

    def __init__(self, store: Store | str | Path, split: str = "train", length: int = 2, skip: int = 0):
        self.store = store if isinstance(store, Store) else Store(store)
        self.step = skip + 1
        self.length = length
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
