"""kill -9 at random moments of the trainings: python -m tests.interruption --moments 50 --out runs/interruption

`training.train` learns a world of blocks (all stages, saved after every step), `agents.train` a policy in it. Each is
run once in peace, and MOMENTS times it is killed at a random moment, half of these once more while it resumes; then it
has to go on to its end with the command that the docs give. What was saved must load at any moment and never get less;
a world must come out with the same weights, bit by bit, as of the run in peace. OUT gets interruption.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from agents.options import runs_of
from glass_gym.policy import load_policy, read_zip
from tests.conftest import block_video
from training.core.trainer import read_state
from training.data.store import StoreWriter

WORLD = (
    "--window 16 --codes 2 --poses 4 --gma.theta 0.04 --gma.iterations 30 --gma.batch 2 "
    "--pose.iterations 40 --pose.batch 4 --lma.iterations 40 --lma.batch 4 --loop.device cpu --no-report"
).split()
TRAIN = "import sys; from training import train; from training.core import trainer; "
TRAIN += "trainer.SAVE_MINUTES = 0; sys.exit(train.main())"
POLICY = (
    "--algo ppo --env Glass-v0 -n 1024 --n-envs 8 --eval-freq 256 --eval-episodes 4 --n-eval-envs 4 "
    "--final-episodes 8 --save-minutes 0 --no-progress -params n_steps:16 batch_size:32 n_epochs:1 --env-kwargs "
    "max_episode_steps:20 frame_size:[16,24]"
).split()


class WorldTraining:
    """`training.train`."""

    def __init__(self, root: Path):
        self.root = root
        store = root / "blocks"
        writer = StoreWriter(store, 32, 48, 1.0, "blocks")
        for index in range(12):
            frames, masks, position = block_video(index, 20)
            writer.add(f"v{index:02d}", ("train", "val", "test")[max(0, index - 9)], frames, masks, position=position)
        writer.close()
        self.store = store

    def command(self, out: Path) -> list[str]:
        """To start."""
        return ["-c", TRAIN, str(self.store), "--out", str(out), *WORLD]

    def saved(self, out: Path) -> tuple | None:
        """How far it is by what was saved; None: nothing was."""
        files = [out / name for name in ("gma.pt", "lma.pt") if (out / name).exists()]
        if not files:
            return None
        states = [read_state(file, torch.device("cpu")) for file in files]
        last = states[-1]
        iteration = int(last["iteration"]) if last["stage"] not in last["finished"] else 0
        return sum(len(state["finished"]) for state in states), iteration

    def result(self, out: Path) -> dict[str, torch.Tensor]:
        """What came out."""
        return load_file(out / "world.safetensors")


class PolicyTraining:
    """`agents.train`."""

    def __init__(self, world: Path):
        self.world = world

    def command(self, out: Path) -> list[str]:
        """To start."""
        return ["-m", "agents.train", "-f", str(out), *POLICY, f"checkpoint:{self.world}"]

    def saved(self, out: Path) -> tuple | None:
        """How many steps were saved; None: there is nothing that --resume could take up."""
        run = max(runs_of(out, "ppo", "Glass-v0").items(), default=(0, out))[1]
        if (run / "best_model.zip").exists():
            read_zip(run / "best_model.zip", "ppo")
        return (read_zip(run / "last.zip", "ppo").num_timesteps,) if (run / "last.zip").exists() else None

    def result(self, out: Path) -> dict[str, torch.Tensor]:
        """Only that all was done: SB3 does not promise equal runs."""
        run = max(runs_of(out, "ppo", "Glass-v0").items())[1]
        assert json.loads((run / "evaluation.json").read_text(encoding="utf-8"))["timesteps"] >= 1024
        load_policy(run / "policy.safetensors")
        return {}


def start(command: list[str], log: Path) -> subprocess.Popen:
    """A process of its own group, so that all of it can be killed."""
    with log.open("a", encoding="utf-8") as file:
        return subprocess.Popen(
            [sys.executable, *command], stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )


def killed(command: list[str], log: Path, seconds: float) -> bool:
    """Run for so long, then kill -9; False: it had come to its end."""
    process = start(command, log)
    try:
        process.wait(seconds)
        return False
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True


def interrupt(training, root: Path, moments: int, seed: int) -> dict:
    """Kill it at random moments.

    Returns:
        how often it went on, and what did not.
    """
    log = root / "log.txt"
    peace = root / "peace"
    began = time.monotonic()
    assert start(training.command(peace), log).wait() == 0, f"failed in peace, see {log}"
    seconds = time.monotonic() - began
    expected = training.result(peace)
    rng = np.random.default_rng(seed)
    wrong: list[str] = []
    kills = 0
    for moment in range(moments):
        out = root / "killed"
        shutil.rmtree(out, ignore_errors=True)
        before = None
        command = training.command(out)
        name = f"moment {moment}"
        try:
            for _ in range(1 + moment % 2):
                kills += killed(command, log, rng.uniform(0, seconds))
                now = training.saved(out)
                if before is not None and (now is None or now < before):
                    wrong.append(f"{name}: {before} was saved, then {now}")
                before = now
                command = [*training.command(out), *(["--resume"] if now else [])]
            if start(command, log).wait() != 0:
                wrong.append(f"{name}: did not go on, see {log}")
                shutil.copytree(out, root / f"failed-{moment}")
                continue
            found = training.result(out)
            if set(found) != set(expected) or not all(torch.equal(found[key], expected[key]) for key in expected):
                wrong.append(f"{name}: another result")
        except Exception as error:
            wrong.append(f"{name}: {type(error).__name__}: {error}")
        print(f"{type(training).__name__} {moment + 1}/{moments}: {kills} kills, {len(wrong)} wrong", flush=True)
    return {"moments": moments, "kills": kills, "seconds": seconds, "wrong": wrong}


def main() -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser("python -m tests.interruption", description=__doc__)
    parser.add_argument("--moments", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/interruption"))
    parser.add_argument("--only", choices=("world", "policy"))
    arguments = parser.parse_args()
    for name in ("world", "policy"):
        (arguments.out / name).mkdir(parents=True)  # nothing that is there already is mixed in
    world = WorldTraining(arguments.out / "world")
    results = {}
    if arguments.only != "policy":
        results["training.train"] = interrupt(world, arguments.out / "world", arguments.moments, arguments.seed)
    made = arguments.out / "world" / "peace" / "world.safetensors"
    if not made.exists():
        assert start(world.command(made.parent), arguments.out / "world" / "log.txt").wait() == 0
    if arguments.only != "world":
        policy = PolicyTraining(made)
        results["agents.train"] = interrupt(policy, arguments.out / "policy", arguments.moments, arguments.seed)
    (arguments.out / "interruption.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=1))
    return int(any(result["wrong"] for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
