"""The vector environment: autoreset modes by hand, seeds, torch output, copies of rows, Gymnasium's wrappers."""

import copy
import pickle
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from glass_gym.env.env import GlassEnv
from glass_gym.env.vector_env import GlassVectorEnv
from glass_gym.worlds.checkpoint import bundled, load_world, save_world
from glass_gym.wrappers import vector


@pytest.fixture
def tiny_world(any_world):
    """Every architecture."""
    return any_world


NEXT, SAME, OFF = AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED
FREE = {"target_radius": 0.01}  # nobody arrives by chance


def stay(rows):
    return np.zeros((rows, 2), int)


def move(rows):
    return np.tile([1, 1], (rows, 1))


def host(x):
    return x.numpy() if isinstance(x, torch.Tensor) else x


# --- what happens around the end of an episode ----------------------------------------------------------------------
#
# Two rows, a limit of 3 steps, the second row starts one step late (its counter is set back), so the ends fall apart:
#
#   call            1       2       3       4       5       6
#   NEXT_STEP row 0 step 1  step 2  step 3T reset   step 1  step 2
#             row 1 step 0  step 1  step 2  step 3T reset   step 1
#   SAME_STEP row 0 step 1  step 2  3T>0    step 1  step 2  3T>0
#             row 1 step 0  step 1  step 2  3T>0    step 1  step 2


def two_rows(world, mode, output="numpy", **kwargs):
    envs = GlassVectorEnv(world, 2, max_episode_steps=3, autoreset_mode=mode, output=output, obs_type="dict", **FREE,
                          **kwargs)  # fmt: skip
    observation, info = envs.reset(seed=10)
    envs.core.state.steps[1] = -1
    return envs, observation, info


def episode_starts(world, row, count):
    """Frames and targets that a single environment seeded like the row starts its episodes with."""
    env = GlassEnv(world, obs_type="dict", **FREE)
    out = [env.reset(seed=10 + row)]
    out += [env.reset() for _ in range(count - 1)]
    return [(observation["frame"], info["target"]) for observation, info in out]


@pytest.mark.parametrize("output", ["numpy", "torch"])
def test_next_step_by_hand(tiny_world, output):
    envs, first, _ = two_rows(tiny_world, NEXT, output)
    starts = [episode_starts(tiny_world, row, 2) for row in (0, 1)]
    table = [  # steps after the call, truncated, shows the start of a new episode
        ([1, 0], [False, False], [False, False]),
        ([2, 1], [False, False], [False, False]),
        ([3, 2], [True, False], [False, False]),
        ([0, 3], [False, True], [True, False]),
        ([1, 0], [False, False], [False, True]),
        ([2, 1], [False, False], [False, False]),
    ]
    assert all(np.abs(host(first["frame"])[row].astype(int) - starts[row][0][0]).max() <= 2 for row in (0, 1))
    for steps, truncated, begins in table:
        observation, reward, terminated, late, info = envs.step(move(2))
        assert envs.core.state.steps.tolist() == steps
        assert late.tolist() == truncated and terminated.tolist() == [False, False]
        for row in (0, 1):
            if begins[row]:
                frame, target = starts[row][1]
                assert np.abs(host(observation["frame"])[row].astype(int) - frame).max() <= 2
                assert np.allclose(host(info["target"])[row], target)
                assert float(reward[row]) == 0 and info["commanded_shift"][row].tolist() == [0, 0]
            else:
                assert info["commanded_shift"][row].tolist() == [3, 0]
        assert "final_obs" not in info and "final_info" not in info


