"""Read the actions off videos: glass-decode VIDEO... --world runs/mine/world.safetensors --out decoded

A video may be any of the scene that the world was trained on. For every frame the world finds the agent and its mask,
its move in px and the nearest action, and its local action with a probability. Frames that the world does not know,
because the agent or the background differ from what it can draw, are marked and told.

OUT gets decoded.csv and decoded.parquet (the columns are in docs/decoding.md), time_line.png, transitions.png, map.png,
and for each video an annotated film and its masks. --datasets adds data sets for imitation and offline learning.

examples:
  glass-decode match.mp4 --world tennis --out decoded
  glass-decode videos/*.mp4 --world runs/mine/world.safetensors --out decoded --datasets minari
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import MinLen

from glass_gym.play.recorder import Mp4Writer
from glass_gym.tensors.device import pick_device, pick_precision
from glass_gym.worlds.checkpoint import World, load_world, resolve

from ..config import ReadConfig
from ..core.command import run_command
from ..core.options import Common, Positional
from ..core.progress import Bar, say, warn
from ..data.store import DataError, frames_to_tensor
from ..data.videos import find_videos, frames_read
from .decode import KNOWN, Decoded, Errors, Reference, decode, grid_of_world
from .footage import Part, open_footage, parts_of, reading_of
from .pictures import Film, draw_map, draw_time_line, draw_transitions
from .tables import WRITERS, EpisodeWriter, Rewards, Row, rows_of, write_csv, write_parquet

FPS = 15.0  # Of films, where the video's rate is not known.
UNKNOWN = 0.05  # From this share of a video's frames on, it is told that the world does not know them.


@dataclass(frozen=True, kw_only=True)
class DecodeConfig:
    """Read the actions off videos."""

    videos: Positional[Annotated[tuple[Path, ...], MinLen(1)]]  # files, or folders of videos or of numbered pictures
    world: Common[str]  # bundled name or .safetensors file
    out: Common[Path]  # folder for what is written
    films: Common[bool] = True  # write annotated films and masks
    datasets: Common[tuple[Literal["minari", "lerobot"], ...]] = ()  # write these too; they need the package
    task: Common[str | None] = None  # with --datasets: rewards of this task; default: 0
    target: Common[tuple[float, float] | None] = None  # x and y px, the task's target; default: random ones
    device: str = "auto"  # auto, cpu, cuda, cuda:i or mps
    read: ReadConfig = field(default_factory=ReadConfig)  # how videos are read; default: as the world's were


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    return run_command(DecodeConfig, run, "glass-decode", __doc__ or "", argv, extra="decode")


class Decoder:
    """Decodes videos with a world.

    Args:
        world: trained.
        read: how videos are read (:func:`reading_of`).
        device: see :func:`glass_gym.tensors.device.pick_device`.
    """

    def __init__(self, world: World, read: ReadConfig, device: str = "auto"):
        self.world = world
        self.read = read
        self.device = pick_device(device)
        world.model.to(self.device).eval().requires_grad_(False)
        self._half = pick_precision("auto", self.device) == torch.bfloat16
        with self._autocast():
            self._reference = Reference(world)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._half)

    def __call__(self, path: Path) -> Iterator[tuple[Part, Decoded, Errors]]:
        """Decode a video, part by part."""
        reader, read = open_footage(path, self.world, self.read)
        with Bar(path.name, frames_read(reader, read.fps) / ((read.skip or 0) + 1), "frame") as bar:
            for part in parts_of(reader, self.world, read):
                images = frames_to_tensor(part.frames).to(self.device)
                with torch.inference_mode(), self._autocast():
                    decoded = decode(self.world.model, images, grid_of_world(self.world))
                    errors = self._reference.errors(images, decoded)
                yield part, decoded, errors
                bar.update(len(part.frames) - part.continued)
        for note in reader.notes:
            warn(f"{path.name}: {note}")


def run(config: DecodeConfig) -> int:
    """Decode, write and print; returns 0."""
    if (config.task or config.target) and not config.datasets:
        raise ValueError("--task and --target are of --datasets; add it, or leave them out")
    world = load_world(config.world)
    rewards = Rewards(config.task or "reach", world, config.target) if config.task or config.target else None
    found = [find_videos(given) for given in config.videos]
    for note in (note for given in found for note in given.notes):
        warn(note)
    paths = [path for given in found for *_, path in given.videos]
    names = unique_names(paths)
    out = config.out
    out.mkdir(parents=True, exist_ok=True)
    writers = [WRITERS[name](out / name, world, rewards) for name in config.datasets]
    decoder = Decoder(world, reading_of(config.read, world, resolve(config.world)), config.device)
    rows: list[Row] = []
    failed: list[str] = []
    for name, path in zip(names, paths, strict=True):
        some: list[Row] = []
        try:
            with contextlib.ExitStack() as stack:
                add = _films(out, name, path, decoder, stack) if config.films else None
                for part in decode_video(decoder, name, path, add, writers):
                    some += part
        except DataError as error:
            failed.append(str(error))
            if some or len(paths) > 1:
                warn(f"{'the rest' if some else 'a video'} is left out: {error}")
        if some:
            rows += some
            _tell_unknown(path, some)
    if failed and not rows:
        raise DataError(failed[0] if len(paths) == 1 else f"no video can be read; the first: {failed[0]}")
    if not any(row["code"] is not None for row in rows):
        raise DataError(f"{paths[0]}: no two frames in a row could be read; give a video of at least two frames")
    for writer in writers:
        writer.close()
    codes = world.code_names
    written = [
        write_csv(out / "decoded.csv", rows),
        draw_time_line(out / "time_line.png", rows, codes),
        draw_transitions(out / "transitions.png", rows, codes),
        draw_map(out / "map.png", rows, world),
    ]
    if find_spec("pyarrow"):
        written.insert(1, write_parquet(out / "decoded.parquet", rows))
    else:
        warn("decoded.parquet is left out; pip install 'glass-gym[decode]' writes it")
    steps = sum(row["code"] is not None for row in rows)
    count = len({row["video"] for row in rows})
    say(f"{count} video{'s' * (count != 1)}, {len(rows)} frames, {steps} actions")
    films = "; NAME-decoded.mp4 and NAME-masks.mp4 for each video" if config.films else ""
    say(f"written to {out}: {', '.join(path.name for path in written)}{films}")
    for writer in writers:
        say(f"  {writer.hint()}")
    options = shlex.join(["--actions", str(written[0]), "--world", config.world])
    say(f"play them from another picture: glass-transfer PICTURE {options}")
    return 0


Add = Callable[[Part, Decoded, list[Row]], Any]  # Takes a part, what was read off it, and its rows.


def decode_video(
    decoder: Decoder, name: str, path: Path, add: Add | None = None, writers: Sequence[EpisodeWriter] = ()
) -> Iterator[list[Row]]:
    """The rows of a video, part by part; its parts are handed to `add` and to the writers."""
    shot = 0
    for part, decoded, errors in decoder(path):
        rows = rows_of(name, shot, part, decoded, errors, decoder.world)
        if add:
            add(part, decoded, rows)
        for writer in writers:
            writer.add(part, decoded)
        yield rows
        shot += not part.continued


def unique_names(paths: list[Path]) -> list[str]:
    """A name for each video: its file's, without the suffix where that is enough; numbered where it is not."""
    stems = [path.stem for path in paths]
    names = [path.name if stems.count(path.stem) > 1 else path.stem for path in paths]
    return [f"{name}-{n}" if names.count(name) > 1 else name for n, name in enumerate(names)]


