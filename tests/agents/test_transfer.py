"""A policy of a learned world acts in the real environment without any change."""

import json

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("ale_py")
pytest.importorskip("stable_baselines3")

from stable_baselines3 import PPO

from agents import real, transfer
from agents.evaluation import GreedyPolicy
from agents.evaluation_env import WorldEvaluationEnv, make_evaluation_env
from agents.transfer import Mixture
from glass_gym.policy import load_policy, save_policy
from glass_gym.sb3 import GlassExtractor, GlassVecEnv
from tests.agents.test_evaluation import Plain


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    env = GlassVecEnv("GlassTennis-v0", 1, frame_size=(48, 80))
    kwargs = {"features_extractor_class": GlassExtractor, "net_arch": [8]}
    model = PPO("CnnPolicy", env, n_steps=8, batch_size=8, policy_kwargs=kwargs, seed=0)
    return save_policy(tmp_path_factory.mktemp("policy") / "ppo.safetensors", model, "ppo")


def test_the_policy_sees_the_real_game_as_it_saw_the_learned_one(policy):
    loaded = load_policy(policy)
    env = make_evaluation_env("RealTennis-v0", 2, 0)
    env.reset()
    loaded.check(env)
    seen = loaded._observation(env)
    assert seen.shape == (2, 3, 48, 80) and seen.dtype == "uint8" and loaded.act(env).shape == (2, 2)


def test_a_film_shows_both_worlds_with_the_same_start_and_target():
    frames = transfer.side_by_side("RealTennis-v0", GreedyPolicy(), seed=0, episodes=1)
    assert frames[0].shape == (96, 256 + 4 + 256, 3)
    learned, real = frames[0][:, :256].astype(int), frames[0][:, 260:].astype(int)
    assert abs(learned - real).mean() < 8  # the first frame is the real one, taken apart and put together again


@pytest.fixture
def short(monkeypatch):
    """Episodes of five steps."""
    monkeypatch.setitem(real.LIMITS, "RealTennis-v0", 5)
    limited = WorldEvaluationEnv.__init__

    def shortened(self, *args, **kwargs):
        limited(self, *args, **kwargs)
        self.limit = 5

    monkeypatch.setattr(WorldEvaluationEnv, "__init__", shortened)


def test_the_command_writes_table_and_film(policy, tmp_path, short):
    out = tmp_path / "transfer.json"
    files = ["--policy", str(policy), "--direct", str(policy), "--out", str(out)]
    assert transfer.main([*files, "--episodes", "2", "--n-envs", "2"]) == 0
    figures = json.loads(out.read_text(encoding="utf-8"))["policies"]
    assert set(figures) == {
        "learned world", "real, zero-shot", "real, random", "real, greedy on the true position", "real, trained in it",
    }  # fmt: skip
    assert out.with_suffix(".gif").exists() and not out.with_suffix(".md").exists()
    assert transfer.main(["--policy", str(tmp_path / "none.safetensors")]) == 1


def test_ranks_are_added_to_a_passport(policy, tmp_path, short, monkeypatch, capsys):
    monkeypatch.setattr(transfer, "SHARES", (0.0, 0.5, 1.0))
    success = iter((0.9, 0.8, 0.6, 0.7, 0.1, 0.1))
    monkeypatch.setattr(
        transfer.evaluation, "evaluate", lambda env, player, episodes: {"success": next(success), "episodes": episodes}
    )
    out = tmp_path / "passport.json"
    out.write_text('{"seed": 1}')
    command = ["--ranks", "--policy", str(policy), "--episodes", "4", "--n-envs", "1", "--out", str(out)]
    assert transfer.main(command) == 0
    written = json.loads(out.read_text(encoding="utf-8"))
    assert written["seed"] == 1 and written["outside"]["rank_correlation"] == 1 and written["outside"]["episodes"] == 4
    assert written["outside"]["policies"][1] == {"random": 0.5, "world": 0.6, "outside": 0.7}
    assert "rank correlation 1.000" in capsys.readouterr().out


def test_a_mixture_plays_random_actions_as_often_as_told():
    env = Plain(1000)
    share = (Mixture(GreedyPolicy(), 0.3).act(env)[:, 0] != GreedyPolicy().act(env)[:, 0]).mean()
    assert 0.2 < share < 0.33  # a random shift is the greedy one in a ninth of the cases
    assert len({*Mixture(GreedyPolicy(), 1.0).act(env)[:, 0]}) == 9


def test_the_arm_is_the_one_of_the_recordings():
    pytest.importorskip("gymnasium_robotics")
    pytest.importorskip("mujoco")
    from gymnasium.utils.env_checker import check_env

    try:
        env = gym.make("agents.real:RealArm-v0", grounded=False, frame_size=(48, 48)).unwrapped
    except OSError as error:
        pytest.skip(str(error))
    check_env(env, skip_render_check=True)
    env.reset(seed=0)
    start = env.position
    for _ in range(4):
        env.step(np.array([0.5, 1, 0, 0], np.float32))
    moved = env.position - start
    assert 8 < moved[0] < 18 and 2 < moved[1] < 8  # right and down
    assert env.picture().shape == (96, 96, 3)
