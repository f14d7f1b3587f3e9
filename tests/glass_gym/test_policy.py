"""Policies as files without pickle: what is written is read again, and nothing else is."""

import json
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("stable_baselines3")

from stable_baselines3 import DQN, PPO, HerReplayBuffer

from glass_gym.env.env import GlassEnv
from glass_gym.policy import Policy, PolicyError, load_policy, policy_header, save_policy
from glass_gym.sb3 import GlassExtractor, GlassVecEnv, KeypointCNN
from glass_gym.wrappers import vector

KEYPOINTS = {"policy_kwargs": {"features_extractor_class": GlassExtractor, "net_arch": [16]}}
MODELS = {
    "ppo frame": ("ppo", PPO, "CnnPolicy", {"frame_size": (16, 24)}, KEYPOINTS | {"n_steps": 4, "batch_size": 8}),
    "ppo position": ("ppo", PPO, "MlpPolicy", {"obs_type": "position"}, KEYPOINTS | {"n_steps": 4, "batch_size": 8}),
    "ppo dict": ("ppo", PPO, "MultiInputPolicy", {"obs_type": "dict"}, KEYPOINTS | {"n_steps": 4, "batch_size": 8}),
    "ppo own networks": ("ppo", PPO, "MlpPolicy", {"obs_type": "position"},
                         {"policy_kwargs": {"net_arch": {"pi": [8], "vf": [4]}, "activation_fn": torch.nn.ELU},
                          "n_steps": 4, "batch_size": 8}),
    "her": ("dqn", DQN, "MultiInputPolicy",
            {"obs_type": "position", "wrappers": [vector.FlattenAction, vector.GoalObservation]},
            KEYPOINTS | {"replay_buffer_class": HerReplayBuffer, "buffer_size": 100}),
}  # fmt: skip


def build(tiny_world, name):
    algorithm, kind, policy, env, settings = MODELS[name]
    model = kind(policy, GlassVecEnv("Glass-v0", 2, checkpoint=tiny_world, **env), seed=0, **settings)
    return algorithm, model


@pytest.mark.parametrize("name", MODELS)
def test_a_policy_comes_back_from_its_file_and_acts_as_before(tiny_world, tmp_path, name):
    algorithm, model = build(tiny_world, name)
    path = save_policy(tmp_path / "policy.safetensors", model, algorithm, {"by": "test"})
    env = GlassEnv(tiny_world)
    model.save(tmp_path / "model.zip")
    read, kept = load_policy(path, core=env.core), Policy(model)
    unzipped = load_policy(tmp_path / "model.zip", algorithm, env.core)
    assert policy_header(path)["provenance"] == {"by": "test"}
    for seed in range(5):
        env.reset(seed=seed)
        assert read.act(env.core).tolist() == kept.act(env.core).tolist() == unzipped.act(env.core).tolist()


def test_a_policy_acts_in_all_rows_and_forgets_those_that_begin(tiny_world):
    env = GlassVecEnv("Glass-v0", 3, checkpoint=tiny_world)
    env.reset()
    core = env.env.unwrapped.core
    seen = []

    def predict(observation, deterministic):
        seen.append(observation.copy())
        return np.zeros((3, 2), int), None

    space = SimpleNamespace(shape=(6, 32, 48))  # two frames
    policy = Policy(SimpleNamespace(predict=predict, observation_space=space, action_space=core.action_space))
    for _ in range(2):
        assert policy.act(core).shape == (3, 2)
    policy.begin(np.array([False, True, False]))
    policy.act(core)
    first, second, third = seen
    assert not first[:, :3].any() and second[:, :3].any()  # nothing came before the first frame
    assert third[0, :3].any() and not third[1, :3].any()


def test_shared_parts_are_written_once(tiny_world, tmp_path):
    _, model = build(tiny_world, "ppo frame")
    keys = load_file(save_policy(tmp_path / "policy.safetensors", model, "ppo"))
    assert any(key.startswith("features_extractor.") for key in keys)
    assert not any(key.startswith(("pi_features", "vf_features")) for key in keys)


