"""What nobody means to pass: a clear answer each, before anything is taken or lost."""

import copy
import subprocess
import sys
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch

from glass_gym.env.env import GlassEnv
from glass_gym.env.vector_env import GlassVectorEnv
from glass_gym.model.glass import build_glass
from glass_gym.simulator.simulator import NoAgentError
from glass_gym.tensors.device import pick_device, pick_precision
from glass_gym.worlds.checkpoint import CheckpointError, bundled
from tests.conftest import world_of


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_envs": 10**9}, "num_envs is 1000000000: a row of this world takes .* MB at least, all of them .* GB"),
        ({"num_envs": 2.0}, r"num_envs must be an integer of at least 1, got 2\.0"),
        ({"max_episode_steps": 1e30}, "max_episode_steps must be an integer of at least 1, or None, got 1e\\+30"),
        ({"max_episode_steps": True}, "max_episode_steps must be an int"),
        ({"max_episode_steps": "5"}, "max_episode_steps must be an integer .*got '5'"),
        ({"device": "tpu"}, "device must be 'auto', 'cpu', 'cuda', 'cuda:i' or 'mps', got 'tpu'"),
        ({"device": "meta"}, "device must be 'auto'"),
        ({"device": None}, "device must be 'auto'.*got None"),
        ({"frame_size": 84}, r"frame_size must be \(height, width\) in whole px, such as \(48, 80\), got 84"),
        ({"frame_size": (0, 0)}, "frame_size must lie between 8x8"),
        ({"frame_size": "84"}, "frame_size must be"),
        ({"shift_scale": None}, "shift_scale must be a positive number, got None"),
        ({"shift_scale": []}, "shift_scale must be a positive number"),
        ({"shift_scale": 1e300}, r"shift_scale 1e\+300 is too large"),
        ({"shift_scale": 10**400}, "shift_scale must be a positive number"),
        ({"draw_target": "False"}, "draw_target must be True or False, got 'False'"),
        ({"channels_first": "x"}, "channels_first must be True or False, got 'x'"),
        ({"stagger": 1}, "stagger must be True or False, got 1"),
        ({"terminate_on_arrival": None}, "terminate_on_arrival must be True or False, got None"),
        ({"obs_type": np.array([8, 8])}, r"obs_type must be one of 'frame', 'position', 'dict', got array\(\[8, 8\]\)"),
        ({"reward": np.array([8, 8])}, "reward must be one of 'dense', 'sparse', got array"),
        ({"output": np.array([8, 8])}, "output must be one of 'numpy', 'torch', got array"),
        ({"precision": np.array([8, 8])}, "precision must be one of auto, float32, bfloat16, got array"),
        ({"shifts": {}}, "shifts must be a list of finite"),
        ({"shifts": [["a", "b"]]}, "shifts must be a list of finite"),
        ({"task": []}, r"task must be one of .*got \[\]"),
        ({"target_radius": "far"}, "target_radius must be a positive number of px, got 'far'"),
        ({"target_radius": -(2**70)}, "target_radius must be a positive number of px, got -1180591620717411303424"),
        ({"target_margin": float("nan")}, "target_margin must be at least 0 px, got nan"),
        ({"target": "there"}, r"target must be \(x, y\) in px, or one a row, got 'there'"),
    ],
)
def test_an_argument_that_no_environment_can_have(kwargs, message, tiny_world):
    with pytest.raises(ValueError, match=message):
        GlassVectorEnv(tiny_world, **{"num_envs": 2} | kwargs)


@pytest.mark.parametrize(
    "kwargs",
    [{"shift_scale": np.float64(1)}, {"shift_scale": np.int64(3)}, {"shift_scale": 1e30}, {"target_radius": 2**70},
     {"draw_target": np.bool_(False)}, {"shifts": [[1e30, 0], [0, 0]]}],
)  # fmt: skip
def test_odd_numbers_that_can_be_used(kwargs, tiny_world):
    env = GlassEnv(tiny_world, obs_type="dict", **kwargs)
    env.reset(seed=0)
    observation, reward, _, _, info = env.step([1, 0])
    assert env.shifts.dtype == np.float32 and observation in env.observation_space
    assert np.isfinite(reward) and np.isfinite(info["distance"])


