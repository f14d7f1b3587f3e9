"""The real game as an environment like the learned world."""

import numpy as np
import pytest

pytest.importorskip("ale_py")

from agents import real_tennis
from agents.evaluation import GreedyPolicy, evaluate
from agents.real import RealEvaluationEnv
from agents.real_tennis import BODY, RealTennis
from training.data import ale_tennis


@pytest.fixture(scope="module")
def env():
    env = RealEvaluationEnv("RealTennis-v0", 2, seed=0, starts=4)
    env.reset()
    return env


def test_frames_are_cut_as_the_recordings_were():
    assert real_tennis.FRAMESKIP == ale_tennis.RecordConfig().frameskip
    assert RealTennis().observation_space.shape == (3, ale_tennis.HEIGHT, ale_tennis.WIDTH)


def test_the_position_is_where_the_player_s_colour_is(env):
    for game in env.reals:
        frame = game.picture()
        x, y = game.position
        assert game.near()
        box = frame[int(y) - 12 : int(y) + 12, max(0, int(x) - 12) : int(x) + 12]
        player = (box == real_tennis.AGENT).all(-1)
        assert player.sum() > 60  # he covers about 150 px, some of them skin
        rows, columns = np.nonzero(player)
        assert abs(rows.mean() - 12) < 6 and abs(columns.mean() - 12) < 8


def test_controls_are_ale_s_own(env):
    from ale_py import Action

    names = [action.name.lower() for action in Action][:18]
    assert [name.replace("-", "").replace("+", "") for name in RealTennis.control_names] == names


def test_the_player_runs_as_told(env):
    env.reset()
    start = env.position()
    way = np.where(start[:, 0] < 80, 1, -1)  # to the middle
    for _ in range(4):
        for real, sign in zip(env.reals, way, strict=True):
            real.act(real_tennis.RIGHT if sign > 0 else real_tennis.LEFT)
    moved = env.position() - start
    assert (np.abs(way * moved[:, 0] - 16) <= 8).all()  # 16 px; 8 more or less at a turn
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
        a, b = (env.step(6)[0] for env in (first, second))
        assert np.array_equal(a["frame"], b["frame"]) and np.array_equal(a["position"], b["position"])
    observation, info = first.reset(options={"target": (50, 40)})
    assert info["target"].tolist() == [50, 40] and observation["position"][2:].tolist() == [50, 40]
    assert observation["frame"].shape == (3, 96, 160)
    with pytest.raises(ValueError, match="obs_type must be one of frame, position, dict"):
        RealTennis(obs_type="sound")
    assert BODY[0] > 0
