"""The map from a world's actions to the controls of a real environment."""

import json

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("sklearn")

from agents import ground
from agents.ground import Ground, GroundedActions, ground_file, learned_id
from agents.real import REAL
from glass_gym.worlds.action_space import COMPASS, ActionTable

TABLE = ActionTable.build((4.0, 3.0), ("rest", "swing"))
DIRECTIONS = np.array(list(COMPASS.values()), float)


def transitions(count=200, seed=0):
    """Shifts, with noise, and codes of controls 0 to 17: a direction, and from 9 on a swing."""
    rng = np.random.default_rng(seed)
    controls = rng.integers(0, 18, count)
    shifts = DIRECTIONS[controls % 9] * (4, 3) + rng.normal(0, 0.5, (count, 2))
    return shifts, controls // 9, controls


@pytest.fixture(scope="module")
def discrete():
    return Ground.fit(TABLE, *transitions(), gym.spaces.Discrete(20), {"env": "test"})


def test_discrete_controls_have_probabilities(discrete):
    shifts, codes = (grid.ravel() for grid in np.meshgrid(np.arange(9), np.arange(2), indexing="ij"))
    found = discrete.predict(TABLE.shifts[shifts], codes)
    assert found.shape == (18, 20) and np.allclose(found.sum(1), 1)
    assert (found.argmax(1) == shifts + 9 * codes).mean() >= 0.9
    assert found[:, 18:].max() == 0  # never tried


def test_continuous_controls_have_a_mean_within_their_bounds_and_a_spread():
    shifts, codes, _ = transitions()
    controls = np.c_[shifts / (8, -6), codes - 0.5]
    found = Ground.fit(TABLE, shifts, codes, controls, gym.spaces.Box(-0.4, 0.4, (3,), np.float32))
    assert np.allclose(found.predict(TABLE.shifts[[2]], np.array([1])), [[0.4, 0.4, 0.4]], atol=0.02)
    assert np.allclose(found.predict(TABLE.shifts[[0]], np.array([0])), [[0.0, 0.0, -0.4]], atol=0.05)
    assert found.spread.shape == (3,) and found.control((2, 1), np.random.default_rng(0)).dtype == np.float32
    with pytest.raises(ValueError, match="Discrete or a Box"):
        Ground.fit(TABLE, shifts, codes, controls, gym.spaces.MultiDiscrete([2, 2]))


def test_it_is_written_and_read(discrete, tmp_path):
    path = discrete.write(tmp_path / "ground.json")
    again = Ground.read(path)
    assert again.table.nvec == TABLE.nvec and again.table.shift_names == TABLE.shift_names
    assert np.allclose(again.weights, discrete.weights, atol=1e-4) and again.about == {"env": "test"}
    for text in ("", "{}", json.dumps(json.loads(path.read_text()) | {"weights": [[1.0]]})):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"ground.json: no map to real controls .* make one"):
            Ground.read(path)


class Walk(gym.Env):
    """A real environment of pictures alone."""

    action_space = gym.spaces.Discrete(20)
    observation_space = gym.spaces.Discrete(1)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return 0, {}

    def step(self, action):
        self.last = action
        return 0, 0.0, False, False, {}

    def picture(self):
        return self.np_random.integers(0, 256, (32, 48, 3), dtype=np.uint8)


def test_policies_act_through_the_wrapper(discrete):
    env = GroundedActions(Walk(), discrete)
    assert env.action_space == gym.spaces.MultiDiscrete([9, 2])
    env.reset(seed=0)
    drawn = []
    for _ in range(40):
        env.step(np.array([1, 1]))
        drawn.append(env.env.last)
    right = 9 + np.flatnonzero(DIRECTIONS[:, 0] > 0)  # with a swing; most often neither up nor down
    assert np.isin(drawn, right).mean() > 0.75 and max(set(drawn), key=drawn.count) == 10


def test_two_hundred_random_controls_are_recorded_and_read(pose_world):
    films, controls = ground.record(Walk(), 20, 3)
    assert films.shape == (2, 11, 32, 48, 3) and controls.shape == (2, 10)
    assert 0.3 < (np.diff(controls) == 0).mean() < 0.95  # controls are held
    again = ground.record(Walk(), 20, 3)
    assert np.array_equal(films, again[0]) and np.array_equal(controls, again[1])
    shifts, codes = ground.read_actions(pose_world, films)
    assert shifts.shape == (2, 10, 2) and codes.shape == (2, 10) and codes.max() < 3


@pytest.mark.parametrize("id", REAL)
def test_the_bundled_maps_fit_their_worlds(id):
    from glass_gym.worlds.checkpoint import load_world

    made = Ground.read(ground_file(id))
    world = load_world(gym.spec(learned_id(id)).kwargs["checkpoint"])
    assert np.allclose(made.table.shifts, world.action_table().shifts) and made.table.code_names == world.code_names
    assert made.about["transitions"] == 200


def test_the_command_tells_what_is_wrong(capsys):
    assert ground.main(["--transitions", "5"]) == 1
    assert "--transitions must be at least 20, got 5" in capsys.readouterr().err
