"""glass-names: what each local action of a world does, as films and in words; and names for them."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from tabulate import tabulate
from tqdm import tqdm

EXAMPLES = """examples:
  glass-names tennis                                         films and measurements of a bundled world
  glass-names runs/mine/world.safetensors                    look at codes.gif, then name what you see:
  glass-names runs/mine/world.safetensors --set 3=swing --set "5=looks up"
  glass-names runs/mine/world.safetensors --set 3=           code 3 is called by what it is measured to do
  glass-names runs/mine/world.safetensors --measured         all are"""
AGENTS = 3  # Start frames that films show.
FPS = 8  # Steps a second of the film.
LEAST = 96  # Least height of a picture in films, px.


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(
        "glass-names",
        description="Show what each local action (code) of a world does, and name it.\n\n"
        "Each code is repeated on the spot from several start frames. codes.gif and codes.png show the agent,\n"
        "and the table says what was measured: degrees a step that it turns, how much of its outline changes\n"
        "in every step (a swing), how much it grows, and whether it stretches to a side.\n"
        "--set stores names in the world's file, of a bundled world in a copy in the folder --out; players, pages,\n"
        "exports and films show them.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EXAMPLES,
    )
    add = parser.add_argument
    add("world", metavar="WORLD", help="a bundled world (tennis, sprites, arm, mouse) or a .safetensors file")
    names = "name code K, by 1 to 40 printable characters; without NAME, by what it is measured to do"
    add("--set", action="append", default=[], metavar="K=NAME", help=f"{names} (may be repeated)")
    add("--measured", action="store_true", help="name all other codes by what they are measured to do")
    add("--out", type=Path, default=Path("glass_names"), help="folder of the films (default: glass_names)")
    arguments = parser.parse_args(argv)
    try:
        show_names(arguments.world, arguments.set, arguments.measured, arguments.out)
    except (ValueError, OSError) as error:  # CheckpointError is a ValueError
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def show_names(checkpoint: str, given: Sequence[str] = (), measured: bool = False, out: Path | None = None) -> None:
    """Measure the codes of a world, store names, write films, and print a table.

    Args:
        checkpoint: a bundled name or a path.
        given: names to store, as "3=swing".
        measured: whether all other codes are named by what they are measured to do.
        out: folder of the films, and of the copy of a bundled world that gets names; None: no films.

    Raises:
        CheckpointError: the world cannot be used or written, or a name cannot be stored.
        ValueError: `given` is no K=NAME, or there is no such code.
    """
    from glass_gym.simulator.simulator import Simulator
    from glass_gym.worlds.checkpoint import load_world
    from glass_gym.worlds.codes import describe_codes, measure_codes, play_code, start_states

    world = load_world(checkpoint)
    chosen = parse_names(given, world.config.codes)
    simulator = Simulator(world.model, ground=world.ground)
    start = start_states(world, simulator)
    films = [play_code(simulator, start, code) for code in tqdm(range(world.config.codes), "codes", unit="code")]
    effects = measure_codes(simulator, films)
    described = describe_codes(world, effects)
    names = list(described if measured else world.code_names)
    for code, name in chosen.items():
        names[code] = name or described[code]
    if chosen or measured:
        print(f"stored in {_stored(checkpoint, names, out or Path())}")
    rows = [
        (k, name, what, f"{e.turn:+.1f}°" if world.config.heading else "-", *(f"{x:.0%}" for x in (e.swing, e.change)),
         f"{e.growth:+.0%}")
        for k, (name, what, e) in enumerate(zip(names, described, effects, strict=True))
    ]  # fmt: skip
    heads = ("code", "name", "measured", "turn a step", "outline a step", "outline, in all", "area")
    print(tabulate(rows, heads, tablefmt="simple", disable_numparse=True))
    if out is not None:
        pairs = enumerate(zip(names, described, strict=True))
        labels = [f"{k}: {name}" + f" ({what})" * (name != what) for k, (name, what) in pairs]
        written = write_films(out, films, labels, world.pixel_aspect)
        print(f"written: {' and '.join(map(str, written))}; to name a code: glass-names {checkpoint} --set K=NAME")


def _stored(checkpoint: str, names: Sequence[str], folder: Path) -> Path:
    """Store names in a world's file, of a bundled world in a copy in `folder`; returns the file's path."""
    from glass_gym.worlds.checkpoint import ASSETS, CheckpointError, rename_codes, resolve

    path = resolve(checkpoint)
    if path.parent.resolve() != ASSETS.resolve():
        return rename_codes(path, names)
    copy = folder / path.name
    if copy.exists():
        raise CheckpointError(f"{copy}: has names already; change them: glass-names {copy} --set K=NAME")
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, copy)
    try:
        return rename_codes(copy, names)
    except CheckpointError:
        copy.unlink()
        raise


def parse_names(given: Sequence[str], count: int) -> dict[int, str]:
    """Names ("" where none is given) by code, of texts such as "3=swing"; ValueError: no K=NAME, or no such code."""
    chosen: dict[int, str] = {}
    for text in given:
        code, equals, name = text.partition("=")
        if not equals or not code.strip().isdecimal():
            raise ValueError(f"--set {text!r} is no K=NAME, such as 3=swing")
        if int(code) >= count:
            raise ValueError(f"--set {text!r}: this world has the codes 0 to {count - 1}")
        chosen[int(code)] = name.strip()
    return chosen


def write_films(folder: Path, films: Sequence[Sequence], labels: Sequence[str], pixel_aspect: float) -> list[Path]:
    """Write the films of all codes: codes.gif, a row for each with AGENTS agents; codes.png, a row for each agent.

    Args:
        folder: is made where needed.
        films: of each code, the states of the simulator after each step.
        labels: of each code.
        pixel_aspect: displayed width of a pixel over its height.

    Returns:
        the two files.
    """
    from glass_gym.play.recorder import Recorder
    from glass_gym.worlds.pictures import stretch
    from glass_gym.worlds.sheets import grid, save_picture, to_picture, with_labels

    agents = np.linspace(0, len(films[0][0]) - 1, min(AGENTS, len(films[0][0]))).astype(int)
    shown = [[stretch(to_picture(state.layer[agents, :3]), pixel_aspect) for state in film] for film in films]
    scale = -(-LEAST // shown[0][0].shape[1])
    rows = [[pictures[n] for pictures in film] for film in shown for n in range(len(agents))]
    sheet = save_picture(folder / "codes.png", with_labels(grid(rows, scale), labels))
    recorder = Recorder(folder / "codes.gif", FPS, 1)
    with closing(recorder):
        for step in [*range(len(shown[0])), *[len(shown[0]) - 1] * FPS]:
            recorder.add(with_labels(grid([list(film[step]) for film in shown], scale), labels))
    return [recorder.path, sheet]


if __name__ == "__main__":
    sys.exit(main())
