"""Train, stop, resume, watch: the commands as a user types them, over a tiny world."""

import json
import os
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("stable_baselines3")

from agents import enjoy, ppo_torch, train
from agents.options import (
    DEFAULT_OBSERVATION,
    HYPERPARAMETERS,
    AgentError,
    changes_of,
    checked,
    hyperparameters,
    make_env,
    make_model,
    schedule,
)
from glass_gym.policy import ALGORITHMS, load_policy, policy_header
from glass_gym.worlds.checkpoint import save_world

QUICK = ["--no-progress", "--final-episodes", "4", "--n-eval-envs", "2", "--eval-episodes", "2", "--n-envs", "4"]


@pytest.fixture
def world(tiny_world, tmp_path):
    return save_world(tmp_path / "tiny.safetensors", tiny_world)


def command(world, tmp_path, *more, algo="ppo", size="[16,24]"):
    size = [f"frame_size:{size}"] if size else []
    return [
        "--algo", algo, "--env", "Glass-v0", "-f", str(tmp_path / "logs"), *QUICK, *more,
        "--env-kwargs", f"checkpoint:{world}", "max_episode_steps:6", *size,
    ]  # fmt: skip


def test_the_line_that_shows_a_policy_can_be_pasted(tiny_world, tmp_path, monkeypatch, capsys):
    pytest.importorskip("pygame")
    folder = tmp_path / "a space: and \u00e9"
    world = save_world(folder / "tiny.safetensors", tiny_world)
    small = [
        "-n",
        "8",
        "--eval-freq",
        "-1",
        "--final-episodes",
        "0",
        "-params",
        "n_steps:4",
        "batch_size:4",
        "n_epochs:1",
    ]
    arguments = ["--env", "Glass-v0", "-f", str(folder / "logs"), "--no-progress", "--n-envs", "2", *small]
    more = [f"checkpoint:{json.dumps(str(world))}", "max_episode_steps:6", "frame_size:[16, 24]"]
    assert train.main([*arguments, "--env-kwargs", *more]) == 0
    line = capsys.readouterr().out.split("Watch it:\n")[1].splitlines()[0]
    words = shlex.split(line)
    assert words[:3] == ["python", "-m", "agents.enjoy"]
    assert enjoy.main([*words[3:], "--n-episodes", "1"]) == 0
    assert "targets reached" in capsys.readouterr().out


def test_a_run_leaves_all_that_it_promises(world, tmp_path, capsys):
    settings = ["-params", "n_steps:8", "batch_size:16", "n_epochs:1"]
    assert train.main(command(world, tmp_path, "-n", "64", "--eval-freq", "32", *settings)) == 0
    folder = tmp_path / "logs" / "ppo" / "Glass-v0_1"
    for name in ("last.zip", "best_model.zip", "policy.safetensors", "evaluation.json",
                 "best_episode.gif", "plan.json", "evaluations.npz", "tensorboard"):  # fmt: skip
        assert (folder / name).exists(), name
    figures = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    assert set(figures["policies"]) == {"policy", "random", "greedy"} and figures["timesteps"] == 64
    assert figures["policies"]["policy"]["episodes"] == 4
    assert policy_header(folder / "policy.safetensors")["provenance"]["timesteps"] == 64
    arguments = ["--env", "Glass-v0", "-f", str(tmp_path / "logs"), "--no-render", "--n-episodes", "3", "--n-envs", "2",
                 "--out", str(tmp_path / "e.json"), "--record", str(tmp_path / "e.gif"),
                 "--env-kwargs", f"checkpoint:{world}", "max_episode_steps:6"]  # fmt: skip
    assert enjoy.main(arguments) == 0
    figures = json.loads((tmp_path / "e.json").read_text(encoding="utf-8"))
    assert figures["policies"]["policy"]["episodes"] == 3 and figures["timesteps"] == 64
    assert (tmp_path / "e.gif").exists()
    assert "policy.safetensors" in capsys.readouterr().out


def test_a_stopped_run_goes_on_where_it_was(world, tmp_path):
    settings = ["-params", "n_steps:8", "batch_size:16", "n_epochs:1", "--eval-freq", "-1"]
    assert train.main(command(world, tmp_path, "-n", "96", "--max-minutes", "0", *settings)) == 3
    folder = tmp_path / "logs" / "ppo" / "Glass-v0_1"
    before = train.model_class("ppo").load(folder / "last.zip")
    assert before.num_timesteps == 4  # one step of four rows
    assert train.main(command(world, tmp_path, "-n", "96", "--resume", *settings)) == 0
    assert [p.name for p in (tmp_path / "logs" / "ppo").iterdir()] == ["Glass-v0_1"]
    after = train.model_class("ppo").load(folder / "last.zip")
    assert after.num_timesteps >= 96
    assert json.loads((folder / "progress.json").read_text(encoding="utf-8"))["minutes"] > 0


