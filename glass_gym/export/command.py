"""glass-export: write worlds as ONNX, or as a web page to play them in."""

from __future__ import annotations

import argparse
import functools
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from glass_gym.export.graphs import ExportError
from glass_gym.export.onnx import TOLERANCE, compare, export_onnx, export_policy, need_packages
from glass_gym.export.page import GET_RUNTIME, different_names, write_page, write_single_file
from glass_gym.worlds.checkpoint import CheckpointError, World, load_world

DESCRIPTION = """Write worlds as ONNX (--onnx), or as a web page to play them in (--web, --single-file).

--onnx writes four graphs, one file with their weights, and world.json, which describes inputs, outputs and actions.
--web writes a folder for any static web server. The worlds then run in the browser, in WebAssembly.
--single-file writes the same page as one HTML file, which opens by a double click, without a server.
Either way, ONNX Runtime is then compared with torch over random steps; a difference is an error."""
EXAMPLES = """examples:
  glass-export tennis --onnx tennis_onnx
  glass-export runs/mine/world.safetensors --onnx mine_onnx

  npm pack onnxruntime-web@1.30.0     # once: a page needs it
  glass-export tennis sprites arm --web site --runtime onnxruntime-web-1.30.0.tgz \\
      --policy agents/trained/GlassTennis-v0/ppo.safetensors
  python -m http.server -d site
  glass-export tennis --single-file tennis.html --runtime onnxruntime-web-1.30.0.tgz"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    raw = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser("glass-export", description=DESCRIPTION, epilog=EXAMPLES, formatter_class=raw)
    add = p.add_argument
    add("worlds", nargs="+", metavar="WORLD", help="bundled names (tennis, sprites, arm, mouse) or .safetensors files")
    add("--onnx", type=Path, metavar="DIR", help="write ONNX here; several worlds get a folder each")
    add("--web", type=Path, metavar="DIR", help="write the page here; needs --runtime")
    add("--single-file", type=Path, metavar="FILE", help="write the page as one .html file here; needs --runtime")
    runtime = "onnxruntime-web: the .tgz of npm pack, or its unpacked folder"
    add("--runtime", type=Path, metavar="PATH", help=runtime)
    card = "let the page use a graphics card where the browser offers one"
    add("--webgpu", action="store_true", help=f"{card} (the folder grows by 27 MB, which other browsers do not load)")
    order = "trained agents of the worlds, in the same order: .safetensors of PPO or A2C that observe frames"
    add("--policy", type=Path, nargs="+", default=[], metavar="FILE", help=order)
    steps = "random steps of the comparison with torch, at least 1 (default: 100)"
    add("--steps", type=int, default=100, help=steps)
    arguments = p.parse_args(argv)
    if not (arguments.onnx or arguments.web or arguments.single_file):
        p.error("choose what to write: --onnx DIR, --web DIR, --single-file FILE, or several of them")
    if arguments.steps < 1:
        p.error("--steps must be at least 1")
    if len(arguments.policy) > len(arguments.worlds):
        p.error(f"{len(arguments.policy)} policies were given for {len(arguments.worlds)} worlds")
    if (arguments.web or arguments.single_file) and not arguments.runtime:
        p.error(f"a page needs onnxruntime-web: {GET_RUNTIME}")
    try:
        _export(arguments)
    except (CheckpointError, ExportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _export(arguments: argparse.Namespace) -> None:
    need_packages("export", "onnx", "onnxscript", "onnxruntime")
    if arguments.policy:
        need_packages("agents", "stable_baselines3")
    worlds = [load_world(name) for name in arguments.worlds]
    names = different_names(worlds)
    if arguments.onnx:
        for index, (world, name) in enumerate(zip(worlds, names, strict=True)):
            folder = arguments.onnx if len(worlds) == 1 else arguments.onnx / name
            export_onnx(world, folder, lambda what, name=name: _tell(f"{name}: {what}"))
            if index < len(arguments.policy):
                export_policy(world, folder, arguments.policy[index])
            _check(world, folder, arguments.steps)
    if not (arguments.web or arguments.single_file):
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.web or Path(temporary)
        page = write_page(worlds, folder, arguments.runtime, arguments.policy, _tell, arguments.webgpu)
        for world, name in zip(worlds, names, strict=True):
            _check(world, folder / "worlds" / name, arguments.steps)
        if arguments.web:
            _tell(f"wrote {page}; to play: python -m http.server -d {shlex.quote(str(arguments.web))}")
        if arguments.single_file:
            file = write_single_file(folder, arguments.single_file)
            _tell(f"wrote {file} ({file.stat().st_size / 1e6:.1f} MB); to play: open it in a browser")


_tell = functools.partial(print, flush=True)


def _check(world: World, folder: Path, steps: int) -> None:
    """Compare with torch and report; ExportError: the frames differ."""
    difference = max(compare(world, folder, steps))
    size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    _tell(f"{folder}: {size:.1f} MB; differs from torch by at most {difference:.3f} grey levels over {steps} steps")
    if difference > TOLERANCE:
        raise ExportError(f"{folder}: ONNX Runtime's frames differ from torch's by {difference:.2f} grey levels")


if __name__ == "__main__":
    sys.exit(main())
