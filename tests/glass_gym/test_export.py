"""glass-export: worlds as ONNX, equal to torch; pages; what is missing is named and nothing is half written."""

import base64
import copy
import json
import re
import shutil
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from glass_gym.export import (
    ExportError,
    OnnxWorld,
    command,
    compare,
    export_onnx,
    export_policy,
    onnx,
    page,
    write_page,
)
from glass_gym.export.command import main
from glass_gym.export.onnx import core_of_world, describe
from glass_gym.model.glass import build_glass
from glass_gym.worlds.checkpoint import bundled, load_world, save_world
from tests.conftest import world_of

ROOT = Path(__file__).parents[2]


SLOW = pytest.param("paper", marks=pytest.mark.slow)  # tracing takes its time


@pytest.fixture(scope="module", params=["pose", "library", SLOW])
def exported(request, made_once, tiny_config, tiny_paper_config):
    """A tiny world of each architecture, where it was exported to, and what was said of it."""
    torch.manual_seed(0)
    pose = tiny_config.replace(prior_channels=8)
    configs = {"pose": pose, "library": pose.replace(drawing="turned"), "paper": tiny_paper_config}
    model = build_glass(configs[request.param]).eval()
    if model.config.library:
        library = model.lma.library
        library.windows[:, 3, 3:-4, 6:-6] = 255
        library.windows[:, :3] = 128 + (torch.randn(library.windows[:, :3].shape) * 40).clamp(-127, 127).byte()
        library.components.normal_(std=0.05)
        library.colours.normal_()
        library.residual.fill_(0.1)
    world = world_of(model)
    folder = made_once(f"exported-{request.param}", lambda folder: export_onnx(world, folder))
    return world, folder, json.loads((folder / "world.json").read_text(encoding="utf-8"))


@pytest.fixture
def runtime(tmp_path):
    """A stand-in for `npm pack onnxruntime-web`."""
    archive = tmp_path / "onnxruntime-web.tgz"
    with tarfile.open(archive, "w:gz") as out:
        for name in (*page.RUNTIME, "LICENSE", "other.js"):
            (tmp_path / name).write_text(f"stand-in for {name}", encoding="utf-8")
            out.add(tmp_path / name, f"package/dist/{name}")
    return archive


def test_every_architecture_is_the_same_world_in_onnx_runtime(exported):
    world, folder, about = exported
    assert ("prior" in about["graphs"]) == (world.model.lma.prior is not None)
    assert about["graphs"]["step"]["outputs"]["frame"] == {"type": "uint8", "shape": ["rows", 32, 48, 3]}
    assert about["graphs"]["step"]["inputs"]["code"] == {"type": "int64", "shape": ["rows"]}
    steps = 3 if world.config.architecture == "paper" else 20  # an untrained flat mask: see conftest
    for rows in (3, 1):
        assert max(compare(world, folder, steps, rows)) < 0.5
    weights = sum(p.numel() for p in world.model.parameters()) + sum(b.numel() for b in world.model.buffers())
    assert (folder / "weights.bin").stat().st_size < 6 * weights  # what graphs share is written once
    stacked = np.asarray(Image.open(folder / about["start_frames"]["file"]))
    assert np.array_equal(stacked.reshape(-1, 32, 48, 3), world.start_frames)


def test_a_difference_is_found(exported):
    world, folder, _ = exported
    changed = copy.deepcopy(world)
    with torch.no_grad():
        lma = changed.model.lma
        (lma.dynamics.logits if world.config.library else lma.decoder.head).bias.add_(1)
    assert max(compare(changed, folder, 3, rows=2)) > onnx.TOLERANCE


