"""The real game as an environment like the learned world."""

import numpy as np
import pytest

pytest.importorskip("ale_py")

from agents import real_tennis
from agents.evaluation import GreedyPolicy, evaluate
from agents.real_tennis import BODY, FIRE, JOYSTICK, RealEvaluationEnv, RealTennis
from glass_gym.worlds.action_space import COMPASS
from training.data import ale_tennis


@pytest.fixture(scope="module")
def env():
    env = RealEvaluationEnv(2, seed=0, starts=4)
    env.reset()
    return env


def test_a_shift_is_the_joystick_s_direction():
    for number, direction in enumerate(COMPASS.values()):
        assert ale_tennis.Joystick.DIRECTIONS[tuple(direction)] == (JOYSTICK[number], FIRE[number])


def test_frames_are_cut_as_the_recordings_were():
    assert real_tennis.FRAMESKIP == ale_tennis.RecordConfig().frameskip
    assert RealTennis(codes=2).observation_space.shape == (3, ale_tennis.HEIGHT, ale_tennis.WIDTH)


def test_the_position_is_where_the_player_s_colour_is(env):
    for game in env.games:
        frame = game.frame(shown=False)[0].permute(1, 2, 0).numpy()
        x, y = game.position
        assert game.near()
        box = frame[int(y) - 12 : int(y) + 12, max(0, int(x) - 12) : int(x) + 12]
        player = (box == real_tennis.AGENT).all(-1)
        assert player.sum() > 60  # he covers about 150 px, some of them skin
        rows, columns = np.nonzero(player)
        assert abs(rows.mean() - 12) < 6 and abs(columns.mean() - 12) < 8


def test_the_player_runs_as_told(env):
    env.reset()
    start = env.observe("position")[:, :2]
    for _ in range(4):
        env.step(np.array([[1, 0], [5, 0]]))
    moved = env.observe("position")[:, :2] - start
    assert 8 <= moved[0, 0] <= 24 and -24 <= moved[1, 0] <= -8  # 16 px; 8 more or less at a turn
    assert np.abs(moved[:, 1]).max() <= 1


def test_greedy_play_on_ram_arrives(env):
    figures = evaluate(env, GreedyPolicy(), 8)
    assert figures["success"] >= 0.75


def test_the_environment_is_one_of_gymnasium_s():
    from gymnasium.utils.env_checker import check_env

    check_env(RealTennis(starts=2, frame_size=(48, 80)), skip_render_check=True)


def test_equal_seeds_play_alike_and_targets_can_be_given():
    first, second = (RealTennis(starts=2, obs_type="dict") for _ in range(2))
    for env in (first, second):
        env.reset(seed=3)
    for _ in range(5):
        a, b = (env.step([2, 1])[0] for env in (first, second))
        assert np.array_equal(a["frame"], b["frame"]) and np.array_equal(a["position"], b["position"])
    observation, info = first.reset(options={"target": (50, 40)})
    assert info["target"].tolist() == [50, 40] and observation["position"][2:].tolist() == [50, 40]
    assert observation["frame"].shape == (3, 96, 160)
    with pytest.raises(ValueError, match="obs_type must be one of frame, position, dict"):
        RealTennis(obs_type="sound")
    assert BODY[0] > 0
