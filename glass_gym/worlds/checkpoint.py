"""World checkpoints: one .safetensors file with weights, config, action table and start frames. Pickle is never used.

Tensors: ``model.*`` (float16, or as trained), and as uint8, compressed with xz, ``start_frames``,
``start_backgrounds``, if they are known, and ``deflated.*``, tensors of uint8 such as stored windows. Metadata
``glass``: a JSON header (:class:`glass_gym.worlds.headers.WorldHeader`). Older files hold zlib: of the differences
between consecutive start frames, and of the backgrounds' differences from the start frames.
"""

from __future__ import annotations

import functools
import hashlib
import json
import lzma
import math
import os
import shutil
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from glass_gym.model.config import GlassConfig
from glass_gym.model.glass import Glass, build_glass
from glass_gym.worlds.action_space import COMPASS, ActionTable
from glass_gym.worlds.checks import to_floats
from glass_gym.worlds.headers import Version, WorldHeader, read_header

FORMAT_VERSION = 1  # Format version of worlds, training states and policies. Files of other versions are refused.
ASSETS = Path(__file__).parents[1] / "assets"
MAX_POOL_BYTES = 1 << 30  # Most bytes of start frames in a file.
STORED = "deflated."  # Prefix of the names of tensors that are stored compressed.
XZ = bytes(lzma.compress(b"")[:6])  # What xz files begin with.
XZ_MEMORY = 64 << 20  # Most bytes that decompression itself may take; files of `save_world` take 9 MB.


class CheckpointError(ValueError):
    """A checkpoint cannot be used. The message names the file, the problem and the fix."""


