"""Files of version 1: configs with a switch for every experiment, other names of modules."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from glass_gym.build import build_glass
from glass_gym.checkpoint import CheckpointError, load_world, resolve, save_world
from glass_gym.config import GlassConfig
from glass_gym.versions import upgrade_config, upgrade_weights

LEAN_1 = {
    "height": 32, "width": 48, "mask_net": "unet", "mask_channels": 16, "mask_bias": -2.0,
    "foreground_shift": "correlation", "background_shift": "correlation", "foreground_range": 6,
    "background_range": 2, "inpaint_net": "unet", "view": "agent", "window": 16, "agent_radius": 5, "norm": "group",
    "feature_channels": 16, "compressed_channels": 8, "hidden": 16, "dynamics": "residual", "decoder_channels": 16,
    "psi_channels": 8, "bilinear_channels": 8, "code_channels": 4, "codes": 3, "directions": "bilinear",
    "quantiser": "ema", "variability": False, "action_input": "joint", "modulated": True, "gated_copy": False,
    "action_channels": 8, "skip": True, "action_view": "shape", "joint_attention": True,
}  # fmt: skip
PAPER_1 = LEAN_1 | {
    "mask_net": "paper", "mask_bias": 0.0, "foreground_shift": "regressor", "background_shift": "regressor",
    "inpaint_net": "paper", "view": "whole", "norm": "batch", "dynamics": "paper", "quantiser": "plain",
    "skip": False, "action_view": "colour",
}  # fmt: skip
RENAMED = {"stem": "enter", "head": "leave", "norm1": "hear1", "norm3": "hear3", "norm5": "hear5", "norm6": "hear6"}


def named_as_before(tensors):
    """Today's state dict under the names of version 1, by hand."""
    out = {}
    for key, value in tensors.items():
        parts = key.split(".")
        if parts[0] == "dynamics":
            parts[1] = RENAMED.get(parts[1], parts[1])
        if parts[:2] == ["decoder", "norm"]:
            parts[1] = "hear"
        out[".".join("says" if part == "affine" else part for part in parts)] = value
    return out


def test_a_config_of_version_1_says_the_same_in_todays_words(tiny_config):
    assert GlassConfig.from_dict(upgrade_config(LEAN_1, 1)) == tiny_config
    paper = GlassConfig.from_dict(upgrade_config(PAPER_1, 1))
    assert (paper.architecture, paper.quantiser, paper.codes) == ("paper", "plain", 3)
    today = tiny_config.to_dict()
    assert upgrade_config(today, 2) == today


def test_an_experiment_of_version_1_is_named():
    with pytest.raises(ValueError, match=r"an experiment of version 1 with \{'gated_copy': True\}"):
        upgrade_config(LEAN_1 | {"gated_copy": True}, 1)


def test_weights_of_version_1_find_their_places(tiny_model):
    now = tiny_model.state_dict()
    before = named_as_before(now)
    assert {"dynamics.hear1.says.weight", "dynamics.enter.weight", "decoder.hear.norm.weight"} <= set(before)
    again = upgrade_weights(before, 1)
    assert set(again) == set(now) and all(again[key] is value for key, value in now.items())
    assert upgrade_weights(now, 2) is now


def test_a_checkpoint_of_version_1_loads(tiny_world, tmp_path):
    tiny_world.usual_codes = (0, 2, 2, 0, 1, 1, 1, 0, 2)
    path = save_world(tmp_path / "new.safetensors", tiny_world)
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["glass"])
    tensors = {key.removeprefix("model."): value for key, value in load_file(path).items()}
    frames = tensors.pop("start_frames")
    old = {f"model.{key}": value for key, value in named_as_before(tensors).items()} | {"start_frames": frames}
    header["statistics"]["usual_codes"] = header.pop("usual_codes")
    header = {key: v for key, v in header.items() if key != "sha256"} | {"format_version": 1, "config": LEAN_1}
    save_file(old, tmp_path / "old.safetensors", {"glass": json.dumps(header)})
    world, same = load_world(tmp_path / "old.safetensors"), load_world(path)
    assert world.usual_codes == same.usual_codes == tiny_world.usual_codes and "usual_codes" not in world.statistics
    pairs = zip(world.model.state_dict().values(), same.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    header["config"] = LEAN_1 | {"action_view": "colour"}
    save_file(old, tmp_path / "odd.safetensors", {"glass": json.dumps(header)})
    with pytest.raises(CheckpointError, match=r"odd\.safetensors: .*an experiment of version 1 with .*colour"):
        load_world(tmp_path / "odd.safetensors")


@pytest.mark.parametrize("name", ["tennis", "sprites"])
def test_the_bundled_worlds_are_of_version_1_and_load(name):
    with safe_open(resolve(name), "pt") as file:
        assert json.loads(file.metadata()["glass"])["format_version"] == 1
    assert load_world(name).config.architecture == "lean" and len(load_world(name).usual_codes) == 9


def test_a_training_state_of_version_1_is_continued(tiny_config, block_store, tmp_path):
    pytest.importorskip("tyro")
    from training.data.store import Store
    from training.stages import GmaConfig, GmaStage
    from training.trainer import LoopConfig, Trainer

    torch.manual_seed(0)
    model = build_glass(tiny_config)
    trainer = Trainer(model, tmp_path, LoopConfig(device="cpu", bf16=False))
    stage = GmaStage(model, Store(block_store), GmaConfig(iterations=4, batch=2, theta=0.04, moving_pixels=3))
    assert not trainer.run(stage, lambda s, i, terms: trainer._request_stop() if i == 1 else None)
    state = torch.load(trainer.state_file, weights_only=True)
    state |= {"version": 1, "config": json.dumps(LEAN_1)}
    state |= {part: named_as_before(state[part]) for part in ("model", "average")}
    torch.save(state, trainer.state_file)
    again = Trainer(build_glass(tiny_config), tmp_path, LoopConfig(device="cpu", bf16=False))
    again.load()
    assert torch.equal(again.model.dynamics.stem.weight, model.dynamics.stem.weight)
    assert again.run(GmaStage(again.model, Store(block_store), stage.config)) and again.finished == ["gma"]
