import subprocess
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

import glass_gym
from glass_gym.checkpoint import bundled
from glass_gym.env import GlassEnv
from glass_gym.simulator import Simulator
from glass_gym.vector_env import GlassVectorEnv, stretch

needs_tennis = pytest.mark.skipif("tennis" not in bundled(), reason="no bundled Tennis world")


@pytest.mark.parametrize("obs_type", ["frame", "position", "dict"])
def test_the_environment_passes_gymnasiums_checker_with_warnings_as_errors(tiny_world, obs_type):
    env = gym.make("Glass-v0", checkpoint=tiny_world, obs_type=obs_type, render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)


@needs_tennis
def test_the_bundled_tennis_world_passes_the_checker_and_plays():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make("GlassTennis-v0").unwrapped)
    env = gym.make("GlassTennis-v0", render_mode="rgb_array")
    frame, info = env.reset(seed=1)
    assert frame.shape == (96, 160, 3) and env.render().shape == (96, 256, 3)
    assert env.action_space == gym.spaces.MultiDiscrete([9, 4]) and info["agent_present"]


def test_equal_seeds_give_equal_frames(tiny_world):
    def rollout():
        env = GlassEnv(tiny_world)
        frames = [env.reset(seed=7)[0]]
        env.action_space.seed(7)
        frames += [env.step(env.action_space.sample())[0] for _ in range(5)]
        return np.stack(frames)

    assert np.array_equal(rollout(), rollout())


def test_row_zero_does_not_depend_on_the_number_of_rows(tiny_world):
    one, many = GlassVectorEnv(tiny_world, 1), GlassVectorEnv(tiny_world, 6)
    a, _ = one.reset(seed=3)
    b, _ = many.reset(seed=3)
    for _ in range(5):
        assert np.abs(a[0].astype(int) - b[0].astype(int)).max() <= 2
        a, b = one.step(np.array([[1, 1]]))[0], many.step(np.tile([1, 1], (6, 1)))[0]


def test_next_step_autoreset_returns_the_reset_frame_with_reward_zero(tiny_world):
    envs = GlassVectorEnv(tiny_world, 2, max_episode_steps=2, target_radius=0.01)
    envs.reset(seed=0)
    stay = np.zeros((2, 2), int)
    assert envs.step(stay)[3].tolist() == [False, False]
    assert envs.step(stay)[3].tolist() == [True, True]
    _, reward, terminated, truncated, info = envs.step(stay + 1)
    assert reward.tolist() == [0, 0] and not terminated.any() and not truncated.any()
    assert info["commanded_shift"].tolist() == [[0, 0], [0, 0]]
    assert envs.step(stay)[3].tolist() == [False, False]
    assert envs.step(stay)[3].tolist() == [True, True]


def test_walking_right_moves_the_position_by_the_commanded_pixels(tiny_world):
    env = GlassEnv(tiny_world, obs_type="position", target_radius=0.01)
    env.reset(seed=0, options={"start_frame": 0})
    env.core.state.position[:] = torch.tensor([20.0, 16.0])
    before = env.core.infos()["agent_position"][0]
    after, *_, info = env.step(np.array([1, 0]))
    assert np.allclose(after[:2] - before, [3, 0], atol=1e-4) and info["commanded_shift"].tolist() == [3, 0]


def test_arrival_ends_the_episode_with_success(tiny_world):
    env = GlassEnv(tiny_world, target_radius=4.0)
    _, info = env.reset(seed=0)
    _, _ = env.reset(options={"start_frame": 0, "target": info["agent_position"].clip(0, [48, 32])})
    target = env.core.infos()["agent_position"][0].clip(0, [48, 32])
    env.reset(options={"start_frame": 0, "target": target})
    *_, terminated, _, info = env.step(np.array([0, 0]))
    assert terminated and info["is_success"] and info["distance"] < 4.0


def test_the_agent_never_leaves_the_frame(tiny_world):
    envs = GlassVectorEnv(tiny_world, 4, target_radius=0.01)
    envs.reset(seed=0)
    for _ in range(40):
        envs.step(np.tile([1, 0], (4, 1)))
    radius = tiny_world.config.agent_radius
    assert (envs.core.state.position[:, 0] <= 48 - radius).all()


def test_ids_are_registered_for_make_and_make_vec(tiny_world):
    envs = gym.make_vec("Glass-v0", num_envs=3, checkpoint=tiny_world)
    assert isinstance(envs, GlassVectorEnv) and envs.max_episode_steps == 100
    assert envs.metadata["autoreset_mode"] == gym.vector.AutoresetMode.NEXT_STEP
    assert {"GlassTennis-v0", "Glass-v0"} <= set(gym.registry)
    assert glass_gym.__version__


@pytest.mark.parametrize(
    ("action", "words"),
    [([9, 0], "must lie in"), ([0.5, 0], "must be integers"), ([0], "of shape"), ([-1, 0], "must lie in")],
)
def test_a_wrong_action_is_named(tiny_world, action, words):
    env = GlassEnv(tiny_world)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=words):
        env.step(np.array(action))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"begin": 1}, "unknown reset options"),
        ({"start_frame": 400}, "not in 0..39"),
        ({"start_frame": np.zeros((3, 3, 3), np.uint8)}, "must be an index or a uint8 picture"),
        ({"target": (500, 3)}, "target must be"),
        ({"target": (np.nan, 3)}, "target must be"),
    ],
)
def test_a_wrong_option_is_named(tiny_world, options, words):
    with pytest.raises(ValueError, match=words):
        GlassEnv(tiny_world).reset(options=options)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"obs_type": "sound"}, "obs_type"), ({"shifts": "diagonal"}, "no shift table"), ({"reward": "huge"}, "reward"),
        ({"shift_scale": -1.0}, "shift_scale"), ({"shifts": [[np.inf, 0]]}, "finite"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_named(tiny_world, kwargs, words):
    with pytest.raises(ValueError, match=words):
        GlassEnv(tiny_world, **kwargs)


def test_a_step_before_reset_says_so(tiny_world):
    with pytest.raises(gym.error.ResetNeeded):
        GlassEnv(tiny_world).step(np.array([0, 0]))


def test_zero_environments_are_refused(tiny_world):
    with pytest.raises(ValueError, match="num_envs must be at least 1"):
        GlassVectorEnv(tiny_world, 0)


def test_the_pixel_aspect_widens_what_is_shown_only():
    frame = np.arange(10, dtype=np.uint8)[None, :, None].repeat(3, 2)
    assert stretch(frame, 1.6)[0, :, 0].tolist() == [0, 0, 1, 1, 2, 3, 3, 4, 5, 5, 6, 6, 7, 8, 8, 9]


def test_states_copy_any_rows_into_any_rows(tiny_world):
    simulator = Simulator(tiny_world.model)
    state = simulator.start(torch.from_numpy(tiny_world.start_frames[:4]))
    other = state.write(torch.tensor([0, 1]), state.rows(torch.tensor([3, 2])))
    assert torch.equal(other.position[:2], state.position[[3, 2]]) and torch.equal(other.layer[2:], state.layer[2:])


def test_a_start_frame_of_another_size_is_refused(tiny_world):
    with pytest.raises(ValueError, match=r"start frames must be uint8 \(B, 32, 48, 3\)"):
        Simulator(tiny_world.model).start(torch.zeros(1, 30, 48, 3, dtype=torch.uint8))


def test_importing_the_package_stays_light():
    code = "import sys, glass_gym; print([m for m in ('torch', 'pygame', 'stable_baselines3') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
