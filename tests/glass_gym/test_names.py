import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from glass_gym.simulator.simulator import Simulator
from glass_gym.tools import names
from glass_gym.worlds import checkpoint
from glass_gym.worlds.checkpoint import CheckpointError, bundled, load_world, rename_codes, save_world
from glass_gym.worlds.codes import CodeEffect, describe_codes, measure_codes, play_code, start_states

STILL = CodeEffect(0.0, 0.0, 0.0, 0.0, (0.0, 0.0, 0.0, 0.0))


@pytest.fixture
def path(pose_world, tmp_path):
    return save_world(tmp_path / "w.safetensors", pose_world)


def content(path):
    """The header without its code names, these, and all behind the header."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["glass"])
    return header, header.pop("code_names"), raw[8 + length :]


def test_only_the_names_change_in_the_file(path):
    before = content(path)
    path.chmod(0o640)
    link = path.with_name("link.safetensors")
    link.symlink_to(path)
    assert rename_codes(link, ["rest", "Schlag ÄÖ", "turns left by 6°"]) == path.resolve()
    after = content(path)
    assert after[0] == before[0] and after[2] == before[2] and link.is_symlink()
    assert load_world(path).code_names == ("rest", "Schlag ÄÖ", "turns left by 6°")
    assert path.stat().st_mode & 0o777 == 0o640 and len(os.listdir(path.parent)) == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "at least 1 character"),
        ("x" * 41, "at most 40"),
        ("\x1b[2Jx", "printable"),
        ("a\nb", "printable"),
        ("abc\u202edef", "printable"),
        ("zero\u200bwidth", "printable"),
        (" swing", "no space"),
        ("turn", "3 different ones"),
    ],
)
def test_a_name_that_cannot_be_stored_changes_nothing(path, name, message):
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=rf"w\.safetensors: .*{message}.*nothing was changed"):
        rename_codes(path, ["neutral", name, "turn"])
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]


def test_a_full_disk_keeps_the_old_file(path, monkeypatch):
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(CheckpointError, match=r"No space left.*the file before it is kept"):
        rename_codes(path, ["a", "b", "c"])
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]


def test_the_command_shows_films_and_stores_names(path, tmp_path, capsys):
    out = tmp_path / "out"
    assert names.main([str(path), "--set", "1=big swing", "--set", "2=", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    stored = load_world(path).code_names
    assert stored[:2] == ("neutral", "big swing") and stored[2] not in ("turn", "")
    assert f"stored in {path}" in said and "big swing" in said and stored[2] in said
    assert str(out / "codes.gif") in said and str(out / "codes.png") in said
    with Image.open(out / "codes.png") as sheet, Image.open(out / "codes.gif") as film:
        across = 12 * 6 * (round(16 * 1.6) + 2)  # more than twelve pictures of 16 px, stretched and enlarged
        assert sheet.height == 9 * 6 * (16 + 2) and sheet.width > across and film.height == 3 * 6 * (16 + 2)


def test_all_codes_can_be_called_by_what_they_do(path, tmp_path, capsys):
    assert names.main([str(path), "--measured", "--out", str(tmp_path)]) == 0
    stored = load_world(path).code_names
    assert len(set(stored)) == 3 and not {"neutral", "swing", "turn"} & set(stored)
    assert names.main([str(path), "--out", str(tmp_path)]) == 0
    assert "stored in" not in capsys.readouterr().out.split("written")[-2]


@pytest.mark.parametrize(
    ("given", "message"),
    [("swing", "no K=NAME, such as 3=swing"), ("x=swing", "no K=NAME"), ("3=swing", "has the codes 0 to 2")],
)
def test_wrong_names_are_errors(path, given, message, capsys):
    assert names.main([str(path), "--set", given]) == 1
    assert message in capsys.readouterr().err


def test_an_unknown_world_is_an_error(capsys):
    assert names.main(["tenis"]) == 1
    assert "no checkpoint called 'tenis'" in capsys.readouterr().err


def test_effects_are_said_in_words(pose_world, turning_world):
    effects = [
        replace(STILL, turn=-20.4, swing=0.2),
        replace(STILL, turn=5.6),
        replace(STILL, swing=0.2, change=0.3, sides=(0.0, 0.0, 0.1, 0.0)),
        replace(STILL, swing=0.2, change=0.3),
        replace(STILL, change=0.1, sides=(0.01, 0.08, 0.0, 0.0)),
        replace(STILL, change=0.1, sides=(-0.08, 0.0, 0.08, 0.0)),
        replace(STILL, change=0.1, growth=-0.14),
        STILL,
        STILL,
    ]
    assert describe_codes(pose_world, effects) == (
        "turns left by 20°",
        "turns right by 6°",
        "swings right",
        "swings",
        "stretches up by 8%",
        "leans right by 8%",
        "shrinks by 14%",
        "nothing",
        "nothing (2)",
    )
    assert describe_codes(turning_world, effects[4:6]) == ("stretches to its left by 8%", "leans forward by 8%")


class Scripted:
    """Films of a block, 8 px high and wide, whose sides are moved by `script(code, step)` px."""

    def __init__(self, config, heading=None):
        self.config, self.heading = config, heading

    def agent_heading(self, state):
        return None if self.heading is None else torch.tensor([self.heading * state.step])

    def film(self, script, code):
        states = []
        for step in range(5):
            left, up, right, down = script(code, step)
            mask = torch.zeros(1, 4, 32, 32)
            mask[:, 3, 12 - up : 20 + down, 12 - left : 20 + right] = 1
            states.append(type("State", (), {"layer": mask, "step": step})())
        return states


def test_sides_growth_and_swings_are_measured(tiny_config):
    simulator = Scripted(tiny_config)  # its agents have a diameter of 10 px

    def script(code, step):
        return [(0, 0, 0, 0), (0, 4, 0, 0), (0, 0, 3 * (step % 2), 0)][code]

    still, up, swing = measure_codes(simulator, [simulator.film(script, code) for code in range(3)])
    assert still.swing == still.change == up.swing == 0 and still.turn == 0
    assert up.sides[1] == max(up.sides) > 0.2 and up.growth > 0.2 > still.growth
    assert swing.swing == pytest.approx(3 / 11) and swing.sides[2] == max(swing.sides)


def test_turns_are_degrees_a_step(tiny_config):
    simulator = Scripted(tiny_config, heading=-0.2)
    (found,) = measure_codes(simulator, [simulator.film(lambda code, step: (0, 0, 0, 0), 0)])
    assert found.turn == pytest.approx(np.degrees(-0.2))


def test_a_world_that_turns_is_measured(turning_world):
    simulator = Simulator(turning_world.model, "cpu")
    start = start_states(turning_world, simulator)
    films = [play_code(simulator, start, code, 3) for code in range(4)]
    effects = measure_codes(simulator, films)
    assert len(start) == 2 and len(films[0]) == 4 and all(np.isfinite(e.turn) and -1 <= e.growth for e in effects)


def test_worlds_that_ship_have_names():
    for name in bundled():
        assert not any(code.startswith(("code", "neutral")) for code in load_world(name).code_names)


def test_names_for_a_bundled_world_go_to_a_copy(path, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(checkpoint, "ASSETS", path.parent)
    before, out = path.read_bytes(), tmp_path / "named"
    assert names.main([path.stem, "--set", "1=my swing", "--out", str(out)]) == 0
    copy = out / path.name
    assert load_world(copy).code_names[1] == "my swing" and f"stored in {copy.resolve()}" in capsys.readouterr().out
    assert path.read_bytes() == before
    assert names.main([path.stem, "--set", "2=x", "--out", str(out)]) == 1
    assert "has names already" in capsys.readouterr().err