@dataclass
class World:
    """The content of a checkpoint.

    Attributes:
        model: the trained model.
        start_frames: (N, H, W, 3) uint8, frames in which episodes start, held out where there are enough.
        step: (x, y) px of a typical step along each axis in the training data.
        code_names: K names, by code: what each is measured to do (:mod:`glass_gym.worlds.codes`), or as `glass-names`
            set them. In worlds of glass-train, code 0 is the code under which an agent that stands still changes least;
            it need not be a pose at rest.
        pixel_aspect: displayed width of a pixel over its height.
        statistics: measured facts. `frame_mean` and `frame_std` of the start frames, per channel, 0 to 255;
            `code_share`, how often each code occurs in the training data. In ``pose`` worlds also `start_positions`,
            (x, y) px of each start frame's window, and `ground`, the box that agents were seen in: left, top, right,
            bottom px. And `seen`, rows of 0 and 1 for the cells of a grid over the frame: whether an agent was there.
        provenance: how the weights were made.
        name: of the world, such as the file's name without its suffix.
        usual_codes: nine codes, for the directions of COMPASS: the one that went with each most often in the training
            data. Empty: unknown.
        start_backgrounds: (N, H, W, 3) uint8, the start frames without their agents, as the footage shows what is
            behind them; None: N inpaints them.
        file: that the world was read from; None: it is from no file.
    """

    model: Glass = field(repr=False)
    start_frames: np.ndarray = field(repr=False)
    step: tuple[float, float]
    code_names: tuple[str, ...]
    pixel_aspect: float = 1.0
    statistics: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    usual_codes: tuple[int, ...] = ()
    start_backgrounds: np.ndarray | None = field(default=None, repr=False)
    file: Path | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        names = self.code_names
        if len(self.start_frames) and (len(names) != self.config.codes or len(set(names)) != len(names)):
            raise ValueError(f"code_names are {str(names)[:80]}, expected {self.config.codes} different ones")
        longest = max(self.config.height, self.config.width)
        if not all(math.isfinite(s) and 0 <= s <= longest for s in self.step) or not any(self.step):
            raise ValueError(f"step is {self.step} px, expected 0 to {longest} along each axis, and not 0 along both")
        if not 0.1 <= self.pixel_aspect <= 10:
            raise ValueError(f"pixel_aspect is {self.pixel_aspect}, expected 0.1 to 10")
        ground = self.statistics.get("ground") if isinstance(self.statistics, dict) else None
        if ground is not None:
            if len(ground) != 4 or not all(isinstance(v, (int, float)) and 0 <= v <= longest for v in ground):
                raise ValueError(f"ground is {ground}, expected left, top, right and bottom px")
            if ground[0] > ground[2] or ground[1] > ground[3]:
                raise ValueError(f"ground is {ground}, its sides are crossed")
        seen = self.statistics.get("seen") if isinstance(self.statistics, dict) else None
        if seen is not None:
            grid = to_floats(seen)
            if grid.ndim != 2 or not grid.size or max(grid.shape) > longest or not np.isin(grid, (0, 1)).all():
                raise ValueError("seen is not a grid of 0 and 1, rows of cells")
        if not all(isinstance(known, dict) for known in (self.statistics, self.provenance)):
            raise ValueError("statistics and provenance are tables (dicts)")
        positions = to_floats(self.statistics.get("start_positions", []))
        if positions.size and (positions.shape[1:] != (2,) or not (np.abs(positions) <= 2 * longest).all()):
            raise ValueError("start_positions are not (x, y) px of start frames")
        if self.start_backgrounds is not None and self.start_backgrounds.shape != self.start_frames.shape:
            raise ValueError(
                f"start_backgrounds are {self.start_backgrounds.shape}, expected those of the start frames"
            )
        usual = self.usual_codes
        if len(usual) not in (0, len(COMPASS)) or not all(k in range(self.config.codes) for k in usual):
            raise ValueError(f"usual_codes are {usual!r}, expected {len(COMPASS)} codes below {self.config.codes}")

    def action_table(self, shifts: Any = "compass", shift_scale: float = 1.0) -> ActionTable:
        """The actions of this world, see :meth:`ActionTable.build`."""
        return ActionTable.build(self.step, self.code_names, shifts, shift_scale, self.usual_codes or None)

    @property
    def start_positions(self) -> torch.Tensor | None:
        """The positions of the agents in the start frames, (N, 2) px; None unless all are known."""
        known = self.statistics.get("start_positions", [])
        return torch.tensor(known) if len(known) == len(self.start_frames) else None

    @property
    def ground(self) -> tuple[float, float, float, float] | None:
        """Left, top, right, bottom px of the box that agents stay in; None: the whole frame."""
        known = self.statistics.get("ground")
        return known and tuple(known)

    @functools.cached_property
    def identity(self) -> int:
        """63 bits of a hash of the model's weights; it tells states of different worlds apart."""
        weights = {key: value.cpu() for key, value in self.model.state_dict().items()}
        return int(_digest(weights)[:16], 16) >> 1

    @property
    def config(self) -> GlassConfig:
        """The sizes of the model."""
        return self.model.config


def bundled() -> dict[str, Path]:
    """The worlds that come with the package: name -> file."""
    return {path.stem: path for path in sorted(ASSETS.glob("*.safetensors"))}


def resolve(checkpoint: str | Path) -> Path:
    """The file of a world, by a bundled name or a path; CheckpointError: there is none (it lists the bundled ones)."""
    worlds = bundled()
    if not isinstance(checkpoint, (str, os.PathLike)) or not str(checkpoint):
        given = "is missing" if checkpoint == "" else f"is {checkpoint!r}"
        raise CheckpointError(f"checkpoint {given}, expected a world's file, or one of: {', '.join(worlds)}")
    if str(checkpoint) in worlds:
        return worlds[str(checkpoint)]
    path = Path(checkpoint)
    try:
        if path.is_file():
            return path
    except (OSError, ValueError) as error:  # too long, not allowed, holds a NUL
        raise CheckpointError(f"{str(path)[:100]}: cannot be looked up ({str(error)[:100]})") from None
    raise CheckpointError(
        f"no checkpoint called {str(checkpoint)[:200]!r}, and no such file; bundled: {', '.join(worlds) or 'none'}"
    )


