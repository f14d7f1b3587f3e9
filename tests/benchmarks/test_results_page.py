import json
from pathlib import Path

import pytest

from benchmarks.results_page import AIMS, PAPER, WORLDS, Aim, main, page
from training.evaluation.tables import value

RESULTS = Path(__file__).parents[2] / "docs" / "results"


def write(folder, name, figures):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(figures), encoding="utf-8")


def test_the_committed_page_is_the_one_that_the_committed_figures_make():
    assert page(RESULTS) == RESULTS.with_suffix(".md").read_text(encoding="utf-8")


def test_the_only_generated_markdown_is_the_page():
    assert not list(RESULTS.rglob("*.md"))


def test_every_figure_beside_the_paper_and_every_aim_is_measured_in_a_world():
    files = {world: RESULTS / place / "evaluation.json" for world, place in WORLDS.items()}
    evaluations = {
        world: json.loads(file.read_text(encoding="utf-8")) for world, file in files.items() if file.exists()
    }
    codes = json.loads((RESULTS / "wsprites" / "actions.json").read_text(encoding="utf-8"))
    for metric, world, path, _ in PAPER:
        assert value(codes if path.startswith("codes") else evaluations[world], path) is not None, metric
    rows = [line.split(" | ") for line in page(RESULTS).splitlines() if line.startswith("| ")]
    for aim in AIMS:
        cells = next(row for row in rows if row[0] == f"| {aim.what}" and row[1] == str(aim))[2:]
        assert any(cell.strip(" |") != "-" for cell in cells), aim.what


def test_an_aim_marks_what_misses_it_and_a_world_may_have_its_own():
    aim = Aim("error", "a/b", most=0.5, own={"Arm": 1.5})
    assert str(aim) == "at most 0.5; Arm 1.5"
    cells = [aim.cell(world, {"a": {"b": error}}) for world, error in (("Tennis", 0.5), ("Tennis", 0.6), ("Arm", 1.0))]
    assert cells == ["0.5", "**0.6**", "1"] and aim.cell("Tennis", {}) == "-"
    assert Aim("share", "a", 0.95, 1.05).cell("Arm", {"a": 0.9}) == "**0.9**" and str(AIMS[0]).startswith("at least")


def test_a_page_of_few_files_says_what_is_not_measured(tmp_path):
    write(tmp_path, "wsprites/evaluation.json", {"segmentation": {"miou": 0.93}, "background_shift": {"mean": 0.5}})
    row = {"success": 0.972, "success_95": [0.96, 0.981], "steps_ratio": 1.125, "return": 1.5, "episodes": 1000}
    figures = {
        "timesteps": 500_000,
        "minutes": 21.5,
        "policies": {"policy": row, "random": row | {"steps_ratio": None}},
    }
    write(tmp_path, "policies/ppo_tennis.json", figures)
    text = page(tmp_path)
    assert "| mIoU of M's masks | at least 0.92; Arm 0.85 | - | - | - | - | 0.93 |" in text
    assert "| background shift error, mean px | at most 0.2 | - | - | - | - | **0.5** |" in text
    assert "| success of PPO on frames | at least 0.95 | 0.972 | - | - | - | - |" in text
    assert "| ppo_tennis | policy | 500,000 steps, 21.5 min | 97.2 % (96.0 to 98.1) | 1.12 | 1.5 | 1,000 |" in text
    assert "| ppo_tennis | random | | 97.2 % (96.0 to 98.1) | - | 1.5 | 1,000 |" in text
    assert "## Speed" not in text and "## Ablations" not in text


@pytest.mark.parametrize("damage", ["{", None])
def test_the_command_writes_the_page_or_names_the_error(damage, tmp_path, capsys):
    if damage:
        (tmp_path / "wrappers.json").write_text(damage, encoding="utf-8")
    status = main([str(tmp_path), "--out", str(tmp_path / "results.md")])
    assert status == (1 if damage else 0) and (tmp_path / "results.md").exists() == (not damage)
    assert ("error" in capsys.readouterr().err) == bool(damage)
