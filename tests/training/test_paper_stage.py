"""The paper's LMA stage, on whole frames."""

import numpy as np
import pytest
import torch

from glass_gym.model.config import GlassConfig
from glass_gym.model.glass import Glass, build_glass
from tests.training.bars import PerfectMask
from training.config import LoopConfig, PaperConfig
from training.core.trainer import Trainer
from training.data.store import Store
from training.lma import paper_stage
from training.lma.paper_stage import PaperStage
from training.windows.windows import track_windows
from training.world.build import build_world

LOOP = LoopConfig(device="cpu", bf16=False)


@pytest.fixture
def model(tiny_paper_config):
    torch.manual_seed(0)
    model = build_glass(tiny_paper_config.replace(quantiser="cosine"))
    model.gma.mask = PerfectMask()
    return model


@pytest.fixture
def windows(model, block_store):
    store = Store(block_store)
    return track_windows(model.eval(), store, [v for v in store.videos if v.split == "train"][:4])


def test_it_learns_and_a_world_comes_out(model, windows, block_store, tmp_path):
    config = PaperConfig(iterations=40, frames=8, continuous=10, horizons=(2, 4))
    trainer = Trainer(model.lma, tmp_path / "lma.pt", LOOP)
    seen = []
    stage = PaperStage(trainer.model, windows, config)
    stage.rate = 4e-3
    trainer.run(stage, lambda s, i, terms: seen.append(terms["rec_u"]))
    assert np.mean(seen[-5:]) < 0.7 * np.mean(seen[:3])
    world = build_world(Glass(model.gma, trainer.average), Store(block_store), windows)
    assert len(world.start_frames) >= 32 and "code 0" not in world.code_names and 1 <= world.step[0] <= 3


@pytest.mark.parametrize(
    ("continuous", "iteration", "starts"), [(2, 1, False), (2, 2, True), (2, 3, False), (0, 0, False)]
)
def test_the_codebook_starts_from_k_means_only_where_a_continuous_phase_ends(
    model, windows, continuous, iteration, starts
):
    stage = PaperStage(model.lma, windows, PaperConfig(frames=16, continuous=continuous, horizons=(4,)))
    before = model.lma.quantiser.codebook.clone()
    stage.prepare(iteration, torch.Generator().manual_seed(0))
    assert torch.equal(before, model.lma.quantiser.codebook) != starts


def test_it_trains_with_the_published_quantiser_and_teacher_forcing(block_store, tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = build_glass(GlassConfig.paper(32, 48, codes=3, mask_channels=8))
    store = Store(block_store)
    windows = track_windows(model.eval(), store, [v for v in store.videos if v.split == "train"][:2])
    assert windows.whole and windows.layers.shape[1:] == (4, 32, 48)
    config = PaperConfig(iterations=3, frames=4, continuous=1, horizons=(4,), teacher_forced=3)
    monkeypatch.setattr(paper_stage, "TEACHER_STEPS", 4)
    stage = PaperStage(model.lma, windows, config)
    assert stage.teacher(0, 1, 4).tolist() == [[True, True, True, False]]
    assert stage.teacher(2, 1, 4).tolist() == [[True, True, False, False]] and stage.teacher(4, 1, 4) is None
    seen = []
    Trainer(model.lma, tmp_path / "lma.pt", LOOP).run(stage, lambda s, i, terms: seen.append(terms))
    assert len(seen) == 3 and {"rec_u", "mask", "commitment", "codebook"} <= set(seen[-1])
