"""The commands as they are installed: each is there, and Ctrl-C ends it quietly from its first second on."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from glass_gym import commands

ROOT = Path(__file__).parents[2]
SCRIPTS = re.findall(
    r'^(glass-\w+) = "glass_gym\.commands:(\w+)"',
    (ROOT / "pyproject.toml").read_text("utf-8"),
    re.M,
)


@pytest.mark.parametrize(("script", "name"), SCRIPTS)
def test_a_command_is_there(script, name):
    module = getattr(commands, name).args[0].replace("glass_gym.training", "training")
    assert script == f"glass-{name}" and callable(importlib.import_module(module).main)


@pytest.mark.parametrize("code", ["raise KeyboardInterrupt", "def main():\n    raise KeyboardInterrupt"])
def test_ctrl_c_ends_a_command_quietly_while_it_is_imported_and_later(code, tmp_path, monkeypatch, capsys):
    (tmp_path / "slow_command.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    assert commands.run("slow_command") == 130 and capsys.readouterr().err == "\nstopped\n"
    sys.modules.pop("slow_command", None)


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from glass_gym import commands
sys.exit(commands.run("tell_command"))
"""
TELL = """
import sys
def main():
    with open(sys.argv[2], "w", encoding="utf-8") as file:
        file.write(sys.argv[2])
"""


def test_names_of_files_are_utf8_in_every_locale(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    (tmp_path / "tell_command.py").write_text(TELL, encoding="utf-8")
    file = tmp_path / "\u043c\u0438\u0440 \u4e16\u754c" / "\u00e9"
    file.parent.mkdir()
    env = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0"}
    subprocess.run([sys.executable, tmp_path / "script.py", tmp_path, file], env=env, check=True, timeout=60)
    assert file.read_text(encoding="utf-8") == str(file)


def test_agents_open_files_of_every_name_in_every_locale(tmp_path):
    file = tmp_path / "\u043c\u0438\u0440 \u4e16\u754c.safetensors"
    command = [sys.executable, "-m", "agents.enjoy", "--trained-agent", file, "--no-render"]
    env = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0"}
    done = subprocess.run(command, env=env, capture_output=True, encoding="utf-8", timeout=120, cwd=ROOT)
    assert done.returncode == 1 and str(file) in done.stderr, done.stderr


def test_ctrl_c_while_options_are_read(monkeypatch, capsys):
    tyro = pytest.importorskip("tyro")
    from training import train

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(tyro, "cli", interrupt)
    assert train.main(["tennis"]) == 130 and capsys.readouterr().err == "\nstopped\n"
