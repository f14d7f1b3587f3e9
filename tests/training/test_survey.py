import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from training.config import GmaConfig, TrainConfig
from training.core import losses
from training.core.distributed import Distributed
from training.core.run import Run
from training.data.cuts import find_cuts
from training.data.store import DataError, Store, working_scale
from training.footage.choices import _choose_for_gma, _choose_size_and_skip
from training.footage.others import paint_out
from training.footage.registration import camera_moves
from training.footage.survey import survey
from training.gma.corrections import correct_options
from training.gma.pseudo_labels import PseudoLabels
from training.gma.stage import GmaStage


def background(seed=0, height=64, width=96):
    """A still background with some structure."""
    coarse = np.random.default_rng(seed).integers(60, 160, (height // 8, width // 8, 3))
    return coarse.repeat(8, 0).repeat(8, 1).astype(np.uint8)


def walker(steps, step=(3, 0), size=(10, 8), colour=(230, 30, 30), start=(10, 20), back=None):
    """A block that walks to and fro over a background; frames (T, H, W, 3) uint8."""
    back = background() if back is None else back
    height, width, _ = back.shape
    x, y = start
    dx, dy = step
    frames = []
    for _ in range(steps):
        frame = back.copy()
        frame[y : y + size[0], x : x + size[1]] = colour
        frames.append(frame)
        if not 0 <= x + dx <= width - size[1]:
            dx = -dx
        if not 0 <= y + dy <= height - size[0]:
            dy = -dy
        x += dx
        y += dy
    return np.stack(frames)


def test_what_walks_is_found_with_its_size_and_speed():
    seen = survey([walker(40), walker(40, step=(0, 3))])
    assert not seen.reasons_to_stop()
    assert seen.agent == pytest.approx((8, 10), abs=1.5)
    assert seen.speed == pytest.approx(3, abs=0.3)
    assert seen.area == pytest.approx(80 / (64 * 96), rel=0.2)
    assert seen.camera == 0 and seen.several == 0
    bits = np.unpackbits(seen.silhouettes[5], count=64 * 96).reshape(64, 96).astype(bool)
    truth = (np.concatenate([walker(40), walker(40, step=(0, 3))])[seen.seen_in[5]] == (230, 30, 30)).all(-1)
    assert (bits & truth).sum() / (bits | truth).sum() > 0.95
    assert all(line for line in seen.lines())


def test_things_that_flicker_by_turns_are_no_agent():
    red, blue = walker(60), walker(60, start=(70, 45), colour=(30, 30, 230))
    by_turns = np.where((np.arange(60) % 2 == 0)[:, None, None, None], red, blue)
    seen = survey([by_turns, by_turns[::-1]])
    assert seen.several > 0.9 and "several of one size" in seen.lines()[2]
    assert "by turns" in seen.reasons_to_stop()[0]
    fast = survey([walker(60, step=(24, 0), size=(8, 8)), walker(60, step=(0, 18), size=(8, 8))])
    assert not fast.reasons_to_stop() and fast.speed > 16


def test_another_thing_that_takes_over_now_and_then_is_no_fast_step():
    frames = walker(60, step=(3, 0))
    red = (frames[9] == (230, 30, 30)).all(-1)
    frames[9][red] = background()[red]  # behind something, while something as large shows elsewhere
    frames[9][40:50, 10:18] = (230, 30, 30)
    seen = survey([frames])
    assert seen.several < 0.1 and 2.5 < seen.speed and seen.fastest <= 5


def test_nothing_that_moves_is_a_reason_to_stop():
    still = np.repeat(background()[None], 30, 0)
    assert "nothing moves" in survey([still]).reasons_to_stop()[0]


def test_two_agents_of_one_size_are_a_reason_to_stop():
    one = walker(40)
    two = walker(40, start=(40, 45), colour=(30, 30, 230))
    both = np.where((two == (30, 30, 230)).all(-1)[..., None], two, one)
    assert "two or more agents" in survey([both]).reasons_to_stop()[0]


def red_and_blue(steps=40):
    """A red and a blue block of one size: both, and the red one alone."""
    red, blue = walker(steps), walker(steps, start=(40, 45), colour=(30, 30, 230))
    return np.where((blue == (30, 30, 230)).all(-1)[..., None], blue, red), red


@pytest.mark.parametrize("place", [(0.45, 0.75), (0.6, 0.78)])
def test_one_of_two_agents_is_chosen_by_number_or_place(place):
    both, _red = red_and_blue()
    second = survey([both, both[::-1]], agent=2)
    assert not second.reasons_to_stop() and second.several == 0 and second.explained > 0.95
    blue = survey([both, both[::-1]], agent=place)
    assert blue.chosen.colour[2] > 180 and blue.agent == pytest.approx((8, 10), abs=1.5)
    with pytest.raises(DataError, match="--agent is 3, but the survey found 2"):
        survey([both], agent=3)
    assert all((picture == (255, 0, 255)).any() for picture in survey([both]).pictures)


def test_the_others_are_painted_out():
    both, red = red_and_blue()
    found = survey([both], agent=(0.15, 0.4))
    assert found.chosen.colour[0] > 180
    frames = both.copy()
    others, painted, _ = paint_out(frames, [], found.chosen)
    assert others == painted == 40
    assert (frames != red).any(-1).mean() < 0.002


def test_parts_that_keep_together_are_one_agent():
    """A head over a trunk of another colour, with a gap between them."""
    frames = walker(40, size=(20, 16), start=(10, 30))
    head = walker(40, size=(8, 8), start=(14, 18), colour=(30, 30, 230))
    frames = np.where((head == (30, 30, 230)).all(-1)[..., None], head, frames)
    seen = survey([frames[:24]])
    assert not seen.reasons_to_stop() and len(seen.candidates) == 1
    assert seen.agent == pytest.approx((16, 32), abs=1.5)


def test_an_agent_that_stands_for_a_while_is_still_seen():
    frames = walker(30)
    seen = survey([np.concatenate([frames, np.repeat(frames[-1:], 20, 0), frames[::-1]])])
    assert seen.seen == 1


def test_an_agent_that_stands_for_a_whole_shot_is_seen_whole():
    stands = np.repeat(walker(1, size=(24, 14), start=(40, 20)), 40, 0)
    for t in range(40):  # only its hand moves
        y = 24 + 10 * (t // 4 % 2)
        stands[t, y : y + 6, 54:60] = (230, 30, 30)
    pans = np.stack([background(1, 64, 192)[:, t : t + 96] for t in range(40)])
    clips = [walker(40, size=(24, 14)), walker(40, size=(24, 14), start=(60, 30)), stands, pans]
    seen = survey(clips)
    mine = (seen.seen_in >= 80) & (seen.seen_in < 120)
    sizes = np.unpackbits(seen.silhouettes[mine], axis=1).sum(1)
    assert mine.sum() > 30 and abs(np.median(sizes) - (24 * 14 + 36)) < 40
    assert np.abs(seen.plates[2][..., :3].astype(int) - background()).max() <= 1


def test_clips_that_differ_in_more_than_an_agent_show_several_places():
    other = background()
    other[8:56, 48:80] = (20, 20, 20)
    assert survey([walker(40, start=(2, 2)), walker(40, start=(2, 2), back=other)]).common_plate() is None


def test_two_agents_that_touch_most_of_the_time_are_two():
    """Two boxers meet and fight: one blob, as long as they touch."""
    frames = np.stack([background()] * 60)
    for t in range(60):
        red = 10 + 2 * t if t < 35 else 148 - 2 * t
        blue = max(58 - 2 * t, red + 8)
        frames[t, 20:36, red : red + 8] = (230, 30, 30)
        frames[t, 22:38, blue : blue + 8] = (30, 30, 230)
    seen = survey([frames])
    assert seen.several > 0.8 and "two or more agents" in seen.reasons_to_stop()[0]


def test_many_small_things_that_move_are_told():
    back = background(height=96, width=144)
    frames = walker(40, size=(20, 16), step=(2, 0), start=(10, 10), back=back)
    for y in (45, 65, 85):  # each is smaller than half of it
        for x in (5, 55, 105):
            small = walker(40, size=(6, 6), start=(x, y), step=(4, 0), colour=(40, 40, 220), back=back)
            frames = np.where((small == (40, 40, 220)).all(-1)[..., None], small, frames)
    seen = survey([frames])
    assert seen.several < 0.3 and not seen.reasons_to_stop() and "is not the agent's" in seen.warnings()[0]


def test_waves_from_edge_to_edge_are_no_agent():
    frames = walker(60, start=(10, 40))
    frames[:, 4:10] = np.random.default_rng(0).integers(0, 255, (60, 6, 96, 1))
    seen = survey([frames])
    assert seen.agent == pytest.approx((8, 10), abs=1.5) and seen.speed == pytest.approx(3, abs=0.3)
    assert not seen.reasons_to_stop() and "other things move as well" in seen.warnings()[0]
    tall = survey([walker(60, size=(58, 16), start=(10, 3))])
    assert tall.seen == 1 and tall.agent == pytest.approx((16, 58), abs=1.5)


def test_what_an_outline_encloses_is_the_agents():
    """As colours go, its middle is nearly the background's."""
    grey = np.full((64, 96, 3), 180, np.uint8)
    frames = walker(40, size=(12, 12), colour=(20, 20, 20), back=grey)
    for frame, mask in zip(frames, (frames == 20).all(-1), strict=True):
        ys, xs = np.nonzero(mask)
        frame[ys.min() + 3 : ys.max() - 2, xs.min() + 3 : xs.max() - 2] = (205, 200, 210)
    seen = survey([frames])
    assert seen.area * 64 * 96 == pytest.approx(144, rel=0.05)


def test_cuts_everywhere_are_a_reason_to_stop():
    noise = np.random.default_rng(0).integers(0, 2, (30, 1, 1, 1)) * 180
    jumps = np.stack([background(i) // 2 for i in range(30)]) + noise.astype(np.uint8)
    assert "cuts everywhere" in survey([jumps]).reasons_to_stop()[0]


def test_flashes_are_no_cuts_everywhere():
    frames = walker(60)
    frames[[15, 17, 19, 21]] = 250
    seen = survey([frames])
    assert seen.shots == 2 and seen.shot_length == 38 and not seen.reasons_to_stop()


def test_shots_of_fine_texture_are_told_apart():
    """Their blocks are alike; nearly every pixel changes."""
    grain = [np.random.default_rng(i).integers(60, 160, (64, 96, 3)).astype(np.uint8) for i in range(3)]
    shots = [walker(20, back=back, start=(10 + 10 * i, 20)) for i, back in enumerate(grain)]
    assert find_cuts(np.concatenate(shots)).tolist() == [20, 40]
    assert not len(find_cuts(shots[0]))
    pan = np.stack([np.roll(grain[0], 2 * t, 1) for t in range(24)])
    assert not len(find_cuts(pan))


def test_a_camera_that_pans_is_measured_and_taken_out():
    wide = background(1, 96, 192)
    frames = np.stack([wide[10 : 10 + 64, 2 * t : 2 * t + 96] for t in range(24)])
    for t, frame in enumerate(frames):
        frame[30:40, 20 + t : 28 + t] = (230, 30, 30)
    assert np.median(camera_moves(frames), axis=0).tolist() == [-2, 0]
    seen = survey([frames])
    assert seen.camera == pytest.approx(2, abs=0.1) and max(seen.agent) < 16
    assert not seen.reasons_to_stop()


def test_silhouettes_and_plates_are_where_a_moving_camera_shows_them():
    wide = background(3, 96, 160)
    world = walker(40, step=(4, 0), start=(20, 30), back=wide)
    rng = np.random.default_rng(0)
    corners = 16 + rng.integers(-2, 3, (40, 2)).cumsum(0).clip(-16, 16)
    frames = np.stack([f[y : y + 64, x : x + 96] for f, (x, y) in zip(world, corners, strict=True)])
    seen = survey([frames])
    assert not seen.still and seen.common_plate() is None
    labels = PseudoLabels.of_survey(seen)
    whole = [n for n, t in enumerate(seen.seen_in) if (frames[t] == (230, 30, 30)).all(-1).sum() == 80]
    assert len(whole) > 10
    for n in whole:
        t = seen.seen_in[n]
        bits = np.unpackbits(seen.silhouettes[n], count=64 * 96).reshape(64, 96).astype(bool)
        truth = (frames[t] == (230, 30, 30)).all(-1)
        assert (bits & truth).sum() / (bits | truth).sum() > 0.8, t
        x, y = corners[t]
        plate = labels.backgrounds(np.array([n]), 64, 96)[0]
        known = plate[..., 3] > 0
        assert known.mean() > 0.8
        assert (plate[known, :3] == wide[y : y + 64, x : x + 96][known]).mean() > 0.99, t


def test_frames_that_no_shift_puts_together_have_no_plate():
    back = background(5, 96, 96)
    frames = np.stack([np.roll(f, 2 * t, 1) for t, f in enumerate(walker(30, back=back[:64]))])
    frames[20:] = np.flip(frames[20:], 1)  # the camera turned over
    seen = survey([frames])
    assert (seen.plate_of[seen.seen_in >= 22] == -1).all()


def test_everything_that_moves_is_a_reason_to_stop():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (20, 8, 12, 3)).astype(np.uint8).repeat(8, 1).repeat(8, 2)
    shot = np.clip(background().astype(int) + frames // 4, 0, 255).astype(np.uint8)
    assert survey([shot]).reasons_to_stop()


def test_a_camera_that_follows_the_agent_over_plain_ground_is_a_reason_to_stop():
    """A car game: the ground is of one colour, and the road goes about the car, which stands still."""

    def ride(phase):
        y, x = np.mgrid[:64, :96]
        frames = np.full((40, 64, 96, 3), (100, 200, 100), np.uint8)
        for t, frame in enumerate(frames):
            turn = 0.15 * t + phase
            across, down = x - 48 - 8 * np.cos(turn), y - 32 - 6 * np.sin(turn)
            road = np.abs(np.hypot(across / 40, down / 25) - 1) < 0.06
            frame[road] = (90, 90, 90)
            frame[30:36, 46:50] = (200, 30, 30)
        return frames

    seen = survey([ride(0.0), ride(1.0)])
    assert seen.moving < 0.35  # less than what is too much at once
    assert "camera that turns, zooms or follows the agent" in seen.reasons_to_stop()[0]


@pytest.fixture
def run(tmp_path):
    """Makes runs that keep nothing of each other."""

    def make(**options):
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        out.mkdir()
        return Run(TrainConfig(data="x", out=out, **options), Distributed("cpu"))

    return make


def test_frames_are_made_smaller_and_slow_footage_is_thinned_out(run, capsys):
    seen = survey([walker(80, step=(1, 0))])
    slow = run()
    _choose_size_and_skip(slow, seen, (64, 96))
    assert slow.values["read.size"] is None and slow.values["read.skip"] == 1  # 1 px a frame: every other one
    large = run()
    found = survey([walker(60, back=background(0, 216, 320), size=(60, 40), step=(6, 0))])
    _choose_size_and_skip(large, found, (1080, 1600))
    height, width = large.config.read.size
    assert (height, width) == (480, 704) and working_scale(height, width) == 4 and large.config.read.skip == 0
    assert "read.size" in capsys.readouterr().out
    with pytest.raises(DataError, match="at least 32x32"):
        _choose_size_and_skip(run(), seen, (10, 10))


def test_ranges_follow_the_agents_steps(run):
    seen = survey([walker(60, step=(16, 0), back=background(0, 96, 160))])
    store = SimpleNamespace(height=96, width=160, kind="videos", videos=[], scale=1)
    chosen = run()
    _choose_for_gma(chosen, seen, store, None)
    assert chosen.values["foreground_range"] >= 24
    assert 0.8 * seen.area < chosen.config.gma.theta < 1.5 * seen.area
    assert set(chosen.why) >= {"gma.theta", "foreground_range", "background_range"}


@pytest.mark.parametrize("camera", ["settles", "flickers", "is noisy"])
def test_what_a_camera_does_is_no_motion(camera):
    """Its exposure settles, mains flickers, a texture wobbles: the agent stays what it is."""
    rng = np.random.default_rng(0)
    frames = walker(80, size=(16, 14), start=(10, 20), back=background(0, 120, 160)).astype(np.float32)
    gain = np.ones(80)
    if camera == "settles":
        gain[:20] = np.linspace(1.4, 1, 20)
    if camera == "flickers":
        gain = 1 + 0.12 * np.sin(np.arange(80) * 2.1)
    frames = frames * gain[:, None, None, None]
    if camera == "is noisy":
        frames += rng.normal(0, 14, (*frames.shape[:3], 1))
    seen = survey([frames.clip(0, 255).astype(np.uint8)])
    assert seen.reasons_to_stop() == []
    told = {"settles": "the light changes", "flickers": "the light changes", "is noisy": "noise of"}
    assert told[camera] in seen.lines()[1]
    assert seen.agent == pytest.approx((16, 14), abs=6) and seen.speed == pytest.approx(3, abs=0.6)


def test_a_camera_that_was_bumped_once_shows_one_place():
    shots = [walker(40, start=(10 + 5 * i, 20)) for i in range(8)]
    shots[0] = np.roll(shots[0], 1, axis=2)
    assert survey(shots).common_plate() is not None
    assert survey([walker(40, back=background(i)) for i in range(8)]).common_plate() is None


class _GmaOf:
    """What a trained GMA would say, made up: masks of a share of what moves, and true shifts."""

    def __init__(self, masks, shifts, reach, foresees=False):
        self.masks, self.shifts, self.foresees = masks, shifts, foresees
        self.config = SimpleNamespace(foreground_range=reach)

    def parameters(self):
        return iter([torch.zeros(1)])

    def analyse_pairs(self, frames):
        self.seen = getattr(self, "seen", 0) + len(frames)
        masks = self.masks[None, None, None].expand(len(frames), 2, 1, -1, -1)
        composed = frames[:, int(self.foresees)]
        return SimpleNamespace(masks=masks, foreground_shift=self.shifts.expand(len(frames), 2), composed=composed)


def test_a_wrong_choice_is_corrected_by_what_gma_says(block_store, run, capsys):
    store = Store(block_store)
    true = store.masks(0, store.frames.shape[0])
    labels = PseudoLabels(np.arange(len(true)), np.packbits(true.reshape(len(true), -1), axis=1))
    nothing = torch.zeros(store.height, store.width)
    everywhere = nothing + 0.1
    still, fast = torch.zeros(1, 2), torch.tensor([[7.5, 0.0]])
    config = GmaConfig(theta=0.04)
    lost, gma = run(), _GmaOf(nothing, still, 8)
    stage = GmaStage(gma, store, config, labels=labels)
    found = correct_options(lost, stage, gma)
    assert found == {"gma.pseudo_label_steps": 600} == lost.values
    told = capsys.readouterr()
    assert "gma.pseudo_label_steps = 600: corrected" in told.out and "has 100% of the error" in told.out + told.err
    stage.correct(lost.values, ())  # as a resumed run does
    assert correct_options(lost, stage, gma) == {"gma.pseudo_label_steps": 900}
    wrong, gma = run(), _GmaOf(everywhere, fast, 8, foresees=True)
    stage = GmaStage(gma, store, config, labels=labels)
    capsys.readouterr()
    found = correct_options(wrong, stage, gma)
    assert found == {"gma.theta": pytest.approx(0.06), "foreground_range": 16}
    told = capsys.readouterr()
    assert wrong.values == found and "corrected" in told.out and "of the error" not in told.out + told.err
    given = run(gma=config)
    found = correct_options(given, stage, _GmaOf(everywhere, still, 8))
    assert found == {"gma.pseudo_label_steps": 600} == given.values


def test_a_range_that_is_too_small_is_widened_while_gma_trains(block_store, tmp_path, monkeypatch):
    from training import train

    thetas = []
    monkeypatch.setattr(train, "PROBES", (2,))
    monkeypatch.setattr(train, "correct_options", lambda *_: {"foreground_range": 14, "gma.theta": 0.3})
    size = losses.size
    monkeypatch.setattr(losses, "size", lambda mask, theta: thetas.append(theta) or size(mask, theta))
    command = [str(block_store), "--out", str(tmp_path), "--gma.iterations", "4", "--lma.iterations", "0"]
    command += ["--refine.iterations", "0"]
    assert train.main([*command, "--loop.device", "cpu", "--gma.batch", "2"]) == 0
    state = torch.load(tmp_path / "gma.pt", weights_only=True)
    assert json.loads(state["config"])["foreground_range"] == 14
    assert thetas[:2] != [0.3, 0.3] and thetas[2:] == [0.3, 0.3]
