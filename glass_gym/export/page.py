"""A web page in which people play worlds: the ONNX graphs, onnxruntime-web, and the scripts of glass_gym/play/web."""

from __future__ import annotations

import base64
import itertools
import json
import re
import shutil
import tarfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import glass_gym.play
from glass_gym.export.graphs import ExportError
from glass_gym.export.onnx import export_onnx, export_policy
from glass_gym.worlds.checkpoint import World

PAGE = Path(glass_gym.play.__file__).parent / "web"  # The page's HTML, CSS and scripts.
RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
"""The files of onnxruntime-web's dist/ that every page needs."""
WEBGPU = ("ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs", "ort-wasm-simd-threaded.asyncify.wasm")
"""The files that it needs in addition to run on a graphics card."""
RUNTIME_VERSION = "1.30.0"
LARGEST_RUNTIME_FILE = 64 << 20  # Bytes; larger files are not read.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'wasm-unsafe-eval' data: blob:; style-src 'unsafe-inline'; "
    "img-src blob: data:; media-src blob:; connect-src data:; base-uri 'none'; form-action 'none'"
)
"""The Content Security Policy of a single file."""
GET_RUNTIME = (
    f"download it once with `npm pack onnxruntime-web@{RUNTIME_VERSION}` and pass the file: "
    f"--runtime onnxruntime-web-{RUNTIME_VERSION}.tgz"
)


def write_page(
    worlds: Sequence[World],
    folder: Path,
    runtime: Path,
    policies: Sequence[Path] = (),
    progress: Callable[[str], Any] = lambda what: None,
    webgpu: bool = False,
) -> Path:
    """Write a page as a folder that any static web server can serve.

    Args:
        worlds: that can be played in it, under their :func:`different_names`.
        folder: gets index.html and everything that it needs.
        runtime: onnxruntime-web: the .tgz of `npm pack`, its unpacked folder, or its dist/.
        policies: .safetensors files of the worlds' agents, in the same order; the last worlds may have none.
        progress: called with the name of each part before it is written.
        webgpu: run on a graphics card where the browser offers one. The folder grows by 27 MB, which other browsers do
            not load.

    Returns:
        the page, index.html.

    Raises:
        ExportError: `runtime` is not onnxruntime-web. Nothing is written then.
    """
    files = read_runtime(runtime, RUNTIME + WEBGPU * webgpu)
    names = different_names(worlds)
    (folder / "runtime").mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / "runtime" / name).write_bytes(content)
    for file in PAGE.glob("*.*"):
        shutil.copyfile(file, folder / file.name)
    for index, (world, name) in enumerate(zip(worlds, names, strict=True)):
        export_onnx(world, folder / "worlds" / name, lambda what, name=name: progress(f"{name}: {what}"))
        if index < len(policies):
            progress(f"{name}: policy")
            export_policy(world, folder / "worlds" / name, policies[index])
    (folder / "worlds.json").write_text(json.dumps(names) + "\n", encoding="utf-8")
    (folder / "runtime.json").write_text(json.dumps({"webgpu": webgpu}) + "\n", encoding="utf-8")
    return folder / "index.html"


def write_single_file(folder: Path, file: Path) -> Path:
    """Write a page of :func:`write_page` once more, as one HTML file that a browser opens from the disk.

    Browsers let a page from the disk load no other file. So everything is in it: styles, scripts (modules as data
    addresses), and, compressed, worlds and ONNX Runtime. It requests nothing from anywhere.

    Args:
        folder: with the page; what else lies in it is left out.
        file: what to write.

    Returns:
        the file.
    """

    def text(name: str) -> str:
        return (folder / name).read_text(encoding="utf-8")

    def encoded(content: bytes) -> str:
        return base64.b64encode(content).decode()

    runtime = RUNTIME + WEBGPU * json.loads(text("runtime.json"))["webgpu"]
    names = ["worlds.json", "runtime.json", *(f"runtime/{name}" for name in (*runtime, "LICENSE"))]
    inside = [folder / name for name in names]
    for name in json.loads(text("worlds.json")):
        inside += sorted((folder / "worlds" / name).iterdir())
    kept = {
        quote(path.relative_to(folder).as_posix(), safe="/!~*'()"): encoded(zlib.compress(path.read_bytes(), 9))
        for path in inside
        if path.is_file()
    }
    player = text("player.js")
    for name in ("controls.js", "glass.js"):
        player = player.replace(f'"./{name}"', f'"data:text/javascript;base64,{encoded(text(name).encode())}"')
    for old, new in {
        '<link rel="stylesheet" href="style.css">': f"<style>\n{text('style.css')}</style>",
        '<script type="module" src="player.js"></script>': f"<script>globalThis.kept = {json.dumps(kept)};</script>\n"
        f'<script type="module">\n{player}</script>',
        re.search(r'default-src[^"]*', page := text("index.html"))[0]: POLICY,  # type: ignore[index]
    }.items():
        assert old in page, old
        page = page.replace(old, new)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(page, encoding="utf-8")
    return file


def different_names(worlds: Sequence[World]) -> list[str]:
    """The worlds' names: those of their files, or of the folders of files that are called alike; then numbered."""
    names = [world.name or "world" for world in worlds]
    shared = {name for name in names if names.count(name) > 1}
    out: list[str] = []
    for name, file in zip(names, (world.file for world in worlds), strict=True):
        if name in shared and file is not None:
            name = file.parent.name or name
        numbered = (f"{name}-{number}" for number in itertools.count(2))
        out.append(next(free for free in itertools.chain([name], numbered) if free not in out))
    return out


def read_runtime(path: Path, needed: Sequence[str] = RUNTIME) -> dict[str, bytes]:
    """The needed files and the licence, by name, from a .tgz (never unpacked) or folder of onnxruntime-web."""
    found: dict[str, bytes] = {}
    wanted = {*needed, "LICENSE"}
    try:
        if path.is_file():
            with tarfile.open(path) as archive:
                for member in archive:
                    name = Path(member.name).name
                    if name in wanted and member.isfile() and member.size <= LARGEST_RUNTIME_FILE:
                        found[name] = archive.extractfile(member).read()  # type: ignore[union-attr]
        else:
            for name in wanted:
                for file in (path / name, path / "dist" / name):
                    if file.is_file() and file.stat().st_size <= LARGEST_RUNTIME_FILE:
                        found[name] = file.read_bytes()
    except (OSError, tarfile.TarError) as error:
        raise ExportError(f"{path}: cannot be read ({error}); {GET_RUNTIME}") from None
    if missing := [name for name in needed if name not in found]:
        raise ExportError(f"{path}: not onnxruntime-web ({', '.join(missing)} is missing); {GET_RUNTIME}")
    return found
