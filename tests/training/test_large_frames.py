"""Training on frames that are larger than what GMA sees."""

import json

import numpy as np
import pytest
import torch

from glass_gym.model.config import GlassConfig
from glass_gym.model.glass import build_glass
from glass_gym.worlds.checkpoint import load_world
from tests import videos
from training.config import LoopConfig, ReadConfig
from training.core.trainer import Trainer
from training.data import store as store_module
from training.data import videos as videos_module
from training.data.store import DataError, Store, StoreWriter, working_scale
from training.data.videos import pack
from training.gma.background import BackgroundPlate, common_background, estimate_background
from training.gma.matting import MattingConfig, MattingStage, labelled_windows, measure_alpha
from training.train import main
from training.windows.windows import track_windows

SIDE = 24  # Of the agent, px.


def scene(frames: int, height: int = 240, width: int = 320, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A bright disc with a soft shadow that wanders over noise: frames (T, H, W, 3) uint8, and its centres (T, 2)."""
    rng = np.random.default_rng(seed)
    ground = rng.integers(60, 120, (height // 8, width // 8, 3)).repeat(8, 0).repeat(8, 1)
    turn = np.linspace(0, 4 * np.pi, frames) + seed
    centre = np.stack([width / 2 + 90 * np.cos(turn), height / 2 + 70 * np.sin(1.5 * turn)], 1)
    y, x = np.mgrid[:height, :width]
    out = []
    for cx, cy in centre:
        far = np.hypot(x - cx, y - cy)
        shade = 1 - 0.3 * np.clip((2 * SIDE - np.hypot(x - cx - 8, y - cy - 8)) / SIDE, 0, 1)
        cover = np.clip(SIDE - far, 0, 1)[..., None]
        out.append(ground * shade[..., None] * (1 - cover) + 230 * cover)
    return np.stack(out).round().astype(np.uint8), centre


@pytest.fixture(scope="module")
def footage(made_once):
    """The folder of a film of 320x240 px."""

    def fill(folder):
        videos.film(folder / "disc.mp4", scene(72)[0])

    return made_once("large-film", fill)


@pytest.fixture
def packed(footage, tmp_path):
    pack(footage, tmp_path / "store", ReadConfig(size=(240, 320)))
    return Store(tmp_path / "store")


def test_the_working_copy_has_about_20_000_pixels():
    sizes = {(96, 160): 1, (128, 128): 1, (210, 160): 1, (240, 320): 2, (480, 640): 4, (480, 864): 4, (600, 600): 3}
    assert {size: working_scale(*size) for size in sizes} == sizes
    assert working_scale(488, 640) == 1  # no whole factor leaves multiples of 8


def test_large_videos_get_a_working_copy(packed):
    assert packed.scale == 2 and packed.copy.scale == 1 and packed.copy.copy is packed.copy
    assert packed.copy.frames.shape == (len(packed.frames), 120, 160, 3)
    assert [v.name for v in packed.copy.videos] == [v.name for v in packed.videos]
    means = packed.frames[7].reshape(120, 2, 160, 2, 3).mean((1, 3))
    assert np.abs(means - packed.copy.frames[7]).max() <= 1


def test_of_much_footage_a_share_is_kept_in_full_size(footage, tmp_path, monkeypatch):
    monkeypatch.setattr(videos_module, "PIECE", 20)
    monkeypatch.setattr(videos_module, "LARGEST", 40 * 240 * 320 * 3)
    pack(footage, tmp_path / "store", ReadConfig(size=(240, 320)))
    store = Store(tmp_path / "store")
    assert len(store.copy.frames) == 72 and len(store.frames) == 40
    split_of = {v.name: v.split for v in store.copy.videos}
    assert all(split_of[v.name] == v.split for v in store.videos)


def test_a_copy_of_another_size_is_named(packed):
    index = packed.root / "index.json"
    index.write_text(json.dumps(json.loads(index.read_text(encoding="utf-8")) | {"scale": 3}), encoding="utf-8")
    with pytest.raises(DataError, match=r"copy.*are not 1/3 of those of"):
        Store(packed.root).copy  # noqa: B018


def test_small_frames_have_no_copy(tmp_path):
    writer = StoreWriter(tmp_path, 32, 48)
    writer.add("a", "train", np.zeros((9, 32, 48, 3), np.uint8))
    writer.close()
    store = Store(tmp_path)
    assert store.copy is store and not (tmp_path / "copy").exists()
    assert store_module.WORKING == 128 * 160


def test_alpha_of_agent_rim_and_shadow():
    frames, centres = scene(40)
    plate = np.median(frames, axis=0)
    y, x = np.mgrid[:240, :320]
    masks = np.stack([np.hypot(x - cx, y - cy) < SIDE + 5 for cx, cy in centres])  # wider than the agent
    known = np.ones(plate.shape[:2], bool)
    shot = BackgroundPlate(frames, masks, masks.sum((1, 2)), plate, known, np.zeros((40, 2), int))
    alpha, where = measure_alpha(shot, 11)
    cx, cy = centres[11]
    far = np.hypot(x - cx, y - cy)
    assert where.all() and alpha[far < SIDE - 2].min() > 0.95
    shadow = (far > SIDE + 2) & (np.hypot(x - cx - 8, y - cy - 8) < SIDE + 4)
    assert 0.02 < np.median(alpha[shadow]) < 0.4
    assert alpha[far > 3 * SIDE].max() == 0
    found = alpha > 0.5
    assert (found & (far < SIDE)).sum() / (found | (far < SIDE)).sum() > 0.95


def test_grey_clothes_before_a_grey_wall_are_no_shadow():
    plate = np.full((120, 160, 3), 200.0)
    y, x = np.mgrid[:120, :160]
    head, body = np.hypot(x - 80, y - 35) < 12, (abs(x - 80) < 18) & (abs(y - 75) < 30)
    soft = np.clip(1 - np.hypot((x - 112) / 24, (y - 75) / 30), 0, 1)  # a shadow beside the agent
    frame = plate * (1 - 0.4 * soft[..., None])
    frame[body], frame[head] = 140, 20
    mask = np.hypot((x - 80) / 28, (y - 65) / 52) < 1  # wider than the agent
    one = np.zeros((1, 2), int)
    shot = BackgroundPlate(frame.astype(np.uint8)[None], mask[None], np.array([mask.sum()]), plate, mask | True, one)
    alpha, _ = measure_alpha(shot, 0)
    assert (alpha[head | body] > 0.9).mean() > 0.98
    assert alpha[soft > 0][~body[soft > 0]].max() < 0.5


def test_moved_things_are_taken_from_the_shot(model):
    gma = model.gma
    frames, _ = scene(40)
    plate = np.median(frames, axis=0)
    gma.inpaint.set_plate(torch.from_numpy(plate / 127.5 - 1).float().permute(2, 0, 1), torch.ones(1, 240, 320))
    moved = frames.copy()
    moved[:, 225:235, 5:15] = (20, 60, 20)  # lies there for the whole shot, but not in the common plate
    found = estimate_background(gma, moved)
    assert np.abs(found.plate[227:233, 7:13] - (20, 60, 20)).max() < 2
    assert np.abs(found.plate - plate)[:220].mean() < 2 and found.known.all()


def test_a_plate_that_does_not_fit_gives_no_alpha():
    frames, _ = scene(8)
    masks = np.zeros((8, 240, 320), bool)
    nothing = BackgroundPlate(frames, masks, masks.sum((1, 2)), frames[0], ~masks[0], np.zeros((8, 2), int))
    assert measure_alpha(nothing, 3) is None


CONFIG = GlassConfig.pose(
    240, 320, gma_scale=2, window_scale=1, window=64, agent_radius=20, mask_channels=8, feature_channels=16, hidden=8,
    decoder_channels=16, background_plate=True, poses=8,
)  # fmt: skip


class Bright(torch.nn.Module):
    """Stands in for M: bright pixels of the reduced frames, and 4 px around them."""

    def forward(self, frames):
        small = torch.nn.functional.avg_pool2d(frames, frames.shape[-1] // 160)
        found = torch.nn.functional.max_pool2d((small.amin(1, keepdim=True) > 0.5).float(), 9, 1, 4)
        return torch.nn.functional.interpolate(found, size=frames.shape[-2:])


@pytest.fixture
def model():
    torch.manual_seed(0)
    out = build_glass(CONFIG)
    out.gma.mask = Bright()
    return out.eval()


def test_matting_sharpens_masks_and_tracks_the_agent(packed, model, tmp_path, monkeypatch):
    gma = model.gma
    plate, known = common_background(gma, packed)
    assert known.mean() > 0.95
    true = (np.median(packed.frames, axis=0) / 127.5 - 1).transpose(2, 0, 1)
    assert np.abs(plate.numpy() - true).mean() < 0.02
    gma.inpaint.set_plate(plate, known)
    windows = labelled_windows(gma, packed)
    trainer = Trainer(gma, tmp_path / "gma.pt", LoopConfig(device="cpu", bf16=False))
    monkeypatch.setattr(MattingStage, "rate", 1e-2)
    trainer.run(MattingStage(gma, windows, MattingConfig(iterations=30, batch=4)))
    gma = trainer.average
    centres = scene(72)[1]
    y, x = np.mgrid[:240, :320]
    frames = torch.from_numpy(np.array(packed.frames[10:14])).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        masks, colours, background = gma.segment(frames)
        coarse = gma.mask(frames)
    for found, wide, (cx, cy) in zip(masks, coarse, centres[10:14], strict=True):
        disc = np.hypot(x - cx, y - cy) < SIDE
        sharp, rough = ((m[0].numpy() > 0.5) for m in (found, wide))
        overlap = [(m & disc).sum() / (m | disc).sum() for m in (rough, sharp)]
        assert overlap[0] < 0.75 and overlap[1] > 0.88, overlap
    assert (background - torch.from_numpy(true)).abs().mean() < 0.03  # nothing of the disc stays
    assert colours.shape == frames.shape
    model.gma = gma
    tracked = track_windows(model, packed, packed.videos[:1])
    first = packed.videos[0]
    moves = np.diff(centres[first.start : first.start + first.length], axis=0)
    assert np.abs(np.diff(tracked.position, axis=0) - moves).mean() < 1
    assert tracked.layers.shape[-1] == CONFIG.window + 14


def test_the_command_makes_a_world_of_the_footages_own_size(footage, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("training.train.MattingConfig", lambda: MattingConfig(iterations=2, batch=2))
    monkeypatch.setattr("training.world.build.START_FRAMES", 2)
    sizes = ["--poses", "4", "--codes", "2", "--loop.device", "cpu"]
    gma = ["--gma.iterations", "6", "--gma.batch", "2", "--refine.iterations", "1"]
    lma = ["--pose.iterations", "3", "--pose.batch", "2", "--lma.iterations", "3", "--lma.batch", "4"]
    command = [str(footage), "--out", str(tmp_path / "run"), "--cache", str(tmp_path / "cache"), "--no-report"]
    assert main([*command, *sizes, *gma, *lma, "--read.skip", "0"]) == 0
    world = load_world(tmp_path / "run" / "world.safetensors")
    assert (world.config.height, world.config.width, world.config.gma_scale) == (240, 320, 2)
    assert world.start_frames.shape[1:] == (240, 320, 3)
    told = capsys.readouterr().out
    assert "read.size = 240x320: 320x240 px frames: as they are" in told and "gma_scale = 2" in told


def test_what_moves_without_the_agent_is_not_the_agents():
    rng = np.random.default_rng(0)
    frames = np.full((24, 48, 64, 3), 200, np.float32)
    frames[:, :, 40:] += rng.normal(0, 40, (24, 48, 24, 3))  # bedding that is never at rest
    masks = np.zeros((24, 48, 64), bool)
    for t in range(24):
        masks[t, 20:32, 2 + 2 * t : 14 + 2 * t] = True
    frames[masks] = 20
    plate = np.full((48, 64, 3), 200, np.float32)
    seen = frames.clip(0, 255).astype(np.uint8)
    shot = BackgroundPlate(seen, masks, masks.sum((1, 2)), plate, masks[0] | True, np.zeros((24, 2), int))
    assert shot.unrest[:, :36].max() < 5 < 30 < np.median(shot.unrest[:, 44:])
    alpha, _ = measure_alpha(shot, 19)  # the agent is in the bedding
    assert alpha[masks[19]].mean() > 0.95 and (alpha[~masks[19]] > 0.3).mean() < 0.01
