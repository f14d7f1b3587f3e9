"""The action classifier on real windows, distances to true pictures, and the tables of counts beside the prior."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from glass_gym.tensors.geometry import crop_windows
from training.data.sources import source_of
from training.data.store import Store, frames_to_tensor
from training.data.wsprites import TILE, write_store
from training.evaluation.metrics import action_classifier as classifiers
from training.evaluation.metrics import prior as priors
from training.evaluation.metrics.identity import distance, in_colour


@pytest.fixture(scope="module")
def sprites(tmp_path_factory):
    return Store(write_store(tmp_path_factory.mktemp("sprites"), length=12, videos=(24, 0, 0)))


def clips_of(store, video):
    """A video's windows, cut by its true masks and labels."""
    span = slice(video.start, video.start + video.length)
    image = frames_to_tensor(store.frames[span])
    mask = torch.from_numpy(store.masks(span.start, span.stop))[:, None].float()
    corner = torch.from_numpy(store.labels["position"][span]).long() + torch.tensor([0, 6])
    return crop_windows(torch.cat([image * mask, mask], 1), corner, TILE)


def test_the_classifier_reads_real_windows_and_not_a_static_agent(sprites, monkeypatch):
    monkeypatch.setattr(classifiers, "STEPS", 150)
    monkeypatch.setattr(classifiers, "BATCH", 16)
    held = [v for v in sprites.videos if v.split == "train"][::2]
    layers = torch.stack([clips_of(sprites, v) for v in held])
    e = SimpleNamespace(
        store=sprites,
        seed=0,
        world=SimpleNamespace(config=SimpleNamespace(window=TILE)),
        model=SimpleNamespace(lma=SimpleNamespace(view=SimpleNamespace(follows=True))),
        clips=SimpleNamespace(layers=layers, starts=[v.start for v in held]),
        rolled_out=SimpleNamespace(free=layers[:, 1:]),
    )
    with torch.inference_mode():
        found = classifiers.action_classifier(e)
    assert found["real"] == found["free_running"]
    assert found["real"]["action"] > 0.6 and found["real"]["direction"] > 0.5  # a third by chance
    assert found["static"]["direction"] < found["real"]["direction"] - 0.1


def test_the_nearest_true_picture_tells_characters_apart(sprites):
    source = source_of(sprites)
    short, long = (
        next(v for v in sprites.videos if sprites.labels["character"][v.start] % 2 == odd) for odd in (0, 1)
    )  # hair, in every other character
    layers = clips_of(sprites, short)[::4]
    templates = {
        name: in_colour(torch.from_numpy(source.pictures(sprites, video.start)).permute(0, 3, 1, 2) / 255)
        for name, video in (("own", short), ("other", long))
    }
    for layer in layers:
        moved = torch.nn.functional.pad(layer, (5, -5, 3, -3))
        assert distance(moved, templates["own"]) < 1 < 20 < distance(moved, templates["other"])
    assert source.pictures(SimpleNamespace(source="W-Sprites, LPC sheets", labels=sprites.labels), 0) is None


def test_a_table_of_counts_knows_what_follows_and_what_does_not():
    rng = np.random.default_rng(0)
    turns = np.arange(200 * 15).reshape(200, 15) % 2
    assert priors._table(turns, turns, 2, 2) < 0.01
    random = rng.integers(0, 2, (200, 15))
    assert priors._table(random, turns, 2, 2) == pytest.approx(np.log(2), abs=0.01)


def test_shifts_count_as_one_of_nine_directions():
    shifts = np.array([[0.0, 0.0], [2.0, 0.0], [-2.0, 0.0], [0.0, 3.0], [0.2, -3.0]])
    assert priors._directions(shifts, np.array([1.0, 1.5])).tolist() == [4, 5, 3, 7, 1]