@pytest.mark.parametrize("output", ["numpy", "torch"])
def test_same_step_by_hand(tiny_world, output):
    envs, _, _ = two_rows(tiny_world, SAME, output)
    starts = [episode_starts(tiny_world, row, 2) for row in (0, 1)]
    table = [  # steps after the call, truncated
        ([1, 0], [False, False]), ([2, 1], [False, False]), ([0, 2], [True, False]), ([1, 0], [False, True]),
        ([2, 1], [False, False]),
    ]  # fmt: skip
    before = None
    for steps, truncated in table:
        observation, reward, terminated, late, info = envs.step(move(2))
        assert envs.core.state.steps.tolist() == steps
        assert late.tolist() == truncated and terminated.tolist() == [False, False]
        if output == "numpy" and not any(truncated):
            assert "final_obs" not in info
        elif any(truncated):
            row = truncated.index(True)
            assert info["_final_obs"].tolist() == truncated == info["_final_info"].tolist()
            frame, target = starts[row][1]
            assert np.abs(host(observation["frame"])[row].astype(int) - frame).max() <= 2
            assert np.allclose(host(info["target"])[row], target)
            last = info["final_obs"][row] if output == "numpy" else {k: v[row] for k, v in info["final_obs"].items()}
            assert last["frame"].shape == (32, 48, 3)
            assert np.allclose(host(last["position"])[2:], starts[row][0][1])  # the target of the episode that ended
            final = info["final_info"]
            assert final["commanded_shift"][row].tolist() == [3, 0] and bool(final["_distance"][row])
            assert np.allclose(host(final["agent_position"])[row], host(last["position"])[:2])
            assert np.allclose(host(final["previous_position"])[row], before[row])
            assert info["commanded_shift"].tolist() == [[0, 0] if ended else [3, 0] for ended in truncated]
            there, ended = host(last["position"])[:2], starts[row][0][1]
            progress = np.linalg.norm(before[row] - ended) - np.linalg.norm(there - ended)
            assert float(reward[row]) == pytest.approx(0.1 * progress / 13**0.5, abs=1e-5)  # a diagonal step: 13 ** 0.5
        if output == "numpy" and any(truncated):
            assert info["final_obs"][1 - truncated.index(True)] is None
        before = host(info["agent_position"])


def test_disabled_by_hand(tiny_world):
    envs, _, _ = two_rows(tiny_world, OFF)
    starts = [episode_starts(tiny_world, row, 2) for row in (0, 1)]
    for _ in range(3):
        observation, _, _, late, _ = envs.step(move(2))
    assert late.tolist() == [True, False]
    with pytest.raises(gym.error.ResetNeeded, match=r"rows \[0\] are done"):
        envs.step(move(2))
    stream = envs.core.state.key[1].item(), envs.core.state.episode[1].item()
    options = {"reset_mask": np.array([True, False])}
    fresh, info = envs.reset(options=options)
    assert set(options) == {"reset_mask"}  # left in the caller's dict
    assert np.abs(fresh["frame"][0].astype(int) - starts[0][1][0]).max() <= 2
    assert np.allclose(info["target"][0], starts[0][1][1])
    assert np.array_equal(fresh["frame"][1], observation["frame"][1])
    assert envs.core.state.steps.tolist() == [0, 2] and info["_target"].tolist() == [True, False]
    assert (envs.core.state.key[1].item(), envs.core.state.episode[1].item()) == stream
    _, _, _, late, _ = envs.step(move(2))
    assert late.tolist() == [False, True]


def test_a_masked_reset_with_a_seed_reseeds_only_its_rows(tiny_world):
    envs = GlassVectorEnv(tiny_world, 3, autoreset_mode=OFF, obs_type="position", **FREE)
    envs.reset(seed=0)
    keys = envs.core.state.key.tolist()
    envs.reset(seed=50, options={"reset_mask": np.array([False, True, False])})
    assert envs.core.state.key.tolist()[::2] == keys[::2]
    other = GlassEnv(tiny_world, obs_type="position", **FREE)
    assert np.allclose(other.reset(seed=51)[0], envs.observations()[1])


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (np.array([True]), "bool array of shape"), (np.array([1, 0]), "bool array of shape"),
        (np.array([False, False]), "selects no row"), ([True, False], "bool array of shape"),
    ],
)  # fmt: skip
def test_a_wrong_mask_is_named(tiny_world, mask, words):
    envs = GlassVectorEnv(tiny_world, 2, autoreset_mode=OFF)
    envs.reset(seed=0)
    with pytest.raises(ValueError, match=words):
        envs.reset(options={"reset_mask": mask})