def save_world(path: str | Path, world: World, half: bool = True) -> Path:
    """Write a checkpoint, by :func:`write_atomically`.

    Args:
        path: the file, usually .safetensors.
        world: what to write. Its model's parts must be those of its config's architecture.
        half: store weights as float16.

    Returns:
        the file's path.

    Raises:
        CheckpointError: the disk is full or cannot be written.
    """
    path = Path(path)
    tensors = {}
    for key, value in world.model.state_dict().items():
        value = value.detach().cpu().contiguous()
        if value.dtype == torch.uint8:  # the library's windows: mostly empty
            tensors[STORED + key] = _compressed(value.numpy())
            continue
        tensors[f"model.{key}"] = value.half() if half and value.dtype == torch.float32 else value
    pool = np.ascontiguousarray(world.start_frames)
    tensors["start_frames"] = _compressed(pool)
    if world.start_backgrounds is not None:
        tensors["start_backgrounds"] = _compressed(world.start_backgrounds)
    header = {
        "format_version": FORMAT_VERSION,
        "config": world.config.to_dict(),
        "step": list(world.step),
        "code_names": list(world.code_names),
        "usual_codes": list(world.usual_codes),
        "pixel_aspect": world.pixel_aspect,
        "statistics": world.statistics,
        "provenance": world.provenance,
        "start_frames_shape": list(pool.shape),
        "sha256": _digest(tensors),
    }
    write_atomically(path, lambda part: part.write_bytes(save(tensors, {"glass": json.dumps(header)})))
    return path


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file, then rename it. CheckpointError: it failed, and an old file is kept."""
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except (OSError, SafetensorError, RuntimeError) as error:  # torch.save raises RuntimeError on a full disk
        part.unlink(missing_ok=True)
        kept = "the file before it is kept" if path.exists() else "nothing was written"
        fix = "close the program that has it open" if isinstance(error, PermissionError) else "free some space"
        raise CheckpointError(f"{path}: could not be saved ({error}); {kept}; {fix} and resume") from error


def rename_codes(checkpoint: str | Path, names: Sequence[str]) -> Path:
    """Store other names of the local actions in a world's file. Nothing else of it changes.

    Args:
        checkpoint: a bundled name or a path.
        names: K different ones, of 1 to 40 printable characters.

    Returns:
        the file's path.

    Raises:
        CheckpointError: the file cannot be used or written, or a name cannot be stored; the file stays as it was.
    """
    path = resolve(checkpoint).resolve()  # of a link, the file behind it
    world = load_world(path)
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    header = json.loads(metadata["glass"]) | {"code_names": list(names)}
    metadata["glass"] = json.dumps(header)
    try:
        read_header(metadata["glass"], WorldHeader)
        replace(world, code_names=tuple(names))
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}; nothing was changed") from None

    data = save(tensors, metadata)
    del tensors  # they are mapped from the file, and Windows does not replace one that is

    def write(part: Path) -> None:
        part.write_bytes(data)
        shutil.copymode(path, part)

    write_atomically(path, write)
    return path


def load_world(checkpoint: str | Path) -> World:
    """Read a checkpoint, by a bundled name or a path.

    Returns:
        the world, with its model on the CPU in evaluation mode.

    Raises:
        CheckpointError: there is no such file, or it is damaged, of another kind, or of another format version.
    """
    path = resolve(checkpoint)
    try:
        with safe_open(path, framework="pt") as file:
            header = _header(path, file.metadata() or {})
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a whole .safetensors file ({error}); copy or train it again") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from None
    try:
        world = _world(path, header, tensors)
    except Exception as error:  # a file from elsewhere can raise anything
        why = f"{str(error)[:200]}" or type(error).__name__
        raise CheckpointError(f"{path}: damaged or foreign ({why}); copy or train it again") from None
    world.file = path.resolve()
    return world


def _world(path: Path, header: WorldHeader, tensors: dict[str, torch.Tensor]) -> World:
    if header.sha256 and header.sha256 != _digest(tensors):
        raise ValueError("its checksum does not match: bits have changed")
    config = GlassConfig.from_dict(header.config)
    shape = header.start_frames_shape
    if shape[1:3] != (config.height, config.width):
        raise ValueError("start frames do not fit the config")
    weights = _weights(tensors)
    with torch.device("meta"):  # compare sizes before memory is allocated
        empty = build_glass(config).state_dict()
    for key in (key for key, value in empty.items() if value.dtype == torch.uint8):
        if STORED + key not in tensors:
            raise ValueError(f"{key} is not stored")
        weights[key] = torch.from_numpy(_decompressed(tensors[STORED + key], tuple(empty[key].shape), key))
    wanted = {key: value.shape for key, value in empty.items()}
    held = {key: value.shape for key, value in weights.items()}
    if wrong := sorted(key for key in wanted.keys() | held.keys() if wanted.get(key) != held.get(key)):
        raise ValueError(
            f"weights do not fit the config: {wrong[0]} is {held.get(wrong[0])}, not {wanted.get(wrong[0])}"
        )
    model = build_glass(config)
    model.load_state_dict(weights)
    frames = _decompressed(tensors["start_frames"], shape, "start frames")
    if not _is_xz(tensors["start_frames"]):
        frames = np.cumsum(frames, axis=0, dtype=np.uint8)  # modulo 256
    backgrounds = None
    if "start_backgrounds" in tensors:
        backgrounds = _decompressed(tensors["start_backgrounds"], shape, "start backgrounds")
        if not _is_xz(tensors["start_backgrounds"]):
            backgrounds = frames + backgrounds
    names, usual = tuple(header.code_names), tuple(header.usual_codes)
    facts = dict(header.statistics), header.provenance
    about = header.pixel_aspect, *facts, path.stem, usual
    return World(model.eval(), frames, header.step, names, *about, backgrounds)


def _digest(tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 of names, types, shapes and bytes."""
    out = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        out.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        out.update(value.contiguous().flatten().view(torch.uint8).numpy().data)
    return out.hexdigest()


