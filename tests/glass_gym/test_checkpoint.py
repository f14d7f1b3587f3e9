import json
import lzma
import os
import tracemalloc
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from glass_gym.env.core import GlassCore
from glass_gym.worlds import checkpoint
from glass_gym.worlds.checkpoint import CheckpointError, load_world, save_world


@pytest.fixture
def tiny_world(any_world):
    """Every architecture."""
    return any_world


def test_a_world_survives_the_round_trip(tiny_world, tmp_path):
    path = save_world(tmp_path / "w.safetensors", tiny_world, half=False)
    again = load_world(path)
    assert again.config == tiny_world.config and again.code_names == ("neutral", "swing", "turn")
    assert again.step == (3.0, 2.0) and again.pixel_aspect == 1.6
    assert np.array_equal(again.start_frames, tiny_world.start_frames) and again.start_backgrounds is None
    for key, value in tiny_world.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[key])


def test_episodes_start_on_the_stored_backgrounds(tiny_world, tmp_path):
    backgrounds = (tiny_world.start_frames // 2 + 100).astype(np.uint8)
    path = save_world(tmp_path / "w.safetensors", replace(tiny_world, start_backgrounds=backgrounds))
    again = load_world(path)
    assert np.array_equal(again.start_backgrounds, backgrounds)
    begun = GlassCore(again, 2, device="cpu").starts.at(torch.tensor([3, 5]))
    assert np.array_equal(begun.background.permute(0, 2, 3, 1).numpy(), backgrounds[[3, 5]])
    with pytest.raises(ValueError, match=r"start_backgrounds are \(3, .*expected those of the start frames"):
        replace(tiny_world, start_backgrounds=backgrounds[:3])


def test_an_unknown_name_lists_the_bundled_ones():
    with pytest.raises(CheckpointError, match=r"no checkpoint called 'tenis'.*bundled: "):
        load_world("tenis")


@pytest.mark.parametrize("keep", [0, 7, 100, 5000])
def test_a_truncated_file_says_so(tiny_world, tmp_path, keep):
    path = save_world(tmp_path / "w.safetensors", tiny_world)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"w\.safetensors: not a whole"):
        load_world(path)


def test_a_foreign_file_says_so(tmp_path):
    save_file({"x": torch.zeros(3)}, tmp_path / "f.safetensors")
    with pytest.raises(CheckpointError, match="not of glass_gym"):
        load_world(tmp_path / "f.safetensors")


def test_a_pickle_is_never_opened(tmp_path):
    torch.save({"x": 1}, tmp_path / "p.safetensors")
    with pytest.raises(CheckpointError, match="not a whole"):
        load_world(tmp_path / "p.safetensors")


def parts_of(path):
    with safe_open(path, "pt") as file:
        return {k: file.get_tensor(k) for k in file.keys()}, json.loads(file.metadata()["glass"])


def rewritten(path, **changes):
    tensors, header = parts_of(path)
    save_file(tensors, path, metadata={"glass": json.dumps(header | changes)})
    return path


@pytest.mark.parametrize("version", [2, 99])
def test_another_format_asks_for_an_upgrade(pose_world, tmp_path, version):
    path = rewritten(save_world(tmp_path / "w.safetensors", pose_world), format_version=version)
    message = rf"w\.safetensors: format {version}, this glass_gym reads 1; upgrade glass_gym"
    with pytest.raises(CheckpointError, match=message):
        load_world(path)


def test_a_saved_world_can_be_read_by_others(tiny_world, tmp_path):
    (tmp_path / "any").touch()
    assert save_world(tmp_path / "w.safetensors", tiny_world).stat().st_mode == (tmp_path / "any").stat().st_mode


