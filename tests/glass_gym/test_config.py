from dataclasses import fields

import pytest

from glass_gym.model import gma
from glass_gym.model.config import GlassConfig, preset
from glass_gym.model.glass import build_glass

# Counted on the authors' networks, W-Sprites (K = 6). Their RNN also learns initial states of the feature map's
# size: (h, c) of 32 x 12 x 16, 64 x 6 x 8 and 32 x 12 x 16 = 30,720 numbers, where ours are spatially constant.
COUNTED = {
    "mask": 12_963_009, "shift_foreground": 117_986, "shift_background": 117_986, "inpaint": 139_814,
    "encoder": 249_951, "compressor": 520, "action": 3_530_992, "dynamics": 532_448 - 30_720, "decoder": 510_346,
}  # fmt: skip


@pytest.mark.parametrize("part", COUNTED)
def test_the_paper_preset_has_the_counted_parameters_within_one_percent(part):
    model = build_glass(GlassConfig.paper())
    owner = model.gma if part in gma.PARTS else model.lma
    parts = [getattr(owner, part)] + ([owner.quantiser] if part == "action" else [])
    count = sum(p.numel() for module in parts for p in module.parameters())
    assert abs(count - COUNTED[part]) <= 0.01 * COUNTED[part]


def test_the_default_is_at_least_five_times_smaller_than_the_papers_model():
    pose, paper = (sum(p.numel() for p in build_glass(c()).parameters()) for c in (GlassConfig.pose, GlassConfig.paper))
    assert pose * 5 < paper


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"height": 97}, "multiples of 8"),
        ({"window": 30}, "window must be a multiple of 8"),
        ({"architecture": "huge"}, "architecture must be one of pose, paper"),
        ({"codes": 0}, "codes must be a whole number from 1"),
        ({"architecture": "paper", "height": 104}, "multiples of 16"),
    ],
)
def test_a_size_that_the_model_cannot_take_is_named(changes, words):
    with pytest.raises(ValueError, match=words):
        GlassConfig(**changes)


def test_an_unknown_preset_lists_the_known_ones():
    with pytest.raises(ValueError, match="no preset called 'huge'; there are: pose, paper"):
        preset("huge", 96, 160)


def test_a_config_survives_the_round_trip_through_plain_values():
    config = GlassConfig.pose(64, 80, codes=5)
    assert GlassConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match="unknown model settings"):
        GlassConfig.from_dict(config.to_dict() | {"wings": 2})


def test_a_config_has_at_most_26_fields():
    assert len(fields(GlassConfig)) <= 26