def test_terminated_rows_restart_too_and_success_is_told(tiny_world):
    envs = GlassVectorEnv(tiny_world, 2, target_radius=500.0, autoreset_mode=SAME, reward="sparse")
    envs.reset(seed=0)
    _, reward, terminated, _, info = envs.step(stay(2))
    assert reward.tolist() == [1, 1] and terminated.tolist() == [True, True]
    assert info["final_info"]["is_success"].tolist() == [True, True]


def test_the_first_time_limits_can_be_staggered(tiny_world):
    envs = GlassVectorEnv(tiny_world, 4, max_episode_steps=8, stagger=True, **FREE)
    envs.reset(seed=0)
    ends = [np.flatnonzero(envs.step(stay(4))[3]).tolist() for _ in range(8)]
    assert ends == [[], [3], [], [2], [], [1], [], [0]]


# --- seeds and rows -------------------------------------------------------------------------------------------------


def test_equal_seeds_give_equal_rollouts(tiny_world):
    def rollout():
        envs = GlassVectorEnv(tiny_world, 3, max_episode_steps=4)
        envs.reset(seed=5)
        envs.action_space.seed(5)
        return np.stack([envs.step(envs.action_space.sample())[0] for _ in range(12)])

    assert np.array_equal(rollout(), rollout())


def test_row_i_is_the_same_for_1_and_16_environments(tiny_world):
    # the tiny model's few channels pick other bfloat16 kernels for other batch sizes; trained worlds' do not
    same_rows({"checkpoint": tiny_world, "precision": "float32"})


@pytest.mark.parametrize("world", sorted(bundled()))
def test_row_i_of_a_bundled_world_is_the_same_for_1_and_16_environments(world):
    same_rows({"checkpoint": world})


def same_rows(kwargs):
    many = GlassVectorEnv(num_envs=16, max_episode_steps=9, **kwargs)
    some = {row: GlassVectorEnv(num_envs=1, max_episode_steps=9, **kwargs) for row in (0, 11)}
    frames, _ = many.reset(seed=3)
    alone = {row: envs.reset(seed=3 + row)[0] for row, envs in some.items()}
    rng = np.random.default_rng(0)
    for _ in range(20):
        for row in some:
            assert np.abs(alone[row][0].astype(int) - frames[row].astype(int)).max() <= 2
        actions = np.stack([rng.integers(9, size=16), rng.integers(3, size=16)], 1)
        frames = many.step(actions)[0]
        alone = {row: envs.step(actions[row : row + 1])[0] for row, envs in some.items()}


def test_a_row_and_a_single_environment_with_its_seed_play_the_same(tiny_world):
    envs = GlassVectorEnv(tiny_world, 4, precision="float32")
    env = GlassEnv(tiny_world, precision="float32")
    frames, infos = envs.reset(seed=20)
    frame, info = env.reset(seed=22)
    assert np.abs(frame.astype(int) - frames[2].astype(int)).max() <= 2
    assert np.array_equal(info["target"], infos["target"][2])


def test_seeds_can_be_given_one_a_row(tiny_world):
    envs = GlassVectorEnv(tiny_world, 2, obs_type="position")
    same, _ = envs.reset(seed=[4, 4])
    assert np.array_equal(same[0], same[1])
    with pytest.raises(ValueError, match="an int, or 2 ints or None, got"):
        envs.reset(seed=[1, 2, 3])


def test_the_agent_never_leaves_the_frame(tiny_world):
    envs = GlassVectorEnv(tiny_world, 4, **FREE)
    envs.reset(seed=0)
    for _ in range(40):
        envs.step(np.tile([1, 0], (4, 1)))
    assert (envs.core.state.world.position[:, 0] <= 48 - tiny_world.config.agent_radius).all()


def test_an_agent_that_starts_at_the_edge_is_not_pushed_in(pose_world):
    envs = GlassVectorEnv(pose_world, 3, **FREE)
    envs.reset(seed=0)
    envs.core.state.world.position[:] = torch.tensor([46.0, 3.0])  # bounds: 5..43, 5..27
    envs.step(np.array([[0, 0], [1, 0], [6, 0]]))  # stay, right, down-left (-3, 2)
    assert envs.core.state.world.position.tolist() == [[46, 3], [46, 3], [43, 5]]


