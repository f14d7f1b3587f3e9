"""The second look: with an M that lost hands, it finds them; what only passes by, and what cannot be known, is left."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from training.stages import GmaConfig, PseudoLabels, RefineConfig, RefineStage

from glass_gym.tensors.geometry import dilate
from training.data.store import Store, StoreWriter
from training.footage.choices import Choices, choose_hole
from training.gma import pseudo_labels as second_look
from training.gma.pseudo_labels import make_pseudo_labels
from training.world.build import start_frames

BODY, HAND, OTHER = (230, 30, 30), (30, 30, 230), (250, 250, 30)


class BodyOnly(nn.Module):
    """An M that sees the body, a px of what is about it, and no hands."""

    config = SimpleNamespace(hole=0)

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def mask(self, images):
        return dilate(self.body(images), 1)

    def body(self, images):
        body = torch.tensor(BODY).to(images)[:, None, None] / 127.5 - 1
        return ((images - body).abs().amax(1, keepdim=True) < 0.1).float()


class FallsShort(BodyOnly):
    """An M that misses 2 px all round the body, and an N that paints grey."""

    def mask(self, images):
        return 1 - dilate(1 - self.body(images), 2)

    def behind(self, images, masks, grow):
        hole = dilate(masks, grow) if grow else masks
        return images * (1 - hole) - 0.14 * hole


def video(seed: int, camera: bool) -> tuple[np.ndarray, np.ndarray]:
    """An agent that walks little, with a hand that comes and goes; another thing flies by: frames, masks."""
    rng = np.random.default_rng(seed)
    wide = rng.integers(60, 160, (96, 144, 3)).astype(np.uint8)
    corner = np.array([20, 16])
    frames, masks = [], []
    for t in range(30):
        corner = (corner + camera * rng.integers(-2, 3, 2)).clip(4, 30)
        world = wide.copy()
        agent = np.zeros(world.shape[:2], bool)
        x, y = 60 + t // 2, 40
        agent[y : y + 20, x : x + 8] = True
        world[agent] = BODY
        if t % 3:
            hand = np.zeros_like(agent)
            hand[y + 4 + t % 5 : y + 7 + t % 5, x + 8 : x + 12] = True
            world[hand] = HAND
            agent |= hand
        world[20:26, 30 + 2 * t : 36 + 2 * t] = OTHER
        cut = slice(corner[1], corner[1] + 64), slice(corner[0], corner[0] + 96)
        frames.append(world[cut])
        masks.append(agent[cut])
    return np.stack(frames), np.stack(masks)


def store_of(root, cameras: list[bool]) -> Store:
    writer = StoreWriter(root, 64, 96, 1.0, "hands")
    for n, camera in enumerate(cameras):
        writer.add(f"v{n}", "val" if n >= len(cameras) - 2 else "train", *video(n, camera))
    writer.close()
    return Store(root)


@pytest.fixture
def store(tmp_path):
    return store_of(tmp_path, [False, True] * 4)


def test_hands_that_m_lost_are_found_and_what_passes_by_is_not(store):
    seen = []
    hints = make_pseudo_labels(BodyOnly(), store, seen.append)
    assert sum(seen) == 180
    assert set(hints.frames.tolist()) <= set(range(180)) and len(hints.frames) > 170
    mine, unsure = (np.unpackbits(b, axis=1).reshape(-1, 64, 96) > 0 for b in (hints.silhouettes, hints.unsure))
    true = np.stack([store.masks(t, t + 1)[0] for t in hints.frames])
    assert (mine & true).sum() > 0.98 * true.sum() and (mine & ~true).sum() < 0.01 * true.sum()
    assert (unsure & true).sum() < 0.02 * true.sum() and not (mine & unsure).any()
    behind = hints.behind(np.arange(len(mine)), 64, 96)
    assert (behind[..., 3] > 0).mean() > 0.9
    outside = ~true & (behind[..., 3] > 0)
    frames = store.frames[hints.frames]
    assert (behind[outside][:, :3] == frames[outside]).all(-1).mean() > 0.97  # the rest is what flies by
    inside = true & (behind[..., 3] > 0)
    assert inside.sum() > 0.8 * true.sum() and behind[inside][:, :3].max() < 180  # and not the agent


def test_nothing_is_said_where_m_sees_nothing(store, monkeypatch):
    blind = BodyOnly()
    monkeypatch.setattr(blind, "mask", lambda images: torch.zeros(len(images), 1, 64, 96))
    assert not len(make_pseudo_labels(blind, store).frames)
    monkeypatch.setattr(second_look, "FEWEST", 1000)
    assert not len(make_pseudo_labels(BodyOnly(), store).frames)


def test_episodes_start_from_agents_that_m_finds_whole(store):
    frames = start_frames(BodyOnly(), store, 8)
    assert len(frames) == 8 and (frames == BODY).all(-1).any((1, 2)).all()
    assert not (frames == HAND).all(-1).any()  # two thirds of the frames have one
    longer = start_frames(BodyOnly(), store, 40)
    assert len(longer) == 32 and (longer == HAND).all(-1).any((1, 2)).mean() > 0.4  # where too few are whole, others


@pytest.mark.parametrize("camera", [False, True])
def test_a_hole_is_as_much_larger_as_m_falls_short(tmp_path, camera):
    choices = Choices()
    choose_hole(choices, FallsShort(), store_of(tmp_path, [camera] * 4))
    assert choices.values["hole"] == 2


def test_what_was_seen_is_kept(store, tmp_path):
    for hints in (make_pseudo_labels(BodyOnly(), store), PseudoLabels(np.zeros(0, int), np.zeros((0, 0), np.uint8))):
        hints.save(tmp_path / "look.npz")
        again = PseudoLabels.load(tmp_path / "look.npz")
        for name in ("frames", "silhouettes", "scene_of", "corners", "unsure"):
            assert np.array_equal(getattr(again, name), getattr(hints, name)), name
        assert len(again.scenes) == len(hints.scenes)
        assert all(np.array_equal(a, b) for a, b in zip(again.scenes, hints.scenes, strict=True))


def test_the_refine_stage_teaches_m_what_is_sure(store, tiny_model):
    hints = make_pseudo_labels(BodyOnly(), store)
    gma = GmaConfig(batch=2, theta=0.001, moving_pixels=3)
    stage = RefineStage(tiny_model, store, gma, RefineConfig(iterations=4, hint=2.0), hints)
    assert stage.name == "refine" and stage.iterations == 4 and gma.theta == 0.001
    assert 0.02 < stage.config.theta < 0.05  # what the agent covers: 160 to 172 of 6,144 px
    assert stage.modules == tiny_model.modules_of("gma")
    batch = stage.sampler.batch(np.random.default_rng(0), 0)
    mask = batch["silhouettes"].float()

    def hint(shown):
        tiny_model.mask = lambda images: shown.requires_grad_()
        stage.model.gma.analyse_pairs = lambda *_: SimpleNamespace(
            masks=torch.zeros(2, 2, 1, 64, 96),
            moved_layer=torch.zeros(2, 4, 64, 96),
            backgrounds=torch.zeros(2, 2, 3, 64, 96),
            moved_background=torch.zeros(2, 3, 64, 96),
            composed=torch.zeros(2, 3, 64, 96),
        )
        stage._scene_error = lambda *_: torch.zeros(())
        return [float(stage.losses(batch, t, torch.Generator())["hint"].detach()) for t in (0, 3)]

    del tiny_model.mask
    assert hint(mask.clone()) == pytest.approx([0, 0], abs=1e-4)
    doubted = mask.clone()
    doubted[batch["unsure"] > 0] = 1
    assert hint(doubted) == pytest.approx([0, 0], abs=1e-4)
    assert min(hint(1 - mask)) > 1.9 and hint(mask * 0) == pytest.approx(hint(mask * 0)[::-1])


def test_pixels_on_the_rim_that_are_mostly_scene_are_no_agent():
    """A square on a scene, its right column a third of it, its left one half-bright, its top an outline of another
    colour; a leg, one px thin, beside which a pixel is a third of it, too."""
    scene = np.full((20, 20, 3), (40, 90, 60), np.float32)
    agent = np.array([200, 60, 30], np.float32)
    frame = scene.copy()
    frame[5:12, 5:12] = agent
    frame[5:12, 12] = scene[0, 0] + 0.33 * (agent - scene[0, 0])
    frame[5:12, 4] = scene[0, 0] + 0.66 * (agent - scene[0, 0])
    frame[4, 5:12] = (60, 60, 110)
    frame[13:18, 8] = agent
    frame[12, 8] = agent
    frame[14:18, 9] = scene[0, 0] + 0.33 * (agent - scene[0, 0])
    blob = np.abs(frame - scene).max(-1) > 0
    faint = second_look._faint_rim(frame - scene, blob)
    expected = np.zeros_like(blob)
    expected[5:12, 12] = True
    expected[14:18, 9] = True
    assert np.array_equal(faint, expected)
