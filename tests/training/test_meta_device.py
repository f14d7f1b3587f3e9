"""One training step of each stage without values (:func:`tests.conftest.meta`)."""

import numpy as np
import pytest
import torch

from glass_gym.model.glass import build_glass, build_gma, build_lma
from tests.training.bars import bar_windows
from training.config import GmaConfig, LmaConfig, PaperConfig, PoseConfig
from training.data.store import Store
from training.gma.stage import GmaStage
from training.lma.library_stage import LibraryStage
from training.lma.paper_stage import PaperStage
from training.lma.stage import LmaStage
from training.poses.stage import PoseStage
from training.windows.library import fill_library
from training.windows.windows import track_windows


def step_on(device, stage) -> None:
    """Move a stage to a device, with what it keeps, and make an optimiser step there."""
    batch = {name: value.to(device) for name, value in stage.sampler.batch(np.random.default_rng(0), 1).items()}
    stage.model.to(device)
    for name, value in vars(stage).items():
        if isinstance(value, torch.Tensor):
            setattr(stage, name, value.to(device))
    terms = stage.losses(batch, 1, torch.Generator().manual_seed(0))
    assert all(term.device == device for term in terms.values())
    parameters = [p for p in stage.model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters)
    sum(terms.values()).backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimiser.step()


def test_gma(meta, tiny_config, block_store):
    step_on(meta, GmaStage(build_gma(tiny_config), Store(block_store), GmaConfig(theta=0.1, batch=2)))


@pytest.mark.parametrize("kind", [PoseStage, LmaStage])
def test_a_painted_agent(meta, tiny_config, kind):
    lma = build_lma(tiny_config.replace(poses=4, codes=2, prior_channels=8))
    config = PoseConfig(iterations=10, batch=2) if kind is PoseStage else LmaConfig(iterations=10, batch=2)
    stage = kind(lma, bar_windows(videos=4, length=12), config)
    if kind is LmaStage:
        _ = stage.clusters  # computed once, on the host
    step_on(meta, stage)


def test_stored_windows(meta, tiny_config):
    lma = build_lma(tiny_config.replace(poses=20, codes=2, prior_channels=8, drawing="stored"))
    windows = bar_windows(videos=4, length=12)
    fill_library(lma, windows, None)
    step_on(meta, LibraryStage(lma, windows, LmaConfig(iterations=10, batch=2)))


def test_the_papers(meta, tiny_paper_config, block_store):
    model = build_glass(tiny_paper_config).eval()
    store = Store(block_store)
    windows = track_windows(model, store, [v for v in store.videos if v.split == "train"][:2])
    config = PaperConfig(iterations=4, frames=8, continuous=0, horizons=(4,))
    step_on(meta, PaperStage(model.lma, windows, config))
