"""What was decoded, as tables: CSV, Parquet, and data sets of Minari and LeRobot."""

from __future__ import annotations

import csv
import shlex
import shutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from glass_gym.model.library import off_centre
from glass_gym.tasks import Scene, make_task
from glass_gym.worlds.action_space import ActionTable
from glass_gym.worlds.checkpoint import World

from ..data.store import DataError
from .decode import Decoded, Errors
from .footage import Part

Row = dict[str, Any]  # A frame's values by the names of COLUMNS; None: not known, as the action after the last frame.
COLUMNS = {
    "video": "name of the video",
    "shot": "number of the shot in it, from 0",
    "frame": "number of the frame, from 0",
    "time": "s from the first frame",
    "x": "position of the agent's window, px of the world's frames, positive right",
    "y": "the same, positive down",
    "centre_x": "centre of the agent's mask, px",
    "centre_y": "the same",
    "heading": "rad, clockwise from the right; of agents that turn",
    "dx": "global action: the shift to the next frame, px",
    "dy": "the same",
    "shift": "nearest global action of the world's table",
    "shift_name": "its name",
    "code": "local action to the next frame",
    "code_name": "its name",
    "probability": "of the local action, given the poses before and after it",
    "pose": "index of the pose",
    "present": "whether the agent is there, whole and in one place",
    "agent_error": "of the redrawn agent; 1 is usual for the world's own start frames",
    "scene_error": "of the most similar background the world knows; 1 is usual",
    "known": "whether the world knows the frame: the agent is present, and both errors are at most 3",
}
"""Columns of the tables, with their meaning."""


def rows_of(video: str, shot: int, part: Part, decoded: Decoded, errors: Errors, world: World) -> list[Row]:
    """A row for each frame of a part; without its last frame where the next part continues the shot."""
    model, count = world.model, len(part.frames)
    position = decoded.track.position.cpu().numpy()
    view = model.lma.view
    middle = position if view.follows else np.array([[world.config.width / 2, world.config.height / 2]])
    centre = middle - 0.5 + view.scale * off_centre(decoded.layers[:, 3].float()).cpu().numpy()
    poses, headings = observed(world, decoded)
    shifts, codes = decoded.shifts.cpu().numpy(), decoded.codes.tolist()
    table = world.action_table()
    nearest = nearest_shift(table, shifts).tolist()
    sure = decoded.probability.amax(1).tolist()
    out: list[Row] = []
    for t in range(count - part.continued):
        row: Row = dict.fromkeys(COLUMNS)
        row |= {"video": video, "shot": shot, "frame": int(part.index[t])}
        row["time"] = None if np.isnan(part.time[t]) else round(float(part.time[t]), 4)
        row |= dict(zip(("x", "y"), position[t].tolist(), strict=True))
        row |= dict(zip(("centre_x", "centre_y"), [round(float(v), 2) for v in centre[t]], strict=True))
        row["pose"] = poses[t]
        row["heading"] = headings[t]
        if t < count - 1:
            code = codes[t]
            row |= dict(zip(("dx", "dy"), shifts[t].tolist(), strict=True))
            row |= {"shift": nearest[t], "shift_name": table.shift_names[nearest[t]]}
            row |= {"code": code, "code_name": table.code_names[code], "probability": round(sure[t], 4)}
        row["present"] = bool(errors.present[t])
        row |= {"agent_error": round(float(errors.agent[t]), 3), "scene_error": round(float(errors.scene[t]), 3)}
        row["known"] = bool(errors.known[t])
        out.append(row)
    return out


def nearest_shift(table: ActionTable, shifts: np.ndarray) -> np.ndarray:
    """The nearest global action, (T,) int64, to each of the shifts (T, 2) px."""
    return np.linalg.norm(shifts[:, None] - table.shifts, axis=2).argmin(1)


@torch.no_grad()
def observed(world: World, decoded: Decoded) -> tuple[Sequence[int | None], Sequence[float | None]]:
    """Poses and headings of all frames, as far as the world's model has any."""
    lma, nothing = world.model.lma, [None] * len(decoded.layers)
    if world.config.library:
        entries, headings = lma.observe(decoded.layers.float())  # type: ignore[operator]
        return entries.tolist(), headings.tolist() if world.config.heading else nothing
    if world.config.architecture == "pose":
        return lma.encode_poses(decoded.layers.float()).tolist(), nothing  # type: ignore[operator]
    return nothing, nothing


