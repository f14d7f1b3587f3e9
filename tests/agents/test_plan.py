"""Planning with copies of states."""

import json

import numpy as np
import pytest

from agents import plan
from agents.evaluation import evaluate
from agents.evaluation_env import WorldEvaluationEnv
from agents.plan import Planner
from glass_gym.worlds.checkpoint import save_world


@pytest.mark.parametrize(("rounds", "samples"), [(1, 48), (3, 16)])
def test_a_plan_leads_to_the_target(tiny_world, rounds, samples):
    env = WorldEvaluationEnv("Glass-v0", 2, seed=1, checkpoint=tiny_world, target_radius=4.0)
    planner = Planner("Glass-v0", 2, samples, horizon=3, rounds=rounds, checkpoint=tiny_world, target_radius=4.0)
    figures = evaluate(env, planner, 4)
    assert figures["success"] == 1 and figures["steps_ratio"] < 2


def test_planning_leaves_the_world_as_it_was(tiny_world):
    env = WorldEvaluationEnv("Glass-v0", 2, seed=1, checkpoint=tiny_world)
    env.reset()
    before = env.observe("dict")
    Planner("Glass-v0", 2, 8, 2, checkpoint=tiny_world).act(env)
    after = env.observe("dict")
    assert all((before[key] == after[key]).all() for key in before)


def test_draws_follow_the_chances(tiny_world):
    planner = Planner("Glass-v0", 1, 400, 2, checkpoint=tiny_world)
    chances = np.zeros((1, 2, 9))
    chances[0, 0, 3] = 1.0
    chances[0, 1, [0, 8]] = 0.25, 0.75
    drawn = planner._draw(chances)[0]
    assert (drawn[:, 0] == 3).all() and set(drawn[:, 1]) == {0, 8} and 0.65 < (drawn[:, 1] == 8).mean() < 0.85


def test_the_command_writes_a_table(tiny_world, tmp_path):
    import gymnasium as gym

    path = save_world(tmp_path / "tiny.safetensors", tiny_world)
    entry = {
        "entry_point": "glass_gym.env.env:GlassEnv",
        "vector_entry_point": "glass_gym.env.vector_env:GlassVectorEnv",
    }
    gym.register("Tiny-v0", kwargs={"checkpoint": str(path)}, max_episode_steps=6, **entry)
    try:
        small = "--env Tiny-v0 --episodes 2 --n-envs 2 --samples 4 --horizon 2"
        assert plan.main([*small.split(), "--out", str(tmp_path / "plan.json")]) == 0
    finally:
        gym.registry.pop("Tiny-v0")
    assert set(json.loads((tmp_path / "plan.json").read_text(encoding="utf-8"))["policies"]) == {
        "shooting",
        "cem",
        "random",
        "greedy",
    }