def altered(path, **changes):
    header = policy_header(path) | changes
    save_file(load_file(path), path, metadata={"glass_policy": json.dumps(header)})
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 99}, "format 99, this glass_gym reads 1; upgrade"),
        ({"algorithm": "td3"}, "its algorithm is 'td3'; there are: ppo"),
        ({"policy": "os.system"}, "its policy is called 'os.system'; there are: MlpPolicy"),
        ({"arguments": {"optimizer_class": {"class": "SGD"}}}, "its policy arguments are"),
        ({"arguments": {"features_extractor_class": {"class": "Popen"}}}, "it names the class 'Popen'"),
        ({"arguments": {"net_arch": [10**9]}}, "a size of 1000000000 in its policy arguments is more than 4096"),
        ({"arguments": {"net_arch": [8] * 100}}, "nested too deep or too long"),
        ({"arguments": {"net_arch": [8]}}, "weights do not fit|size mismatch"),
        ({"arguments": {"net_arch": [4096] * 32}}, "ask for about 520.* weights, more than the file holds"),
        ({"arguments": {"net_arch": {"pi": [4096, 4096], "vf": []}}}, "more than the file holds"),
        ({"arguments": {"lstm_hidden_size": 16}}, "its policy arguments are"),
        ({"arguments": []}, "arguments is .*object"),
        ({"policy": 5}, "policy is 5: .*string"),
        ({"provenance": {"x": float("nan")}}, "provenance holds nan"),
        ({"action_space": {"kind": "multidiscrete", "nvec": [10**9]}}, "its space is"),
        ({"observation_space": {"kind": "box", "shape": [9**9], "low": 0, "high": 1, "dtype": "float32"}}, "boxes of"),
    ],
)  # fmt: skip
def test_a_hostile_or_damaged_file_is_named(tiny_world, tmp_path, changes, message):
    _, model = build(tiny_world, "ppo position")
    path = altered(save_policy(tmp_path / "policy.safetensors", model, "ppo"), **changes)
    with pytest.raises(PolicyError, match=f"policy.safetensors: .*({message})"):
        load_policy(path)


def test_files_that_are_no_policies(tmp_path):
    (tmp_path / "cut.safetensors").write_bytes(b"\x10")
    with pytest.raises(PolicyError, match=r"cut\.safetensors: not a whole \.safetensors file"):
        load_policy(tmp_path / "cut.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(PolicyError, match="but no policy"):
        load_policy(tmp_path / "foreign.safetensors")


def test_what_a_file_cannot_name_is_said_when_writing(tiny_world, tmp_path):
    class Own(GlassExtractor):
        pass

    env = GlassVecEnv("Glass-v0", 2, checkpoint=tiny_world)
    model = PPO("CnnPolicy", env, n_steps=4, batch_size=8, policy_kwargs={"features_extractor_class": Own})
    with pytest.raises(PolicyError, match="features_extractor_class=Own cannot be written"):
        save_policy(tmp_path / "policy.safetensors", model, "ppo")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("size", "maps"), [((24, 40), (12, 20)), ((48, 80), (12, 20)), ((32, 48), (16, 24)), ((34, 48), (9, 12))]
)
def test_maps_of_small_frames_have_half_of_their_size(size, maps):
    net = KeypointCNN(gym.spaces.Box(0, 255, (3, *size), np.uint8), channels=4)
    frames = torch.rand(2, 3, *size)
    assert net.maps(frames).shape == (2, 4, *maps)
    assert net(frames).shape == (2, 8) and net(frames).abs().max() <= 1


def test_a_keypoint_is_where_the_bright_spot_is(tiny_world):
    net = KeypointCNN(GlassVecEnv("Glass-v0", 1, checkpoint=tiny_world).observation_space, channels=2)
    maps = torch.full((1, 2, 16, 24), -50.0)
    maps[0, 0, 0, 0] = maps[0, 1, 15, 23] = 50.0  # top left, bottom right
    net.maps = torch.nn.Identity()
    net.sharpness.data.fill_(10.0)
    assert net(maps)[0].tolist() == pytest.approx([-1, -1, 1, 1], abs=1e-5)


def test_positions_are_scaled_to_the_frame(tiny_world):
    env = GlassVecEnv("Glass-v0", 1, checkpoint=tiny_world, obs_type="position")  # the frame is 48 x 32 px
    features = GlassExtractor(env.observation_space)(torch.tensor([[0.0, 32.0, 48.0, 16.0]]))
    assert features[0].tolist() == pytest.approx([-1, 1, 1, 0], abs=1e-6)