def test_the_prior_and_the_refined_position_are_torchs(exported):
    world, folder, about = exported
    assert about["refines_position"] == (world.config.architecture == "pose")
    if not about["refines_position"]:
        pytest.skip("the paper's model does not search for the position")
    simulator = core_of_world(world).simulator
    frames = torch.from_numpy(world.start_frames[:2])
    state = simulator.start(frames)  # searches for the position
    mine = OnnxWorld(folder)
    seen = mine.run("segment", frame=frames.numpy())
    offsets = np.array([(x, y) for y in range(-3, 4) for x in range(-3, 4)], np.float32)
    for row in range(2):
        positions = seen["centre"][row].round() + offsets
        colours, mask = (np.repeat(seen[name][row : row + 1], 49, 0) for name in ("colours", "mask"))
        errors = mine.run("begin", colours=colours, mask=mask, position=positions.astype(np.float32))["error"]
        assert np.array_equal(positions[errors.argmin()], state.position[row].numpy())
    begun = mine.start(frames.numpy(), state.position.numpy())
    shifts = torch.tensor(about["shifts"]).expand(2, -1, -1)
    chances = mine.run("prior", **begun, shifts=shifts.numpy())["probability"]
    assert np.allclose(chances, simulator.code_prior(state, shifts).numpy(), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(bundled()))
def test_bundled_worlds_are_the_same_for_100_steps(name, tmp_path):
    world = load_world(name)
    export_onnx(world, tmp_path)
    assert max(compare(world, tmp_path, 100)) < onnx.TOLERANCE


def test_a_policy_acts_as_in_torch(tmp_path, monkeypatch):
    pytest.importorskip("stable_baselines3")
    import onnxruntime

    from glass_gym import sb3
    from glass_gym.env.core import GlassCore
    from glass_gym.policy import load_policy

    monkeypatch.setattr(sb3, "pick_precision", lambda *_: torch.float32)  # as exported policies are
    world = load_world("tennis")
    about = describe(core_of_world(world)) | {"graphs": {}}
    (tmp_path / "world.json").write_text(json.dumps(about), encoding="utf-8")
    file = ROOT / "agents" / "trained" / "GlassTennis-v0" / "ppo.safetensors"
    export_policy(world, tmp_path, file)
    core = GlassCore(world, 6, device="cpu", precision="float32", task="reach")
    core.seed({row: row for row in range(6)})
    core.reset()
    policy = load_policy(file, core=core)
    exported = onnxruntime.InferenceSession(tmp_path / "policy.onnx")
    for _ in range(5):
        frame = core.pictures(False).permute(0, 2, 3, 1).contiguous().numpy()
        target = core.state.task["target"].float().numpy()
        actions = policy.act(core)
        assert np.array_equal(exported.run(["action"], {"frame": frame, "target": target})[0], actions)
        core.advance(actions)
    with pytest.raises(ExportError, match="its actions are"):
        export_policy(load_world("sprites"), tmp_path, file)


def test_a_page_has_all_that_it_needs_and_nothing_from_elsewhere(tiny_world, runtime, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "export_onnx", lambda world, folder, progress: folder.mkdir(parents=True))
    index = write_page([tiny_world], tmp_path / "site", runtime)
    site = index.parent
    names = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()}
    assert names >= {f"runtime/{name}" for name in (*page.RUNTIME, "LICENSE")} and "runtime/other.js" not in names
    assert json.loads((site / "worlds.json").read_text(encoding="utf-8")) == ["tiny"]
    text = index.read_text(encoding="utf-8")
    assert "default-src 'self'" in text and "connect-src 'self'" in text
    for file in site.glob("*.*"):
        assert not re.search(r"https?://", file.read_text(encoding="utf-8")), file
    for mentioned in re.findall(r'(?:href|src)="([^"#:]+)"', text):
        assert mentioned in names
    for script in ("player.js", "glass.js"):
        for mentioned in re.findall(r'from "\./([^"]+)"', (site / script).read_text(encoding="utf-8")):
            assert mentioned in names
    for private in ("note.txt", "worlds/older/world.json", "runtime/ort.webgpu.min.mjs"):
        (site / private).parent.mkdir(exist_ok=True)
        (site / private).write_text("another's", encoding="utf-8")
    one = page.write_single_file(site, tmp_path / "one" / "page.html").read_text(encoding="utf-8")
    assert "connect-src data:;" in one and "'self'" not in one
    assert not re.search(r'https?://|(?:href|src)="(?!data:)|from "\./|default-src .self', one)
    kept = json.loads(re.search(r"globalThis\.kept = (\{.*?\});", one)[1])
    assert set(kept) == {n for n in names if "/" in n} | {"worlds.json", "runtime.json"}
    wasm = zlib.decompress(base64.b64decode(kept[f"runtime/{page.RUNTIME[2]}"]))
    assert wasm == (site / "runtime" / page.RUNTIME[2]).read_bytes()


