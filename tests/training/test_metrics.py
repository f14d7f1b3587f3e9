import numpy as np
import pytest
import torch

from training.data.sources import source_of
from training.data.store import Store, StoreWriter
from training.evaluation.metrics.actions import mutual_information
from training.evaluation.metrics.images import fid, frechet_distance, picture_errors
from training.evaluation.metrics.poses import PoseMatcher, matcher_of


def figure(x, y, arm, height=40, width=60):
    """A body 4 px wide and 12 high whose anchor is (x, y), its top-left corner, with an arm to one side."""
    mask = np.zeros((height, width), bool)
    mask[y : y + 12, x : x + 4] = True
    arm_columns = slice(x + 4, x + 10) if arm > 0 else slice(x - 6, x)
    mask[y + 2 : y + 4, arm_columns] = True
    return mask


def test_a_change_of_pose_is_no_move_for_the_pose_matcher():
    masks = np.stack([figure(20, 10, arm) for arm in (1, -1)])
    matcher = PoseMatcher(masks, np.array([[20.0, 10.0], [20.0, 10.0]]), side=24)
    seen = np.stack([figure(31, 14, 1), figure(31, 14, -1), figure(27, 14, -1), np.zeros((40, 60), bool)])
    position, quality = matcher(seen)
    assert position[:3].tolist() == [[31, 14], [31, 14], [27, 14]]
    assert quality.tolist() == [1, 1, 1, 0] and np.isnan(position[3]).all()


def test_a_matcher_is_made_from_a_stores_labels(block_store):
    store = Store(block_store)
    matcher = matcher_of(store, 16)
    video = next(v for v in store.videos if v.split == "test")
    masks = store.masks(video.start, video.start + video.length)
    position, _ = matcher(masks)
    assert np.array_equal(position, source_of(store).positions(store, video, masks))


def test_a_store_without_masks_has_no_matcher(tmp_path):
    writer = StoreWriter(tmp_path, 32, 48)
    writer.add("v", "train", np.zeros((4, 32, 48, 3), np.uint8))
    writer.close()
    assert matcher_of(Store(tmp_path), 16) is None


def test_consistent_codes_have_no_corrected_con_and_private_ones_have():
    rng = np.random.default_rng(0)
    labels, groups = rng.integers(0, 6, 2000), np.repeat(np.arange(20), 100)
    noisy = np.where(rng.random(2000) < 0.7, labels, rng.integers(0, 6, 2000))
    fair = mutual_information(noisy, labels, groups)
    assert fair["con"] > 0.02 and abs(fair["con_corrected"]) < 0.01 and fair["pairs_a_group"] == 100
    private = mutual_information((noisy + groups) % 6, labels, groups)
    assert private["con_corrected"] > 0.2


def test_information_given_the_shift_leaves_out_what_the_shift_says():
    shifts = np.repeat([[4.0, 0.0], [-4.0, 0.0]], 50, axis=0)
    labels = np.repeat([0, 1], 50)
    assert mutual_information(labels, labels, shifts=shifts)["nmi_given_shift"] == 1.0  # one label, one code: certain
    within = np.tile([0, 1], 50)
    result = mutual_information(np.repeat([0, 1], 50), within, shifts=shifts)
    assert result["nmi_given_shift"] == pytest.approx(0, abs=1e-9)


def test_picture_errors_of_a_known_difference():
    real = np.zeros((2, 16, 16, 3), np.uint8)
    drawn = real + 51  # one fifth of the range: MSE 0.04
    assert picture_errors(drawn, real)["psnr"] == pytest.approx(13.979, abs=1e-3)
    assert picture_errors(drawn, real)["l1"] == pytest.approx(0.2)
    assert picture_errors(real, real)["ssim"] == pytest.approx(1)
    half = np.zeros((2, 16, 16), bool)
    half[:, :8] = True
    drawn[:, 8:] = 255
    assert picture_errors(drawn, real, half)["l1"] == pytest.approx(0.2)


def test_the_frechet_distance_of_shifted_and_stretched_gaussians():
    a = np.random.default_rng(0).normal(size=(4000, 3))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(a, a + np.array([3, 0, 0])) == pytest.approx(9, abs=1e-6)
    variance = np.cov(a, rowvar=False)
    assert frechet_distance(a, 2 * (a - a.mean(0)) + a.mean(0)) == pytest.approx(np.trace(variance), rel=1e-6)
    with pytest.raises(ValueError, match="equal D"):
        frechet_distance(a, a[:, :2])


def test_fid_over_ones_own_features_is_our_frechet_distance():
    pytest.importorskip("torchmetrics", reason="extra `metrics`")

    class Colours(torch.nn.Module):
        num_features = 3

        def forward(self, x):
            return x.float().mean((2, 3))

    torch.manual_seed(0)
    a, b = (
        torch.randint(0, 200, (64, 3, 8, 8), dtype=torch.uint8),
        torch.randint(20, 256, (64, 3, 8, 8), dtype=torch.uint8),
    )
    wanted = frechet_distance(*(x.float().mean((2, 3)).double().numpy() for x in (a, b)))
    assert fid(a, b, Colours()) == pytest.approx(wanted, rel=1e-2)
