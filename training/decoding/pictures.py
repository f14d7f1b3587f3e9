"""What was decoded, for people: an annotated film, a time line, a matrix of transitions, and a map."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from glass_gym.play.recorder import Recorder
from glass_gym.worlds.checkpoint import World
from glass_gym.worlds.pictures import stretch

from .decode import Decoded
from .footage import Part
from .tables import Row

LINES = 360  # Films of smaller frames are enlarged to about so many lines.
HIGHEST = 100.0  # Most inches of a time line.
DIM = 0.35  # Where footage is not known, the time line has colours of this strength.


def colours_of(codes: int) -> np.ndarray:
    """A colour for each code, (K, 3) uint8."""
    import matplotlib

    return (np.asarray(matplotlib.colormaps["tab20"](np.arange(codes) % 20))[:, :3] * 255).astype(np.uint8)


class Film:
    """The annotated film of a video: the agent's outline in the colour of its local action, and the actions in words.

    Args:
        path: .mp4 or .gif.
        world: the world that decoded.
        fps: frames a second.
    """

    def __init__(self, path: Path, world: World, fps: float):
        self._world = world
        self._colours = colours_of(world.config.codes)
        self._scale = max(1, LINES // world.config.height)
        self._recorder = Recorder(path, fps, 1)

    def add(self, part: Part, decoded: Decoded, rows: Sequence[Row]) -> None:
        """Append the frames of a part that have rows."""
        masks = decoded.track.masks[:, 0].float().cpu().numpy() > 0.5
        for frame, mask, row in zip(part.frames, masks, rows, strict=False):
            colour = (255, 255, 255) if row["code"] is None else tuple(self._colours[row["code"]].tolist())
            large = frame.repeat(self._scale, 0).repeat(self._scale, 1)
            if row["present"]:
                large[outline(mask.repeat(self._scale, 0).repeat(self._scale, 1))] = colour
            words = "not known to this world" if not row["known"] else ""
            if row["known"] and row["code"] is not None:
                words = f"{row['code_name']} {row['probability']:.0%}   {row['shift_name']}"
            self._recorder.add(stretch(large, self._world.pixel_aspect), words)

    def close(self) -> None:
        """Finish the file."""
        self._recorder.close()


def outline(mask: np.ndarray) -> np.ndarray:
    """The pixels (H, W) bool just outside a mask."""
    grown = mask.copy()
    for axis in (0, 1):
        for by in (1, -1):
            grown |= np.roll(mask, by, axis)
    return grown & ~mask


def draw_time_line(path: Path, rows: Sequence[Row], names: Sequence[str]) -> Path:
    """The ethogram: a line for each video, coloured by local action; pale where the world does not know the footage."""
    from matplotlib.patches import Patch

    colours = colours_of(len(names)) / 255
    videos = list(dict.fromkeys(row["video"] for row in rows))
    figure, axes = _figure(len(videos), 1, (12, 1.2 + min(0.5 * len(videos), HIGHEST)))
    for axis, video in zip(axes[:, 0], videos, strict=True):
        mine = [row for row in rows if row["video"] == video]
        line = np.ones((1, len(mine), 3))
        for t, row in enumerate(mine):
            if row["code"] is not None:
                strength = 1.0 if row["known"] else DIM
                line[0, t] = strength * colours[row["code"]] + 1 - strength
        seconds = mine[-1]["time"]
        end, unit = (seconds, "s") if seconds else (len(mine), "frame")
        axis.imshow(line, aspect="auto", interpolation="nearest", extent=(0, end, 0, 1))
        axis.set_yticks([])
        axis.set_ylabel(str(video)[:24], rotation=0, ha="right", va="center", fontsize=8)
    axes[-1, 0].set_xlabel(unit)
    patches = [Patch(color=colours[k], label=name) for k, name in enumerate(names)]
    figure.legend(handles=patches, loc="outside upper center", ncol=min(8, len(names)), fontsize=8, frameon=False)
    return _saved(figure, path)


def transitions(rows: Sequence[Row], codes: int) -> np.ndarray:
    """How often each code follows each other in neighbouring known frames: counts (K, K), from row to column."""
    out = np.zeros((codes, codes), int)
    for now, after in pairwise(rows):
        same = (now["video"], now["shot"]) == (after["video"], after["shot"]) and now["known"] and after["known"]
        if same and now["code"] is not None and after["code"] is not None:
            out[now["code"], after["code"]] += 1
    return out


def draw_transitions(path: Path, rows: Sequence[Row], names: Sequence[str]) -> Path:
    """The matrix of what follows what: shares of each row."""
    counts = transitions(rows, len(names))
    shares = counts / np.maximum(1, counts.sum(1, keepdims=True))
    figure, axes = _figure(1, 1, (2.5 + 0.6 * len(names), 2 + 0.5 * len(names)))
    axis = axes[0, 0]
    axis.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    axis.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=8)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.set_xlabel("next local action")
    for y, x in np.argwhere(shares >= 0.005):
        colour = "black" if shares[y, x] < 0.6 else "white"
        axis.text(x, y, f"{shares[y, x]:.2f}", ha="center", va="center", fontsize=7, color=colour)
    return _saved(figure, path)


def draw_map(path: Path, rows: Sequence[Row], world: World) -> Path:
    """Where the agent was, by local action, over a background of the world."""
    backgrounds = world.start_frames if world.start_backgrounds is None else world.start_backgrounds
    height, width = world.config.height, world.config.width
    size = 8, 8 * height / (width * world.pixel_aspect)
    figure, axes = _figure(1, 1, (size[0], size[1] + 0.4))
    axis = axes[0, 0]
    axis.imshow(backgrounds[0], aspect=1 / world.pixel_aspect, alpha=0.6)
    known = [row for row in rows if row["known"]]
    colours = colours_of(world.config.codes) / 255
    if known:
        colour = [(0.4, 0.4, 0.4) if row["code"] is None else tuple(colours[row["code"]]) for row in known]
        axis.scatter([row["centre_x"] for row in known], [row["centre_y"] for row in known], 6, colour, linewidths=0)
    axis.set_xlim(-0.5, width - 0.5)
    axis.set_ylim(height - 0.5, -0.5)
    return _saved(figure, path)


def _figure(rows: int, columns: int, size: tuple[float, float]):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    return plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")


def _saved(figure, path: Path) -> Path:
    from matplotlib import pyplot as plt

    figure.savefig(path, dpi=100)
    plt.close(figure)
    return path
