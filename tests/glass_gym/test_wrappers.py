import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from glass_gym import wrappers
from glass_gym.env.env import GlassEnv
from glass_gym.env.vector_env import GlassVectorEnv
from glass_gym.wrappers import vector


@pytest.fixture
def tiny_world(any_world):
    """Both architectures."""
    return any_world


FREE = {"target_radius": 0.01, "precision": "float32"}


def test_a_flat_action_does_what_the_pair_does(tiny_world):
    flat, pair = wrappers.FlattenAction(GlassEnv(tiny_world, **FREE)), GlassEnv(tiny_world, **FREE)
    assert flat.action_space == gym.spaces.Discrete(27)
    flat.reset(seed=1), pair.reset(seed=1)
    for index, action in [(5, [1, 2]), (0, [0, 0]), (26, [8, 2])]:
        assert np.array_equal(flat.step(index)[0], pair.step(np.array(action))[0])
    with pytest.raises(ValueError, match=r"flat action must lie in 0..26, got 27"):
        flat.step(27)
    assert set(map(type, flat.get_keys_to_action().values())) == {int}
    check_env(flat, skip_render_check=True)


@pytest.mark.parametrize("output", ["numpy", "torch"])
def test_flat_actions_work_a_row(tiny_world, output):
    flat = vector.FlattenAction(GlassVectorEnv(tiny_world, 3, output=output, **FREE))
    pair = GlassVectorEnv(tiny_world, 3, output=output, **FREE)
    flat.reset(seed=1), pair.reset(seed=1)
    indices = np.array([5, 0, 26])
    actions = torch.from_numpy(indices) if output == "torch" else indices
    one, two = flat.step(actions)[0], pair.step(np.array([[1, 2], [0, 0], [8, 2]]))[0]
    assert flat.action_space == gym.spaces.MultiDiscrete([27] * 3) and bool((one == two).all())


@pytest.mark.parametrize("reward", ["dense", "sparse"])
def test_goals_are_positions_and_rewards_can_be_computed_again(tiny_world, reward):
    env = wrappers.GoalObservation(GlassEnv(tiny_world, obs_type="position", reward=reward, target_radius=9.0))
    observation, info = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    assert np.array_equal(observation["observation"], observation["achieved_goal"])
    assert np.array_equal(observation["desired_goal"], info["target"])
    for action in ([1, 0], [7, 1], [5, 2]):
        observation, value, *_, info = env.step(np.array(action))
        again = env.compute_reward(observation["achieved_goal"], observation["desired_goal"], info)
        assert isinstance(again, float) and again == pytest.approx(value, abs=1e-6)
    goals = np.array([observation["achieved_goal"], [0, 0]], np.float32)
    many = env.compute_reward(observation["achieved_goal"], goals, [info, info])
    assert many.shape == (2,) and many[0] >= 1 and many[1] < 1  # the first goal is where it is
    assert not hasattr(env.unwrapped, "compute_reward")
    check_env(env, skip_render_check=True)


def test_a_dense_reward_without_the_previous_position_says_so(tiny_world):
    env = wrappers.GoalObservation(GlassEnv(tiny_world, obs_type="position"))
    with pytest.raises(ValueError, match=r"HerReplayBuffer\(copy_info_dict=True\), or .*reward='sparse'"):
        env.compute_reward(np.zeros(2), np.zeros(2), {})


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("output", ["numpy", "torch"])
def test_goals_work_a_row(tiny_world, mode, output):
    base = GlassVectorEnv(
        tiny_world, 3, 2, autoreset_mode=mode, output=output, obs_type="frame", draw_target=False, **FREE
    )
    envs = vector.GoalObservation(base)
    observation, _ = envs.reset(seed=0)
    assert observation["observation"].shape == (3, 32, 48, 3)
    for _ in range(4):
        observation, reward, _, truncated, info = envs.step(np.tile([1, 1], (3, 1)))
        if mode == AutoresetMode.SAME_STEP and truncated.all():
            last = info["final_obs"][0] if output == "numpy" else {k: v[0] for k, v in info["final_obs"].items()}
            assert bool((last["achieved_goal"] == info["final_info"]["agent_position"][0]).all())
        elif mode == AutoresetMode.SAME_STEP:
            again = envs.compute_reward(observation["achieved_goal"], observation["desired_goal"], info)
            assert np.allclose(again, reward, atol=1e-6)
    assert bool((observation["desired_goal"] == info["target"]).all())


def test_an_observation_that_shows_the_goal_is_refused(tiny_world):
    for kwargs in ({}, {"obs_type": "dict"}):
        with pytest.raises(ValueError, match="must not show the goal"):
            wrappers.GoalObservation(GlassEnv(tiny_world, **kwargs))
        with pytest.raises(ValueError, match="must not show the goal"):
            vector.GoalObservation(GlassVectorEnv(tiny_world, 2, **kwargs))
    with pytest.raises(ValueError, match="needs a goal"):
        wrappers.GoalObservation(GlassEnv(tiny_world, task=None, obs_type="position"))


