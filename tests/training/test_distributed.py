"""Several processes train one model: with gloo, on this machine."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.skipif(not find_spec("accelerate"), reason="needs accelerate")

ROOT = Path(__file__).parent.parent.parent
SCRIPT = """
import hashlib, json, os, sys
import torch
from glass_gym.model.config import GlassConfig
from glass_gym.model.glass import build_gma
from training.data.store import Store
from training.config import GmaConfig, LoopConfig
from training.core.trainer import Trainer
from training.gma.stage import GmaStage

out, data, config = sys.argv[1:]
torch.manual_seed(0)
model = build_gma(GlassConfig.from_dict(json.loads(config)))
trainer = Trainer(model, out + "/gma.pt", LoopConfig(device="cpu", bf16=False))
stage = GmaStage(model, Store(data), GmaConfig(iterations=4, batch=2, theta=0.04))
seen = []
def watch(stage, iteration, terms):
    seen.append(terms["rec_b"])
trainer.run(stage, watch)
weights = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest()
print("RESULT" + json.dumps({"rank": trainer.processes.rank, "weights": weights, "losses": seen}), flush=True)
"""


def launch(command, **kwargs):
    done = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, timeout=300, cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}, **kwargs,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_two_processes_keep_one_model_and_see_different_batches(tiny_config, block_store, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    arguments = [str(script), str(tmp_path / "run"), str(block_store), json.dumps(tiny_config.to_dict())]
    out = launch(["torch.distributed.run", "--standalone", "--nproc_per_node=2", *arguments])
    first, second = (json.loads(line.removeprefix("RESULT")) for line in out.splitlines() if "RESULT" in line)
    assert {first["rank"], second["rank"]} == {0, 1}
    assert first["weights"] == second["weights"]
    assert first["losses"] != second["losses"]
    state = torch.load(tmp_path / "run" / "gma.pt", weights_only=True)
    assert state["finished"] == ["gma"] and state["iteration"] == 4


def test_the_command_trains_under_accelerate_launch(block_store, tmp_path):
    arguments = ["--window", "16", "--codes", "3", "--poses", "4", "--gma.iterations", "2",
                 "--gma.batch", "2", "--drawing", "stored",
                 "--lma.iterations", "2", "--lma.batch", "4", "--no-report"]  # fmt: skip
    launch([
        "accelerate.commands.launch", "--num_processes", "2", "--num_machines", "1", "--cpu", "--mixed_precision", "no",
        "--dynamo_backend", "no", "-m", "training.train", str(block_store), "--out", str(tmp_path / "run"), *arguments,
    ])  # fmt: skip
    assert (tmp_path / "run" / "world.safetensors").exists()
