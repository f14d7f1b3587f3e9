"""The rules: randomness, tasks, pictures, actions, targets."""

import numpy as np
import pytest
import torch

from glass_gym.env.core import GlassCore
from glass_gym.env.randomness import key_of_seed, uniform
from glass_gym.simulator.simulator import NoAgentError
from glass_gym.tasks import ReachTask, Scene
from glass_gym.tasks.base import TRIES, sample_places
from glass_gym.tasks.targets import draw_rings
from glass_gym.tensors import device
from glass_gym.tensors.device import pick_device, pick_precision
from glass_gym.tensors.observe import observed_frames
from glass_gym.worlds.action_space import ActionTable, nearest_direction
from glass_gym.worlds.pictures import fit_picture, read_picture

STEP = (3.0, 2.0)
NAMES = ("neutral", "swing", "turn")


def test_splitmix_gives_its_published_numbers():
    # SplitMix64 seeded 0 yields 0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4: our second level, checked by hand
    from glass_gym.env.randomness import GOLDEN, _mix

    first = _mix(GOLDEN * torch.tensor([1, 2]))
    assert [hex(int(v) & (2**64 - 1)) for v in first] == ["0xe220a8397b1dcdaf", "0x6e789e6aa1b965f4"]


def test_a_rows_numbers_depend_on_its_key_and_episode_only():
    keys, episodes = torch.tensor([5, -7, 5]), torch.tensor([0, 0, 1])
    together = uniform(keys, episodes, 4)
    assert torch.equal(together[1:2], uniform(keys[1:2], episodes[1:2], 4))
    assert not torch.equal(together[0], together[2])


def test_the_numbers_are_uniform():
    numbers = uniform(torch.arange(4000), torch.zeros(4000, dtype=torch.long), 5).numpy()
    assert numbers.min() >= 0 and numbers.max() < 1
    assert np.abs(numbers.mean(0) - 0.5).max() < 0.02 and np.abs(numbers.var(0) - 1 / 12).max() < 0.005
    assert np.abs(np.corrcoef(numbers.T) - np.eye(5)).max() < 0.06


def test_a_seeds_key_is_always_the_same():
    assert key_of_seed(3) == key_of_seed(3) != key_of_seed(4)
    assert key_of_seed(None) != key_of_seed(None)


def test_dense_rewards_are_progress_in_steps_plus_arrival():
    scene = Scene(96, 160, 12.0, np.array([[0.0, 0.0], [4.0, 0.0]]))
    task = ReachTask(scene, target_radius=6.0)
    before, after = torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.tensor([[4.0, 0.0], [0.0, 0.0]])
    target = torch.tensor([[8.0, 0.0], [30.0, 40.0]])
    # first row: 8 -> 4 px is one step of 4 px: 0.1, and arrived (4 < 6): 1; second row: no progress
    assert torch.allclose(task.rewards(before, after, target), torch.tensor([1.1, 0.0]))
    assert ReachTask(scene, reward="sparse").rewards(before, after, target).tolist() == [1.0, 0.0]


def test_targets_keep_their_distance_from_edge_and_agent():
    numbers = uniform(torch.arange(500), torch.zeros(500, dtype=torch.long), 2 * TRIES)
    agent = torch.tensor([[80.0, 48.0]]).expand(500, 2)
    drawn = sample_places(numbers, 96, 160, 16.0, [(agent, 20.0)])
    assert drawn[:, 0].min() >= 16 and drawn[:, 0].max() <= 144 and drawn[:, 1].min() >= 16 and drawn[:, 1].max() <= 80
    assert (drawn - agent).norm(dim=1).min() >= 20
    assert drawn.std(0).min() > 15


def test_targets_are_four_steps_away_and_sixteen_px_at_least(tiny_world):
    assert GlassCore(tiny_world, 1).task.scene.min_distance == 16  # steps of 3 px
    assert GlassCore(tiny_world, 1, shift_scale=2.0).task.scene.min_distance == 24


