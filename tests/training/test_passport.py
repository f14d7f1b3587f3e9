import numpy as np
import pytest
import torch

from training.data.store import Store
from training.evaluation.html_report import _passport
from training.evaluation.metrics import passport as measured
from training.evaluation.metrics.evaluation import Evaluation
from training.evaluation.metrics.held_out import held_out_videos


@pytest.fixture
def evaluation(pose_world, block_store, short_passport):
    store = Store(block_store)
    return Evaluation(pose_world, store, held_out_videos(store, 2, "test"), rollouts=4)


@torch.inference_mode()
def test_a_passport_has_figures_of_each_mark_and_a_matrix_of_codes(evaluation):
    found = measured.passport(evaluation, 3)
    assert [key for key in found if key.startswith("step_")] == ["step_2", "step_20", "step_40"]
    for step, samples in (("step_2", 2), ("step_20", measured.SAMPLED), ("step_40", measured.SAMPLED)):
        figures = found[step]
        assert all(0 <= figures[key] <= 1 for key in ("present", "control", "codes_read_back"))
        assert figures["nearest_real_mse"] >= 0 and figures["control_px"]["steps"] <= 3 * samples
    matrix = np.array(found["codes_read"])
    assert matrix.shape == (3, 3) and np.allclose(matrix.sum(1), 1, atol=2e-3)
    assert found == measured.passport(evaluation, 3)


@torch.inference_mode()
def test_an_agent_that_is_lost_does_not_move_as_commanded(evaluation, monkeypatch):
    lost = evaluation.probe.detector.__class__
    monkeypatch.setattr(lost, "__call__", lambda self, frames, context=None: nothing(len(frames)))
    found = measured.passport(evaluation, 2)
    assert found["step_40"]["present"] == found["step_40"]["control"] == 0


def nothing(count):
    from training.data.detection import find_pieces

    return find_pieces(np.zeros((count, 32, 48), bool), 4)


@torch.inference_mode()
def test_layers_of_the_footage_are_at_no_distance():
    real = torch.rand(5, 4, 8, 8)
    assert measured._nearest(real[:2], real) == pytest.approx(0, abs=1e-5)
    assert measured._nearest(real[:2] + 0.5, real[:2]) == pytest.approx(0.25, rel=1e-3)


def test_the_report_shows_it():
    mark = {"present": 1.0, "control": 0.5, "codes_read_back": 0.9, "nearest_real_mse": 0.001}
    page = _passport({"step_100": mark, "step_4500": mark, "codes_read": [[1.0, 0.0], [0.25, 0.75]]}, ("rest", "a<b"))
    assert "step 4500" in page and "a&lt;b" in page and "0.75" in page and "within half a step" in page
