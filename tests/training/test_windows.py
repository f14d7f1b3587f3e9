"""Tracking, and the agent's windows."""

import numpy as np
import pytest
import torch

from glass_gym.tensors.convert import pack_layers, unpack_layers
from tests.training.bars import PerfectMask
from training.data.store import Store
from training.windows import windows as windows_module
from training.windows.tracking import track
from training.windows.windows import (
    MARGIN,
    WindowSet,
    _fill_lost_frames,
    _tracked,
    track_windows,
)


@pytest.fixture
def sure_model(tiny_model):
    tiny_model.gma.mask = PerfectMask()
    return tiny_model


@pytest.fixture
def store(block_store):
    return Store(block_store)


def test_the_tracker_follows_a_walking_block_exactly(sure_model, store):
    for video in store.videos[:4]:
        frames = torch.from_numpy(store.frames[video.start : video.start + 20].copy()).permute(0, 3, 1, 2) / 127.5 - 1
        found = track(sure_model, frames).position.diff(dim=0)
        true = torch.from_numpy(np.diff(store.labels["position"][video.start : video.start + 20], axis=0))
        assert torch.equal(found, true)


def test_tracking_that_was_interrupted_goes_on_where_it_stopped(sure_model, store, tmp_path, monkeypatch):
    videos = [v for v in store.videos if v.split == "train"]
    monkeypatch.setattr(windows_module, "VIDEOS_A_PART", 3)
    tracked = []

    def interrupted(model, store, videos, progress):
        if len(tracked) == 2:
            raise KeyboardInterrupt
        tracked.append(len(videos))
        return track_windows(model, store, videos, progress)

    monkeypatch.setattr(windows_module, "track_windows", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _tracked(sure_model, store, videos, tmp_path / "tracked-train")
    rest = []
    monkeypatch.setattr(
        windows_module, "track_windows", lambda *args: rest.append(len(args[2])) or track_windows(*args)
    )
    found = _tracked(sure_model, store, videos, tmp_path / "tracked-train")
    assert tracked == [3, 3] and rest == [3, 1]
    whole = track_windows(sure_model, store, videos)
    for name in ("layers", "position", "starts", "lengths"):
        assert np.array_equal(getattr(found, name), getattr(whole, name)), name


def test_frames_in_which_the_agent_is_lost_get_the_nearest_layer():
    """The codebook would get a pose for nothing."""
    side = 16 + 2 * MARGIN
    layers = np.arange(1, 17, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, side, side), np.uint8)
    layers[[0, 3, 4, 5, 7, 9], 3] = 0  # not seen
    windows = WindowSet(layers, np.zeros((16, 2), np.float32), [0, 8], [8, 8], 32, 48)
    _fill_lost_frames(windows)
    assert windows.layers[:, 0, 0, 0].tolist() == [2, 2, 3, 3, 3, 7, 7, 7, 9, 9, *range(11, 17)]


def test_windows_hold_nothing_as_exactly_nothing():
    layers = torch.zeros(2, 4, 8, 8)
    layers[1] = torch.rand(4, 8, 8)
    again = unpack_layers(pack_layers(layers))
    assert (again[0] == 0).all() and (again - layers).abs().max() <= 0.5 / 127 + 1e-6


def test_windows_of_another_version_are_cut_again(sure_model, store, tmp_path, capsys):
    path = tmp_path / "w.npz"
    track_windows(sure_model, store, store.videos[:1]).save(path)
    assert len(WindowSet.load(path).layers) == 20
    with np.load(path) as file:
        parts = {name: file[name] for name in file.files}
    np.savez(path, **parts | {"version": np.array(1)})
    with pytest.raises(ValueError, match=r"w\.npz: version 1, expected 2"):
        WindowSet.load(path)
    assert windows_module._known_windows(path, sure_model, windows_module.MARGIN) is None
    assert "it is cut again" in capsys.readouterr().err


def test_agents_that_the_frame_cuts_off_or_that_m_misses_are_not_complete():
    """Four px wide squares in windows of 16 px and a margin, in a frame of 40 x 30 px."""
    side, places = 16 + 2 * MARGIN, [(20, 15)] * 6 + [(1, 15), (38, 15), (20, 28), (20, 15)]
    layers = np.zeros((len(places), 4, side, side), np.uint8)
    middle = slice(side // 2 - 2, side // 2 + 2)
    layers[:, 3, middle, middle] = 255
    layers[-1, 3, middle, middle] = 0
    layers[-1, 3, side // 2, side // 2] = 255  # M finds one px
    seen = WindowSet(layers, np.array(places, np.float32), [0], [len(places)], 30, 40)
    assert seen.cut_off().tolist() == [False] * 6 + [True] * 3 + [False]
    assert seen.complete().tolist() == list(range(6))
    always = WindowSet(layers[6:9], np.array(places[6:9], np.float32), [0], [3], 30, 40)
    assert always.complete().tolist() == [0, 1, 2]
