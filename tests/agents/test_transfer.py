"""A policy of the learned world plays the real game without any change."""

import json

import pytest

pytest.importorskip("ale_py")
pytest.importorskip("stable_baselines3")

from stable_baselines3 import PPO

from agents import transfer
from agents.evaluation import GreedyPolicy
from agents.evaluation_env import make_evaluation_env
from glass_gym.policy import load_policy, save_policy
from glass_gym.sb3 import GlassExtractor, GlassVecEnv


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    env = GlassVecEnv("GlassTennis-v0", 1, frame_size=(48, 80))
    kwargs = {"features_extractor_class": GlassExtractor, "net_arch": [8]}
    model = PPO("CnnPolicy", env, n_steps=8, batch_size=8, policy_kwargs=kwargs, seed=0)
    return save_policy(tmp_path_factory.mktemp("policy") / "ppo.safetensors", model, "ppo")


def test_the_policy_sees_the_real_game_as_it_saw_the_learned_one(policy):
    loaded = load_policy(policy)
    env = make_evaluation_env("RealTennis-v0", 2, 0, codes=int(loaded.model.action_space.nvec[1]))
    env.reset()
    loaded.check(env)
    seen = loaded._observation(env)
    assert seen.shape == (2, 3, 48, 80) and seen.dtype == "uint8" and loaded.act(env).shape == (2, 2)


def test_a_film_shows_both_worlds_with_the_same_start_and_target():
    frames = transfer.side_by_side(GreedyPolicy(), {}, seed=0, episodes=1)
    assert frames[0].shape == (96, 256 + 4 + 256, 3)
    learned, real = frames[0][:, :256].astype(int), frames[0][:, 260:].astype(int)
    assert abs(learned - real).mean() < 8  # the first frame is the real one, taken apart and put together again


def test_the_command_writes_table_and_film(policy, tmp_path, monkeypatch):
    from agents.evaluation_env import WorldEvaluationEnv
    from agents.real_tennis import RealEvaluationEnv

    monkeypatch.setattr(RealEvaluationEnv, "limit", 5)
    limited = WorldEvaluationEnv.__init__

    def short(self, *args, **kwargs):
        limited(self, *args, **kwargs)
        self.limit = 5

    monkeypatch.setattr(WorldEvaluationEnv, "__init__", short)
    out = tmp_path / "transfer.json"
    arguments = [
        "--policy",
        str(policy),
        "--direct",
        str(policy),
        "--episodes",
        "2",
        "--n-envs",
        "2",
        "--out",
        str(out),
    ]
    assert transfer.main(arguments) == 0
    figures = json.loads(out.read_text(encoding="utf-8"))["policies"]
    assert set(figures) == {
        "learned world", "real game, zero-shot", "real game, random", "real game, greedy on RAM",
        "real game, trained in it",
    }  # fmt: skip
    assert out.with_suffix(".gif").exists() and not out.with_suffix(".md").exists()
    assert transfer.main(["--policy", str(tmp_path / "none.safetensors")]) == 1