def write_csv(path: Path, rows: Sequence[Row]) -> Path:
    """Write rows; what is not known is empty."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_parquet(path: Path, rows: Sequence[Row]) -> Path:
    """Write rows; what is not known is null. ModuleNotFoundError: no pyarrow."""
    import pyarrow as pa
    from pyarrow import parquet

    columns = {name: pa.array([row[name] for row in rows]) for name in COLUMNS}
    columns = {name: c.cast(pa.float64()) if pa.types.is_null(c.type) else c for name, c in columns.items()}
    parquet.write_table(pa.table(columns), path)
    return path


def read_actions(path: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Read the first shot of a decoded CSV.

    Args:
        path: the file.
        count: K, the number of local actions of the world that will play them.

    Returns:
        shifts (T, 2) px and codes (T,) int64 of its steps.

    Raises:
        DataError: the file is missing, or no such table; a shift is not finite, or a code is not in 0 .. K - 1.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        shot = [(row["video"], row["shot"]) for row in rows]
        steps = [n for n, row in enumerate(rows) if shot[n] == shot[0] and row["code"]]
        with np.errstate(over="ignore"):  # to inf, which is refused below
            shifts = np.array([[rows[n]["dx"], rows[n]["dy"]] for n in steps], np.float32)
        codes = [int(rows[n]["code"]) for n in steps]
    except (OSError, KeyError, ValueError, IndexError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path}: not a table of decoded actions ({error!r}); give a decoded.csv of glass-decode"
        ) from None
    if not codes:
        raise DataError(f"{path}: its first shot has no actions; decode a video of two frames or more")
    for n, shift, code in zip(steps, shifts, codes, strict=True):
        if not np.isfinite(shift).all():
            raise DataError(f"{path}: row {n + 1} has dx = {shift[0]} and dy = {shift[1]}; expected are finite px")
        if not 0 <= code < count:
            known = f"this world has 0 to {count - 1}; give the world that decoded it"
            raise DataError(f"{path}: row {n + 1} has code = {code}, and {known}")
    return shifts, np.array(codes, np.int64)


class Rewards:
    """The rewards that a task would have given.

    Args:
        task: its name, see :func:`glass_gym.tasks.make_task`.
        world: the world.
        target: (x, y) px, of all episodes; None: the task draws one for each.

    Raises:
        ValueError: there is no such task, it has no target, or the target is outside the frame.
    """

    def __init__(self, task: str, world: World, target: tuple[float, float] | None = None):
        config, shifts = world.config, world.action_table().shifts
        scene = Scene(config.height, config.width, config.agent_radius, shifts, world.ground)
        try:
            made = make_task(task, scene, **({} if target is None else {"target": target}))
        except TypeError:
            if target is None:
                raise
            raise ValueError(f"task {task!r} has no target; leave --target out, or choose --task reach") from None
        assert made is not None
        self.task = made
        self._rng = np.random.default_rng(0)

    def __call__(self, position: np.ndarray) -> list[float]:
        """The rewards (T - 1) of an episode with positions (T, 2) px."""
        places = torch.from_numpy(position.astype(np.float32))[:, None]
        state = self.task.sample(torch.from_numpy(self._rng.random((1, self.task.draws))), places[0], {})
        out = []
        for before, after in pairwise(places):
            outcome = self.task.step(before, after, state)
            state = outcome.state
            out.append(float(outcome.reward))
        return out


class EpisodeWriter(ABC):
    """Writes frames, actions (nearest shift, code) and rewards as a data set; an episode is a part of a shot.

    It is written beside its place, and moved there when it is whole.

    Args:
        folder: a folder for data sets of this kind.
        world: the world that decoded.
        rewards: of a task; None: 0.

    Raises:
        ModuleNotFoundError: a package is missing.
        DataError: there is such a data set.
    """

    NAME = "decoded-v0"

    def __init__(self, folder: Path, world: World, rewards: Rewards | None = None):
        self.path, self.part = folder / self.NAME, folder / f".{self.NAME}.part"
        if self.path.exists():
            raise DataError(f"{self.path}: there is a data set already; delete it or choose another --out")
        self.world = world
        self.table = world.action_table()
        self._rewards = rewards
        shutil.rmtree(self.part, ignore_errors=True)  # of a run that was stopped
        self.open()

    @abstractmethod
    def open(self) -> None:
        """Begin a data set in `self.part`."""

    @abstractmethod
    def write(self, part: Part, position: np.ndarray, actions: np.ndarray, rewards: list[float]) -> None:
        """Append an episode: T frames and positions (T, 2) px, T - 1 actions (T - 1, 2) and rewards."""

    @abstractmethod
    def hint(self) -> str:
        """A shell command that loads the data set."""

    def add(self, part: Part, decoded: Decoded) -> None:
        """Append an episode; of one frame there is none."""
        if len(part.frames) < 2:
            return
        position = decoded.track.position.cpu().numpy()
        rewards = [0.0] * (len(position) - 1) if self._rewards is None else self._rewards(position)
        actions = np.stack([nearest_shift(self.table, np.diff(position, axis=0)), decoded.codes.cpu().numpy()], 1)
        self.write(part, position, actions, rewards)

    def close(self) -> None:
        """Move the data set to its place."""
        if self.part.exists():  # there was an episode
            self.part.rename(self.path)


class MinariWriter(EpisodeWriter):
    """A Minari data set; MINARI_DATASETS_PATH has to be the folder to load it."""

    def open(self) -> None:
        """Begin it; the format keeps every byte of the frames."""
        import h5py  # noqa: F401
        import minari
        from gymnasium.spaces import Box, MultiDiscrete
        from minari.dataset.minari_storage import MinariStorage

        path = self.part / "data"
        path.mkdir(parents=True)
        size = self.world.config.height, self.world.config.width
        spaces = Box(0, 255, (*size, 3), np.uint8), MultiDiscrete(list(self.table.nvec))
        self._storage = MinariStorage.new(path, *spaces, data_format="hdf5", jpeg_encoding=False)
        about = f"Actions that glass-decode read off videos with the world {self.world.name}"
        facts = {"dataset_id": self.NAME, "algorithm_name": "glass-decode", "description": about}
        self._storage.update_metadata(facts | {"minari_version": minari.__version__})

    def write(self, part: Part, position: np.ndarray, actions: np.ndarray, rewards: list[float]) -> None:
        """Append an episode; its end is a truncation."""
        from minari.data_collector.episode_buffer import EpisodeBuffer

        steps = len(actions)
        episode = EpisodeBuffer(
            observations=list(part.frames), actions=list(actions), rewards=rewards, terminations=[False] * steps,
            truncations=[False] * (steps - 1) + [True],
        )  # fmt: skip
        self._storage.update_episodes([episode])

    def hint(self) -> str:
        """As :meth:`EpisodeWriter.hint`."""
        folder = shlex.quote(str(self.path.parent.resolve()))
        return f"MINARI_DATASETS_PATH={folder} python -c \"import minari; print(minari.load_dataset('{self.NAME}'))\""


class LeRobotWriter(EpisodeWriter):
    """A LeRobot data set with pictures (not films) of the frames, at the rate of the first video.

    Its episodes have no last frame, which has no action.
    """

    def open(self) -> None:
        """Look for the package; the first episode tells the rate. DataError: it is not installed."""
        try:
            from lerobot.datasets import lerobot_dataset  # type: ignore[import-not-found]
        except ModuleNotFoundError as error:
            needs = "pip install 'glass-gym[lerobot]', then pip install --no-deps lerobot"
            raise DataError(f"--datasets lerobot needs {error.name}: {needs}") from None
        self._kind = lerobot_dataset.LeRobotDataset
        self._data: Any = None

    def write(self, part: Part, position: np.ndarray, actions: np.ndarray, rewards: list[float]) -> None:
        """Append an episode."""
        if self._data is None:
            interval = float(np.median(np.diff(part.time)))
            features = {
                "observation.image": {"dtype": "image", "shape": part.frames[0].shape, "names": ["h", "w", "c"]},
                "observation.state": {"dtype": "float32", "shape": (2,), "names": ["x", "y"]},
                "action": {"dtype": "int64", "shape": (2,), "names": ["shift", "code"]},
                "next.reward": {"dtype": "float32", "shape": (1,), "names": None},
            }
            fps = 15 if np.isnan(interval) else max(1, round(1 / interval))
            self.part.parent.mkdir(parents=True, exist_ok=True)
            self._data = self._kind.create(self.NAME, fps, features, root=self.part, use_videos=False)
        for t, (action, reward) in enumerate(zip(actions, rewards, strict=True)):
            frame = {"observation.image": part.frames[t], "observation.state": position[t].astype(np.float32)}
            frame |= {"action": action.astype(np.int64), "next.reward": np.array([reward], np.float32)}
            self._data.add_frame(frame | {"task": "decoded"})
        self._data.save_episode()

    def close(self) -> None:
        """Write what is left, and move the data set to its place."""
        if self._data is not None:
            self._data.finalize()
        super().close()

    def hint(self) -> str:
        """As :meth:`EpisodeWriter.hint`."""
        load = f"LeRobotDataset('{self.NAME}', root='{self.path}')"
        return f'python -c "from lerobot.datasets.lerobot_dataset import LeRobotDataset; print({load})"'


WRITERS = {"minari": MinariWriter, "lerobot": LeRobotWriter}
