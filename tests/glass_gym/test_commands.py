"""The commands as they are installed: each is there, and Ctrl-C ends it quietly from its first second on."""

import importlib
import re
import sys
from pathlib import Path

import pytest

from glass_gym import commands

SCRIPTS = re.findall(
    r'^(glass-\w+) = "glass_gym\.commands:(\w+)"',
    (Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"),
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


def test_ctrl_c_while_options_are_read(monkeypatch, capsys):
    tyro = pytest.importorskip("tyro")
    from training import train

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(tyro, "cli", interrupt)
    assert train.main(["tennis"]) == 130 and capsys.readouterr().err == "\nstopped\n"
