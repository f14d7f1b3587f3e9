"""GlassVecEnv: the conventions of Stable-Baselines3, checked by hand, and short trainings."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded

sb3 = pytest.importorskip("stable_baselines3")

from stable_baselines3 import A2C, DQN, PPO, HerReplayBuffer  # noqa: E402
from stable_baselines3.common.vec_env import VecFrameStack, VecMonitor, VecVideoRecorder  # noqa: E402

from glass_gym.env.env import GlassEnv  # noqa: E402
from glass_gym.policy import Policy, PolicyError, load_policy, save_policy  # noqa: E402
from glass_gym.sb3 import DeviceRolloutBuffer, GlassVecEnv  # noqa: E402
from glass_gym.wrappers import vector  # noqa: E402

SMALL = {"n_steps": 8, "batch_size": 16, "n_epochs": 1}
FREE = {"target_radius": 0.01}


def make(world, rows=2, **kwargs):
    return GlassVecEnv("Glass-v0", rows, checkpoint=world, **{"max_episode_steps": 5, **kwargs})


def test_a_done_row_is_reset_and_its_last_observation_kept(tiny_world):
    env = make(tiny_world, obs_type="dict", seed=10, max_episode_steps=3, **FREE)
    env.reset()
    env.env.unwrapped.core.state.steps[1] = -1
    single = GlassEnv(tiny_world, obs_type="dict", **FREE)
    starts = [single.reset(seed=10)[1]["target"], single.reset()[1]["target"]]
    table = [[False, False], [False, False], [True, False], [False, True], [False, False]]
    for done in table:
        observation, reward, dones, infos = env.step(np.tile([1, 1], (2, 1)))
        assert dones.tolist() == done and reward.dtype == np.float32
        assert [info["TimeLimit.truncated"] for info in infos] == done
        assert ["terminal_observation" in info for info in infos] == done
        if done == [True, False]:
            last = infos[0]["terminal_observation"]
            assert np.allclose(last["position"][2:], starts[0]) and last["frame"].shape == (3, 32, 48)
            assert np.allclose(observation["position"][0, 2:], starts[1])
            assert np.allclose(env.reset_infos[0]["target"], starts[1])
            assert np.allclose(last["position"][:2], infos[0]["agent_position"])
    assert type(infos[0]["is_success"]) is bool and type(infos[0]["distance"]) is float


def test_the_heading_is_in_the_infos(turning_world):
    env = make(turning_world, obs_type="position", **FREE)
    env.reset()
    assert all(type(info["agent_heading"]) is float for info in env.reset_infos)
    _, _, _, infos = env.step(np.zeros((2, 2), int))
    assert all(-np.pi <= info["agent_heading"] < np.pi for info in infos)


def test_arrival_is_no_truncation(tiny_world):
    env = make(tiny_world, target_radius=500.0, max_episode_steps=1)
    env.reset()
    _, _, dones, infos = env.step(np.zeros((2, 2), int))
    assert dones.all() and not infos[0]["TimeLimit.truncated"] and infos[0]["is_success"]


def test_every_step_returns_fresh_arrays(tiny_world):
    env = make(tiny_world)
    first = env.reset()
    kept = first.copy()
    second, reward, *_ = env.step(np.zeros((2, 2), int))
    reward += 100  # SB3 writes into rewards
    _, after, *_ = env.step(np.ones((2, 2), int))
    assert np.array_equal(first, kept) and not np.shares_memory(first, second) and (after < 50).all()
    assert first.shape == (2, 3, 32, 48) and first.flags["C_CONTIGUOUS"]


def test_attributes_and_methods_answer_once_an_index(tiny_world):
    env = make(tiny_world, 3, render_mode="rgb_array")
    env.reset()
    assert env.get_attr("code_names") == [("neutral", "swing", "turn")] * 3 and len(env.get_attr("shifts", [0, 2])) == 2
    assert len(env.get_attr("render_mode", 1)) == 1
    assert env.env_method("set_target", (9.0, 9.0), indices=[0]) == [None]
    env.set_attr("max_episode_steps", 7)
    assert env.get_attr("max_episode_steps", 0) == [7]
    with pytest.raises(ValueError, match="the batch is one environment"):
        env.set_attr("max_episode_steps", 8, indices=[0])
    assert env.env_is_wrapped(vector.FlattenAction) == [False] * 3
    assert make(tiny_world, wrappers=[vector.FlattenAction]).env_is_wrapped(vector.FlattenAction, [0]) == [True]
    assert env.render().shape == (64, 154, 3)  # two by two tiles of 32 x 77


def test_seeds_and_options_hold_for_one_reset(tiny_world):
    env = make(tiny_world, obs_type="position", seed=4)
    first = env.reset()
    assert not np.array_equal(first, env.reset())
    env.seed(4)
    env.set_options({"target": (9.0, 7.0), "start_frame": 2})
    both = env.reset()
    assert both[:, 2:].tolist() == [[9, 7]] * 2 and np.array_equal(both[0, :2], both[1, :2])
    env.set_options([{"target": (9.0, 7.0)}, {"target": (8.0, 6.0)}])
    assert env.reset()[:, 2:].tolist() == [[9, 7], [8, 6]]
    with pytest.raises(ValueError, match="every environment the same options"):
        env.set_options([{"target": (9.0, 7.0)}, {}])
        env.reset()


def test_tensors_stay_tensors(tiny_world):
    env = make(tiny_world, output="torch")
    observation = env.reset()
    assert set(observation) == {"frame"} and isinstance(observation["frame"], torch.Tensor)
    observation, reward, dones, _ = env.step(np.zeros((2, 2), int))
    assert isinstance(observation["frame"], torch.Tensor) and isinstance(reward, np.ndarray)
    assert isinstance(dones, np.ndarray)


def test_the_device_rollout_buffer_gives_what_sb3s_own_gives(tiny_world):
    def train(output, **kwargs):
        env = make(tiny_world, 4, output=output, obs_type="dict", frame_size=None, seed=0)
        return PPO("MultiInputPolicy", env, **SMALL, seed=0, policy_kwargs=cnn(), **kwargs).learn(64)

    device, host = train("torch", rollout_buffer_class=DeviceRolloutBuffer), train("numpy")
    for key, value in device.rollout_buffer.observations.items():
        assert isinstance(value, torch.Tensor)
        assert np.allclose(value.numpy(), host.rollout_buffer.observations[key])
    for a, b in zip(device.policy.parameters(), host.policy.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def cnn():
    """A tiny extractor: SB3's CNN needs 36 px."""
    from stable_baselines3.common.preprocessing import get_flattened_obs_dim
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

    class Flat(BaseFeaturesExtractor):
        def __init__(self, space):
            super().__init__(space, 8)
            self.linear = torch.nn.Linear(get_flattened_obs_dim(space), 8)

        def forward(self, x):
            parts = x.values() if isinstance(x, dict) else [x]
            return self.linear(torch.cat([part.flatten(1) for part in parts], 1))

    return {"features_extractor_class": Flat, "net_arch": [8]}


