import math

import numpy as np
import torch
from training.stages import PaperConfig, PriorConfig, PriorStage

from glass_gym.model.glass import build_glass
from tests.training.test_long import windows
from training.core.trainer import LoopConfig, Trainer


def test_the_prior_learns_what_comes_next_and_nothing_else_changes(tiny_config, tmp_path):
    # the bar stands and lies in turn, so the state tells the next code
    torch.manual_seed(0)
    model = build_glass(tiny_config.replace(prior_channels=16))

    class Poses(torch.nn.Module):
        """A: whether the bar lies after the step."""

        def forward(self, encoder, layers, shifts):
            lies = (layers[:, 1:, 3].amax(2).sum(2) > 6).float()  # wider than high
            out = torch.zeros(*shifts.shape[:2], tiny_config.code_channels)
            out[..., 0], out[..., 1] = lies * 2 - 1, 1 - 2 * lies
            return out

    model.action = Poses()
    book = torch.zeros(3, tiny_config.code_channels)
    book[0, 0] = book[1, 1] = book[2, 2] = 2.0
    model.lma.quantiser.codebook.copy_(book)
    stage = PriorStage(model, windows(), PriorConfig(iterations=200, frames=32), PaperConfig(horizons=(4,)))
    before = {k: v.clone() for k, v in model.state_dict().items() if not k.startswith("prior")}
    seen = []
    trainer = Trainer(model, tmp_path, LoopConfig(device="cpu", bf16=False))
    assert trainer.run(stage, lambda s, i, terms: seen.append(terms["cross_entropy"]))
    assert np.mean(seen[:3]) > 0.8 * math.log(3) and np.mean(seen[-5:]) < 0.5 * math.log(3)
    after = model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_a_run_without_a_prior_gets_one_from_another_run(tiny_config, tmp_path):
    loop = LoopConfig(device="cpu", bf16=False)
    old = Trainer(build_glass(tiny_config), tmp_path / "old", loop)
    old.finished = ["gma", "lma"]
    old.save("lma", 1, None)
    new = Trainer(build_glass(tiny_config.replace(prior_channels=8)), tmp_path / "new", loop)
    new.start_from(old.state_file)
    assert new.finished == ["gma", "lma"]
    assert torch.equal(new.model.lma.decoder.head_full.weight, old.model.lma.decoder.head_full.weight)
