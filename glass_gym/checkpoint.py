"""World checkpoints: one .safetensors file = weights + config + action table + start frames. Never pickle.

Tensors: ``model.*`` (float16 or as trained) and ``start_frames`` (deflated PNG-filtered bytes as uint8).
Metadata ``glass``: JSON with the format version, the config, the step length, code names, usual codes, frame
statistics, and how the file was made. Files of earlier versions are read (:mod:`glass_gym.versions`).
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from glass_gym.action_space import COMPASS, ActionTable
from glass_gym.build import build_glass
from glass_gym.config import GlassConfig
from glass_gym.glass import Glass
from glass_gym.versions import FORMAT_VERSION, upgrade_config, upgrade_weights

ASSETS = Path(__file__).parent / "assets"
MAX_POOL_BYTES = 1 << 30


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file, what is wrong and the fix."""


@dataclass
class World:
    """All that a checkpoint holds.

    Attributes:
        model: the trained Glass.
        start_frames: (N, H, W, 3) uint8 held-out frames to start from.
        step: (x, y) px of an ordinary step.
        code_names: K names; code 0 is neutral.
        pixel_aspect: displayed width of a pixel over its height.
        statistics: of the training frames (mean, std a channel in [0, 255], agent's mean mask area in px); of a
            ``token`` world also `start_positions`, where its start frames' windows are, px.
        provenance: how the weights were made.
        name: what it is called here.
        usual_codes: nine local actions, for the directions of COMPASS: what went with each most often in the training
            data; empty where nobody counted.
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

    def __post_init__(self) -> None:
        """Check the table of actions.

        Raises:
            ValueError: usual codes that are not nine, or not codes.
        """
        usual = self.usual_codes
        if usual and (
            len(usual) != len(COMPASS) or not all(isinstance(k, int) and 0 <= k < self.config.codes for k in usual)
        ):
            raise ValueError(f"usual_codes are {usual!r}, expected {len(COMPASS)} codes below {self.config.codes}")

    def action_table(self, shifts: Any = "compass", shift_scale: float = 1.0) -> ActionTable:
        """The actions of this world; see :meth:`ActionTable.build`."""
        return ActionTable.build(self.step, self.code_names, shifts, shift_scale, self.usual_codes or None)

    @property
    def config(self) -> GlassConfig:
        """The model's sizes."""
        return self.model.config


def bundled() -> dict[str, Path]:
    """Names and files of the worlds that ship with the package."""
    return {path.stem: path for path in sorted(ASSETS.glob("*.safetensors"))}


def resolve(checkpoint: str | Path) -> Path:
    """A bundled name or a path -> a path.

    Returns:
        the file.

    Raises:
        CheckpointError: neither; the message lists the bundled names.
    """
    worlds = bundled()
    if str(checkpoint) in worlds:
        return worlds[str(checkpoint)]
    path = Path(checkpoint)
    if path.is_file():
        return path
    raise CheckpointError(
        f"no checkpoint called {str(checkpoint)!r}, and no such file; bundled: {', '.join(worlds) or 'none'}"
    )


