from types import SimpleNamespace

import numpy as np
import pytest
import torch

from training.evaluation.metrics.pose_transitions import PoseClusters, _with_room, total_variation


def test_two_poses_are_told_apart_wherever_they_lie():
    layers = torch.zeros(20, 4, 16, 16)
    layers[0::2, :, 3:13, 7:9] = 1  # upright
    layers[1::2, :, 7:9, 3:13] = 1  # lying
    pose_of = PoseClusters(layers, 2)
    assert len(set(pose_of(layers[0::2]))) == len(set(pose_of(layers[1::2]))) == 1
    assert pose_of(layers[:1])[0] != pose_of(layers[1:2])[0]
    assert pose_of(torch.roll(layers[:1], (1, -2), (2, 3)))[0] == pose_of(layers[:1])[0]


def test_a_static_agent_is_as_far_as_can_be_from_one_that_walks():
    walks = np.array([[0.0, 30.0], [30.0, 0.0]])
    assert total_variation(walks, walks) == 0
    assert total_variation(np.diag([30.0, 30.0]), walks) == 1
    assert total_variation(np.array([[15.0, 15.0], [30.0, 0.0]]), walks) == 0.25
    assert total_variation(np.zeros((2, 2)), walks) is None


@pytest.mark.parametrize(
    ("width", "ground", "step", "right", "left"),
    [
        (160, (22, 27, 138, 78), 4, 80, 80),  # room enough from the middle
        (128, (32, 31, 95, 62), 7, 32, 95),  # not even from the other side
        (128, (10, 31, 118, 62), 6, 46, 82),
    ],
)
def test_a_walk_starts_where_there_is_room_for_it(width, ground, step, right, left):
    probe = SimpleNamespace(simulator=SimpleNamespace(width=width, ground=ground))
    e = SimpleNamespace(probe=probe, world=SimpleNamespace(step=(step, step)))
    assert (_with_room(e, 1), _with_room(e, -1)) == (right, left)
