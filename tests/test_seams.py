"""A task, a data source, a metric and a quantiser from outside the package: one new file, and one line each."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
OUTSIDE = '''
"""What somebody else wrote: one file."""
import numpy as np
import torch

from glass_gym.model.quantise import CosineQuantiser
from glass_gym.tasks import Outcome, Task
from training.data.sources import Defaults, Source
from training.data.store import StoreWriter


class Flee(Task):
    """Get away from where you began."""

    options = ()

    def __init__(self, scene, far=10.0):
        self.far = far

    def sample(self, numbers, position, given):
        return {"begin": position.clone()}

    def step(self, before, after, state):
        away = (after - state["begin"]).norm(dim=1)
        return Outcome(away / self.far, away >= self.far, state)

    def infos(self, position, state):
        return {"is_success": (position - state["begin"]).norm(dim=1) >= self.far}

    def heading(self, position, state):
        return 2 * position - state["begin"]

    def fewest_steps(self, position, state):
        return np.ones(len(position), int)


class Blinker(Source):
    """A block that walks over a field."""

    name = "blinker"
    defaults = Defaults(theta=0.04, codes=2, window=16, agent_radius=5)

    def make(self, out, options, progress):
        rng = np.random.default_rng(0)
        writer = StoreWriter(out, 32, 48, 1.0, "blinks", self.name)
        for number in range(6):
            frames, masks = np.full((18, 32, 48, 3), 60, np.uint8), np.zeros((18, 32, 48), bool)
            position = np.zeros((18, 2), np.float32)
            for t in range(18):
                x, y = 6 + 2 * t // 2 + number, 10 + t % 3
                frames[t, y : y + 8, x : x + 6] = (220, 60, 60)
                masks[t, y : y + 8, x : x + 6] = True
                position[t] = x, y
            writer.add(f"v{number}", ("train", "val", "test")[max(0, number - 3)], frames, masks, position=position)
            progress(number + 1, 6)
        writer.close()
        return []


class Coarse(CosineQuantiser):
    """Codes by the cosine, of rounded vectors."""

    def normalise(self, z):
        return super().normalise((4 * z).round() / 4 + 1e-3)


def brightness(evaluation):
    """A figure that nobody asked for."""
    return {"mean": float(evaluation.world.start_frames.mean())}
'''


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """The module `somebody_else`, importable."""
    (tmp_path / "somebody_else.py").write_text(OUTSIDE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    import somebody_else

    yield somebody_else
    sys.modules.pop("somebody_else", None)


def test_a_task_from_outside_is_played_by_its_name(outside, tiny_world, monkeypatch):
    import gymnasium as gym

    import glass_gym
    from glass_gym.tasks import TASKS

    monkeypatch.setattr("glass_gym.tasks.base.TASKS", dict(TASKS))
    glass_gym.register_task("flee", outside.Flee)  # the one line
    env = gym.make("Glass-v0", checkpoint=tiny_world, task="flee", far=6.0)
    env.reset(seed=0)
    rewards = [env.step(np.array([shift, 0]))[1:3] for shift in (1, 1)]  # 3 px to the right, twice
    assert rewards[0] == (pytest.approx(0.5), False) and rewards[1] == (pytest.approx(1.0), True)
    with pytest.raises(ValueError, match="'flee' is registered already"):
        glass_gym.register_task("flee", lambda scene: None)


def test_a_task_from_outside_needs_no_line_where_it_can_be_imported(outside, tiny_world):
    import gymnasium as gym

    envs = gym.make_vec("Glass-v0", num_envs=2, checkpoint=tiny_world, task="somebody_else:Flee", output="torch")
    envs.reset(seed=0)
    assert envs.step(np.array([[1, 0], [0, 0]]))[1].tolist() == [pytest.approx(0.3), 0.0]


def test_a_source_from_outside_is_trained_on_by_its_name(outside, tmp_path, monkeypatch):
    from glass_gym.worlds.checkpoint import load_world
    from training.data import sources
    from training.train import main

    monkeypatch.setattr(sources, "SOURCES", dict(sources.SOURCES))
    sources.register_source(outside.Blinker())  # the one line
    gma = ["--gma.iterations", "2", "--gma.batch", "2", "--loop.device", "cpu"]
    lma = ["--poses", "4", "--pose.iterations", "4", "--pose.batch", "2", "--lma.iterations", "2", "--lma.batch", "2"]
    out = ["--cache", str(tmp_path / "data"), "--out", str(tmp_path / "run")]
    assert main(["blinker", *out, *gma, *lma, "--no-report"]) == 0
    config = load_world(tmp_path / "run" / "world.safetensors").config
    assert (config.window, config.agent_radius) == (16, 5)  # the source's own
    assert json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))["gma"]["theta"] == 0.04


def test_the_command_imports_a_source_by_module_and_name(outside, tmp_path):
    from training.data.sources import DataOptions, open_data, source_of

    store = open_data("somebody_else:Blinker", DataOptions(cache=tmp_path))
    assert store.kind == "blinker" and type(source_of(store)).__name__ == "Blinker"


def test_a_metric_from_outside_is_measured(outside, tiny_world, block_store, tmp_path, monkeypatch):
    from glass_gym.worlds.checkpoint import save_world
    from training.evaluation import evaluate
    from training.evaluation.metrics import registry

    monkeypatch.setattr(registry, "METRICS", dict(registry.METRICS))
    monkeypatch.setattr(evaluate, "METRICS", registry.METRICS)
    registry.register_metric("brightness", outside.brightness)  # the one line
    path = save_world(tmp_path / "w.safetensors", tiny_world)
    out = tmp_path / "evaluation.json"
    assert evaluate.main([str(path), str(block_store), "--out", str(out), "--only", "brightness"]) == 0
    result = json.loads(out.read_text(encoding="utf-8"))
    assert result["brightness"]["mean"] == pytest.approx(tiny_world.start_frames.mean()) and "lma" not in result


def test_a_quantiser_from_outside_is_named_in_a_config_and_its_checkpoint_loads(
    outside, tiny_config, tmp_path, monkeypatch
):
    import glass_gym
    from glass_gym.model import quantise
    from glass_gym.worlds.checkpoint import CheckpointError, load_world, save_world
    from tests.conftest import world_of

    monkeypatch.setattr(quantise, "QUANTISERS", dict(quantise.QUANTISERS))
    glass_gym.register_quantiser("coarse", outside.Coarse)  # the one line
    model = glass_gym.build_glass(tiny_config.replace(quantiser="coarse")).eval()
    path = save_world(tmp_path / "w.safetensors", world_of(model))
    assert isinstance(load_world(path).model.lma.quantiser, outside.Coarse)
    del quantise.QUANTISERS["coarse"]
    with pytest.raises(CheckpointError, match="no quantiser called 'coarse'; there are: cosine, plain"):
        load_world(path)


def test_the_product_does_not_know_the_ablations():
    words = ("gumbel", "gated", "variability", "unmodulated", "ablation")
    code = "\n".join(path.read_text(encoding="utf-8").lower() for path in (ROOT / "glass_gym").rglob("*.py"))
    assert not [word for word in words if word in code]
