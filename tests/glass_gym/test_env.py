"""The single environment."""

import subprocess
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

import glass_gym
from glass_gym.env.env import GlassEnv
from glass_gym.env.vector_env import GlassVectorEnv
from glass_gym.simulator import simulator as simulator_module
from glass_gym.simulator.simulator import Simulator
from glass_gym.worlds.checkpoint import bundled
from glass_gym.worlds.pictures import stretch


@pytest.fixture
def tiny_world(any_world):
    """Every architecture."""
    return any_world


WORLDS = {"tennis": "GlassTennis-v0", "sprites": "GlassSprites-v0", "arm": "GlassArm-v0", "mouse": "GlassMouse-v0"}


@pytest.mark.parametrize("obs_type", ["frame", "position", "dict"])
def test_every_architecture_and_obs_type_passes_the_checkers_with_warnings_as_errors(obs_type, tiny_world):
    check(gym.make("Glass-v0", obs_type=obs_type, render_mode="rgb_array", checkpoint=tiny_world), small=True)


@pytest.mark.parametrize("name", sorted(bundled()))
def test_every_bundled_world_passes_the_checkers_with_warnings_as_errors(name):
    id = WORLDS.get(name, "Glass-v0")
    kwargs = {} if name in WORLDS else {"checkpoint": name}
    check(gym.make(id, obs_type="dict", render_mode="rgb_array", **kwargs))


def check(env, small=False):
    pytest.importorskip("pygame")
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)
        if small:  # 32 px are too small for SB3's CNN, and it says so
            warnings.filterwarnings("ignore", message="The minimal resolution")
        checker.check_env(env.unwrapped)
    env.close()


def test_the_bundled_tennis_world_plays():
    env = gym.make("GlassTennis-v0", render_mode="rgb_array")
    frame, info = env.reset(seed=1)
    assert frame.shape == (96, 160, 3) and env.render().shape == (96, 256, 3)
    assert env.action_space == gym.spaces.MultiDiscrete([9, 8]) and info["agent_present"]


def test_equal_seeds_give_equal_frames(tiny_world):
    def rollout():
        env = GlassEnv(tiny_world)
        frames = [env.reset(seed=7)[0]]
        env.action_space.seed(7)
        frames += [env.step(env.action_space.sample())[0] for _ in range(5)]
        return np.stack([*frames, env.reset()[0]])

    assert np.array_equal(rollout(), rollout())


def test_episodes_of_one_stream_differ_and_a_generator_set_by_hand_is_used(tiny_world):
    env = GlassEnv(tiny_world, obs_type="position")
    first = env.reset(seed=7)[0]
    assert not np.array_equal(first, env.reset()[0])
    env.np_random = np.random.default_rng(3)
    other = env.reset()[0]
    env.np_random = np.random.default_rng(3)
    assert np.array_equal(other, env.reset()[0])


def test_observations_and_infos_share_nothing_with_later_ones(tiny_world):
    env = GlassEnv(tiny_world, obs_type="dict")
    observation, info = env.reset(seed=0)
    kept = observation["frame"].copy(), info["agent_position"].copy(), info["target"].copy()
    env.step(np.array([1, 1]))
    assert all(map(np.array_equal, kept, (observation["frame"], info["agent_position"], info["target"])))


def test_walking_right_moves_the_position_by_the_commanded_pixels(pose_world):
    env = GlassEnv(pose_world, obs_type="position", target_radius=0.01)
    env.reset(seed=0, options={"start_frame": 0})
    env.core.state.world.position[:] = torch.tensor([20.0, 16.0])
    before = env.step(np.array([0, 0]))[4]["agent_position"]
    after, *_, info = env.step(np.array([1, 0]))
    assert np.allclose(after[:2] - before, [3, 0], atol=1e-4) and info["commanded_shift"].tolist() == [3, 0]
    assert np.allclose(info["previous_position"], before)


ROUND = np.array([[1, code % 4] for code in range(6)])
"""Actions that turn the agent."""


def headings_alone(world, seed):
    env = GlassEnv(world, obs_type="position", target_radius=0.01)
    infos = [env.reset(seed=seed)[1], *(env.step(action)[4] for action in ROUND)]
    assert all(type(info["agent_heading"]) is float for info in infos)
    return np.array([info["agent_heading"] for info in infos])


