from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from glass_gym.worlds.action_space import ActionTable
from training.data.detection import find_pieces
from training.evaluation.metrics import probe as probes
from training.evaluation.metrics.actions import agreement
from training.evaluation.metrics.probe import SimulatorProbe


@dataclass
class Place:
    """A square on a field; where it is drawn may differ from where the bookkeeping has it."""

    position: torch.Tensor
    drawn: torch.Tensor
    layer: torch.Tensor
    mass: torch.Tensor

    def __len__(self):
        return len(self.position)

    def rows(self, index):
        return Place(self.position[index], self.drawn[index], self.layer[index], self.mass[index])


class Slider:
    """A simulator that moves its squares `slip` px too far to the right in every step."""

    width, height, config = 400, 400, SimpleNamespace(agent_radius=5)

    def __init__(self, slip: float):
        self.slip = slip

    def clamp(self, position, before):
        return position

    def step(self, state, shift, code):
        return replace(
            state, position=state.position + shift, drawn=state.drawn + shift + torch.tensor([self.slip, 0.0])
        )

    def frames(self, state):
        frames = torch.zeros(len(state), self.height, self.width, 3, dtype=torch.uint8)
        for frame, (x, y) in zip(frames, state.drawn.round().long().tolist(), strict=True):
            frame[max(0, y - 3) : max(0, y + 3), max(0, x - 3) : max(0, x + 3)] = 255
        return frames


class Finder:
    plausible = (30, 40)

    def __call__(self, frames, context=None):
        return find_pieces(frames[..., 0] > 127, 10)


@pytest.fixture
def probe():
    def make(slip):
        place = torch.tensor([[200.0, 200.0], [180.0, 210.0]])
        start = Place(place, place.clone(), torch.ones(2, 4, 8, 8), torch.full((2,), 64.0))
        table = ActionTable.build((1.0, 1.0), ("neutral", "other"))
        return SimulatorProbe(None, Slider(slip), table, start, Finder(), None, None)

    return make


@pytest.mark.parametrize("slip", [0.0, 0.25, 1.0])
def test_the_control_error_is_what_the_frames_slip_against_the_command(probe, slip, monkeypatch):
    monkeypatch.setattr(probes, "CURVE", (1, 2, 20))
    monkeypatch.setattr(probes, "STEPS", (1, 20))
    result = probes.random_play(probe(slip), 16, 0).figures
    assert result["present"] == {"step_1": 1.0, "step_20": 1.0} and result["control_by"] == "centre of mass"
    found = result["control"]["step_20"]["rmse_px"]
    # a slip below a pixel is seen in the steps in which the drawn square jumps: none, or a whole pixel
    assert found == pytest.approx(slip, abs=1e-6) if slip in (0.0, 1.0) else found in (0.0, 1.0)


def test_an_agent_that_leaves_the_field_is_not_present(probe, monkeypatch):
    monkeypatch.setattr(probes, "CURVE", (1, 30))
    monkeypatch.setattr(probes, "STEPS", (1, 30))
    result = probes.random_play(probe(20.0), 4, 0).figures
    assert result["present"] == {"step_1": 1.0, "step_30": 0.0}


def test_eight_steps_right_arrive_where_they_should_or_slip(probe):
    assert probes.walk_right(probe(0.0))["achieved_mean_px"] == 8.0
    slipped = probes.walk_right(probe(1.0))
    assert slipped["achieved_mean_px"] == 16.0 and slipped["within_15_percent"] == 0.0


def test_silhouettes_that_are_alike_agree_and_others_do_not():
    layers = torch.zeros(2, 4, 16, 16)
    layers[0, 3, 4:12, 6:10] = layers[1, 3, 2:10, 3:7] = 1
    assert agreement(layers) == 1.0
    layers[1, 3] = 0
    layers[1, 3, 6:10, 4:12] = 1
    assert agreement(layers) == pytest.approx((2 + 2 * 16 / 48) / 4)


def test_the_spread_ignores_what_was_not_found():
    assert probes.spread(np.array([3.0, np.nan, 4.0]))["rmse_px"] == pytest.approx(12.5**0.5)
    assert probes.spread(np.array([np.nan])) == {"steps": 0}