@pytest.mark.parametrize(
    ("algo", "obs_type", "settings"),
    [
        ("ppo", "position", ["n_steps:4", "batch_size:8"]), ("ppo", "dict", ["n_steps:4", "batch_size:8"]),
        ("dqn", "position", ["learning_starts:40", "buffer_size:500"]),
    ],
)  # fmt: skip
def test_every_entry_trains(world, tmp_path, algo, obs_type, settings):
    evaluate = ["--eval-freq", "32", "--eval-episodes", "2", "--n-eval-envs", "2"]
    more = ["--obs-type", obs_type, "-n", "64", *evaluate, "-params", *settings]
    size = None if obs_type == "position" else "[16,24]"
    assert train.main(command(world, tmp_path, *more, algo=algo, size=size)) == 0
    assert load_policy(tmp_path / "logs" / algo / "Glass-v0_1" / "policy.safetensors")


@pytest.mark.slow
def test_a_policy_can_learn_in_the_real_game(tmp_path):
    pytest.importorskip("ale_py")
    small = ["-params", "n_steps:8", "batch_size:16", "--env-kwargs", "starts:2", "-n", "32", "--eval-freq", "-1"]
    command = ["--env", "RealTennis-v0", "-f", str(tmp_path), *QUICK, "--final-episodes", "2", *small]
    assert train.main(command) == 0
    figures = json.loads((tmp_path / "ppo" / "RealTennis-v0_1" / "evaluation.json").read_text(encoding="utf-8"))
    assert figures["env"] == "RealTennis-v0" and figures["policies"]["policy"]["episodes"] == 2


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_entry_makes_a_model(algorithm, tiny_world):
    import yaml

    entries = yaml.safe_load((HYPERPARAMETERS / f"{algorithm}.yml").read_text(encoding="utf-8"))
    named = {name for name in entries if not name.startswith(".")}
    real = {"RealTennis-v0"} if algorithm == "ppo" else set()
    ids = {"GlassTennis-v0", "GlassSprites-v0", "GlassArm-v0", "GlassMouse-v0", "Glass-v0"} | real
    assert {name.partition("/")[0] for name in named} == ids
    for name in (name for name in named if name.startswith("Glass-v0")):
        obs_type = name.partition("/")[2] or DEFAULT_OBSERVATION[algorithm]
        settings = hyperparameters("Glass-v0", algorithm, obs_type)
        kwargs = settings["env_kwargs"] | {"obs_type": obs_type, "checkpoint": tiny_world}
        if "frame_size" in kwargs:
            kwargs["frame_size"] = (16, 24)
        env = make_env("Glass-v0", 2, 0, settings.get("env_wrapper"), **kwargs)
        off_policy = {"buffer_size": 100} if algorithm == "dqn" else {}
        assert make_model(algorithm, settings | off_policy, env)