def test_info_tells_the_heading_where_it_is_taken_out(turning_world, tiny_world):
    headings = headings_alone(turning_world, 5)
    assert (headings >= -np.pi).all() and (headings < np.pi).all() and len(set(headings.tolist())) > 3
    assert "agent_heading" not in GlassEnv(tiny_world).reset(seed=0)[1]
    check(gym.make("Glass-v0", obs_type="dict", render_mode="rgb_array", checkpoint=turning_world), small=True)


@pytest.mark.parametrize("kind", ["numpy", "torch", "sync"])
def test_vector_environments_tell_the_headings_of_all_rows(turning_world, kind):
    kwargs = {"checkpoint": turning_world, "obs_type": "position", "target_radius": 0.01}
    if kind == "sync":
        envs = gym.make_vec("Glass-v0", 2, vectorization_mode="sync", **kwargs)
    else:
        envs = gym.make_vec("Glass-v0", 2, output=kind, **kwargs)
    infos = [envs.reset(seed=5)[1], *(envs.step(np.stack([action, action]))[4] for action in ROUND)]
    headings = np.stack([np.asarray(info["agent_heading"]) for info in infos])
    assert all(np.asarray(info["_agent_heading"]).all() for info in infos) and headings.shape == (7, 2)
    assert headings.dtype == (np.float32 if kind == "torch" else np.float64)  # Gymnasium's own reads Python floats
    for row in (0, 1):
        assert np.allclose(headings[:, row], headings_alone(turning_world, 5 + row), atol=1e-4)


def test_the_last_heading_of_an_episode_is_kept(turning_world):
    mode = gym.vector.AutoresetMode.SAME_STEP
    envs = GlassVectorEnv(turning_world, 2, max_episode_steps=1, autoreset_mode=mode, obs_type="position")
    envs.reset(seed=5)
    info = envs.step(np.stack([ROUND[1]] * 2))[4]
    last = info["final_info"]["agent_heading"]
    assert last.dtype == np.float64 and last.shape == (2,) and not np.allclose(last, info["agent_heading"])


def test_a_copied_state_keeps_its_heading(turning_world):
    env = GlassEnv(turning_world, target_radius=0.01)
    env.reset(seed=5)
    state = env.state()
    ahead = [env.step(action)[4]["agent_heading"] for action in ROUND]
    env.set_state(state)
    assert [env.step(action)[4]["agent_heading"] for action in ROUND] == ahead


def test_arrival_ends_the_episode_with_success(pose_world):
    env = GlassEnv(pose_world, target_radius=4.0)
    _, info = env.reset(seed=0, options={"start_frame": 0})
    env.reset(options={"start_frame": 0, "target": info["agent_position"].clip(0, [48, 32])})
    *_, terminated, truncated, info = env.step(np.array([0, 0]))
    assert terminated is True and truncated is False and info["is_success"] is True and info["distance"] < 4.0


def test_a_state_brings_back_everything(tiny_world):
    env = GlassEnv(tiny_world)
    env.reset(seed=0)
    kept, begin = env.state(), env.observation()
    ahead = [env.step(np.array([1, 2]))[0] for _ in range(3)]
    env.set_state(kept)
    assert np.array_equal(env.observation(), begin)
    assert all(np.array_equal(env.step(np.array([1, 2]))[0], frame) for frame in ahead)
    env.set_target((5, 6))
    assert env.step(np.array([0, 0]))[4]["target"].tolist() == [5, 6]


def test_ids_are_registered_for_make_and_make_vec(tiny_world):
    envs = gym.make_vec("Glass-v0", num_envs=3, checkpoint=tiny_world)
    assert isinstance(envs, GlassVectorEnv) and envs.max_episode_steps == 100
    assert envs.metadata["autoreset_mode"] == gym.vector.AutoresetMode.NEXT_STEP
    assert {*WORLDS.values(), "Glass-v0"} <= set(gym.registry)
    assert glass_gym.__version__


