"""Pseudo-labels: of an M that misses hands they have them; what only passes by, and what cannot be known, is left."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from glass_gym.model.gma import Motion
from glass_gym.tensors.geometry import dilate
from training.config import GmaConfig
from training.core.trainer import read_state
from training.data.store import Store, StoreWriter
from training.evaluation.metrics.residue import residue_share
from training.footage import choices
from training.footage.choices import survey_store
from training.gma import pseudo_labels
from training.gma.background import estimate_background
from training.gma.pseudo_labels import PseudoLabels, make_pseudo_labels
from training.gma.stage import RefineStage
from training.train import main
from training.windows.size import best_hole_margin
from training.world import build
from training.world.build import start_frames

BODY, HAND, OTHER = (230, 30, 30), (30, 30, 230), (250, 250, 30)


class BodyOnly(nn.Module):
    """A GMA whose M sees the body, a px of what is about it, and no hands."""

    config = SimpleNamespace(hole_margin=0, gma_scale=1, window_scale=1, agent_radius=6, width=96)
    inpaint = matting = None

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def mask(self, images):
        return dilate(self.body(images), 1)

    def sharp_mask(self, images):
        return self.mask(images)

    def segment(self, images):
        return self.mask(images), images, self.inpaint_background(images, self.mask(images))

    def body(self, images):
        body = torch.tensor(BODY).to(images)[:, None, None] / 127.5 - 1
        return ((images - body).abs().amax(1, keepdim=True) < 0.1).float()

    def inpaint_background(self, images, masks, margin=0):
        """Paints grey."""
        hole = dilate(masks, margin) if margin else masks
        return images * (1 - hole) - 0.14 * hole


class FallsShort(BodyOnly):
    """An M that misses 2 px all round the body."""

    def mask(self, images):
        return 1 - dilate(1 - self.body(images), 2)


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


def test_hands_that_m_misses_are_found_and_what_passes_by_is_not(store):
    seen = []
    labels = make_pseudo_labels(BodyOnly(), store, seen.append)
    assert sum(seen) == 180
    assert set(labels.frames.tolist()) <= set(range(180)) and len(labels.frames) > 170
    mine, unsure = (np.unpackbits(b, axis=1).reshape(-1, 64, 96) > 0 for b in (labels.silhouettes, labels.unsure))
    true = np.stack([store.masks(t, t + 1)[0] for t in labels.frames])
    assert (mine & true).sum() > 0.98 * true.sum() and (mine & ~true).sum() < 0.01 * true.sum()
    assert (unsure & true).sum() < 0.02 * true.sum() and not (mine & unsure).any()
    plates = labels.backgrounds(np.arange(len(mine)), 64, 96)
    assert (plates[..., 3] > 0).mean() > 0.9
    outside = ~true & (plates[..., 3] > 0)
    frames = store.frames[labels.frames]
    assert (plates[outside][:, :3] == frames[outside]).all(-1).mean() > 0.97  # the rest is what flies by
    inside = true & (plates[..., 3] > 0)
    assert inside.sum() > 0.8 * true.sum() and plates[inside][:, :3].max() < 180  # and not the agent


def test_there_are_no_labels_where_m_sees_nothing(store, monkeypatch):
    empty = BodyOnly()
    monkeypatch.setattr(empty, "mask", lambda images: torch.zeros(len(images), 1, 64, 96))
    assert not len(make_pseudo_labels(empty, store).frames)
    monkeypatch.setattr(pseudo_labels, "FEWEST", 1000)
    assert not len(make_pseudo_labels(BodyOnly(), store).frames)


def test_episodes_start_from_agents_that_m_finds_whole(store, monkeypatch):
    model = SimpleNamespace(gma=BodyOnly(), config=BodyOnly.config)
    frames, backgrounds = start_frames(model, store, 8)
    assert len(frames) == 8 and (frames == BODY).all(-1).any((1, 2)).all()
    assert not (frames == HAND).all(-1).any()  # two thirds of the frames have one
    assert not (backgrounds == BODY).all(-1).any()
    monkeypatch.setattr(build, "HELD_OUT", 1)
    longer, _ = start_frames(model, store, 40)
    assert len(longer) == 32 and (longer == HAND).all(-1).any((1, 2)).mean() > 0.4  # where too few are whole, others


@pytest.mark.parametrize("camera", [False, True])
def test_the_background_is_what_the_footage_shows_behind_the_agent(camera):
    frames, masks = video(0, camera)
    truth = estimate_background(BodyOnly(), frames, masks)
    plate = estimate_background(BodyOnly(), frames)
    first, inpainted = plate.without_agent(BodyOnly(), 0)
    scene, known = truth.at(0)
    assert masks[0].sum() == 20 * 8 and (~known & masks[0]).sum() <= (1 - camera) * 20 * 5  # he walks 14 px in all
    assert (first[known] == scene.astype(np.uint8)[known]).all(-1).mean() > 0.99
    assert inpainted < 0.05 and not (first == BODY).all(-1).any()
    assert residue_share(first, truth, 0) == 0 and residue_share(frames[0], truth, 0) > 0.95
    alone = np.repeat(frames[:1], 4, 0)  # nothing is shown behind him: N paints all of it
    grey, inpainted = estimate_background(BodyOnly(), alone).without_agent(BodyOnly(), 0)
    assert inpainted == 1 and (grey[masks[0]] == 110).all()
    assert residue_share(grey, estimate_background(BodyOnly(), alone), 0) is None


@pytest.mark.parametrize("camera", [False, True])
def test_a_hole_is_as_much_larger_as_m_falls_short(tmp_path, camera):
    assert best_hole_margin(FallsShort(), store_of(tmp_path, [camera] * 4))[0] == 2


def test_labels_are_kept(store, tmp_path):
    for labels in (make_pseudo_labels(BodyOnly(), store), PseudoLabels(np.zeros(0, int), np.zeros((0, 0), np.uint8))):
        labels.save(tmp_path / "labels.npz")
        again = PseudoLabels.load(tmp_path / "labels.npz")
        for name in ("frames", "silhouettes", "plate_of", "corners", "unsure"):
            assert np.array_equal(getattr(again, name), getattr(labels, name)), name
        assert len(again.plates) == len(labels.plates)
        assert all(np.array_equal(a, b) for a, b in zip(again.plates, labels.plates, strict=True))


def test_the_refine_stage_teaches_m_what_is_sure(store, tiny_model):
    labels = make_pseudo_labels(BodyOnly(), store)
    gma = GmaConfig(batch=2, theta=0.001)
    model = tiny_model.gma
    stage = RefineStage(model, store, gma, 4, labels)
    assert stage.name == "refine" and stage.iterations == 4 and stage.rate == 5e-4
    assert 0.02 < stage.config.theta < 0.05  # what the agent covers: 160 to 172 of 6,144 px
    assert stage.modules == model.modules_of("gma")
    batch = stage.sampler.batch(np.random.default_rng(0), 0)
    mask = batch["silhouettes"].float()

    def label(shown):
        model.mask = lambda images: shown.requires_grad_()
        masks, backgrounds, layer = (torch.zeros(2, *shape, 64, 96) for shape in ((2, 1), (2, 3), (4,)))
        model.analyse_pairs = lambda *_: Motion(masks, backgrounds, None, None, layer, layer[:, :3], layer[:, :3])
        stage._plate_error = lambda *_: torch.zeros(())
        return [float(stage.losses(batch, t, torch.Generator())["pseudo_label"].detach()) for t in (0, 3)]

    del model.mask
    assert label(mask.clone()) == pytest.approx([0, 0], abs=1e-4)
    doubted = mask.clone()
    doubted[batch["unsure"] > 0] = 1
    assert label(doubted) == pytest.approx([0, 0], abs=1e-4)
    assert min(label(1 - mask)) > 0.95 and label(mask * 0) == pytest.approx(label(mask * 0)[::-1])


def test_labels_are_made_once_however_often_the_refine_stage_is_interrupted(block_store, tmp_path, monkeypatch):
    store = Store(block_store)
    bits = np.packbits(store.masks(0, 20).reshape(20, -1), axis=1)
    made = []

    def make(gma, store, progress):
        made.append(sum(float(p.detach().abs().sum()) for p in gma.parameters()))
        return PseudoLabels(np.arange(20), bits, unsure=np.zeros_like(bits))

    first = survey_store(store)
    monkeypatch.setattr(choices, "survey_store", lambda *_: first)
    monkeypatch.setattr(pseudo_labels, "make_pseudo_labels", make)
    command = [
        str(block_store), "--window", "16", "--gma.theta", "0.04", "--gma.iterations", "2",
        "--gma.batch", "2", "--refine.iterations", "3", "--lma.iterations", "0", "--loop.device", "cpu",
    ]  # fmt: skip
    parted = [*command, "--out", str(tmp_path / "parted"), "--loop.max-minutes", "0"]
    assert main(parted) == 3
    for _ in range(4):
        assert main([*parted, "--resume"]) == 3
    assert main([*parted, "--resume"]) == 0
    assert len(made) == 1
    assert main([*command, "--out", str(tmp_path / "whole")]) == 0
    assert made[0] == made[1]
    a, b = (read_state(tmp_path / run / "gma.pt", torch.device("cpu")) for run in ("parted", "whole"))
    assert a["finished"] == ["gma", "refine"]
    assert all(torch.equal(value, b["average"][name]) for name, value in a["average"].items())


def test_pixels_on_the_rim_that_are_mostly_background_are_no_agent():
    """A square on a background, its right column a third of it, its left one half-bright, its top an outline of another
    colour; a leg, one px thin, beside which a pixel is a third of it, too."""
    background = np.full((20, 20, 3), (40, 90, 60), np.float32)
    agent = np.array([200, 60, 30], np.float32)
    frame = background.copy()
    frame[5:12, 5:12] = agent
    frame[5:12, 12] = background[0, 0] + 0.33 * (agent - background[0, 0])
    frame[5:12, 4] = background[0, 0] + 0.66 * (agent - background[0, 0])
    frame[4, 5:12] = (60, 60, 110)
    frame[13:18, 8] = agent
    frame[12, 8] = agent
    frame[14:18, 9] = background[0, 0] + 0.33 * (agent - background[0, 0])
    blob = np.abs(frame - background).max(-1) > 0
    mixed, share = pseudo_labels.rim_share(frame - background, blob)
    faint = mixed & (share < pseudo_labels.MIXED)
    expected = np.zeros_like(blob)
    expected[5:12, 12] = True
    expected[14:18, 9] = True
    assert np.array_equal(faint, expected)
