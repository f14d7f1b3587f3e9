"""The policies that come with the repository."""

import json
from pathlib import Path

import pytest

pytest.importorskip("stable_baselines3")

from agents.command import TRAINED
from agents.evaluation import evaluate
from agents.evaluation_env import make_evaluation_env
from glass_gym.policy import load_policy

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "policies"


COME_ALONG = [
    (file.parent.name, f"ppo_{file.parent.name[5:-3].lower()}") for file in sorted(TRAINED.glob("*/ppo.json"))
]


@pytest.mark.parametrize(("id", "name"), COME_ALONG)
def test_they_do_what_their_figures_say(id, name):
    said = json.loads((TRAINED / id / "ppo.json").read_text(encoding="utf-8"))
    assert said == json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    policy, said = load_policy(TRAINED / id / "ppo.safetensors"), said["policies"]["policy"]
    done = evaluate(make_evaluation_env(id, 32, seed=123), policy, 64)
    assert done["success"] >= said["success"] - 0.08 and done["steps_ratio"] <= said["steps_ratio"] + 0.15


@pytest.mark.parametrize(("name", "kwargs"), [("ppo-perform", {"task": "perform"}), ("sac", {"action": "continuous"})])
def test_others_in_tennis_do_so_too(name, kwargs):
    folder = TRAINED / "GlassTennis-v0"
    said = json.loads((folder / f"{name}.json").read_text())["policies"]
    env = make_evaluation_env("GlassTennis-v0", 32, seed=123, **kwargs)
    done = evaluate(env, load_policy(folder / f"{name}.safetensors"), 64)
    assert done["success"] >= said["policy"]["success"] - 0.08 and said["random"]["success"] <= 0.15