@pytest.mark.parametrize(
    ("action", "words"),
    [
        ([9, 0], r"must lie in 0..\[8, 2\], got \[9, 0\]"), ([0.5, 0], "must be integers"), ([0], "of shape"),
        ([-1, 0], "must lie in"), ([True, False], "must be integers"), (3, "of shape"), ([[1, 0]], "of shape"),
    ],
)  # fmt: skip
def test_a_wrong_action_is_named(tiny_world, action, words):
    env = GlassEnv(tiny_world)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=words):
        env.step(np.array(action))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"begin": 1}, r"unknown reset options \['begin'\]; known: start_frame, target"),
        ({"start_frame": 400}, "not in 0..11"),
        ({"start_frame": 0.5}, "must be an index"),
        ({"start_frame": np.full((32, 48, 3), np.nan)}, "NaN or infinite"),
        ({"start_frame": np.zeros((3, 3, 7), np.uint8)}, "a picture must be"),
        ({"target": (500, 3)}, "inside the 48x32 frame"),
        ({"target": (np.nan, 3)}, "inside the 48x32 frame"),
        ({"target": (1, 2, 3)}, "must be .x, y."),
    ],
)
def test_a_wrong_option_is_named(tiny_world, options, words):
    with pytest.raises(ValueError, match=words):
        GlassEnv(tiny_world).reset(options=options)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"obs_type": "sound"}, "obs_type must be one of 'frame'"), ({"shifts": "diagonal"}, "no shift table"),
        ({"reward": "huge"}, "reward"), ({"shift_scale": -1.0}, "shift_scale"), ({"shifts": [[np.inf, 0]]}, "finite"),
        ({"task": "fly"}, r"task must be one of .reach., .*, .module:name. or None"),
        ({"position_from": "ram"}, "position_from"),
        ({"target_radius": 0}, "target_radius"), ({"target_margin": -2}, "target_margin"),
        ({"frame_size": (500, 3)}, "frame_size must lie between"), ({"frame_size": (5.5, 3)}, "in whole px"),
        ({"target": (99, 0)}, "target must be"), ({"render_mode": "ansi"}, "render_mode"),
        ({"device": "tpu9"}, "device must be"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_named(tiny_world, kwargs, words):
    with pytest.raises(ValueError, match=words):
        GlassEnv(tiny_world, **kwargs)


def test_a_step_before_reset_says_so(tiny_world):
    env = GlassEnv(tiny_world, render_mode="rgb_array")
    with pytest.raises(ValueError, match="inside the"):  # a reset that fails is none
        env.reset(options={"target": (-5, 3)})
    for call in (lambda: env.step(np.array([0, 0])), env.render, env.state, lambda: env.set_target((1, 2))):
        with pytest.raises(gym.error.ResetNeeded):
            call()


def test_a_closed_environment_says_so_and_closes_twice(tiny_world):
    env = GlassEnv(tiny_world)
    env.reset(seed=0)
    env.close()
    env.close()
    for call in (lambda: env.step(np.array([0, 0])), env.reset):
        with pytest.raises(gym.error.ClosedEnvironmentError):
            call()


def test_gymnasiums_own_player_understands_the_keys(tiny_world, monkeypatch):
    pygame = pytest.importorskip("pygame")
    from gymnasium.utils.play import play

    env = gym.make("Glass-v0", checkpoint=tiny_world, render_mode="rgb_array", target_radius=0.01)
    seen = []
    events = [[pygame.event.Event(pygame.KEYDOWN, key=pygame.K_RIGHT)], [], [pygame.event.Event(pygame.QUIT)]]
    monkeypatch.setattr(pygame.event, "get", lambda: events.pop(0))
    play(env, fps=1000, noop=np.array([0, 0]), callback=lambda *step: seen.append(list(step[2])), seed=0)
    assert [1, 0] in seen


def test_the_human_render_mode_shows_a_window(tiny_world):
    pygame = pytest.importorskip("pygame")
    env = GlassEnv(tiny_world, render_mode="human", target_radius=0.01)
    env.reset(seed=0)
    env.step(np.array([1, 0]))
    surface = pygame.display.get_surface()
    shown = pygame.surfarray.array3d(surface).swapaxes(0, 1)
    frame = stretch(env.core.pictures(True)[0].permute(1, 2, 0).numpy(), 1.6)
    scale = shown.shape[0] // frame.shape[0]
    assert np.array_equal(shown, frame.repeat(scale, 0).repeat(scale, 1))
    env.close()
    assert pygame.display.get_surface() is None


def test_the_pixel_aspect_widens_what_is_shown_only():
    frame = np.arange(10, dtype=np.uint8)[None, :, None].repeat(3, 2)
    assert stretch(frame, 1.6)[0, :, 0].tolist() == [0, 0, 1, 1, 2, 3, 3, 4, 5, 5, 6, 6, 7, 8, 8, 9]


def test_world_states_copy_any_rows_into_any_rows(tiny_world):
    simulator = Simulator(tiny_world.model)
    state = simulator.start(torch.from_numpy(tiny_world.start_frames[:4]))
    other = state.write(torch.tensor([0, 1]), state.rows(torch.tensor([3, 2])))
    assert torch.equal(other.position[:2], state.position[[3, 2]]) and torch.equal(other.layer[2:], state.layer[2:])


def test_a_start_frame_of_another_size_is_refused_by_the_simulator(tiny_world):
    with pytest.raises(ValueError, match=r"start frames must be uint8 \(B, 32, 48, 3\)"):
        Simulator(tiny_world.model).start(torch.zeros(1, 30, 48, 3, dtype=torch.uint8))


def test_importing_the_package_stays_light():
    code = "import sys, glass_gym; print([m for m in ('torch', 'pygame', 'stable_baselines3') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_making_a_world_imports_nothing_that_it_can_do_without():
    unused = ("pygame", "stable_baselines3", "sklearn", "PIL", "sympy", "torch._dynamo")  # torch's compiler: 2 seconds
    code = (
        "import sys, torch; torchs = set(sys.modules); import gymnasium as gym, glass_gym;"
        "e = gym.make('GlassTennis-v0', render_mode='rgb_array');"
        "e.reset(); e.step([0, 0]); e.render(); torch.set_default_device('meta');"
        "[glass_gym.build_glass(getattr(glass_gym.GlassConfig, kind)(64, 64)) for kind in ('pose', 'paper')];"
        f"print([m for m in {unused} if m in sys.modules and m not in torchs])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


@pytest.mark.parametrize("rows", [5, 4, 1])
def test_rows_animated_a_few_at_a_time_are_the_rows_animated_together(tiny_world, monkeypatch, rows):
    world = Simulator(tiny_world.model, "cpu")
    state = world.start(torch.randint(0, 255, (rows, 32, 48, 3), generator=torch.Generator().manual_seed(0)).byte())
    shift, code = torch.arange(2.0 * rows).view(rows, 2) - rows, torch.arange(rows) % 3
    together = world.step(world.step(state, shift, code), -shift, code)
    height, width = tiny_world.model.lma.view.size
    monkeypatch.setattr(simulator_module, "CPU_PIXELS", 2 * height * width)
    apart = world.step(world.step(state, shift, code), -shift, code)
    # the CPU's float32 kernels round by the batch
    assert all((a - b).abs().max() <= 1e-5 for a, b in zip(together.tensors(), apart.tensors(), strict=True))


def test_a_world_of_ones_own_gets_an_id(tiny_world, tmp_path, monkeypatch):
    from glass_gym.worlds.checkpoint import CheckpointError, save_world

    save_world(tmp_path / "mine.safetensors", tiny_world)
    monkeypatch.chdir(tmp_path)
    glass_gym.register_world("MyGame-v0", "mine.safetensors", 7, task="reach")
    glass_gym.register_world("MyGame-v0", "mine.safetensors", 7, task="reach")  # twice the same is no harm
    with pytest.raises(ValueError, match="MyGame-v0 is registered already"):
        glass_gym.register_world("MyGame-v0", "mine.safetensors", 8)
    with pytest.raises(CheckpointError, match="none"):
        glass_gym.register_world("OtherGame-v0", tmp_path / "none.safetensors")
    monkeypatch.chdir("/")
    env = gym.make("MyGame-v0")
    assert env.spec.max_episode_steps == 7
    assert env.reset(seed=0)[0].shape == env.observation_space.shape
    assert gym.make_vec("MyGame-v0", num_envs=2).reset(seed=0)[0].shape[0] == 2
    del gym.registry["MyGame-v0"]
