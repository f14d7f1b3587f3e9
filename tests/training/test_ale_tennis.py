import numpy as np
import pytest

pytest.importorskip("ale_py")

from training.data.ale_tennis import FEET_ROW, PLAYER_COLOURS, RecordConfig, TennisDetector, record
from training.data.store import Store


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return record(RecordConfig(out=tmp_path_factory.mktemp("tennis"), frames=192, video_length=24))


def test_the_half_court_is_recorded_at_its_native_size(recording):
    store = Store(recording)
    assert (store.height, store.width, store.pixel_aspect) == (96, 160, 1.6)
    assert len(store.frames) >= 192 and {v.length for v in store.videos} == {24}


def test_ram_agrees_with_the_pixels(recording):
    store = Store(recording)
    position = store.labels["position"]
    masks = store.masks(0, len(store.frames))
    feet = np.array([np.flatnonzero(m.any(1))[-1] for m in masks])
    assert np.abs(feet - position[:, 1]).max() <= 3  # lines may hide the feet's last rows
    assert np.median(np.abs(feet - position[:, 1])) == 0
    assert position[:, 1].max() <= FEET_ROW and (masks.sum((1, 2)) > 40).all()


def test_the_detector_finds_one_player_of_plausible_size(recording):
    store = Store(recording)
    found = TennisDetector.of(store)(np.asarray(store.frames))
    good = (found.pieces == 1) & (found.area >= 45) & (found.area <= 150)
    assert good.mean() > 0.95
    assert np.abs(found.centroid[:, 1] - (store.labels["position"][:, 1] - 11)).max() < 6


def test_equal_seeds_record_equal_frames(recording, tmp_path):
    again = record(RecordConfig(out=tmp_path, frames=192, video_length=24))
    assert np.array_equal(Store(again).frames, Store(recording).frames)


def test_the_players_wear_the_two_colours_of_the_palette(recording):
    store = Store(recording)
    colour = PLAYER_COLOURS[store.labels["colour"][0]]
    assert (store.frames[0][store.masks(0, 1)[0]] == colour).all()
