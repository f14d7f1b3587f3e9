"""docs/ecosystem.md, block by block, each where its packages are: pytest -m slow tests/test_ecosystem.py

The packages go into an environment beside this one, which sees what this one has.
"""

import os
import re
import site
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "ecosystem.md"
BLOCKS = [
    (title, language, f"# pip install {needs}\n{code}", needs)
    for title, body in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.S | re.M)
    for language, needs, code in re.findall(r"```(python|bash)\n# pip install (.+?)\n(.*?)```", body, re.S)
]
EXAMPLES = [("torchrl_ppo.py", "torchrl", "4096")]


@pytest.fixture(scope="session")
def beside(tmp_path_factory):
    """An environment that falls back on this one: `pip install` adds to it alone."""
    venv = tmp_path_factory.mktemp("ecosystem") / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    library = next((venv / "lib").glob("python*")) / "site-packages"
    (library / "zz_parent.pth").write_text("\n".join(site.getsitepackages()), encoding="utf-8")
    return venv / "bin"


def run(beside, folder, needs, command):
    if needs != "gymnasium":
        subprocess.run(f"{beside / 'pip'} install -q {needs}", shell=True, check=True)
    paths = {"PATH": f"{beside}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    more = {"MINARI_DATASETS_PATH": str(folder / "minari"), "SDL_VIDEODRIVER": "dummy"}
    done = subprocess.run(
        command, cwd=folder, env=os.environ | paths | more, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def test_the_page_has_a_block_for_each_tool():
    titles = [title for title, *_ in BLOCKS]
    assert set(titles) >= {"Stable-Baselines3", "sb3-contrib", "RL Zoo", "CleanRL", "TorchRL", "skrl", "Minari"}
    for title, language, code, _ in BLOCKS:
        if language == "python":
            compile(code, title, "exec")


@pytest.mark.slow
@pytest.mark.parametrize(("title", "language", "code", "needs"), BLOCKS, ids=[title for title, *_ in BLOCKS])
def test_a_block_runs(beside, tmp_path, title, language, code, needs):
    file = tmp_path / "block"
    file.write_text(code, encoding="utf-8")
    (tmp_path / "agents").symlink_to(ROOT / "agents")
    run(beside, tmp_path, needs, [str(beside / "python"), str(file)] if language == "python" else ["bash", "-e", file])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "needs", "steps"), EXAMPLES)
def test_an_example_that_needs_more_runs(beside, tmp_path, name, needs, steps):
    out = run(beside, tmp_path, needs, [str(beside / "python"), str(ROOT / "examples" / name), steps])
    assert "episodes reached the target" in out


@pytest.mark.slow
def test_torchrl_sees_the_last_observation_of_an_episode_and_sums_its_rewards(beside, tmp_path):
    (tmp_path / "last.py").write_text(LAST, encoding="utf-8")
    run(beside, tmp_path, "torchrl", [str(beside / "python"), "last.py"])


LAST = """
import gymnasium as gym
import torch
from torchrl.envs import GymEnv, GymWrapper, RewardSum, TransformedEnv
import glass_gym
from glass_gym.wrappers.vector import ColumnReward

for output in ("numpy", "torch"):
    kwargs = {"obs_type": "position", "output": output, "autoreset_mode": "SameStep", "max_episode_steps": 6}
    envs = gym.make_vec("GlassTennis-v0", num_envs=8, target_radius=30, **kwargs)
    env = TransformedEnv(GymWrapper(ColumnReward(envs)), RewardSum())
    env.set_seed(0)
    rollout = env.rollout(20, break_when_any_done=False)
    over = rollout["next", "terminated"][..., 0]
    places = rollout["next", "observation"][over]
    assert over.any() and (places[:, :2] - places[:, 2:]).norm(dim=-1).max() <= 30
    assert rollout["next", "truncated"].any()
    steps = rollout["next", "reward"][:, :3].sum(1)
    assert torch.allclose(steps[~over[:, :3].any(1)], rollout["next", "episode_reward"][:, 2][~over[:, :3].any(1)])
assert GymEnv("GlassTennis-v0", obs_type="position").rollout(2).shape == (2,)
"""
