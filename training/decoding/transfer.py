"""Play the actions of one video from the first frame of another: glass-transfer SOURCE TARGET --world W

SOURCE is decoded as by glass-decode; TARGET is a video or a picture in which the world finds an agent (Fig. 5 of the
paper). The film shows SOURCE on the left and what the world generates on the right. With --actions decoded.csv, the
actions come from the first shot of a file of glass-decode, and only TARGET is given.

examples:
  glass-transfer rally.mp4 photo.png --world tennis
  glass-transfer photo.png --actions decoded/decoded.csv --world tennis --out replay.mp4
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from annotated_types import MinLen

from glass_gym.env.starts import StartStates
from glass_gym.play.recorder import Recorder
from glass_gym.simulator.simulator import Simulator
from glass_gym.tensors.device import pick_device
from glass_gym.worlds.checkpoint import World, load_world, resolve
from glass_gym.worlds.pictures import FORMATS, read_picture, stretch

from ..config import ReadConfig
from ..core.command import run_command
from ..core.options import Common, Positional
from ..core.progress import each, say, warn
from ..data.store import DataError
from .command import FPS, Decoder
from .footage import open_footage, parts_of, reading_of
from .pictures import LINES
from .tables import read_actions

GAP = 8  # Px between the two pictures.
MOST = 1_000_000_000  # Bytes of the source's frames that are kept, for the left picture.


@dataclass(frozen=True, kw_only=True)
class TransferConfig:
    """Play the actions of one video from the first frame of another."""

    videos: Positional[Annotated[tuple[Path, ...], MinLen(1)]]  # SOURCE TARGET; with --actions TARGET alone
    world: Common[str]  # bundled name or .safetensors file
    actions: Common[Path | None] = None  # decoded.csv of glass-decode, instead of SOURCE
    out: Common[Path] = Path("transfer.mp4")  # film to write, .mp4 or .gif
    device: str = "auto"  # auto, cpu, cuda, cuda:i or mps
    read: ReadConfig = field(default_factory=ReadConfig)  # how videos are read; default: as the world's were


@dataclass(frozen=True)
class Actions:
    """Actions of T steps, and the frames they were read off, if there are any."""

    shifts: np.ndarray  # (T, 2) px
    codes: np.ndarray  # (T,) int64
    frames: np.ndarray | None = None  # (T + 1, H, W, 3) uint8


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    return run_command(TransferConfig, run, "glass-transfer", __doc__ or "", argv)


def run(config: TransferConfig) -> int:
    """Decode, play, write and print; returns 0."""
    if len(config.videos) != (1 if config.actions else 2):
        raise ValueError(f"{len(config.videos)} videos are given; give SOURCE TARGET, or TARGET --actions decoded.csv")
    if config.out.exists() and any(path.exists() and path.samefile(config.out) for path in config.videos):
        raise ValueError(f"--out {config.out} is one of the videos, and would be overwritten; choose another")
    world = load_world(config.world)
    read = reading_of(config.read, world, resolve(config.world))
    picture = first_frame(config.videos[-1], world, read)
    if config.actions:
        actions = Actions(*read_actions(config.actions, world.config.codes))
    else:
        actions = decode_first_shot(Decoder(world, read, config.device), config.videos[0])
    frames = play(world, picture, actions, config.device)
    first = next(frames)  # before an older film is overwritten: there may be no agent in the picture
    with closing(Recorder(config.out, FPS, max(1, LINES // world.config.height))) as recorder:
        for t, frame in enumerate(chain([first], frames)):
            shown = stretch(frame, world.pixel_aspect)
            if actions.frames is not None:
                source = stretch(actions.frames[t], world.pixel_aspect)
                shown = np.concatenate([source, np.zeros_like(shown[:, :GAP]), shown], 1)
            recorder.add(shown)
    left = "the source is on the left, " if actions.frames is not None else ""
    say(f"{len(actions.codes)} steps written to {config.out}: {left}the world {world.name} draws {config.videos[-1]}")
    return 0


def decode_first_shot(decoder: Decoder, path: Path) -> Actions:
    """The actions of a video's first shot of two frames or more; of a shot of more than MOST bytes the beginning.

    Raises:
        DataError: no two frames can be read, or the world does not know most of them.
    """
    shifts, codes, frames, known = [], [], [], []
    for part, decoded, errors in decoder(path):
        if len(part.frames) < 2:
            continue
        shifts.append(decoded.shifts.cpu().numpy())
        codes.append(decoded.codes.cpu().numpy())
        frames.append(part.frames[1:] if frames else part.frames)
        known.append(errors.known)
        if not part.continued:
            break
        if sum(some.nbytes for some in frames) >= MOST:
            warn(f"{path}: only the first {sum(map(len, codes))} steps of its first shot are played; cut the video "
                 "to play the others")  # fmt: skip
            break
    if not frames:
        raise DataError(f"{path}: no two frames in a row can be read")
    share = np.concatenate(known).mean()
    if not share > 0.5:
        raise DataError(
            f"{path}: the world {decoder.world.name} does not know {1 - share:.0%} of its frames, so "
            "their actions mean little; use a world that was trained on this scene. glass-decode tells more"
        )
    return Actions(np.concatenate(shifts), np.concatenate(codes), np.concatenate(frames))


def first_frame(path: Path, world: World, read: ReadConfig) -> np.ndarray:
    """A picture, or the first frame of a video, (h, w, 3) uint8; DataError or ValueError: it cannot be read."""
    if path.suffix.lower().lstrip(".").replace("jpg", "jpeg") in {name.lower() for name in FORMATS} - {"gif", "tiff"}:
        return read_picture(path)
    reader, how = open_footage(path, world, read)
    for part in parts_of(reader, world, how):
        return part.frames[0]
    raise DataError(f"{path}: no frame can be read; {'; '.join(reader.notes)}")


def play(world: World, picture: np.ndarray, actions: Actions, device: str = "auto") -> Iterator[np.ndarray]:
    """The frames that the world draws from a picture under actions: the start and T more, (H, W, 3) uint8.

    Raises:
        NoAgentError: the model finds no agent in the picture.
    """
    simulator = Simulator(world.model, pick_device(device), ground=world.ground)
    state = StartStates(world, simulator).from_pictures(picture[None])
    yield simulator.frames(state)[0].cpu().numpy()
    shifts = torch.from_numpy(actions.shifts).to(simulator.device)
    codes = torch.from_numpy(actions.codes).to(simulator.device)
    for t in each(range(len(codes)), "playing", "step"):
        state = simulator.step(state, shifts[t : t + 1], codes[t : t + 1])
        yield simulator.frames(state)[0].cpu().numpy()


if __name__ == "__main__":
    sys.exit(main())