# --- torch output ---------------------------------------------------------------------------------------------------


class HostReads(TorchDispatchMode):
    """Records the operations that make the host wait for a device's values."""

    READS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "item", "unique")

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        indexed_by_mask = name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1])
        if name in self.READS or indexed_by_mask:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    for module in ("tensors.geometry", "tasks.targets"):
        monkeypatch.setattr(f"glass_gym.{module}.can_read_values", lambda tensor: False)


@pytest.mark.parametrize("mode", [NEXT, SAME, OFF])
def test_a_torch_step_never_reads_a_value_on_the_host(tiny_world, mode, as_on_a_gpu):
    envs = GlassVectorEnv(tiny_world, 3, max_episode_steps=2, output="torch", autoreset_mode=mode, obs_type="dict")
    envs.core.sync_free = True
    envs.core.simulator.lma = envs.core.simulator.model.lma  # without the cache, as on a GPU
    envs.reset(seed=0)
    with HostReads() as reads:
        for _ in range(5):
            observation, reward, terminated, truncated, info = envs.step(torch.ones(3, 2, dtype=torch.long))
        probe = list(reads.seen)
        bool(reward.sum() > -100)
    assert probe == [] and reads.seen != []  # and the recorder does notice
    for value in (observation["frame"], reward, terminated, truncated, info["distance"]):
        assert isinstance(value, torch.Tensor) and value.device == envs.core.device and not value.is_inference()


