"""Every example runs as a newcomer would run it."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import imageio.v3 as iio
import pytest

from glass_gym.checkpoint import load_world

EXAMPLES = Path(__file__).parent.parent / "examples"
RUNS = {
    "walk.py": ([], r"arrived: True, return 1\.\d+, frame \(96, 160, 3\)"),
    "torch_batch.py": ([], r"frames \(64, 48, 80, 3\) on (cpu|cuda)"),
    "look_ahead.py": ([], r"arrived: True after \d+ steps"),
    "ppo.py": (["64"], "total_timesteps"),
    "own_picture.py": (["start.png"], "found an agent at"),
}
SLOW = {
    "rllib_ppo.py": ("--runners 2 --rows 4 --iterations 2 --steps 256".split(), r"2: 512 steps, return -?\d"),
}
NEEDS = {"ppo.py": "stable_baselines3", "rllib_ppo.py": "ray"}


def test_every_example_has_a_run():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(RUNS) | set(SLOW)


@pytest.mark.parametrize("name", [*RUNS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_an_example_runs(name, tmp_path):
    if name in NEEDS and not find_spec(NEEDS[name]):
        pytest.skip(f"needs {NEEDS[name]}")
    iio.imwrite(tmp_path / "start.png", load_world("tennis-v1").start_frames[0])
    arguments, words = (RUNS | SLOW)[name]
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments], capture_output=True, text=True, cwd=tmp_path, timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "2"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(words, done.stdout), done.stdout
