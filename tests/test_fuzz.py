"""The long measurements of tests/, shortened: pytest -m slow."""

import json

import pytest

pytest.importorskip("stable_baselines3")
pytest.importorskip("tyro")


@pytest.mark.slow
def test_made_up_input_is_of_use_or_refused(tmp_path):
    from tests.fuzz import main

    assert main(["--inputs", "300", "--seed", "7", "--out", str(tmp_path)]) == 0
    told = json.loads((tmp_path / "fuzz.json").read_text(encoding="utf-8"))
    assert sum(told[kind].get("accepted", 0) + told[kind].get("refused", 0) for kind in ("files", "headers")) == 200


@pytest.mark.slow
def test_killed_trainings_go_on(tmp_path):
    from tests.interruption import PolicyTraining, WorldTraining, interrupt

    (tmp_path / "world").mkdir()
    (tmp_path / "policy").mkdir()
    assert interrupt(WorldTraining(tmp_path / "world"), tmp_path / "world", 2, 1)["wrong"] == []
    world = tmp_path / "world" / "peace" / "world.safetensors"
    assert interrupt(PolicyTraining(world), tmp_path / "policy", 2, 1)["wrong"] == []


def test_the_fuzzer_sees_what_goes_wrong(monkeypatch, tmp_path):
    from tests import fuzz

    def bad(count, seed, root, first):
        for name, outcome in (("fine", None), ("foreign", KeyError("x")), ("large", bytearray)):

            def use(outcome=outcome):
                if outcome is bytearray:
                    bytearray(2 << 30)
                elif outcome is not None:
                    raise outcome

            yield name, use, (ValueError,)

    told = []
    monkeypatch.setattr(fuzz, "files", bad)
    pipe = type("Pipe", (), {"send": lambda self, message: told.append(message)})()
    fuzz.work("files", 3, 0, 0, str(tmp_path), pipe)
    ended = [what for kind, what in told if kind == "ended"]
    assert ended[0] == "accepted" and ended[1].startswith("KeyError") and ended[2].startswith("took ")
