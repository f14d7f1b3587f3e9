import json

import numpy as np
import pytest

from glass_gym.worlds.checkpoint import save_world
from training.config import LoopConfig
from training.core.trainer import Trainer
from training.data.detection import find_pieces
from training.evaluation.evaluate import main
from training.evaluation.metrics.actions import mutual_information, usage
from training.evaluation.metrics.errors import centroids, iou, shift_errors, soft_iou


def square(x, y, side=4):
    mask = np.zeros((1, 20, 30), bool)
    mask[0, y : y + side, x : x + side] = True
    return mask


def test_iou_of_squares_that_share_half_is_a_third():
    assert iou(square(4, 4), square(6, 4)).tolist() == [pytest.approx(8 / 24)]
    assert iou(square(4, 4) & False, square(4, 4) & False).tolist() == [1.0]
    assert soft_iou(square(4, 4) * 1.0, square(6, 4) * 1.0)[0] == pytest.approx(8 / 24, abs=1e-5)


def test_the_centroid_is_in_pixels_x_first():
    assert centroids(square(4, 10)).tolist() == [[5.5, 11.5]]


def test_shift_errors_are_lengths_and_directions_count_on_moving_pairs_only():
    true = np.array([[3.0, 0.0], [0.0, 0.0], [0.0, -4.0]])
    found = np.array([[3.0, 4.0], [0.0, 0.0], [0.0, -1.0]])
    result = shift_errors(found, true)
    assert result["mean"] == pytest.approx(7 / 3) and result["median"] == 3 and result["max"] == 4
    assert result["moving_mean"] == pytest.approx(3.5) and result["angle_accuracy"] == 0.5


def test_usage_names_dead_codes():
    result = usage(np.array([0, 0, 1, 1]), 3)
    assert result["share"] == [0.5, 0.5, 0.0] and result["dead"] == [2] and result["perplexity"] == pytest.approx(2)


def test_codes_that_are_the_labels_under_other_names_have_full_information():
    labels = np.array([0, 1, 2] * 20)
    result = mutual_information((labels + 1) % 3, labels, groups=np.repeat([0, 1], 30))
    assert result["nmi_g"] == pytest.approx(1) and result["con"] == pytest.approx(0) and result["nmi_random"] < 0.2


def test_pieces_joins_near_strokes_and_tells_two_agents_apart():
    near = square(4, 4) | square(10, 4)
    far = square(4, 4) | square(20, 12)
    assert find_pieces(near, 5).pieces.tolist() == [1] and find_pieces(far, 5).pieces.tolist() == [2]
    assert find_pieces(square(4, 4), 17).pieces.tolist() == [0]


@pytest.mark.parametrize("any_world", ["pose", pytest.param("paper", marks=pytest.mark.slow)], indirect=True)
def test_the_command_measures_a_world_of_each_architecture(any_world, block_store, tmp_path, capsys, short_passport):
    path = save_world(tmp_path / "w.safetensors", any_world)
    out = tmp_path / "e" / "evaluation.json"
    assert main([str(path), str(block_store), "--out", str(out), "--rollouts", "8"]) == 0
    result = json.loads(out.read_text(encoding="utf-8"))
    assert 0 <= result["segmentation"]["miou"] <= 1 and len(result["checkpoint_sha256"]) == 64
    assert result["lma"]["step_15"]["ratio"] > 0 and len(result["codes"]["usage"]["share"]) == 3
    assert 0 <= result["lma"]["miou_re"]["free_running_12"] <= 1 and result["video"]["step_15"]["psnr"] > 0
    play = result["simulator"]["random_play"]
    assert set(play["control"]) == {"step_1", "step_10", "step_50", "step_100", "step_200"}
    assert len(play["curves"]["present"]) == len(play["curves"]["step"]) and 0 <= play["present"]["step_200"] <= 1
    assert set(result["codes"]["effect"]["each"]) == {"0 neutral", "1 swing", "2 turn"}
    sheets = ("layers", "free_running", "reconstruction", "global_actions", "local_actions", "transfer", "curves")
    assert {p.name for p in out.parent.iterdir()} >= {f"{name}.png" for name in sheets}
    assert "NaN" not in out.read_text(encoding="utf-8") and not list(out.parent.glob("*.md"))
    assert "| mIoU of M's masks" in capsys.readouterr().out


def test_the_command_measures_the_gma_of_a_run_in_progress(tiny_model, block_store, tmp_path):
    Trainer(tiny_model.gma, tmp_path / "gma.pt", LoopConfig(device="cpu")).save("gma", 3, None)
    out = tmp_path / "evaluation.json"
    assert main([str(tmp_path / "gma.pt"), str(block_store), "--out", str(out)]) == 0
    result = json.loads(out.read_text(encoding="utf-8"))
    assert {"segmentation", "foreground_shift_pairwise"} <= set(result) and "lma" not in result


def test_the_command_names_an_unknown_checkpoint(tmp_path, capsys):
    assert main(["nobody", str(tmp_path)]) == 1
    assert "no checkpoint called 'nobody'" in capsys.readouterr().err