def _films(out: Path, name: str, path: Path, decoder: Decoder, stack: contextlib.ExitStack) -> Add:
    """What appends to the film and the masks of a video; they are opened with its first part."""
    reader, read = open_footage(path, decoder.world, decoder.read)
    rate = min(reader.rate or FPS, read.fps or reader.rate or FPS) / ((read.skip or 0) + 1)
    opened: list[tuple[Film, Mp4Writer]] = []

    def add(part: Part, decoded: Decoded, rows: list[Row]) -> None:
        if not opened:
            film = stack.enter_context(contextlib.closing(Film(out / f"{name}-decoded.mp4", decoder.world, rate)))
            masks = Mp4Writer(out / f"{name}-masks.mp4", rate, "gray", qp="0")  # lossless
            opened.append((film, stack.enter_context(contextlib.closing(masks))))
        film, masks = opened[0]
        film.add(part, decoded, rows)
        for mask, _ in zip(decoded.track.masks, rows, strict=False):
            grey = (mask[0].float() * 255).round().byte().cpu().numpy()
            masks.append_data(np.repeat(grey[..., None], 3, 2))

    return add


def _tell_unknown(path: Path, rows: list[Row]) -> None:
    """Say how much of a video the world does not know, and why."""
    share = {
        "the agent is not found in": np.mean([not row["present"] for row in rows] or [1]),
        "it is drawn wrongly in": np.mean([row["present"] and row["agent_error"] > KNOWN for row in rows] or [0]),
        "the background is another in": np.mean([row["scene_error"] > KNOWN for row in rows] or [0]),
    }
    unknown = np.mean([not row["known"] for row in rows] or [1])
    if unknown >= UNKNOWN:
        why = "; ".join(f"{words} {part:.0%}" for words, part in share.items() if part >= 0.01)
        warn(f"{path}: this world does not know {unknown:.0%} of the frames ({why}). Their actions mean little "
             "(column `known`); use a world that was trained on this scene")  # fmt: skip


if __name__ == "__main__":
    os.environ.setdefault("MPLBACKEND", "Agg")
    sys.exit(main())