BAD_HEADERS = [
    ({"start_frames_shape": [10**9, 32, 48, 3]}, "start_frames_shape.0 is 1000000000: .*4096"),
    ({"start_frames_shape": [4096, 4096, 4096, 3]}, "larger than"),
    ({"start_frames_shape": [12, 32, 56, 3]}, "start frames do not fit"),
    ({"start_frames_shape": [13, 32, 48, 3]}, "start frames hold 55296 bytes or more, expected 59904"),
    ({"step": [float("nan"), 1.0]}, "step.0 is nan: .*finite"),
    ({"step": [float("inf"), 1.0]}, "finite"),
    ({"step": [-1.0, 1.0]}, "step.0 is -1.0: .*greater than or equal to 0"),
    ({"step": [0.0, 0.0]}, "not 0 along both"),
    ({"step": [1e30, 1.0]}, "step.0 is 1e"),
    ({"step": [300.0, 1.0]}, "expected 0 to 48"),
    ({"step": "12"}, "step is '12'"),
    ({"pixel_aspect": 0}, "pixel_aspect is 0: .*0.1"),
    ({"pixel_aspect": 1e6}, "pixel_aspect is 1000000.0"),
    ({"pixel_aspect": None}, "pixel_aspect is None: .*number"),
    ({"code_names": [1, 2, 3]}, "code_names.0 is 1: .*string"),
    ({"code_names": ["a", "b"]}, "expected 3 different ones"),
    ({"code_names": ["a", "a", "b"]}, "expected 3 different ones"),
    ({"code_names": ["a", "\x1b[2J", "b"]}, r"code_names.1 is '\\x1b\[2J': .*printable"),
    ({"code_names": ["a", "x" * 41, "b"]}, "code_names.1 is .*at most 40"),
    ({"code_names": "abc"}, "code_names is 'abc': .*array"),
    ({"usual_codes": [0] * 8 + ["a"]}, "usual_codes.8 is 'a': .*integer"),
    ({"statistics": []}, "statistics is .*object"),
    ({"statistics": {"x": [float("nan")]}}, "statistics holds nan"),
    ({"statistics": {"start_positions": [[1.0, None]]}}, "start_positions are not"),
    ({"statistics": {"start_positions": [["a", 2.0]]}}, "start_positions are not"),
    ({"statistics": {"start_positions": [1.0, 2.0]}}, "start_positions are not"),
    ({"statistics": {"start_positions": [[1.0, 1e9]]}}, "start_positions are not"),
    ({"provenance": None}, "provenance is None"),
    ({"format_version": "2"}, "format_version is '2'"),
    ({"sha256": "0" * 64}, "its checksum does not match"),
    ({"config": []}, "config is .*object"),
    ({"config": {"hidden": [1]}}, "config.hidden"),
]


@pytest.mark.parametrize("changes,message", BAD_HEADERS, ids=lambda v: str(v)[:40])
def test_every_field_of_a_header_is_checked(pose_world, tmp_path, changes, message):
    path = rewritten(save_world(tmp_path / "w.safetensors", pose_world), **changes)
    with pytest.raises(CheckpointError, match=rf"w\.safetensors: .*{message}"):
        load_world(path)


@pytest.mark.parametrize("name", ["step", "pixel_aspect", "provenance", "statistics", "config", "code_names"])
def test_a_missing_field_is_named(pose_world, tmp_path, name):
    path = save_world(tmp_path / "w.safetensors", pose_world)
    tensors, header = parts_of(path)
    save_file(tensors, path, metadata={"glass": json.dumps({k: v for k, v in header.items() if k != name})})
    with pytest.raises(CheckpointError, match=rf"w\.safetensors: {name}.* Field required"):
        load_world(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden": 0}, {"hidden": 1 << 40}, {"hidden": True}, {"hidden": 64.5}, {"agent_radius": -3}, {"window": 0},
        {"bilinear_channels": 4096}, {"codes": 10**9}, {"poses": 10**7}, {"foreground_range": 0}, {"hole_margin": 1e9},
        {"quantiser": "os.system"}, {"architecture": "tiny"}, {"mask_channels": 48}, {"later": 1}, {"height": 10**6},
    ],
    ids=str,
)  # fmt: skip
def test_a_config_is_checked_before_memory_is_taken(pose_world, tmp_path, changes):
    path = save_world(tmp_path / "w.safetensors", pose_world)
    _, header = parts_of(path)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=r"w\.safetensors: .*; copy or train it again"):
        load_world(rewritten(path, config=header["config"] | changes))
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