def test_a_macs_gpu_is_taken_where_torch_has_it(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device("mps") == torch.device("mps")
    assert pick_precision("auto", torch.device("mps")) == torch.float32
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device 'mps' is not there: this torch sees no Apple GPU; use 'cpu' or"):
        pick_device("mps")


@pytest.mark.parametrize("make", [gym.make, gym.make_vec])
def test_a_world_of_ones_own_needs_its_file(make):
    with pytest.raises(CheckpointError, match=r"checkpoint is missing, expected a world's file, or one of: .*tennis"):
        make("Glass-v0")


@pytest.mark.parametrize("seed", [2.5, "a", [1.5, 2], [1], {}])
def test_a_seed_that_is_none(seed, tiny_world):
    with pytest.raises(ValueError, match="seed must be an int, or 2 ints or None"):
        GlassVectorEnv(tiny_world, 2).reset(seed=seed)


def test_numpy_integers_are_seeds(tiny_world):
    envs = GlassVectorEnv(tiny_world, 2, obs_type="position")
    first = envs.reset(seed=np.int64(3))[0]
    assert np.array_equal(first, envs.reset(seed=[np.int32(3), np.uint8(4)])[0])


@pytest.mark.parametrize("action", [0, [0], [0, 0, 0], [[0, 0]], None, "ab"])
def test_a_single_action_names_its_shape(action, tiny_world):
    env = GlassEnv(tiny_world)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"integers of shape \(2,\), got shape"):
        env.step(action)


def test_an_autoreset_mode_for_gymnasiums_own_vectors_goes_elsewhere():
    with pytest.raises(TypeError, match="vector_kwargs="):
        gym.make_vec("GlassTennis-v0", num_envs=2, vectorization_mode="sync", autoreset_mode="SameStep")


def test_a_foreign_id_is_no_world_for_sb3():
    sb3 = pytest.importorskip("glass_gym.sb3")
    with pytest.raises(TypeError, match="CartPole-v1 is not a glass_gym world"):
        sb3.GlassVecEnv("CartPole-v1")


@pytest.mark.parametrize("world", sorted(bundled()))
def test_noise_holds_no_agent(world):
    env = GlassEnv(world)
    rng = np.random.default_rng(0)
    env.reset(seed=0, options={"start_frame": env.core.world.start_frames[3]})
    for top in (256, 80):
        noise = rng.integers(0, top, env.core.world.start_frames[0].shape).astype(np.uint8)
        with pytest.raises(NoAgentError, match="no agent found in start picture 0"):
            env.reset(options={"start_frame": noise})


def test_a_state_that_no_episode_comes_to_is_refused(any_world):
    envs = GlassVectorEnv(any_world, 3)
    envs.reset(seed=0)
    good = envs.state()
    nan = torch.full_like(good.position, torch.nan)
    for odd, message in (
        (replace(good, position=nan), "not finite"),
        (replace(good, task={"target": nan}), "not finite"),
        (replace(good, world=replace(good.world, position=good.position + 1e30)), "far outside the frame"),
        (replace(good, steps=good.steps - 9), "negative counts"),
        (replace(good, steps=good.steps.float()), "sizes or types differ"),
        (replace(good, steps=good.steps[:1]), r"parts of the state have \[1, 3\] rows"),
        (replace(good, origin=good.origin + 1), "of another world"),
        ({"position": 3}, "a state is what state"),
    ):
        with pytest.raises(ValueError, match=message):
            envs.set_state(odd)
    envs.set_state(good)


def test_a_state_of_another_world_of_equal_sizes_is_refused(tiny_config):
    worlds = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        worlds.append(world_of(build_glass(tiny_config).eval()))
    one, other = (GlassEnv(world) for world in worlds)
    one.reset(seed=0)
    other.reset(seed=0)
    with pytest.raises(ValueError, match="another world"):
        other.set_state(one.state())
    again = GlassEnv(copy.deepcopy(worlds[0]))
    again.reset(seed=5)
    again.set_state(one.state())


FORKS = """
import gymnasium as gym, glass_gym, torch
torch.set_num_threads(2)
env = gym.make("GlassTennis-v0", obs_type="position")
env.reset(seed=0)
env.step(env.action_space.sample())  # the threads are there now
envs = gym.make_vec("GlassTennis-v0", num_envs=2, vectorization_mode="async", obs_type="position")
envs.reset(seed=0)
envs.step(envs.action_space.sample())
envs.close()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_used_world_may_be_forked():
    subprocess.run([sys.executable, "-c", FORKS], check=True, timeout=120)
