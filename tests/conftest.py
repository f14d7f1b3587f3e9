"""A tiny random model in milliseconds, small data, and one thread."""

import os

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # windows without a screen; before anybody imports pygame
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # a process a core; what tests start, too. Before anybody imports torch

import numpy as np
import pytest
import torch
from filelock import FileLock

from glass_gym.model.config import GlassConfig
from glass_gym.model.glass import build_glass
from glass_gym.simulator import simulator
from glass_gym.tensors.convert import to_images
from glass_gym.tensors.geometry import densest_point
from glass_gym.worlds.checkpoint import World
from training.data.store import StoreWriter

TINY = GlassConfig.pose(
    32, 48, window=16, agent_radius=5, mask_channels=16, feature_channels=16, hidden=16, decoder_channels=16,
    psi_channels=8, bilinear_channels=8, code_channels=4, codes=3, poses=8, foreground_range=6, background_range=2,
)  # fmt: skip
"""Of the default architecture."""


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """made_once(name, fill): a folder that `fill(folder)` fills, once for all workers of a run; tests only read it."""

    def made(name, fill):
        root = tmp_path_factory.getbasetemp()
        folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / name
        whole = folder.with_suffix(".whole")
        with FileLock(folder.with_suffix(".lock")):
            if not whole.exists():
                folder.mkdir(exist_ok=True)
                fill(folder)
                whole.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def tiny_config():
    return TINY


@pytest.fixture
def meta(monkeypatch):
    """Simulators take torch's "meta" device, whose tensors hold no values; torch.autocast does not know it.

    What runs there looks at no value on the host and mixes no devices: a GPU would wait for nothing and copy nothing.
    """

    class Autocast(torch.autocast):
        def __init__(self, device_type, *args, **kwargs):
            known = device_type != "meta"
            super().__init__(device_type if known else "cpu", *args, **kwargs | ({} if known else {"enabled": False}))

    monkeypatch.setattr(torch, "autocast", Autocast)
    monkeypatch.setattr(torch.amp.autocast_mode, "autocast", Autocast)
    monkeypatch.setattr(simulator, "pick_device", lambda name: torch.device("meta"))
    return torch.device("meta")


@pytest.fixture
def tiny_model(tiny_config):
    torch.manual_seed(0)
    return build_glass(tiny_config).eval()


@pytest.fixture(scope="session")
def tiny_paper_config():
    """The paper's networks on whole frames, as small as they get."""
    return GlassConfig.paper(
        32, 48, window=16, agent_radius=5, mask_channels=8, feature_channels=16, hidden=8, decoder_channels=16,
        psi_channels=8, bilinear_channels=8, code_channels=4, codes=3, foreground_range=6, background_range=2,
    )  # fmt: skip


def world_of(model):
    """A world with random weights and start frames of noise; pose worlds know their start positions, as if trained."""
    model.eval()
    frames = np.random.default_rng(0).integers(0, 256, (12, 32, 48, 3), dtype=np.uint8)
    about: dict = {"mean": 1.0}
    if model.config.architecture == "pose":
        with torch.no_grad():
            masks = model.gma.mask(to_images(torch.from_numpy(frames).permute(0, 3, 1, 2)))
        about["start_positions"] = densest_point(masks, model.config.agent_radius).round().tolist()
    names = ("neutral", "swing", "turn")[: model.config.codes]
    return World(model, frames, (3.0, 2.0), names, 1.6, about, {"by": "test"}, "tiny")


@pytest.fixture(params=["pose", "paper"])
def any_world(request, tiny_config, tiny_paper_config, monkeypatch):
    """A tiny world of each architecture. A module that names it `tiny_world` runs all its tests on each.

    An untrained mask is flat, so that the least rounding moves the agent of a whole-frame world; and in bfloat16, maps
    of 2 x 3 px round otherwise in another batch (full-size ones do not: test_paper_world.py). So it runs in float32.
    """
    torch.manual_seed(0)
    if request.param == "paper":
        pick = simulator.pick_precision
        monkeypatch.setattr(
            simulator, "pick_precision", lambda name, device: pick("float32" if name == "auto" else name, device)
        )
    configs = {"pose": tiny_config, "paper": tiny_paper_config}
    return world_of(build_glass(configs[request.param]).eval())


@pytest.fixture
def pose_world(tiny_model):
    """For modules whose `tiny_world` is of each architecture."""
    return world_of(tiny_model)


@pytest.fixture
def tiny_world(tiny_model):
    return world_of(tiny_model)


@pytest.fixture(scope="session")
def turning_world():
    """A world whose heading is taken out, with stored windows and otherwise untrained; not to be changed."""
    from glass_gym.model.library import LibraryLMA
    from tests.training.test_library import library_config, turning
    from training.windows.library import fill_library, headings_of

    torch.manual_seed(0)
    windows, _ = turning()
    model = build_glass(library_config(drawing="turned")).eval()
    assert isinstance(model.lma, LibraryLMA)
    fill_library(model.lma, windows, headings_of(windows))
    frames = np.random.default_rng(0).integers(0, 256, (2, 96, 160, 3), np.uint8)
    about = {"start_positions": [[80.0, 48.0], [70.0, 40.0]]}
    return World(model, frames, (2.0, 2.0), ("neutral", "left", "right", "run"), 1.0, about)


def block_video(seed: int, length: int, height: int = 32, width: int = 48):
    """A red block that walks over a green field: frames, masks, position."""
    rng = np.random.default_rng(seed)
    frames = np.full((length, height, width, 3), (40, 120, 40), np.uint8)
    masks = np.zeros((length, height, width), bool)
    position = np.zeros((length, 2), np.float32)
    x, y = int(rng.integers(8, width - 16)), int(rng.integers(6, height - 14))
    for t in range(length):
        frames[t, y : y + 8, x : x + 6] = (220, 60, 60)
        frames[t, y + (t % 2) * 6 : y + (t % 2) * 6 + 2, x : x + 6] = (250, 250, 60)
        masks[t, y : y + 8, x : x + 6] = True
        position[t] = x, y
        x = int(np.clip(x + rng.integers(-3, 4), 2, width - 9))
        y = int(np.clip(y + rng.integers(-2, 3), 2, height - 11))
    return frames, masks, position


@pytest.fixture(scope="session")
def block_store(tmp_path_factory):
    root = tmp_path_factory.mktemp("blocks")
    writer = StoreWriter(root, 32, 48, 1.0, "blocks")
    for index in range(12):
        frames, masks, position = block_video(index, 20)
        writer.add(f"v{index:02d}", ("train", "val", "test")[max(0, index - 9)], frames, masks, position=position)
    writer.close()
    return root


@pytest.fixture
def short_passport(monkeypatch):
    """Long random play takes 40 steps instead of 4,500."""
    monkeypatch.setattr("training.evaluation.metrics.passport.MARKS", (2, 20, 40))


@pytest.fixture
def quick_report(monkeypatch, short_passport):
    """Few rollouts behind a report.html: what it says is tested, not whether it is so."""
    monkeypatch.setattr("training.evaluation.html_report.ROLLOUTS", 4)
