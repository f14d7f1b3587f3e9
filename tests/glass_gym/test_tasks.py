"""Tasks by hand, and `collect` in every environment that a task can be in."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from glass_gym.env.randomness import uniform
from glass_gym.tasks import CollectTask, ReachTask, Scene, make_task
from glass_gym.wrappers import FlattenAction, GoalObservation

SHIFTS = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 3.0]])
SCENE = Scene(96, 160, 12.0, SHIFTS)


def state(*targets, collected=None):
    """One row."""
    flags = [False] * len(targets) if collected is None else collected
    return {"targets": torch.tensor([targets], dtype=torch.float32), "collected": torch.tensor([flags])}


def test_a_target_is_collected_once_and_pays_once():
    task = CollectTask(SCENE, count=2, target_radius=6.0, reward="sparse")
    here, there = torch.tensor([[10.0, 10.0]]), torch.tensor([[14.0, 10.0]])
    first = task.step(here, there, state((18, 10), (90, 50)))  # 4 px away: collected
    assert first.reward.tolist() == [1] and first.state["collected"].tolist() == [[True, False]]
    again = task.step(there, there, first.state)
    assert again.reward.tolist() == [0] and not again.terminated
    last = task.step(there, torch.tensor([[90.0, 50.0]]), first.state)
    assert last.reward.tolist() == [1] and last.terminated.tolist() == [True]


def test_dense_rewards_are_progress_toward_the_nearest_that_is_left():
    task = CollectTask(SCENE, count=2)
    here, there = torch.tensor([[50.0, 50.0]]), torch.tensor([[54.0, 50.0]])
    # the nearest is 20 px to the right: one step of 4 px toward it is worth 0.1
    assert task.step(here, there, state((70, 50), (10, 50))).reward.tolist() == pytest.approx([0.1])
    # that one is collected: the step leads away from the other
    done = state((70, 50), (10, 50), collected=[True, False])
    assert task.step(here, there, done).reward.tolist() == pytest.approx([-0.1])


def test_targets_keep_away_from_the_agent_the_edge_and_one_another():
    task = CollectTask(SCENE, count=3, target_margin=16.0)
    numbers = uniform(torch.arange(300), torch.zeros(300, dtype=torch.long), task.draws)
    agent = torch.tensor([[80.0, 48.0]]).expand(300, 2)
    found = task.sample(numbers, agent, {})
    targets = found["targets"]
    assert targets[..., 0].min() >= 16 and targets[..., 0].max() <= 144 and not found["collected"].any()
    assert (targets - agent[:, None]).norm(dim=-1).min() >= SCENE.min_distance
    pairs = (targets[:, :, None] - targets[:, None]).norm(dim=-1)[:, [0, 0, 1], [1, 2, 2]]
    assert pairs.min() >= 12


def test_the_fewest_steps_visit_all_targets_in_the_best_order():
    task = CollectTask(SCENE, count=2, target_radius=6.0)
    targets = {"targets": np.array([[[40.0, 0.0], [20.0, 0.0]]])}
    # 20 px: 4 steps leave 4 < 6; from anywhere within 6 of the first to within 6 of the second: 20 - 12 = 8, 3 steps
    assert task.fewest_steps(np.zeros((1, 2)), targets).tolist() == [7]


def test_a_click_moves_the_nearest_target_that_is_left():
    task = CollectTask(SCENE, count=2)
    after = task.aim(state((70, 50), (10, 50), collected=[True, False]), torch.tensor([60.0, 50.0]))
    assert after["targets"].tolist() == [[[70, 50], [60, 50]]]


def test_options_that_a_task_does_not_have_are_named():
    with pytest.raises(TypeError, match=r"unexpected .* 'count'; task 'reach' takes terminate_on_arrival, reward, "):
        make_task("reach", SCENE, count=3)
    with pytest.raises(ValueError, match=r"count must be an integer in 1\.\.5"):
        make_task("collect", SCENE, count=0)
    with pytest.raises(ValueError, match="cannot be imported"):
        make_task("nowhere:Task", SCENE)
    assert make_task(None, SCENE) is None and isinstance(make_task("reach", SCENE), ReachTask)


# --- in the environments -----------------------------------------------------------------------------------------


def walk_to(target, position, shifts):
    """The shift that ends nearest."""
    return int(np.linalg.norm(position + shifts - target, axis=1).argmin())


def test_the_single_environment_collects_all_targets(tiny_world):
    env = gym.make("Glass-v0", checkpoint=tiny_world, task="collect", count=2, target_radius=3.0)
    check_env(env.unwrapped, skip_render_check=True)
    _, info = env.reset(seed=3)
    assert info["targets"].shape == (2, 2) and info["collected"].tolist() == [False, False]
    value, done, steps = 0.0, False, 0
    while not done and steps < 60:
        shift = walk_to(info["target"], info["agent_position"], env.unwrapped.shifts)
        _, reward, done, _, info = env.step(np.array([shift, 0]))
        value, steps = value + reward, steps + 1
    assert done and info["is_success"] and info["collected"].all() and value > 2


def test_rows_of_a_vector_are_single_environments(tiny_world):
    kwargs = {"checkpoint": tiny_world, "task": "collect", "obs_type": "dict", "count": 2, "precision": "float32"}
    envs = gym.make_vec("Glass-v0", num_envs=3, autoreset_mode=AutoresetMode.DISABLED, **kwargs)
    env = gym.make("Glass-v0", **kwargs)
    rows, infos = envs.reset(seed=5)
    one, info = env.reset(seed=6)
    assert rows["position"].shape == (3, 2 + 2 * 3) and envs.single_observation_space.contains(one)
    assert np.array_equal(rows["position"][1], one["position"]) and np.array_equal(infos["targets"][1], info["targets"])
    for shift in (1, 3, 1):
        rows, reward, *_ = envs.step(np.full((3, 2), (shift, 1)))
        one, alone, *_ = env.step(np.array([shift, 1]))
        assert np.array_equal(rows["position"][1], one["position"]) and reward[1] == pytest.approx(alone)
    assert np.abs(rows["frame"][1].astype(int) - one["frame"]).max() <= 3


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_a_finished_row_gets_new_targets(tiny_world, mode):
    envs = gym.make_vec(
        "Glass-v0", num_envs=2, autoreset_mode=mode, checkpoint=tiny_world, task="collect", target_radius=500.0
    )
    _, before = envs.reset(seed=0)
    infos = envs.step(np.zeros((2, 2), int))[-1]
    if mode == AutoresetMode.NEXT_STEP:
        infos = envs.step(np.zeros((2, 2), int))[-1]
    assert not np.array_equal(infos["targets"], before["targets"]) and not infos["collected"].any()


def test_states_are_copied_with_what_was_collected(tiny_world):
    envs = gym.make_vec("Glass-v0", num_envs=2, checkpoint=tiny_world, task="collect", max_episode_steps=None)
    envs.reset(seed=0)
    kept = envs.unwrapped.state()
    envs.unwrapped.core.state.task["collected"][:] = True
    envs.unwrapped.set_state(kept)
    assert not envs.unwrapped.core.state.task["collected"].any()
    single = gym.make_vec("Glass-v0", num_envs=2, checkpoint=tiny_world)
    single.reset(seed=0)
    with pytest.raises(ValueError, match="of another world"):
        single.unwrapped.set_state(kept)


def test_sb3_learns_over_it(tiny_world):
    sb3 = pytest.importorskip("stable_baselines3")
    from glass_gym.sb3 import GlassExtractor, GlassVecEnv

    env = GlassVecEnv("Glass-v0", 4, checkpoint=tiny_world, task="collect", obs_type="position", target_radius=30.0)
    assert env.observation_space.shape == (2 + 3 * 3,)
    kwargs = {"features_extractor_class": GlassExtractor}
    sb3.PPO("MlpPolicy", env, n_steps=8, batch_size=16, policy_kwargs=kwargs).learn(64)


def test_hindsight_needs_a_task_with_one_goal(tiny_world):
    env = gym.make("Glass-v0", checkpoint=tiny_world, task="collect", obs_type="position")
    with pytest.raises(ValueError, match="a task with one goal a row, which CollectTask has not"):
        GoalObservation(FlattenAction(env))


def test_the_player_shows_and_moves_the_targets(tiny_world):
    from glass_gym.env.window import Event
    from glass_gym.play.player import Player

    class Window:
        def __init__(self):
            self.events, self.texts = [Event("click", place=(32.0, 10.0))], []

        def poll(self):
            events, self.events = self.events, []
            return events

        def show(self, frame, lines, page):
            self.texts.append(lines)

        def wait(self, fps):
            return fps

    env = gym.make("Glass-v0", checkpoint=tiny_world, task="collect", render_mode="rgb_array", target_radius=2.0)
    player = Player(env, Window())
    player.reset(seed=0)
    player.paused = True
    player.tick()
    assert [20.0, 10.0] in player.info["targets"].tolist()  # 32 / 1.6
    yellow = (player.frame == (255, 230, 0)).all(-1).sum()
    assert yellow >= 3 * 5 and "distance" in player.window.texts[-1][1]


def test_agents_are_measured_over_it(tiny_world):
    pytest.importorskip("scipy")
    from agents.evaluation import GreedyPolicy, evaluate
    from agents.evaluation_env import WorldEvaluationEnv

    kwargs = {"checkpoint": tiny_world, "task": "collect", "count": 2, "target_radius": 3.0}
    figures = evaluate(WorldEvaluationEnv("Glass-v0", 4, seed=1, **kwargs), GreedyPolicy(), 8)
    assert figures["success"] == 1 and 1 <= figures["steps_ratio"] < 3
