import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from glass_gym import checkpoint
from glass_gym.checkpoint import CheckpointError, load_world, save_world


@pytest.fixture
def tiny_world(any_world):
    """Every architecture."""
    return any_world


def test_a_world_survives_the_round_trip(tiny_world, tmp_path):
    path = save_world(tmp_path / "w.safetensors", tiny_world, half=False)
    again = load_world(path)
    assert again.config == tiny_world.config and again.code_names == ("neutral", "swing", "turn")
    assert again.step == (3.0, 2.0) and again.pixel_aspect == 1.6
    assert np.array_equal(again.start_frames, tiny_world.start_frames)
    for key, value in tiny_world.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[key])


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


def rewritten(path, **changes):
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        tensors = {k: file.get_tensor(k) for k in file.keys()}
        header = json.loads(file.metadata()["glass"])
    save_file(tensors, path, metadata={"glass": json.dumps(header | changes)})
    return path


def test_a_newer_format_asks_for_an_upgrade(tiny_world, tmp_path):
    path = rewritten(save_world(tmp_path / "w.safetensors", tiny_world), format_version=99)
    with pytest.raises(CheckpointError, match="format 99 is newer than 2; upgrade"):
        load_world(path)


def test_a_saved_world_can_be_read_by_others(tiny_world, tmp_path):
    (tmp_path / "any").touch()
    assert save_world(tmp_path / "w.safetensors", tiny_world).stat().st_mode == (tmp_path / "any").stat().st_mode


def test_start_frames_of_absurd_size_are_refused_before_memory_is_taken(tiny_world, tmp_path):
    path = rewritten(save_world(tmp_path / "w.safetensors", tiny_world), start_frames_shape=[10**9, 32, 48, 3])
    with pytest.raises(CheckpointError, match="larger than"):
        load_world(path)


def test_a_full_disk_keeps_the_file_before(tiny_world, tmp_path, monkeypatch):
    path = save_world(tmp_path / "w.safetensors", tiny_world)
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"No space left.*the file before it is kept; free some space"):
        save_world(path, tiny_world)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("usual", [[0] * 8, [0] * 8 + [3], [0] * 8 + ["a"]])
def test_wrong_usual_codes_are_named(tiny_world, tmp_path, usual):
    tiny_world.usual_codes = tuple(usual)
    with pytest.raises(CheckpointError, match=r"w\.safetensors: .*usual_codes are .* expected 9 codes below 3"):
        load_world(save_world(tmp_path / "w.safetensors", tiny_world))
    tiny_world.usual_codes = (0,) * 8 + (2,)
    assert load_world(save_world(tmp_path / "w.safetensors", tiny_world)).usual_codes[8] == 2