def test_the_ring_is_yellow_and_leaves_the_rest():
    frames = torch.zeros(1, 3, 20, 20, dtype=torch.uint8)
    drawn = draw_rings(frames, torch.tensor([[10.0, 8.0]]), 5.0)
    assert drawn[0, :, 8, 10].tolist() == [255, 230, 0] and drawn[0, :, 8, 15].tolist() == [255, 230, 0]
    assert drawn[0, :, 8, 12].tolist() == [0, 0, 0] and frames.sum() == 0


@pytest.mark.parametrize("radius", [1.0, 6.0, 500.0])
def test_rings_are_whole_wherever_they_lie(radius):
    frames = torch.randint(0, 256, (6, 3, 24, 40), dtype=torch.uint8)
    targets = torch.tensor([[0.0, 0.0], [39.4, 23.6], [-9.0, 12.0], [20.5, 11.5], [3.2, 30.0], [300.0, -400.0]])
    drawn = draw_rings(frames, targets, radius)
    y, x = torch.meshgrid(torch.arange(24), torch.arange(40), indexing="ij")
    for before, after, (tx, ty) in zip(frames, drawn, targets.tolist(), strict=True):
        distance = ((x - tx) ** 2 + (y - ty) ** 2).float().sqrt()
        ring = ((distance - radius).abs() < 0.8) | (distance < 1.2)
        assert (after[:, ring] == torch.tensor([[255], [230], [0]])).all() and (
            after[:, ~ring] == before[:, ~ring]
        ).all()


@pytest.mark.parametrize("size", [(12, 20), (8, 40), (24, 8), (7, 13), (48, 80)])
def test_frames_are_reduced_by_area(size):
    frames = torch.randint(0, 256, (3, 3, 24, 40), dtype=torch.uint8)
    frames[0] = 255
    exact = torch.nn.functional.interpolate(frames.float(), size, mode="area")
    seen = observed_frames(frames, size, channels_first=True)
    assert seen.shape[2:] == size and (seen.float() - exact).abs().max() <= 0.5 and (seen[0] == 255).all()


def test_the_compass_runs_counter_clockwise_from_right():
    table = ActionTable.build(STEP, NAMES)
    assert table.shifts.tolist() == [
        [0, 0], [3, 0], [3, -2], [0, -2], [-3, -2], [-3, 0], [-3, 2], [0, 2], [3, 2],
    ]  # fmt: skip
    assert table.describe((2, 1)) == "up-right + swing"


def test_flat_actions_go_there_and_back():
    table = ActionTable.build(STEP, NAMES)
    assert table.flatten([2, 1]) == 7 and table.unflatten(7).tolist() == [2, 1]
    assert table.flatten(table.unflatten(np.arange(27))).tolist() == list(range(27))


def test_arrows_and_chords_are_shifts_and_digits_are_codes():
    table = ActionTable.build(STEP, NAMES, usual_codes=[0, 2, 2, 0, 1, 1, 1, 0, 2])
    right, left, down, up = 1073741903, 1073741904, 1073741905, 1073741906
    keys = {frozenset(held): action.tolist() for held, action in table.keys().items()}
    assert keys[frozenset([right])] == [1, 2] and keys[frozenset([left])] == [5, 1]
    assert keys[frozenset([right, up])] == [2, 2] and keys[frozenset([down])] == [7, 0]
    assert keys[frozenset([ord("2")])] == [0, 2] and keys[frozenset([left, ord("0")])] == [5, 0]
    assert len(keys) == 8 + 9 * 3


def test_usual_codes_follow_the_nearest_direction_of_a_table_of_ones_own():
    usual = [0, 2, 2, 0, 1, 1, 1, 0, 2]
    table = ActionTable.build(STEP, NAMES, [(0, 0), (6, 0), (-2.0, 0.1), (0, 9)], usual_codes=usual)
    assert table.usual_codes == (0, 2, 1, 0)
    assert nearest_direction(np.array([[2.9, -2.1]]), STEP).tolist() == [2]
    with pytest.raises(ValueError, match="usual_codes must be 9 codes below 3"):
        ActionTable.build(STEP, NAMES, usual_codes=[0, 3] + [0] * 7)


