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
    done = evaluate(make_evaluation_env(id, 32, seed=123), policy, 32)
    assert done["success"] >= said["success"] - 0.08 and done["steps_ratio"] <= said["steps_ratio"] + 0.15


OTHERS = [(file.parent.name, file.stem) for file in sorted(TRAINED.glob("*/*.safetensors")) if file.stem != "ppo"]


@pytest.mark.slow
@pytest.mark.parametrize(("id", "name"), OTHERS)
def test_others_do_so_too_and_beat_random_play(id, name):
    algorithm, _, task = name.partition("-")
    said = json.loads((TRAINED / id / f"{name}.json").read_text(encoding="utf-8"))["policies"]
    env = make_evaluation_env(id, 32, seed=123, **{"task": task} if task else {"action": "continuous"})
    done = evaluate(env, load_policy(TRAINED / id / f"{name}.safetensors", algorithm), 32)
    assert done["success"] >= said["policy"]["success"] - 0.08 and said["random"]["success"] <= 0.15