def test_a_learning_rate_falls_linearly():
    assert [schedule("lin_0.004")(left) for left in (1, 0.5, 0)] == [0.004, 0.002, 0]
    assert schedule(0.1) == 0.1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hyperparameters("Nowhere-v0", "ppo", "frame"), "no entry 'Nowhere-v0'; there are: GlassTennis-v0"),
        (lambda: hyperparameters("GlassTennis-v0", "dqn", "dict"), "no entry 'GlassTennis-v0/dict'; there are: Gl"),
        (lambda: checked({"n_timesteps": 5, "policy_kwargs": "exit()"}), r"policy_kwargs must be .* got 'exit\(\)'"),
        (lambda: checked({"n_timesteps": 5, "policy_kwargs": "dict(a=exit())"}), r"got 'dict\(a=exit\(\)\)'"),
        (lambda: changes_of(["n_steps"]), "expected key:value, got 'n_steps'"),
        (lambda: changes_of(["net:[1, "]), "the value of net is not YAML"),
        (lambda: schedule("exp_3"), "a schedule is a number or lin_NUMBER, got 'exp_3'"),
        (lambda: make_env("Nowhere-v0", 1), "no environment called 'Nowhere-v0'; there are: Glass-v0"),
        (lambda: checked({"n_timesteps": 5, "env_wrapper": ["np"]}), "env_wrapper must be a list of .*got .'np'"),
        (lambda: checked({"n_timesteps": 5, "env_wrapper": 5}), "env_wrapper must be a list of .*got 5"),
        (lambda: checked({"n_timesteps": 5, "env_kwargs": [1]}), r"env_kwargs must be a table, got \[1\]"),
        (lambda: checked({"n_timesteps": 0.5}), "n_timesteps must be an integer of at least 1, got 0.5"),
        (lambda: checked({"n_timesteps": 5, "n_envs": "many"}), "n_envs must be an integer of at least 1, got 'many'"),
        (lambda: checked({"n_envs": 5}), "n_timesteps is missing"),
        (lambda: checked({"n_timesteps": 5, 3: 4}), "must be text, got 3"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said(call, message):
    with pytest.raises(AgentError, match=message):
        call()


@pytest.mark.parametrize(
    "text",
    [
        b"", b"[1, 2]", b"word", b"5", b"5: {ppo: 3}", b"Glass-v0:", b"Glass-v0: 5", b"Glass-v0: {n_envs: 4}",
        bytes(range(256)),
        b"[" * 5000,
        b"a: &a [*a]", b"Glass-v0: !!python/object/apply:os.system ['true']", b"#" * (2 << 20),
    ],
)  # fmt: skip
def test_an_odd_file_of_hyperparameters_is_named(text, tmp_path):
    (tmp_path / "odd.yml").write_bytes(text)
    with pytest.raises(AgentError, match=r"odd\.yml|n_timesteps is missing"):
        hyperparameters("Glass-v0", "ppo", "frame", file=tmp_path / "odd.yml")


@pytest.mark.parametrize("option", ["--n-envs=0", "-n=-5", "--eval-episodes=0", "--seed=-1", "--save-minutes=nan"])
def test_options_out_of_range_are_refused_first(option, capsys):
    with pytest.raises(SystemExit):
        train.main([option])
    assert "argument" in capsys.readouterr().err


def test_the_best_policy_is_remembered_over_a_resume(world, tmp_path):
    settings = ["-params", "n_steps:8", "batch_size:16", "n_epochs:1"]
    assert train.main(command(world, tmp_path, "-n", "64", "--eval-freq", "32", *settings)) == 0
    folder = tmp_path / "logs" / "ppo" / "Glass-v0_1"
    told = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
    told["best_mean_reward"] = 1e9
    (folder / "progress.json").write_text(json.dumps(told), encoding="utf-8")
    best = (folder / "best_model.zip").read_bytes()
    assert train.main(command(world, tmp_path, "-n", "128", "--eval-freq", "32", "--resume", *settings)) == 0
    assert (folder / "best_model.zip").read_bytes() == best
    (folder / "progress.json").write_text("", encoding="utf-8")  # only told: nothing depends on it
    assert train.main(command(world, tmp_path, "-n", "128", "--resume")) == 0


def test_commands_name_what_is_missing(world, tmp_path, capsys):
    assert train.main(command(world, tmp_path, "--resume")) == 1
    assert "no run of Glass-v0 with a last.zip to resume" in capsys.readouterr().err
    (tmp_path / "bad.zip").write_bytes(b"nonsense")
    assert train.main(command(world, tmp_path, "-i", str(tmp_path / "bad.zip"))) == 1
    assert "bad.zip: not a ppo model" in capsys.readouterr().err
    assert train.main(command(world, tmp_path, "-params", "clip_rang:0.1")) == 1
    assert "does not take these hyperparameters" in capsys.readouterr().err
    assert enjoy.main(["--env", "Glass-v0", "-f", str(tmp_path / "none")]) == 1
    assert "no policy of ppo for Glass-v0" in capsys.readouterr().err
    assert enjoy.main(["--env", "GlassTenis-v0", "--no-render"]) == 1
    assert "no environment called 'GlassTenis-v0'; there are: Glass-v0, GlassArm-v0" in capsys.readouterr().err


def test_it_is_told_early_how_long_the_rest_takes(world, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("glass_gym.tools.time_left.MEASURED", 0.0)
    assert train.main(command(world, tmp_path, "-n", "64", "--eval-freq", "-1")) == 0
    told = re.findall(r"([\d,]+) steps a second on this machine: the other (\d+) take about", capsys.readouterr().out)
    assert len(told) == 1 and int(told[0][1]) >= 32


BARE = """
import sys
from importlib import import_module
extras = "stable_baselines3 scipy yaml rich tensorboard pygame matplotlib ale_py"
sys.modules.update(dict.fromkeys(extras.split()))  # as if none were installed
for name in ("train", "enjoy", "transfer", "plan", "ppo_torch"):
    command = import_module(f"agents.{name}").main
    try:
        command(["--help"])
    except SystemExit:
        pass
    print(f"status {command([])}")
"""


def test_commands_say_which_extra_they_need(tmp_path):
    root = str(HYPERPARAMETERS.parents[1])
    done = subprocess.run(
        [sys.executable, "-c", BARE],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": root},
    )
    assert done.returncode == 0 and done.stdout.count("It needs Stable-Baselines3: pip install -e '.[agents]'") == 5
    assert len(re.findall("status [12]", done.stdout)) == 5
    errors = done.stderr.splitlines()
    assert len(errors) == 5 and all("[agents]'" in line for line in errors), errors


# --- the one-file PPO ------------------------------------------------------------------------------------------


def test_advantages_by_hand():
    zeros = torch.zeros(3, 1)
    rollout = ppo_torch.Rollout(
        zeros, zeros, zeros, values=torch.tensor([[1.0], [2.0], [3.0]]), rewards=torch.tensor([[1.0], [0.0], [2.0]]),
        ends=torch.tensor([[0.0], [1.0], [0.0]]),
    )  # fmt: skip
    out = ppo_torch.advantages(rollout, torch.tensor([4.0]), gamma=0.5, lam=0.5)
    # step 2: 2 + 0.5 * 4 - 3 = 1; step 1 ends: 0 - 2 = -2; step 0: 1 + 0.5 * 2 - 1 + 0.25 * (-2) = 0.5
    assert out[:, 0].tolist() == [0.5, -2.0, 1.0]


def test_an_update_makes_good_actions_likelier(tiny_world):
    import gymnasium as gym

    torch.manual_seed(0)
    settings = ppo_torch.Settings(n_envs=2, n_steps=8, batch_size=16, n_epochs=20, ent_coef=0.0, learning_rate=3e-3)
    env = gym.make_vec("Glass-v0", num_envs=2, checkpoint=tiny_world, output="torch")
    observation, _ = env.reset(seed=0)
    policy, _ = ppo_torch.make_policy(env, settings.learning_rate, "cpu")
    rollout = ppo_torch.Rollout.empty(settings, observation)
    ppo_torch.collect(env, policy, rollout, observation, settings)
    good = (rollout.actions[..., 0] >= 5).float()
    advantage = good - good.mean()

    def chance():
        with torch.no_grad():
            frames = ppo_torch.channels_first(rollout.observations.flatten(0, 1))
            log_prob = policy.evaluate_actions(frames, rollout.actions.flatten(0, 1))[1]
        return (log_prob.exp() * good.flatten()).sum().item()

    before = chance()
    ppo_torch.update(policy, torch.optim.Adam(policy.parameters(), 3e-3), rollout, advantage, settings)
    assert chance() > 1.1 * before


def test_the_one_file_ppo_trains_and_its_policy_is_like_any_other(tiny_world, tmp_path):
    import gymnasium as gym

    gym.register("Tiny-v0", entry_point="glass_gym.env.env:GlassEnv", kwargs={"checkpoint": tiny_world},
                 vector_entry_point="glass_gym.env.vector_env:GlassVectorEnv", max_episode_steps=6)  # fmt: skip
    try:
        small = "--frame-size 16 24 --n-envs 4 --n-steps 8 --batch-size 16 --final-episodes 4 --device cpu"
        assert ppo_torch.main(["--env", "Tiny-v0", "-n", "64", *small.split(), "--out", str(tmp_path)]) == 0
    finally:
        gym.registry.pop("Tiny-v0")
    assert json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"))["policies"]["policy"]["episodes"] == 4
    policy = load_policy(tmp_path / "policy.safetensors")
    assert tuple(policy.model.observation_space.shape) == (3, 16, 24)
    assert np.array_equal(policy.model.action_space.nvec, [9, 3])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_rl_zoo_understands_our_files_as_they_are(algorithm):
    import gymnasium as gym
    import yaml

    from glass_gym.sb3 import GlassExtractor

    settings = yaml.safe_load((HYPERPARAMETERS / f"{algorithm}.yml").read_text(encoding="utf-8"))["GlassTennis-v0"]
    assert eval(settings["policy_kwargs"])["features_extractor_class"] is GlassExtractor  # as RL Zoo does
    env = gym.make("GlassTennis-v0", **settings["env_kwargs"])
    for name in settings.get("env_wrapper", []):
        module, _, kind = name.rpartition(".")
        env = getattr(__import__(module, fromlist=[kind]), kind)(env)
    assert env.reset(seed=0) and type(settings["n_envs"]) is type(settings["n_timesteps"]) is int


def test_what_rl_zoo_evaluates_is_only_read():
    text = "dict(features_extractor_class=__import__('a').b.GlassExtractor, net_arch=[64, 64], activation_fn=nn.ReLU)"
    kwargs = {"features_extractor_class": "GlassExtractor", "net_arch": [64, 64], "activation_fn": "ReLU"}
    assert checked({"n_timesteps": 5, "policy_kwargs": text})["policy_kwargs"] == kwargs