# --- pictures ------------------------------------------------------------------------------------------------------


def test_a_picture_of_the_worlds_size_is_taken_as_it_is():
    picture = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    fitted = fit_picture(picture, 32, 48, 1.6)
    assert np.array_equal(fitted, picture) and fitted is not picture


def test_another_picture_is_cropped_to_the_shown_aspect_and_resized():
    picture = np.zeros((100, 400, 3), np.uint8)  # shown aspect 48 x 1.6 : 32 = 2.4, so 240 of 400 columns stay
    picture[:, 80:320] = 200
    fitted = fit_picture(picture, 32, 48, 1.6)
    assert fitted.shape == (32, 48, 3) and fitted[:, 1:-1].min() >= 195
    picture[:, 82:318] = 0
    assert fit_picture(picture, 32, 48, 1.6)[:, 0].mean() > 50


def test_grey_alpha_and_float_pictures_are_understood():
    grey = np.full((32, 48), 0.5, np.float32)
    assert fit_picture(grey, 32, 48).tolist() == np.full((32, 48, 3), 128).tolist()
    assert fit_picture(np.zeros((40, 40, 4), np.uint8), 32, 48).shape == (32, 48, 3)


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (np.full((32, 48, 3), np.nan), "NaN or infinite"), (np.full((32, 48, 3), 2.0), r"must lie in \[0, 1\]"),
        (np.zeros((32, 48, 2), np.uint8), "must be .height, width"), (np.zeros((4, 4, 3), np.int64), "must be uint8"),
    ],
)  # fmt: skip
def test_what_is_not_a_picture_is_named(picture, words):
    with pytest.raises(ValueError, match=words):
        fit_picture(picture, 32, 48)


def test_picture_files_are_read_and_broken_ones_named(tmp_path):
    import imageio.v3 as iio

    iio.imwrite(tmp_path / "a.png", np.full((5, 6, 3), 7, np.uint8))
    assert read_picture(tmp_path / "a.png").shape == (5, 6, 3)
    (tmp_path / "b.png").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"b\.png: broken image"):
        read_picture(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"c\.png: no such file"):
        read_picture(tmp_path / "c.png")


# --- the core ------------------------------------------------------------------------------------------------------


def seeded(world, rows=2, **kwargs):
    core = GlassCore(world, rows, **kwargs)
    core.seed({row: row for row in range(rows)})
    core.reset()
    return core


def test_a_start_picture_without_an_agent_says_so(tiny_world):
    core = seeded(tiny_world)
    core.starts.states.mass.fill_(1e6)  # as if the agents of this world covered a million px
    with pytest.raises(NoAgentError, match="no agent found in start picture 0: where the model's mask is densest"):
        core.reset(options={"start_frame": np.zeros((20, 20, 3), np.uint8)})


def test_start_states_are_made_when_they_are_asked_for_and_depend_on_no_other(tiny_world):
    one = seeded(tiny_world, rows=1, device="cpu")
    made = len(tiny_world.start_frames) - len(one.starts._missing)
    assert 1 <= made <= 2
    whole = GlassCore(tiny_world, 1, device="cpu").starts.states
    index = torch.tensor([7, 2, 7])
    alone = one.starts.at(index)
    for some, every in zip(alone.tensors(), whole.rows(index).tensors(), strict=True):
        assert torch.equal(some, every)
    assert one.starts.states.background.is_contiguous(memory_format=torch.channels_last)


def test_each_row_may_have_its_own_start_and_target(tiny_world):
    tiny_world.statistics.clear()  # positions are searched for in start frames as in pictures
    core = seeded(tiny_world)
    core.reset(options={"start_frame": np.array([3, 5]), "target": np.array([[10.0, 12.0], [30.0, 20.0]])})
    assert torch.equal(core.state.world.layer, core.starts.states.layer[[3, 5]])
    assert core.infos()["target"].tolist() == [[10, 12], [30, 20]]
    pictures = np.stack([tiny_world.start_frames[5], tiny_world.start_frames[3]])
    core.reset(options={"start_frame": pictures})
    assert (core.state.world.layer - core.starts.states.layer[[5, 3]]).abs().max() < 0.02