TRAININGS = {
    "ppo on stacked frames": (PPO, "CnnPolicy", {}, SMALL | {"policy_kwargs": cnn()}),
    "ppo on a dict of tensors": (
        PPO, "MultiInputPolicy", {"output": "torch", "obs_type": "dict"},
        SMALL | {"rollout_buffer_class": DeviceRolloutBuffer, "policy_kwargs": cnn()},
    ),
    "a2c": (A2C, "MlpPolicy", {"obs_type": "position"}, {}),
    "dqn": (DQN, "MlpPolicy", {"obs_type": "position", "wrappers": [vector.FlattenAction]}, {"learning_starts": 20}),
    "her, sparse": (
        DQN, "MultiInputPolicy",
        {"obs_type": "position", "reward": "sparse", "wrappers": [vector.FlattenAction, vector.GoalObservation]},
        {"replay_buffer_class": HerReplayBuffer, "learning_starts": 30},
    ),
    "her, dense": (
        DQN, "MultiInputPolicy",
        {"obs_type": "position", "wrappers": [vector.FlattenAction, vector.GoalObservation]},
        {"replay_buffer_class": HerReplayBuffer, "replay_buffer_kwargs": {"copy_info_dict": True},
         "learning_starts": 30},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TRAININGS)
def test_a_short_training_runs_and_its_policy_acts_in_a_core(tiny_world, name):
    algorithm, policy, kwargs, settings = TRAININGS[name]
    env = VecMonitor(make(tiny_world, 4, **kwargs))
    if "stacked" in name:
        env = VecFrameStack(env, 2)
    if algorithm is DQN:
        settings = settings | {"buffer_size": 500}
    model = algorithm(policy, env, seed=0, **settings).learn(96)
    assert len(model.ep_info_buffer) > 0
    single = GlassEnv(tiny_world)
    single.reset(seed=0)
    acting = Policy(model)
    acting.check(single.core)
    for _ in range(3):
        single.step(acting.act(single.core)[0])


@pytest.mark.filterwarnings("ignore")
def test_videos_are_recorded(tiny_world, tmp_path):
    pytest.importorskip("moviepy")
    env = make(tiny_world, render_mode="rgb_array")
    env = VecVideoRecorder(env, str(tmp_path), lambda step: step == 0, video_length=4)
    env.reset()
    for _ in range(6):
        env.step(np.zeros((2, 2), int))
    env.close()
    assert list(tmp_path.glob("*.mp4"))


def test_a_policy_is_loaded_and_a_wrong_one_named(tiny_world, tmp_path):
    env = make(tiny_world, obs_type="position")
    PPO("MlpPolicy", env, **SMALL).save(tmp_path / "ppo.zip")
    core = GlassEnv(tiny_world).core
    assert load_policy(tmp_path / "ppo.zip", "ppo", core)
    with pytest.raises(PolicyError, match=r"none\.zip: no such policy file"):
        load_policy(tmp_path / "none.zip")
    with pytest.raises(PolicyError, match="no algorithm called 'td3'; there are: ppo, dqn, sac"):
        load_policy(tmp_path / "ppo.zip", "td3")
    (tmp_path / "bad.zip").write_bytes(b"nonsense")
    with pytest.raises(PolicyError, match=r"bad\.zip: not a policy of PPO"):
        load_policy(tmp_path / "bad.zip")
    with pytest.raises(PolicyError, match=r"ppo\.zip: its actions are MultiDiscrete\(\[9 3\]\), the world's"):
        load_policy(tmp_path / "ppo.zip", "ppo", GlassEnv(tiny_world, shifts="axes").core)


def test_actions_that_do_not_start_at_0_are_refused(tiny_world, tmp_path):
    env = make(tiny_world, obs_type="position")
    env.action_space = gym.spaces.MultiDiscrete([9, 3], start=[1, 1])
    model = PPO("MlpPolicy", env, **SMALL)
    with pytest.raises(PolicyError, match=r"its actions are MultiDiscrete\(\[9 3\], start=\[1 1\]\), the world's"):
        Policy(model).check(GlassEnv(tiny_world).core)
    with pytest.raises(PolicyError, match=r"the space MultiDiscrete\(\[9 3\], start=\[1 1\]\) cannot be written"):
        save_policy(tmp_path / "ppo.safetensors", model, "ppo")


def test_what_is_refused_says_why_and_spoils_nothing(pose_world):
    with pytest.raises(TypeError, match="GlassVecEnv takes no autoreset_mode: it resets in the step"):
        make(pose_world, autoreset_mode="SameStep")
    env = make(pose_world, render_mode="rgb_array")
    with pytest.raises(ResetNeeded, match=r"call reset\(\) first"):
        env.get_images()
    for options in ({"nonsense": 1}, [{"target": (9, 9)}, {}]):
        env.set_options(options)
        with pytest.raises(ValueError, match=r"unknown reset options|set_options: give every"):
            env.reset()
        assert env.reset().shape == (2, 3, 32, 48)
    with pytest.raises(IndexError, match=r"indices must lie in 0..1, got \[7\]"):
        env.get_attr("shifts", indices=[7])
    assert [len(state) for state in env.env_method("state", indices=[1])] == [1]
