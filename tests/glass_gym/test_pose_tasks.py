"""perform, match, follow and maze, by hand and in all environments; continuous actions."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from glass_gym.tasks import MazeTask, PerformTask, Scene
from glass_gym.tasks.follow import read_clip
from glass_gym.tasks.match import WALK
from glass_gym.tasks.maze import stopped
from glass_gym.wrappers import AutoLocalAction, FlattenAction, GoalObservation

SHIFTS = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 3.0], [-4.0, 0.0], [0.0, -3.0]])
SCENE = Scene(96, 160, 12.0, SHIFTS, codes=3)
TASKS = ("perform", "match", "follow", "maze")
EASY = {
    "perform": {"target_radius": 500.0},
    "match": {"target_radius": 500.0, "tolerance": 1.0},
    "follow": {"length": 5},
    "maze": {"target_radius": 3.0},
}


def make(world, task, **kwargs):
    return gym.make("Glass-v0", checkpoint=world, task=task, precision="float32", **kwargs)


@pytest.fixture
def pose_world(tiny_world):
    if tiny_world.config.architecture != "pose":
        pytest.skip("agents without poses")
    return tiny_world


def greedy(env):
    """What a player does who knows the state: the shift that ends nearest, and the wanted local action."""
    core = env.unwrapped.core
    heading = core.task.heading(core.state.position, core.state.task)[0].numpy()
    shift = np.linalg.norm(core.state.position[0].numpy() + core.table.shifts - heading, axis=1).argmin()
    codes = core.task.wanted_codes(core.state.task)
    return np.array([shift, 0 if codes is None else int(codes[0])])


@pytest.mark.parametrize("task", TASKS)
def test_who_knows_the_state_succeeds(pose_world, task):
    env = make(pose_world, task, obs_type="dict", **EASY[task])
    check_env(env.unwrapped, skip_render_check=True)
    observation, _ = env.reset(seed=3)
    assert env.observation_space.contains(observation)
    for _ in range(60):
        observation, _, done, _, info = env.step(greedy(env))
        assert env.observation_space.contains(observation)
        if done:
            break
    assert info["is_success"]


@pytest.mark.parametrize("task", TASKS)
def test_rows_are_single_environments_and_states_continue(pose_world, task):
    kwargs = {"checkpoint": pose_world, "task": task, "obs_type": "dict", "precision": "float32"}
    envs = gym.make_vec("Glass-v0", num_envs=3, autoreset_mode=AutoresetMode.DISABLED, **kwargs)
    env = gym.make("Glass-v0", **kwargs)
    rows, _ = envs.reset(seed=5)
    one, _ = env.reset(seed=6)
    kept = None
    for shift in (1, 3, 1):
        assert np.allclose(rows["position"][1], one["position"], atol=1e-4)
        assert np.abs(rows["frame"][1].astype(int) - one["frame"]).max() <= 3
        kept = env.unwrapped.state()
        rows, reward, *_ = envs.step(np.full((3, 2), (shift, 1)))
        one, alone, *_ = env.step(np.array([shift, 1]))
        assert reward[1] == pytest.approx(alone, abs=1e-5)
    env.unwrapped.set_state(kept)
    again, repeated, *_ = env.step(np.array([1, 1]))
    assert repeated == alone and np.array_equal(again["frame"], one["frame"])


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_tensors_and_new_episodes(pose_world, task, mode):
    envs = gym.make_vec(
        "Glass-v0", num_envs=2, checkpoint=pose_world, task=task, output="torch", autoreset_mode=mode,
        max_episode_steps=3,
    )  # fmt: skip
    before, _ = envs.reset(seed=0)
    for _ in range(5):
        frames, *_ = envs.step(torch.zeros(2, 2, dtype=torch.long))
    assert frames.shape == before.shape and (envs.unwrapped.core.state.episode == 2).all()


@pytest.mark.parametrize("task", ["perform", "match", "follow"])
def test_agents_without_poses_are_told(tiny_world, task):
    if tiny_world.config.architecture == "paper":
        with pytest.raises(ValueError, match="agents have poses"):
            make(tiny_world, task)


# --- perform -----------------------------------------------------------------------------------------------------


def test_performing_counts_steps_in_a_row_at_the_target(pose_world):
    env = make(pose_world, "perform", target_radius=10.0, hold=2)
    env.reset(seed=0)
    core = env.unwrapped.core
    here = tuple(core.state.position[0].tolist())
    _, info = env.reset(options={"target": here, "code": 2})
    assert info["code"] == 2
    rewards = [env.step(np.array([0, code]))[1] for code in (2, 1, 2)]
    assert rewards == pytest.approx([0.5, -0.5, 0.5])  # stopping too early costs what was paid
    _, reward, done, _, info = env.step(np.array([0, 2]))
    assert done and info["is_success"] and info["performed"] == 2 and reward == pytest.approx(0.5)
    env.reset(options={"target": (47.0, 31.0) if here[0] < 24 else (0.0, 0.0), "code": 2})
    assert [env.step(np.array([0, 2]))[1] for _ in range(3)] == [0, 0, 0]  # elsewhere it does not count


def test_the_film_shows_the_local_action_that_is_asked_for(pose_world):
    env = make(pose_world, "perform", codes=[2])
    before, info = env.reset(seed=1)
    assert info["code"] == 2
    film = env.unwrapped.core.state.task["film"][0]
    side = film.shape[-1]
    assert np.array_equal(before[:side, :side], film[0].permute(1, 2, 0).numpy())
    after, *_ = env.step(np.array([0, 0]))
    assert np.array_equal(after[:side, :side], film[1].permute(1, 2, 0).numpy())
    env.unwrapped.set_target((5.0, 5.0))
    info = env.step(np.array([0, 0]))[-1]
    assert info["target"].tolist() == [5, 5] and info["code"] == 2


def test_codes_that_do_not_exist_are_named(pose_world):
    with pytest.raises(ValueError, match=r"codes must be local actions, 0 to 2, got \[3\]"):
        make(pose_world, "perform", codes=[3])
    with pytest.raises(ValueError, match="code must be local actions"):
        make(pose_world, "perform").reset(options={"code": 7})
    with pytest.raises(ValueError, match="hold must be an integer"):
        make(pose_world, "perform", hold=0)
    with pytest.raises(ValueError, match="needs a learned world"):
        PerformTask(SCENE)


# --- match -------------------------------------------------------------------------------------------------------


def test_a_goal_may_be_a_picture(pose_world):
    env = make(pose_world, "match", target_radius=2.0)
    pictures = pose_world.start_frames
    env.unwrapped.core.starts.usual_agent = lambda: (0.0, 0.0)  # pictures of noise show no agent
    _, info = env.reset(seed=0, options={"start_frame": pictures[3], "goal": pictures[3]})
    assert info["pose_distance"] == pytest.approx(0, abs=1e-6) and info["distance"] == 0 and info["is_success"]
    with pytest.raises(ValueError, match="goal holds 2 pictures"):
        env.reset(options={"goal": pictures[:2]})


def test_who_walks_there_under_the_same_local_action_gets_to_every_goal(pose_world):
    envs = gym.make_vec(
        "Glass-v0", num_envs=16, checkpoint=pose_world, task="match", target_radius=2.5, tolerance=1e-3,
        obs_type="position", precision="float32", autoreset_mode=AutoresetMode.SAME_STEP,
    )  # fmt: skip
    envs.reset(seed=0)
    core = envs.unwrapped.core
    reached = np.zeros(16, bool)
    for _ in range(WALK):
        after = core.state.position[:, None] + torch.from_numpy(core.table.shifts)
        shift = (after - core.state.task["target"][:, None]).norm(dim=-1).argmin(1)
        *_, done, _, _ = envs.step(torch.stack([shift, core.state.task["code"]], 1).numpy())
        reached |= done
    assert reached.all()


def test_goal_pictures_are_fitted_as_start_pictures_are(pose_world):
    pose_world.pixel_aspect = 2.0
    env = make(pose_world, "match")
    env.unwrapped.core.starts.usual_agent = lambda: (0.0, 0.0)
    picture = np.random.default_rng(0).integers(0, 255, (64, 192, 3), np.uint8)
    _, info = env.reset(seed=0, options={"start_frame": picture, "goal": picture})
    assert info["is_success"] and info["distance"] == 0


@pytest.mark.parametrize(("name", "action"), [("DQN", "discrete"), ("SAC", "hybrid")])
def test_hindsight_replay_learns_to_match(pose_world, name, action):
    sb3 = pytest.importorskip("stable_baselines3")
    from glass_gym.sb3 import GlassVecEnv
    from glass_gym.wrappers import vector

    wrappers = [vector.FlattenAction] * (action == "discrete") + [vector.GoalObservation]
    kwargs = {"task": "match", "action": action, "obs_type": "position", "reward": "sparse", "max_episode_steps": 4}
    env = GlassVecEnv("Glass-v0", 2, checkpoint=pose_world, wrappers=wrappers, **kwargs)
    settings = {"learning_starts": 16, "batch_size": 8, "policy_kwargs": {"net_arch": [16]}}
    model = getattr(sb3, name)("MultiInputPolicy", env, replay_buffer_class=sb3.HerReplayBuffer, **settings)
    model.learn(32)
    assert model.replay_buffer.sample(64).rewards.max() == 1  # goals that were achieved later


def test_hindsight_rewards_equal_those_of_the_step(pose_world):
    for reward in ("sparse", "dense"):
        env = GoalObservation(make(pose_world, "match", obs_type="position", reward=reward, target_radius=30.0))
        observation, _ = env.reset(seed=2)
        assert observation["achieved_goal"].shape == observation["desired_goal"].shape == (2 + 32,)
        for action in ([1, 0], [3, 1], [0, 2]):
            observation, value, done, _, info = env.step(np.array(action))
            assert env.observation_space.contains(observation)
            again = env.compute_reward(observation["achieved_goal"], observation["desired_goal"], info)
            assert again == pytest.approx(value, abs=1e-5)
            own = env.compute_reward(observation["achieved_goal"], observation["achieved_goal"], info)
            assert own >= 0.9 or reward == "dense"
            if done:
                break


def test_a_task_without_a_goal_has_no_hindsight(pose_world):
    with pytest.raises(ValueError, match="has not; use task='reach' or 'match'"):
        GoalObservation(make(pose_world, "perform", obs_type="position"))


# --- follow ------------------------------------------------------------------------------------------------------


def test_a_clip_is_arrays_or_a_table(tmp_path):
    clip = {"x": [10, 12, 12], "y": [5, 5, 9], "code": [1, 2, 0]}
    moves, codes = read_clip(clip, SCENE)
    assert moves.tolist() == [[2, 0], [0, 4]] and codes.tolist() == [1, 2]
    moves, codes = read_clip({"shift": [1, 2, 0], "code": [1, 2, 0]}, SCENE)
    assert moves.tolist() == [[4, 0], [0, 3]]
    file = tmp_path / "clip.csv"
    file.write_text("frame,x,y,shift,code\n0,10,5,1,1\n1,12,5,2,2\n2,12,9,,\n")
    assert read_clip(file, SCENE)[1].tolist() == [1, 2]
    with pytest.raises(ValueError, match="x of row 1 is not a number"):
        read_clip(clip | {"x": [1, np.nan, 2]}, SCENE)
    with pytest.raises(ValueError, match="clip has no column code"):
        read_clip({"x": [1], "y": [1]}, SCENE)
    with pytest.raises(ValueError, match=r"clip: code must be local actions, 0 to 2, got \[7\]"):
        read_clip({"shift": [0] * 300, "code": [0] * 200 + [7] * 100}, SCENE)
    with pytest.raises(ValueError, match=r"clip: shift must be rows of .*, got \[50\]"):
        read_clip({"shift": [1, 50, 0], "code": [1, 2, 0]}, SCENE)
    file.write_text("frame,code\n0,1\n1,1\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"clip\.csv has no column shift"):
        read_clip(file, SCENE)
    with pytest.raises(ValueError, match="cannot be read"):
        read_clip(tmp_path / "none.csv", SCENE)


def test_imitating_a_clip_pays_and_staying_does_not(pose_world):
    clip = {"shift": [1, 1, 3, 3, 1, 1, 0], "code": [0, 1, 1, 2, 2, 0, 0]}
    env = make(pose_world, "follow", clip=clip, target_radius=1.0)
    values = []
    for imitate in (True, False):
        _, info = env.reset(seed=4)
        value = 0.0
        for shift, code in zip(clip["shift"][:6], clip["code"][:6], strict=True):
            _, reward, done, _, info = env.step(np.array([shift, code] if imitate else [2, 2]))
            value += reward
        values.append(value)
        assert done and info["is_success"] == imitate
    assert values[0] == pytest.approx(1.6, abs=1e-3) and values[1] < 0.4


# --- maze --------------------------------------------------------------------------------------------------------


def test_walls_stop_a_move_along_one_axis_only():
    walls = torch.tensor([[10.0, 0.0, 20.0]])  # at 10, from 0 to 20 across
    start, across = torch.tensor([8.0, 12.0, 8.0, 9.5]), torch.tensor([5.0, 5.0, 25.0, 20.2])
    assert stopped(start, torch.tensor([4.0, -4.0, 4.0, 4.0]), across, walls).tolist() == [1.5, -1.5, 4.0, 0.0]
    assert stopped(start, torch.full((4,), 2.0), across, torch.zeros(0, 3)).tolist() == [2, 2, 2, 2]


def test_nobody_gets_through_a_wall_and_all_cells_are_connected():
    for number in range(4):
        task = MazeTask(SCENE, maze=number)
        count = task.columns * task.rows
        assert (task.towards >= 0).all() and task.walls.any()
        position = torch.rand(200, 2, generator=torch.Generator().manual_seed(number)) * torch.tensor([160.0, 96.0])
        generator = torch.Generator().manual_seed(number)
        for _ in range(50):
            move = (torch.rand(200, 2, generator=generator) - 0.5) * 12
            before = task.cell(position)
            position = (position + task.allowed(position, move)).clamp(min=0).minimum(torch.tensor([160.0, 96.0]))
            after = task.cell(position)
            walked = before != after
            for a, b in zip(before[walked].tolist(), after[walked].tolist(), strict=True):
                steps = 0
                while a != b and steps <= 2:  # a corner may be passed in one move, through doors
                    a, steps = int(task.towards[a, b]), steps + 1
                assert a == b
        assert sorted({int(c) for c in task.cell(task.middles)}) == list(range(count))
    with pytest.raises(ValueError, match="too small for a maze"):
        MazeTask(Scene(16, 16, 2.0, SHIFTS * 4))


def test_progress_in_a_maze_is_along_the_way():
    task = MazeTask(SCENE)
    ends = task.middles[:, None].expand(-1, len(task.middles), -1), task.middles.expand(len(task.middles), -1, -1)
    assert torch.allclose(task.way(*ends), task.lengths, atol=1e-4) and torch.equal(task.lengths, task.lengths.T)
    assert (task.lengths >= (ends[0] - ends[1]).norm(dim=-1) - 1e-4).all()
    through = task.middles[task.towards]  # the next cell on the way: as much nearer as the step is long
    assert torch.allclose(task.way(through, ends[1]) + (ends[0] - through).norm(dim=-1), task.lengths, atol=1e-3)


# --- continuous actions ------------------------------------------------------------------------------------------


def test_a_shift_in_px_moves_the_agent_by_so_much(tiny_world):
    env = gym.make("Glass-v0", checkpoint=tiny_world, action="continuous")
    check_env(env.unwrapped, skip_render_check=True)
    assert env.action_space.shape == (2,) and env.action_space.high.tolist() == [3, 2]
    env.reset(seed=0, options={"start_frame": 0})
    after = env.step(np.array([1.25, -0.5], np.float32))[-1]
    assert after["commanded_shift"].tolist() == [1.25, -0.5]
    assert env.step(np.array([99.0, 0.0]))[-1]["commanded_shift"].tolist() == [3, 0]  # cut at the longest shift
    with pytest.raises(ValueError, match="must be finite"):
        env.step(np.array([np.nan, 0.0]))
    with pytest.raises(ValueError, match=r"numbers of shape \(2,\), got shape \(3,\)"):
        env.step(np.zeros(3))
    for wrapper in (FlattenAction, AutoLocalAction):
        with pytest.raises(ValueError, match="needs action='discrete'"):
            wrapper(env)


def test_hybrid_actions_choose_the_local_action_too(tiny_world):
    kwargs = {"checkpoint": tiny_world, "task": None, "precision": "float32"}
    env, other = gym.make("Glass-v0", action="hybrid", **kwargs), gym.make("Glass-v0", **kwargs)
    assert env.action_space.shape == (2 + tiny_world.config.codes,)
    for each in (env, other):
        each.reset(seed=0)
    for pair in ([1, 2], [0, 1]):
        action = env.unwrapped.core.encode_actions(np.array([pair]))[0]
        assert action in env.action_space
        assert np.array_equal(env.step(action)[0], other.step(np.array(pair))[0])


def test_the_order_of_rows_does_not_matter_to_local_actions_from_the_prior(pose_world):
    kwargs = {"checkpoint": pose_world, "task": None, "action": "continuous", "precision": "float32"}
    envs = gym.make_vec("Glass-v0", num_envs=2, autoreset_mode=AutoresetMode.DISABLED, **kwargs)
    env = gym.make("Glass-v0", **kwargs)
    envs.reset(seed=3)
    env.reset(seed=4)
    for _ in range(4):
        rows = envs.step(np.full((2, 2), 1.0, np.float32))[0]
        assert np.abs(rows[1].astype(int) - env.step(np.full(2, 1.0))[0]).max() <= 3


@pytest.mark.parametrize("name", ["SAC", "TD3"])
def test_algorithms_for_continuous_actions_learn_and_are_kept_without_pickle(pose_world, name, tmp_path):
    sb3 = pytest.importorskip("stable_baselines3")
    from glass_gym.policy import load_policy, save_policy
    from glass_gym.sb3 import GlassVecEnv

    env = GlassVecEnv("Glass-v0", 2, checkpoint=pose_world, action="continuous", obs_type="position")
    model = getattr(sb3, name)("MlpPolicy", env, learning_starts=8, batch_size=8, policy_kwargs={"net_arch": [16]})
    model.learn(24)
    if name == "SAC":
        core = env.env.unwrapped.core
        policy = load_policy(save_policy(tmp_path / "sac.safetensors", model, "sac"), core=core)
        expected = model.predict(core.observe("position").numpy(), deterministic=True)[0]
        assert np.allclose(policy.act(core), expected, atol=1e-6)


# --- places where agents were seen -------------------------------------------------------------------------------


def test_agents_go_only_where_they_were_seen(tiny_world):
    with pytest.raises(ValueError, match="does not store where agents were seen"):
        gym.make("Glass-v0", checkpoint=tiny_world, bounds="seen")
    seen = np.zeros((4, 6), int)  # cells of 8 px
    seen[1, 1:4] = seen[2, 3] = 1
    tiny_world.statistics["seen"] = seen.tolist()
    ground = gym.make("Glass-v0", checkpoint=tiny_world, bounds="seen").unwrapped.core.seen
    here = torch.tensor([[12.0, 12.0], [12.0, 12.0], [12.0, 12.0], [30.0, 14.0], [2.0, 2.0]])
    moves = torch.tensor([[5.0, 0.0], [-5.0, 0.0], [5.0, 5.0], [0.0, 4.0], [-5.0, 3.0]])
    # along the row; out of it; out of it along y; round the corner; and from elsewhere as it likes
    assert ground.allowed(here, moves).tolist() == [[5, 0], [0, 0], [5, 0], [0, 4], [-5, 3]]


def test_a_world_stores_where_agents_were():
    from training.world.build import seen_cells

    cells = seen_cells(np.array([[1.0, 1.0], [47.0, 31.0], [60.0, -3.0]]), (48, 32), (8.0, 4.0))
    assert np.shape(cells) == (4, 6) and np.argwhere(cells).tolist() == [[0, 0], [0, 5], [3, 5]]
