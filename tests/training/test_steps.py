"""The agent's step length, measured on made-up tracks."""

import numpy as np
import pytest
import torch

from training.windows.steps import grid_of, step_length
from training.windows.tracking import snap_to_grid


def mouse(frames: int, seed: int = 0, speed: float = 3.0) -> np.ndarray:
    """A track (T, 2) in whole px: runs of one to two seconds at 30 frames a second, at about `speed` px a frame along
    each axis, with pauses between that take 60 % of the time."""
    rng = np.random.default_rng(seed)
    parts = []
    while sum(map(len, parts)) < frames:
        velocity = speed * rng.uniform(0.8, 1.2, 2) * rng.choice([-1, 1], 2)
        parts += [np.tile(velocity, (int(rng.integers(30, 60)), 1)), np.zeros((rng.integers(45, 90), 2))]
    return np.concatenate(parts).cumsum(0)[:frames].round()


def test_the_step_is_the_mode_of_the_moves_by_the_way_that_they_go():
    rng = np.random.default_rng(0)
    wobbles = rng.integers(-2, 3, (3000, 2))
    tiles = np.zeros((2688, 2), int)
    tiles[:1344, 0] = rng.choice([-8, 8], 1344)
    tiles[1344:, 1] = rng.choice([-8, 8], 1344)
    assert step_length([np.concatenate([wobbles, tiles]).astype(float)]) == (8.0, 8.0)
    assert step_length([np.array([[4.0, 0.0]] * 6 + [[-4.0, 0.1]] * 6)]) == (4.0, 0.0)
    assert step_length([np.zeros((10, 2))]) == (1.0, 1.0)


def test_an_ordinary_step_is_one_that_was_taken():
    rng = np.random.default_rng(3)  # two speeds between whole px; no single length has most of the way
    speeds = [rng.choice([-2.6, 2.6, -5.3, 5.3, 0.0]) * np.minimum(1, (np.arange(rng.integers(3, 9)) + 1) / 2)
              for _ in range(300)]  # fmt: skip
    moves = np.diff(np.round(np.cumsum(np.concatenate(speeds))))
    assert step_length([np.stack([0 * moves, moves], 1)])[1] == pytest.approx(5.3, abs=0.3)


def test_a_wobble_on_the_spot_is_no_step_in_a_grid_world():
    moves = np.array([[18, 0], [3, 3], [-3, -3], [0, 0], [0, -18], [18, 0], [18, 0], [36, 0]] * 20, float)
    assert grid_of([moves]) == (18, 18)
    path = torch.from_numpy(np.concatenate([np.zeros((1, 2)), moves.cumsum(0)]))
    cells = snap_to_grid(path, (18, 18), 3).diff(dim=0) / 18
    assert cells[:6].tolist() == [[1, 0], [0, 0], [0, 0], [0, 0], [0, -1], [1, 0]]
    assert grid_of([np.random.default_rng(0).normal(size=(500, 2)) * 6]) is None
    assert grid_of([np.array([[4.0, 0.0], [0.0, 0.0], [0.0, 4.0]] * 20)]) is None


def test_bobbing_up_and_down_is_no_step():
    walk = np.tile([[3.0, 2.0], [3.0, -2.0]], (100, 1))
    climb = np.tile([[0.0, 8.0], [0.0, 0.0], [0.0, 0.0]], (30, 1))
    assert step_length([np.concatenate([walk, climb])]) == (3.0, 8.0)


def test_pauses_make_a_step_no_shorter():
    track = mouse(3000)
    assert step_length([np.diff(track, axis=0)], 30) == (pytest.approx(3, rel=0.1), pytest.approx(3, rel=0.1))
    slow = mouse(3000, speed=0.4)
    assert step_length([np.diff(slow, axis=0)], 30) == (pytest.approx(0.4, rel=0.25), pytest.approx(0.4, rel=0.25))


@pytest.mark.parametrize("frames", [1, 3, 12])
def test_jumps_to_another_part_are_no_steps(frames):
    track = mouse(3000)
    rng = np.random.default_rng(1)
    for t in rng.integers(0, 3000, 150 // frames):
        track[t : t + frames] += (rng.uniform(10, 30, 2) * rng.choice([-1, 1], 2)).round()
    assert step_length([np.diff(track, axis=0)], 30) == (pytest.approx(3, rel=0.2), pytest.approx(3, rel=0.2))


def test_hands_that_are_found_by_turns_give_no_step_from_hand_to_hand():
    sway = 10 * np.sin(np.arange(240) / 8)
    track = np.stack([sway, 0.7 * sway], 1)
    track[(np.arange(240) // 20) % 2 == 1] += (28, 3)
    x, y = step_length([np.diff(track.round(), axis=0)], 30)
    assert 0.8 < x < 1.3 and 0.5 < y < 0.9


def test_the_next_video_begins_where_it_likes():
    clips = [np.tile([2.0, 0.0], (9, 1)) * (-1) ** n for n in range(40)]
    assert step_length(clips) == (2, 0)
    slow = [np.tile([0.5, 0.0], (19, 1)) * (-1) ** n for n in range(40)]
    assert step_length(slow) == (0.5, 0)


def test_missing_frames_and_few_frames_do_not_matter():
    track = mouse(3000)
    some = track[np.random.default_rng(2).random(3000) > 0.1]
    assert step_length([np.diff(some, axis=0)], 30) == (pytest.approx(3, rel=0.2), pytest.approx(3, rel=0.2))
    assert step_length([np.diff(track[:20], axis=0)], 30) == (pytest.approx(3, rel=0.2), pytest.approx(3, rel=0.2))
    assert step_length([np.ones((1, 2))]) == (1, 1) and step_length([np.zeros((0, 2))]) == (1, 1)
    assert step_length([np.array([[5.0, 0.0]])]) == (5, 0)


def test_an_axis_that_is_hardly_used_has_no_step():
    track = mouse(3000) * (1, 0.04)
    assert step_length([np.diff(track.round(), axis=0)], 30) == (pytest.approx(3, rel=0.1), 0)


def test_a_high_frame_rate_gives_the_same_speed():
    rng = np.random.default_rng(3)  # the detector is off by about half a px
    slow = mouse(1500, speed=2)
    times = np.arange(0, 1499, 1 / 8)
    quick = np.stack([np.interp(times, np.arange(1500), slow[:, a]) for a in range(2)], 1)
    noisy = (quick + rng.normal(0, 0.5, quick.shape)).round()
    assert step_length([np.diff(noisy, axis=0)], 240) == (pytest.approx(0.25, rel=0.2), pytest.approx(0.25, rel=0.2))


def test_a_grid_world_that_moves_once_a_second_has_whole_steps():
    rng = np.random.default_rng(4)
    moves = np.zeros((3000, 2))
    moves[::10] = np.array([(32, 0), (-32, 0), (0, 32), (0, -32), *[(1, 1), (-1, -1)] * 3])[rng.integers(0, 10, 300)]
    assert step_length([moves], 10) == (32, 32)