def test_what_is_missing_is_named_before_anything_is_written(tiny_world, runtime, tmp_path, capsys):
    file = save_world(tmp_path / "tiny.safetensors", tiny_world)
    site = tmp_path / "site"
    for wrong, words in (
        (tmp_path / "nowhere", "not onnxruntime-web"),
        (file, "cannot be read"),
        (tmp_path / "empty", "ort.wasm.min.mjs.*is missing"),
    ):
        (tmp_path / "empty").mkdir(exist_ok=True)
        assert main([str(file), "--web", str(site), "--runtime", str(wrong)]) == 1
        assert re.search(words + r".*npm pack onnxruntime-web@\d", capsys.readouterr().err.replace("\n", " "))
    assert not site.exists()
    for arguments in (
        [str(file)],
        [str(file), "--single-file", str(site)],
        [str(file), "--onnx", str(site), "--steps", "0"],
    ):
        with pytest.raises(SystemExit):
            main(arguments)
    assert main([str(tmp_path / "none.safetensors"), "--onnx", str(site)]) == 1
    assert "none.safetensors" in capsys.readouterr().err and not site.exists()


def test_worlds_that_are_called_alike_share_a_page(tiny_world, runtime, tmp_path, monkeypatch):
    files = [save_world(tmp_path / name / "world.safetensors", tiny_world) for name in ("a", "b", "other/a")]
    worlds = [load_world(file) for file in files]
    assert page.different_names([*worlds, tiny_world, tiny_world]) == ["a", "b", "a-2", "tiny", "tiny-2"]
    assert page.different_names(worlds[:1]) == ["world"]
    monkeypatch.setattr(page, "export_onnx", lambda world, folder, progress: folder.mkdir(parents=True))
    write_page(worlds, tmp_path / "site", runtime)
    assert json.loads((tmp_path / "site" / "worlds.json").read_text(encoding="utf-8")) == ["a", "b", "a-2"]


def test_the_command_says_what_it_wrote(exported, tmp_path, capsys, monkeypatch):
    world, folder, _ = exported
    file = save_world(tmp_path / "tiny.safetensors", world)
    monkeypatch.setattr(command, "export_onnx", lambda world, out, progress: shutil.copytree(folder, out))
    assert main([str(file), "--onnx", str(tmp_path / "out"), "--steps", "4"]) == 0
    assert re.search(
        r"out: \d+\.\d MB; differs from torch by at most 0\.\d+ grey levels over 4", capsys.readouterr().out
    )


def test_a_missing_extra_is_named_in_one_line(tiny_world, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(onnx, "find_spec", lambda name: None)
    with pytest.raises(ExportError, match=r"needs onnx, onnxscript: pip install 'glass-gym\[export\]'"):
        export_onnx(tiny_world, tmp_path / "out")
    arguments = ["tennis", "--onnx", str(tmp_path / "out"), "--policy", "ppo.safetensors"]
    assert main(arguments) == 1
    needed = "error: this needs onnx, onnxscript, onnxruntime: pip install 'glass-gym[export]'\n"
    assert capsys.readouterr().err == needed and not (tmp_path / "out").exists()
    monkeypatch.setattr(onnx, "find_spec", lambda name: None if name == "stable_baselines3" else True)
    assert main(arguments) == 1
    assert capsys.readouterr().err == "error: this needs stable_baselines3: pip install 'glass-gym[agents]'\n"