def save_world(path: str | Path, world: World, half: bool = True) -> Path:
    """Write a checkpoint: to a temporary file first, then renamed, so that a full disk leaves the old one whole.

    Args:
        path: the file, usually .safetensors.
        world: what to write; its model's parts must be those of its config's architecture.
        half: weights as float16.

    Returns:
        the file.

    Raises:
        CheckpointError: the disk is full or not writable.
    """
    path = Path(path)
    tensors = {}
    for key, value in world.model.state_dict().items():
        value = value.detach().cpu().contiguous()
        tensors[f"model.{key}"] = value.half() if half and value.dtype == torch.float32 else value
    pool = np.ascontiguousarray(world.start_frames)
    deflated = zlib.compress(_delta(pool).tobytes(), 9)
    tensors["start_frames"] = torch.frombuffer(bytearray(deflated), dtype=torch.uint8)
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
    }
    write_atomically(path, lambda part: part.write_bytes(save(tensors, {"glass": json.dumps(header)})))
    return path


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write(temporary path)` and rename; on failure remove the temporary file and keep the old one.

    Raises:
        CheckpointError: the disk is full or not writable.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        write(part)
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except (OSError, SafetensorError) as error:
        part.unlink(missing_ok=True)
        kept = "the file before it is kept" if path.exists() else "nothing was written"
        raise CheckpointError(f"{path}: could not be saved ({error}); {kept}; free some space and resume") from error


def load_world(checkpoint: str | Path) -> World:
    """Read a checkpoint by bundled name or path.

    Returns:
        the world, its model on the CPU in evaluation mode.

    Raises:
        CheckpointError: unknown name, truncated, foreign or newer file (a ValueError).
    """
    path = resolve(checkpoint)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            header = _header(path, metadata)
            shape = _pool_shape(path, header)
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a whole .safetensors file ({error}); copy or train it again") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from None
    try:
        version = header["format_version"]
        statistics = header["statistics"]
        config = GlassConfig.from_dict(upgrade_config(header["config"], version))
        usual = header["usual_codes"] if version >= 2 else statistics.pop("usual_codes", [])
        model = build_glass(config)
        model.load_state_dict(upgrade_weights(_weights(tensors), version))
        raw = zlib.decompressobj().decompress(tensors["start_frames"].numpy().tobytes(), int(np.prod(shape)))
        names = tuple(header["code_names"])
        _check_fit(config, names, shape)
        step = (float(header["step"][0]), float(header["step"][1]))
        return World(
            model.eval(),
            _undelta(raw, shape),
            step,
            names,
            float(header["pixel_aspect"]),
            statistics,
            header["provenance"],
            path.stem,
            tuple(usual),
        )
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError, AttributeError, zlib.error) as error:
        raise CheckpointError(f"{path}: damaged or foreign ({str(error)[:200]}); copy or train it again") from None


def _check_fit(config: GlassConfig, names: tuple[str, ...], shape: tuple[int, ...]) -> None:
    if len(names) != config.codes or tuple(shape[1:3]) != (config.height, config.width):
        raise ValueError("code names or start frames do not fit the config")


def _weights(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The model's state dict, floats in float32."""
    named = {key.removeprefix("model."): value for key, value in tensors.items() if key.startswith("model.")}
    return {key: value.float() if value.is_floating_point() else value for key, value in named.items()}


def _header(path: Path, metadata: dict) -> dict:
    if "glass" not in metadata:
        raise CheckpointError(f"{path}: a .safetensors file, but not of glass_gym (no 'glass' metadata)")
    try:
        header = json.loads(metadata["glass"])
        version = header["format_version"] = int(header["format_version"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: its metadata is not readable ({error})") from None
    if version > FORMAT_VERSION:
        raise CheckpointError(f"{path}: format {version} is newer than {FORMAT_VERSION}; upgrade glass_gym")
    return header


def _pool_shape(path: Path, header: dict) -> tuple[int, ...]:
    shape = tuple(header.get("start_frames_shape", ()))
    if len(shape) != 4 or not all(isinstance(v, int) and v > 0 for v in shape) or shape[3] != 3:
        raise CheckpointError(f"{path}: start frames have shape {shape}, expected (N, H, W, 3)")
    if int(np.prod(shape, dtype=object)) > MAX_POOL_BYTES:
        raise CheckpointError(f"{path}: start frames of shape {shape} are larger than {MAX_POOL_BYTES} bytes")
    return shape


def _delta(frames: np.ndarray) -> np.ndarray:
    """Difference to the frame before: what a static court repeats deflates to nothing."""
    return np.diff(frames, axis=0, prepend=np.zeros_like(frames[:1]))


def _undelta(raw: bytes, shape: tuple[int, ...]) -> np.ndarray:
    if len(raw) != int(np.prod(shape)):
        raise ValueError(f"start frames hold {len(raw)} bytes, expected {int(np.prod(shape))}")
    return np.cumsum(np.frombuffer(raw, np.uint8).reshape(shape), axis=0, dtype=np.uint8)