class MissingOnMetal(TorchDispatchMode):
    """Records what Metal does not have: float64, and the division of int64."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        kinds = {x.dtype for x in tree_leaves((args, kwargs, out)) if isinstance(x, torch.Tensor)}
        divides = func.overloadpacket.__name__.rstrip("_") in ("div", "floor_divide", "remainder", "fmod")
        if torch.float64 in kinds or (divides and torch.int64 in kinds):
            self.seen.add(str(func))
        return out


def what_metal_lacks(world):
    kwargs = {"output": "torch", "autoreset_mode": SAME, "obs_type": "dict", "frame_size": (16, 24), "stagger": True}
    with MissingOnMetal() as lacks:
        envs = GlassVectorEnv(world, 3, 3, position_from="frame", task="collect", **kwargs)
        envs.core.sync_free = True
        envs.core.simulator.lma = envs.core.simulator.model.lma  # without the cache, as on a GPU
        flat = vector.FlattenAction(envs)
        flat.reset(seed=0)
        for _ in range(4):
            flat.step(torch.tensor([1, 5, 6]))
        if envs.core.simulator.has_prior:
            envs.core.sample_codes(torch.tensor([1, 2, 3]))
        envs.core.reset(options={"start_frame": 0})
        probe = set(lacks.seen)
        torch.tensor([3]).div(2), torch.tensor([3.0]).double()
    assert lacks.seen > probe  # the recorder does notice
    return probe


def test_the_path_on_a_device_needs_nothing_that_metal_lacks(tiny_world, as_on_a_gpu):
    assert what_metal_lacks(tiny_world) == set()


def test_worlds_with_headings_and_bundled_ones_need_nothing_that_metal_lacks(turning_world, as_on_a_gpu):
    assert what_metal_lacks(turning_world) == what_metal_lacks("tennis") == set()


@pytest.mark.parametrize("sync_free", [False, True])
def test_torch_and_numpy_output_are_the_same_rollout(tiny_world, sync_free):
    a = GlassVectorEnv(tiny_world, 3, max_episode_steps=3)
    b = GlassVectorEnv(tiny_world, 3, max_episode_steps=3, output="torch")
    b.core.sync_free = sync_free
    assert np.array_equal(a.reset(seed=1)[0], b.reset(seed=1)[0].numpy())
    for _ in range(8):
        for x, y in zip(a.step(move(3))[:4], b.step(torch.from_numpy(move(3)))[:4], strict=True):
            assert np.allclose(x, y.numpy())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mode", [NEXT, SAME, OFF])
def test_a_cuda_step_does_not_synchronise(tiny_world, mode):
    envs = GlassVectorEnv(tiny_world, 3, 2, output="torch", autoreset_mode=mode, device="cuda")
    envs.reset(seed=0)
    actions = torch.ones(3, 2, dtype=torch.long, device="cuda")
    envs.step(actions)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(5):
            envs.step(actions)
    finally:
        torch.cuda.set_sync_debug_mode("default")


# --- copies of rows -------------------------------------------------------------------------------------------------


def test_any_rows_copy_into_any_rows(tiny_world):
    envs = GlassVectorEnv(tiny_world, 4, **FREE)
    frames, _ = envs.reset(seed=0)
    envs.set_state(envs.state([3, 1]), [0, 2])
    now = envs.observations()
    assert np.array_equal(now[0], frames[3]) and np.array_equal(now[2], frames[1]) and np.array_equal(now[1], frames[1])
    envs.set_state(envs.state([1]), np.array([True, False, False, True]))
    assert np.array_equal(envs.observations()[0], envs.observations()[3])
    after = envs.step(move(4))[0]
    assert np.array_equal(after[0], after[1]) and np.array_equal(after[0], after[3])


def test_a_state_of_one_environment_goes_into_another(tiny_world):
    a, b = GlassVectorEnv(tiny_world, 2, **FREE), GlassVectorEnv(tiny_world, 5, **FREE)
    frames, _ = a.reset(seed=0)
    b.reset(seed=1)
    b.set_state(a.state(), [4, 2])
    assert np.array_equal(b.observations()[4], frames[0]) and np.array_equal(b.observations()[2], frames[1])


def test_wrong_rows_are_named(tiny_world):
    envs = GlassVectorEnv(tiny_world, 3)
    envs.reset(seed=0)
    with pytest.raises(ValueError, match=r"rows must be ints in 0..2, got \[3\]"):
        envs.state([3])
    with pytest.raises(ValueError, match="set_state of 3 rows needs a state of as many rows or of one, got 2"):
        envs.set_state(envs.state([0, 1]))
    with pytest.raises(ValueError, match="a mask of rows must have shape"):
        envs.state(np.array([True]))
    tennis = GlassVectorEnv("tennis", 3)
    tennis.reset(seed=0)
    with pytest.raises(ValueError, match="of another world"):
        envs.set_state(tennis.state())


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"num_envs": 0}, "num_envs must be an integer of at least 1, got 0"), ({"num_envs": 2.5}, "num_envs"),
        ({"autoreset_mode": "sometimes"}, "autoreset_mode must be one of AutoresetMode.NEXT_STEP"),
        ({"output": "jax"}, "output must be one of 'numpy', 'torch'"), ({"render_mode": "human"}, "render_mode"),
        ({"max_episode_steps": 0}, "max_episode_steps"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_named(tiny_world, kwargs, words):
    with pytest.raises(ValueError, match=words):
        GlassVectorEnv(tiny_world, **kwargs)


def test_wrong_actions_and_calls_out_of_turn_are_named(tiny_world):
    envs = GlassVectorEnv(tiny_world, 2, render_mode="rgb_array")
    for call in (lambda: envs.step(stay(2)), envs.render, envs.state):
        with pytest.raises(gym.error.ResetNeeded):
            call()
    with pytest.raises(gym.error.ResetNeeded, match="reset all rows once"):
        envs.reset(options={"reset_mask": np.array([True, False])})
    envs.reset(seed=0)
    for actions, words in [(stay(3), "of shape"), (stay(2) + 0.5, "must be integers"), (stay(2) + 7, "must lie in")]:
        for wrong in (actions, torch.from_numpy(actions)):
            with pytest.raises(ValueError, match=words):
                envs.step(wrong)
    envs.close()
    with pytest.raises(gym.error.ClosedEnvironmentError):
        envs.step(stay(2))


# --- Gymnasium's wrappers -------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*(Overwriting existing videos|same-step)")
@pytest.mark.parametrize("mode", [NEXT, SAME])
def test_gymnasiums_vector_wrappers_run(tiny_world, mode, tmp_path):
    pytest.importorskip("cv2")
    pytest.importorskip("moviepy")
    pytest.importorskip("array_api_compat")
    wrap = gym.wrappers.vector
    envs = gym.make_vec(
        "Glass-v0", num_envs=2, checkpoint=tiny_world, render_mode="rgb_array", autoreset_mode=mode,
        max_episode_steps=4, vectorization_mode="vector_entry_point", **FREE,
    )  # fmt: skip
    envs = wrap.RecordEpisodeStatistics(envs)
    envs = wrap.RecordVideo(envs, str(tmp_path), video_length=6, step_trigger=lambda step: step == 0)
    envs = wrap.NormalizeReward(envs)
    if mode == NEXT:  # Gymnasium's observation wrappers refuse SAME_STEP, and NumpyToTorch its object arrays
        envs = wrap.NumpyToTorch(wrap.ResizeObservation(envs, (16, 24)))
    observation, _ = envs.reset(seed=0)
    episodes = []
    for _ in range(12):
        observation, reward, _, _, info = envs.step(torch.from_numpy(move(2)))
        if "episode" in info:
            episodes += info["episode"]["l"][info["_episode"]].tolist()
    assert observation.shape == ((2, 16, 24, 3) if mode == NEXT else (2, 32, 48, 3))
    assert isinstance(reward, torch.Tensor if mode == NEXT else np.ndarray)
    assert episodes and set(episodes) == {4}
    envs.close()
    assert list(tmp_path.glob("*.mp4"))


def test_gymnasiums_frame_stack_runs_over_single_environments_and_their_sync_vector(tiny_world):
    envs = gym.make_vec(
        "Glass-v0", num_envs=2, vectorization_mode="sync", checkpoint=tiny_world,
        wrappers=[lambda env: gym.wrappers.FrameStackObservation(env, 3)],
    )  # fmt: skip
    observation, _ = envs.reset(seed=0)
    assert observation.shape == (2, 3, 32, 48, 3) == envs.step(move(2))[0].shape


def test_a_sync_vector_of_single_environments_plays_as_the_batched_one(tiny_world):
    one = gym.make_vec("Glass-v0", num_envs=2, vectorization_mode="sync", checkpoint=tiny_world, obs_type="position")
    two = gym.make_vec("Glass-v0", num_envs=2, checkpoint=tiny_world, obs_type="position")
    assert np.allclose(one.reset(seed=4)[0], two.reset(seed=4)[0])
    for _ in range(5):
        for x, y in zip(one.step(move(2))[:4], two.step(move(2))[:4], strict=True):
            assert np.allclose(x, y, atol=1e-4)


@pytest.mark.parametrize("first", [True, False])
def test_inference_mode_may_come_and_go(tiny_world, first):
    """Policies are often asked under it; what was made there can be written into later."""
    with torch.inference_mode(first):
        env = GlassVectorEnv(tiny_world, num_envs=3, output="torch", max_episode_steps=4)
        env.reset(seed=0)
        kept = env.state()
        env.step(env.action_space.sample())
    with torch.inference_mode(not first):
        for _ in range(6):
            env.step(env.action_space.sample())
        env.set_state(kept)
    with torch.inference_mode(first):
        for _ in range(6):
            env.step(env.action_space.sample())
        env.reset(seed=1, options={"reset_mask": np.array([True, False, True])})


# --- what other people's libraries ask for --------------------------------------------------------------------------


def test_attributes_and_methods_are_one_a_row(pose_world):
    envs = GlassVectorEnv(pose_world, 3, render_mode="rgb_array")
    single = gym.vector.SyncVectorEnv([lambda: GlassEnv(pose_world, render_mode="rgb_array")] * 3)
    for each in (envs, single):
        each.reset(seed=5)
    for name in ("render", "shifts", "code_names", "render_mode"):
        ours, theirs = envs.call(name), single.call(name)
        assert isinstance(ours, tuple) and len(ours) == 3
        assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert envs.get_attr("shifts")[0] is envs.shifts and [len(state) for state in envs.call("state")] == [1, 1, 1]
    assert torch.equal(envs.call("state")[2].position, envs.state([2]).position)
    envs.call("set_target", (9, 9))
    envs.set_attr("stagger", True)
    envs.set_attr("render_mode", [None] * 3)
    assert envs.stagger is True and envs.call("render") == (None,) * 3
    with pytest.raises(ValueError, match="'stagger' must be the same in all rows"):
        envs.set_attr("stagger", [True, False, True])
    with pytest.raises(ValueError, match="needs one value, or 3, got 2"):
        envs.set_attr("stagger", [True, True])


def test_the_prior_is_one_a_row():
    envs = GlassVectorEnv("tennis", 2, obs_type="position")
    envs.reset(seed=5)
    assert [prior.shape for prior in envs.call("code_prior")] == [envs.code_prior().shape[1:]] * 2


def test_infos_have_the_types_of_gymnasiums_own_vectors(tiny_world):
    ours, theirs = (gym.make_vec("Glass-v0", 2, kind, checkpoint=tiny_world) for kind in (None, "sync"))
    for a, b in ((ours.reset(seed=1)[1], theirs.reset(seed=1)[1]), (ours.step(move(2))[4], theirs.step(move(2))[4])):
        assert {key: value.dtype for key, value in a.items()} == {key: value.dtype for key, value in b.items()}


def test_the_seed_is_told_and_a_mask_of_all_rows_starts_them(tiny_world):
    envs = GlassVectorEnv(tiny_world, 2, autoreset_mode=OFF, obs_type="position")
    observation = envs.reset(seed=42, options={"reset_mask": np.ones(2, bool)})[0]
    assert envs.np_random_seed == 42 and np.array_equal(observation, envs.reset(seed=42)[0])
    envs.reset(seed=7, options={"reset_mask": np.array([True, False])})
    assert envs.np_random_seed == 42
    with pytest.raises(TypeError, match=r"actions must be integers of shape \(2, 2\), got the single value"):
        envs.step(0)


def test_a_spec_is_json_where_the_world_is_a_file(tiny_world, tmp_path):
    world = load_world(save_world(tmp_path / "mine.safetensors", tiny_world))
    kwargs = {"checkpoint": world, "target_radius": np.float64(3)}
    for make in (gym.make, gym.make_vec):
        spec = make("Glass-v0", **kwargs | ({"autoreset_mode": SAME} if make is gym.make_vec else {})).spec
        again = make(gym.envs.registration.EnvSpec.from_json(spec.to_json()))
        assert again.unwrapped.core.world.file == tmp_path / "mine.safetensors"
        assert again.unwrapped.core.task.radius == 3
    assert gym.make(gym.make("Glass-v0", checkpoint=tiny_world).spec).unwrapped.core.world.name == "tiny"


def test_a_fresh_copy_is_small_and_plays_the_same():
    env = GlassEnv("tennis", obs_type="position")
    assert len(pickle.dumps(env)) < 40e6
    copied = copy.deepcopy(env)
    for one in (env, copied):
        one.reset(seed=1)
    assert np.array_equal(env.step([1, 0])[0], copied.step([1, 0])[0])


LOAD = """
import sys, torch, glass_gym
glass_gym.EnvState
assert len(torch.load(sys.argv[1], weights_only=True)) == 2
"""


def test_a_saved_state_is_read_without_pickle_and_no_rows_are_none(tiny_world, tmp_path):
    envs = GlassVectorEnv(tiny_world, 2)
    envs.reset(seed=0)
    torch.save(envs.state(), tmp_path / "rows.pt")
    envs.set_state(torch.load(tmp_path / "rows.pt", weights_only=True))
    subprocess.run([sys.executable, "-c", LOAD, tmp_path / "rows.pt"], check=True, timeout=120)
    assert len(envs.state([])) == 0
    envs.set_state(envs.state([]), [])


PROCESSES = """
import gymnasium as gym, glass_gym
envs = gym.vector.AsyncVectorEnv([lambda: gym.make("GlassTennis-v0", obs_type="position")], context="forkserver")
envs.reset(seed=0)
envs.close()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no fork server")
def test_processes_of_a_fork_server_know_the_ids():
    subprocess.run([sys.executable, "-c", PROCESSES], check=True, timeout=120)