def test_a_header_that_is_no_header_is_an_error_of_ours(pose_world, tmp_path):
    path = save_world(tmp_path / "w.safetensors", pose_world)
    tensors, _ = parts_of(path)
    for text in ("", "[" * 100_000, "[1]", "null", "{", '{"format_version": 1e999}', "\x00", '{"format_version": 2}'):
        save_file(tensors, path, metadata={"glass": text})
        with pytest.raises(CheckpointError, match=r"w\.safetensors: "):
            load_world(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_are_finite(pose_world, tmp_path, value):
    path = save_world(tmp_path / "w.safetensors", pose_world)
    tensors, header = parts_of(path)
    name = next(k for k, v in tensors.items() if v.dtype == torch.float16)
    tensors[name].flatten()[0] = value
    save_file(tensors, path, metadata={"glass": json.dumps(header | {"sha256": None})})
    with pytest.raises(CheckpointError, match="holds numbers that are not finite"):
        load_world(path)


@pytest.mark.parametrize("kind", [torch.bool, torch.int8, torch.int16, torch.float64])
def test_weights_are_floats_of_half_or_single_precision(pose_world, tmp_path, kind):
    path = save_world(tmp_path / "w.safetensors", pose_world)
    tensors, header = parts_of(path)
    name = next(k for k, v in tensors.items() if v.dtype == torch.float16)
    tensors[name] = tensors[name].to(kind)
    save_file(tensors, path, metadata={"glass": json.dumps(header | {"sha256": None})})
    with pytest.raises(CheckpointError, match="is stored as"):
        load_world(path)


def test_any_changed_bit_is_noticed(pose_world, tmp_path):
    path = save_world(tmp_path / "w.safetensors", pose_world)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(len(whole), size=60):
        broken = bytearray(whole)
        broken[place] ^= 1 << rng.integers(8)
        path.write_bytes(broken)
        try:
            same = load_world(path)
        except CheckpointError:
            continue
        assert (
            same.provenance != pose_world.provenance
            or same.code_names != pose_world.code_names
            or (same.statistics != pose_world.statistics)
        ), place  # what people wrote is not under the checksum


@pytest.mark.parametrize("checkpoint", [None, 5, b"tennis", "x" * 5000, "a\0b", ["tennis"], 1.5])
def test_what_is_no_path_is_named(checkpoint):
    with pytest.raises(CheckpointError):
        load_world(checkpoint)


def test_a_file_without_a_checksum_is_read(pose_world, tmp_path):
    path = save_world(tmp_path / "w.safetensors", pose_world)
    tensors, header = parts_of(path)
    save_file(tensors, path, metadata={"glass": json.dumps({k: v for k, v in header.items() if k != "sha256"})})
    assert load_world(path).step == (3.0, 2.0)


def test_a_full_disk_keeps_the_file_before(tiny_world, tmp_path, monkeypatch):
    path = save_world(tmp_path / "w.safetensors", tiny_world)
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"No space left.*the file before it is kept; free some space"):
        save_world(path, tiny_world)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("usual", [[0] * 8, [0] * 8 + [3]])
def test_wrong_usual_codes_are_named(tiny_world, tmp_path, usual):
    tiny_world.usual_codes = tuple(usual)
    with pytest.raises(CheckpointError, match=r"w\.safetensors: .*usual_codes are .* expected 9 codes below 3"):
        load_world(save_world(tmp_path / "w.safetensors", tiny_world))
    tiny_world.usual_codes = (0,) * 8 + (2,)
    assert load_world(save_world(tmp_path / "w.safetensors", tiny_world)).usual_codes[8] == 2


def stored_anew(path, **changes):
    """The file with other tensors, and no checksum."""
    tensors, header = parts_of(path)
    save_file(tensors | changes, path, metadata={"glass": json.dumps(header | {"sha256": None})})
    return path


def of_bytes(data):
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def test_pictures_that_older_versions_wrote_are_read(tiny_world, tmp_path):
    frames = tiny_world.start_frames
    backgrounds = (frames // 2 + 100).astype(np.uint8)
    path = save_world(tmp_path / "w.safetensors", replace(tiny_world, start_backgrounds=backgrounds))
    differences = np.diff(frames, axis=0, prepend=np.zeros_like(frames[:1]))
    stored = {"start_frames": differences, "start_backgrounds": backgrounds - frames}
    old = load_world(stored_anew(path, **{k: of_bytes(zlib.compress(v.tobytes())) for k, v in stored.items()}))
    assert np.array_equal(old.start_frames, frames) and np.array_equal(old.start_backgrounds, backgrounds)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (lzma.compress(bytes(10**8)), "start frames hold 55297 bytes or more, expected 55296"),
        (lzma.compress(bytes(55296))[:-20], "start frames hold 55296 bytes or more, expected 55296"),
        (lzma.compress(bytes(55296), filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30}]), "Memory usage limit"),
    ],
    ids=["too much", "cut off", "a gigabyte to unpack"],
)
def test_compressed_pictures_take_no_more_memory_than_the_header_says(tiny_world, tmp_path, data, why):
    path = save_world(tmp_path / "w.safetensors", tiny_world)
    with pytest.raises(CheckpointError, match=why):
        load_world(stored_anew(path, start_frames=of_bytes(data)))


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="needs Linux")
def test_a_file_that_is_replaced_is_mapped_by_nobody(tiny_world, tmp_path, monkeypatch):
    path = save_world(tmp_path / "w.safetensors", tiny_world)
    mapped, rename = [], os.replace

    def watch(part, to):
        mapped.append(str(path) in Path("/proc/self/maps").read_text("utf-8"))
        rename(part, to)

    monkeypatch.setattr(checkpoint.os, "replace", watch)
    checkpoint.rename_codes(path, ("a", "b", "c"))
    save_world(path, load_world(path))
    assert mapped == [False, False]  # Windows would refuse


def test_a_file_that_another_program_has_open_is_told(tiny_world, tmp_path, monkeypatch):
    def refuse(part, to):
        raise PermissionError(13, "Access is denied")

    monkeypatch.setattr(checkpoint.os, "replace", refuse)
    with pytest.raises(CheckpointError, match="nothing was written; close the program that has it open"):
        save_world(tmp_path / "w.safetensors", tiny_world)
