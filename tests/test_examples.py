"""Each example runs, as a script and from its folder."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import imageio.v3 as iio
import pytest

from glass_gym.worlds.checkpoint import load_world

EXAMPLES = Path(__file__).parent.parent / "examples"
RUNS = {
    "walk.py": ([], r"arrived: True, return 1\.\d+, frame \(96, 160, 3\)"),
    "torch_batch.py": ([], r"frames \(64, 48, 80, 3\) on (cpu|cuda)"),
    "look_ahead.py": ([], r"arrived: True after \d+ steps"),
    "ppo.py": (["64"], "total_timesteps"),
    "own_picture.py": (["start.png"], "found an agent at"),
}
SLOW = {
    "torchrl_ppo.py": (["4096"], "episodes reached the target"),
    "rllib_ppo.py": ("--runners 2 --envs 4 --iterations 2 --steps 256".split(), r"2: 512 steps, return -?\d"),
}
SHORTER = {"STEPS = 20_000": "STEPS = 512", "num_envs=64": "num_envs=16", "n_eval_episodes=32": "n_eval_episodes=2"}
"""The notebook's training."""
NEEDS = {"ppo.py": "stable_baselines3", "rllib_ppo.py": "ray", "torchrl_ppo.py": "torchrl"}


def test_every_example_has_a_run():
    scripts = {path.name for path in EXAMPLES.glob("*.py")}
    assert scripts == set(RUNS) | set(SLOW)
    page = (EXAMPLES.parent / "docs" / "examples.md").read_text(encoding="utf-8")
    for name in scripts:
        assert f"```python\n{(EXAMPLES / name).read_text(encoding='utf-8')}```\n" in page, (
            f"copy examples/{name} into docs/examples.md"
        )


@pytest.mark.parametrize("name", [*RUNS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_an_example_runs(name, tmp_path):
    if name in NEEDS and not find_spec(NEEDS[name]):
        pytest.skip(f"needs {NEEDS[name]}")
    iio.imwrite(tmp_path / "start.png", load_world("tennis").start_frames[0])
    arguments, words = (RUNS | SLOW)[name]
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments], capture_output=True, text=True, cwd=tmp_path, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(words, done.stdout), done.stdout


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(tmp_path):
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    import nbformat

    notebook = nbformat.read(EXAMPLES / "tour.ipynb", as_version=4)
    text = "".join(cell.source for cell in notebook.cells)
    badge = re.search(r"https://colab\.research\.google\.com/github/\S+?\.ipynb", text)
    assert badge and badge[0] in (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")
    install = '%pip install -q "glass-gym[agents]"'
    for part in (install, "AutoLocalAction", "set_state", "model.learn(STEPS)", "start_frame"):
        assert part in text
    for cell in notebook.cells:
        for long, short in SHORTER.items():
            cell.source = cell.source.replace(long, short)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = "".join(out.get("text", "") for cell in notebook.cells for out in cell.get("outputs", []))
    assert re.search(r"arrived after \d+ steps", said) and "an empty picture: no agent found" in said
    pictures = [out for cell in notebook.cells for out in cell.get("outputs", []) if "image/png" in out.get("data", {})]
    assert len(pictures) == 4
