"""Windows of whole videos are moved to where equal poses agree."""

import numpy as np

from training.congeal import REACH, Congealing

SIDE = 16


def videos(count, length=10, seed=0):
    """Bars that stand and lie in turns; each video's windows are off by a few px of their own: masks, offsets."""
    rng = np.random.default_rng(seed)
    offset = rng.integers(-2, 3, (count, 2))
    wide = SIDE + 2 * REACH
    masks = np.zeros((count, length, wide, wide), np.uint8)
    for v, (x, y) in enumerate(offset):
        for t in range(length):
            width, height = ((4, 8), (8, 4), (8, 8))[t % 3]
            left, top = REACH + 4 + x, REACH + 4 + y
            masks[v, t, top : top + height, left : left + width] = 255
    return masks.reshape(-1, wide, wide), np.arange(count) * length, np.full(count, length), offset


def test_the_offsets_of_whole_videos_are_found_up_to_a_common_one():
    masks, starts, lengths, offset = videos(24)
    found = Congealing.fit(masks, starts, lengths).offsets(masks, starts, lengths)
    assert np.abs(found).max() <= REACH
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