@pytest.mark.parametrize("obs_type", ["frame", "dict"])
def test_downscaled_frames_are_observed_and_rendering_stays_whole(tiny_world, obs_type):
    env = gym.make("Glass-v0", checkpoint=tiny_world, obs_type=obs_type, render_mode="rgb_array")
    small = wrappers.DownscaleFrame(env, (16, 24))
    observation, _ = small.reset(seed=0)
    frame = observation["frame"] if obs_type == "dict" else observation
    assert frame.shape == (16, 24, 3) and small.observation_space.contains(observation)
    assert small.render().shape == (32, 77, 3)
    assert small.step(np.array([1, 0]))[0] is not None
    envs = vector.DownscaleFrame(GlassVectorEnv(tiny_world, 2, obs_type=obs_type), (16, 24))
    assert envs.observation_space.contains(envs.reset(seed=0)[0])


def test_downscaling_what_is_no_frame_or_above_other_wrappers_is_refused(tiny_world):
    with pytest.raises(ValueError, match="has no frame to downscale"):
        wrappers.DownscaleFrame(GlassEnv(tiny_world, obs_type="position"), (16, 24))
    with pytest.raises(ValueError, match="directly on the environment"):
        wrappers.DownscaleFrame(gym.wrappers.FlattenObservation(GlassEnv(tiny_world)), (16, 24))
    with pytest.raises(TypeError, match="needs a glass_gym environment"):
        wrappers.FlattenAction(gym.make("CartPole-v1"))


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_episodes_are_counted_in_tensors_as_gymnasium_counts_them(tiny_world, mode):
    def play(envs):
        rng = np.random.default_rng(0)
        seen = []
        envs.reset(seed=3)
        for _ in range(25):
            actions = rng.integers(0, [9, 3], (4, 2))
            _, _, terminated, truncated, info = envs.step(actions)
            done = terminated | truncated
            # Gymnasium gives no `episode` where none ended
            episode, over = info.get("episode", {"r": np.zeros(4), "l": np.zeros(4)}), info.get("_episode", done)
            seen.append([np.asarray(x, np.float64) for x in (episode["r"], episode["l"], over)])
            if mode == AutoresetMode.DISABLED and done.any():
                envs.reset(options={"reset_mask": done})
        return np.array(seen)

    kwargs = {"max_episode_steps": 5, "autoreset_mode": mode, "stagger": True, "target_radius": 9.0}
    ours = play(vector.TorchEpisodeStatistics(GlassVectorEnv(tiny_world, 4, output="torch", **kwargs)))
    theirs = play(gym.wrappers.vector.RecordEpisodeStatistics(GlassVectorEnv(tiny_world, 4, **kwargs)))
    assert ours[:, 2].sum() >= 16 and np.allclose(ours, theirs, atol=1e-5)
    assert {*ours[:, 1].flat} > {0.0, 5.0}


def test_a_done_row_that_waits_for_its_reset_is_counted_once(tiny_world):
    kwargs = {"max_episode_steps": 2, "autoreset_mode": AutoresetMode.DISABLED, "output": "torch"}
    envs = vector.TorchEpisodeStatistics(GlassVectorEnv(tiny_world, 2, **kwargs, **FREE))
    envs.reset(seed=0)
    envs.env.core.sync_free = True
    ended = [envs.step(torch.ones(2, 2, dtype=torch.long))[4]["_episode"].all() for _ in range(4)]
    assert ended == [False, True, False, False]
    envs.reset(options={"reset_mask": np.array([True, False])})
    assert envs.episode_lengths.tolist() == [0, 2]


def test_statistics_of_arrays_are_left_to_gymnasium(tiny_world):
    with pytest.raises(ValueError, match=r"output='torch', or use .*\.RecordEpisodeStatistics"):
        vector.TorchEpisodeStatistics(GlassVectorEnv(tiny_world, 2))


@pytest.mark.parametrize("output", ["numpy", "torch"])
def test_rewards_can_be_a_column(tiny_world, output):
    envs = vector.ColumnReward(GlassVectorEnv(tiny_world, 3, output=output))
    envs.reset(seed=0)
    assert envs.step(envs.action_space.sample())[1].shape == (3, 1)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_wrapped_or_not_a_vector_tells_its_autoreset_mode(tiny_world, mode):
    """TorchRL's GymWrapper reads `envs.autoreset_mode`."""
    kwargs = {"output": "torch", "autoreset_mode": mode, "draw_target": False}
    wraps = [vector.FlattenAction, vector.GoalObservation, vector.TorchEpisodeStatistics, vector.ColumnReward]
    wraps += [lambda envs: vector.DownscaleFrame(envs, (16, 24)), lambda envs: envs]
    for wrap in wraps:
        assert wrap(GlassVectorEnv(tiny_world, 2, **kwargs)).autoreset_mode is mode