def _weights(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The model's state dict, floats as float32; ValueError: another type, or numbers that are not finite."""
    named = {key.removeprefix("model."): value for key, value in tensors.items() if key.startswith("model.")}
    for key, value in named.items():
        if value.dtype not in (torch.float16, torch.bfloat16, torch.float32):
            if value.dtype != torch.int64 or value.dim():  # a counter
                raise ValueError(f"{key} is stored as {value.dtype}, expected float16, bfloat16 or float32")
        elif not value.isfinite().all():
            raise ValueError(f"{key} holds numbers that are not finite; the training went wrong")
    return {key: value.float() if value.is_floating_point() else value for key, value in named.items()}


def _header(path: Path, metadata: dict) -> WorldHeader:
    if "glass" not in metadata:
        raise CheckpointError(f"{path}: a .safetensors file, but not of glass_gym (no 'glass' metadata)")
    try:
        version = read_header(metadata["glass"], Version).format_version
        if version != FORMAT_VERSION:
            raise CheckpointError(f"{path}: format {version}, this glass_gym reads {FORMAT_VERSION}; upgrade glass_gym")
        header = read_header(metadata["glass"], WorldHeader)
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}; copy or train it again") from None
    shape = header.start_frames_shape
    if math.prod(shape) > MAX_POOL_BYTES:
        raise CheckpointError(f"{path}: start frames of shape {shape} are larger than {MAX_POOL_BYTES} bytes")
    return header


def _compressed(values: np.ndarray) -> torch.Tensor:
    return torch.frombuffer(bytearray(lzma.compress(values.tobytes())), dtype=torch.uint8)


def _is_xz(stored: torch.Tensor) -> bool:
    return stored[: len(XZ)].numpy().tobytes() == XZ


def _decompressed(stored: torch.Tensor, shape: tuple[int, ...], what: str) -> np.ndarray:
    """Decompress exactly an array uint8 of this shape; xz and zlib check it by their checksums."""
    size = math.prod(shape)
    data = stored.numpy().tobytes()
    if _is_xz(stored):
        xz = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY)
        raw = xz.decompress(data, size + 1)
        whole = xz.eof or (not xz.needs_input and not xz.decompress(b"", 1) and xz.eof)
    else:
        stream = zlib.decompressobj()
        raw = stream.decompress(data, size + 1)
        whole = stream.eof or (not stream.decompress(stream.unconsumed_tail, 1) and stream.eof)
    if len(raw) != size or not whole:
        raise ValueError(f"{what} hold {len(raw)} bytes or more, expected {size}")
    return np.frombuffer(bytearray(raw), np.uint8).reshape(shape)
