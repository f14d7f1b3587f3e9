"""Windows of whole videos are moved to where equal poses agree."""

import numpy as np
import torch

from training.windows.align import ALIGN_PX, Congealing
from training.windows.tracking import cheapest_path

SIDE = 16


def videos(count, length=10, seed=0):
    """Bars that stand and lie in turns; each video's windows are off by a few px of their own: masks, offsets."""
    rng = np.random.default_rng(seed)
    offset = rng.integers(-2, 3, (count, 2))
    wide = SIDE + 2 * ALIGN_PX
    masks = np.zeros((count, length, wide, wide), np.uint8)
    for v, (x, y) in enumerate(offset):
        for t in range(length):
            width, height = ((4, 8), (8, 4), (8, 8))[t % 3]
            left, top = ALIGN_PX + 4 + x, ALIGN_PX + 4 + y
            masks[v, t, top : top + height, left : left + width] = 255
    return masks.reshape(-1, wide, wide), np.arange(count) * length, np.full(count, length), offset


def test_the_offsets_of_whole_videos_are_found_up_to_a_common_one():
    masks, starts, lengths, offset = videos(24)
    found = Congealing.fit(masks, starts, lengths).offsets(masks, starts, lengths)
    assert np.abs(found).max() <= ALIGN_PX
    assert len(np.unique(found - offset, axis=0)) == 1


def test_other_videos_are_aligned_to_templates_that_were_learned():
    masks, starts, lengths, offset = videos(24)
    congealing = Congealing.fit(masks, starts, lengths)
    common = (congealing.offsets(masks, starts, lengths) - offset)[0]
    others, starts, lengths, theirs = videos(3, seed=5)
    assert (congealing.offsets(others, starts, lengths) - theirs == common).all()


def test_equal_videos_stay_together():
    masks, _, lengths, _ = videos(1)
    again = np.concatenate([masks] * 3)
    starts = np.arange(3) * lengths[0]
    lengths = np.repeat(lengths, 3)
    found = Congealing.fit(again, starts, lengths).offsets(again, starts, lengths)
    assert (found == found[0]).all()


def test_an_agent_that_turns_round_lies_alike_in_all_videos():
    """An L and its mirror image: in some videos one of them was tracked a px off."""
    rng = np.random.default_rng(0)
    wide, length = SIDE + 2 * ALIGN_PX, 24
    masks, truth = np.zeros((30, length, wide, wide), np.uint8), np.zeros((30, length, 2), int)
    shape = np.zeros((10, 6), np.uint8)
    shape[:, :2] = shape[7:] = shape[2:4, :4] = 255
    for v in range(30):
        turned = np.repeat(rng.random(length // 6) < 0.5, 6)
        off = v % 3 == 0
        for t in range(length):
            x = ALIGN_PX + 5 + int(off and turned[t])
            masks[v, t, ALIGN_PX + 3 : ALIGN_PX + 13, x : x + 6] = shape[:, ::-1] if turned[t] else shape
            truth[v, t, 0] = int(off and turned[t])
    masks, lengths = masks.reshape(-1, wide, wide), np.full(30, length)
    starts = np.arange(30) * length
    found = Congealing.fit(masks, starts, lengths).moves(masks, starts, lengths)
    wrong = found - truth.reshape(-1, 2)
    assert (wrong == wrong[0]).all(1).mean() > 0.99
    assert not (found == found[0]).all()


def test_the_cheapest_path_changes_only_where_it_pays():
    costs = torch.tensor([[0.0, 1.0], [0.5, 0.0], [0.0, 1.0], [3.0, 0.0], [3.0, 0.0]])
    assert cheapest_path(costs, 0.6).tolist() == [0, 0, 0, 1, 1]
    assert cheapest_path(costs, 0.1).tolist() == [0, 1, 0, 1, 1]
    assert cheapest_path(costs, 10.0).tolist() == [1] * 5
    assert cheapest_path(costs[:1], 1.0).tolist() == [0]