def test_without_a_task_there_is_no_reward_no_end_and_no_target(tiny_world):
    core = seeded(tiny_world, task=None, obs_type="dict")
    outcome = core.advance(np.array([[1, 0], [2, 1]]))
    assert outcome.reward.tolist() == [0, 0] and outcome.terminated.tolist() == [False, False]
    assert set(core.infos()) == {"agent_position", "previous_position", "agent_present", "commanded_shift"}
    assert core.observations()["position"].shape == (2, 2) and core.observation_space["position"].shape == (2,)
    with pytest.raises(ValueError, match="task=None has no target"):
        core.set_target((3, 3))


def test_a_fixed_target_is_every_episodes_target(tiny_world):
    core = seeded(tiny_world, target=(11.0, 13.0))
    core.reset()
    assert core.infos()["target"].tolist() == [[11, 13]] * 2


def test_without_termination_arrival_pays_and_goes_on(tiny_world):
    core = seeded(tiny_world, target_radius=500.0, reward="sparse", terminate_on_arrival=False)
    outcome = core.advance(np.zeros((2, 2), int))
    assert outcome.reward.tolist() == [1, 1] and outcome.terminated.tolist() == [False, False]


def test_the_position_can_be_measured_on_the_generated_frame(tiny_world, monkeypatch):
    core = seeded(tiny_world, position_from="frame")
    mask = torch.zeros(2, 1, 32, 48)
    mask[0, 0, 10:15, 20:25] = 1  # 25 px around (22, 12); the second row sees nothing
    monkeypatch.setattr(core.simulator, "masks", lambda frames: mask)
    core.state.world.mass[:] = 25.0
    core.advance(np.zeros((2, 2), int))
    assert core.state.position[0].tolist() == [22, 12] and core.state.present.tolist() == [True, False]
    assert torch.equal(core.state.position[1], core.simulator.agent_position(core.state.world)[1])


def test_reduced_frames_are_area_means(tiny_world):
    core = seeded(tiny_world, frame_size=(16, 24), draw_target=False)
    whole = core.pictures(False).float().unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2))
    assert core.observation_space.shape == (16, 24, 3)
    assert (core.observations().permute(0, 3, 1, 2) - whole).abs().max() <= 0.5
    assert core.render().shape == (2, 32, 77, 3)


def test_devices_and_precisions_are_checked():
    assert pick_device("cpu").type == "cpu" and pick_precision("float32", torch.device("cpu")) is torch.float32
    with pytest.raises(ValueError, match="device must be 'auto'"):
        pick_device("gpu0")
    with pytest.raises(ValueError, match="precision must be one of"):
        pick_precision("half", torch.device("cpu"))


@pytest.mark.parametrize("pays, chosen", [(True, torch.bfloat16), (False, torch.float32)])
def test_where_bfloat16_is_only_sometimes_faster_it_is_tried_out(monkeypatch, pays, chosen):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(device, "_cpu_has", lambda what: what == "avx512_bf16")
    monkeypatch.setattr(device, "_bfloat16_is_faster", lambda: pays)
    assert pick_precision("auto", torch.device("cpu")) is chosen


def test_trying_out_bfloat16_leaves_the_threads_as_they_were():
    before = torch.get_num_threads()
    with torch.autocast("cpu", torch.bfloat16):
        assert device._bfloat16_is_faster.__wrapped__() in (True, False)
    assert torch.get_num_threads() == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_asked_for_and_absent_says_so():
    with pytest.raises(ValueError, match=r"'cuda:1' is not there: this torch sees no CUDA device; use 'cpu'"):
        pick_device("cuda:1")
