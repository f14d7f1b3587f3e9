"""The score card of report.html."""

from types import SimpleNamespace

import pytest

from training.evaluation import html_report


@pytest.mark.parametrize(("error", "grade"), [(0.5, "good"), (0.6, "fair"), (1.0, "fair"), (1.1, "weak"), (11, "weak")])
def test_control_is_compared_with_the_shorter_step(monkeypatch, error, grade):
    """A step of 16 px down hides no error along x, where a step has 2 px."""
    play = SimpleNamespace(figures={"control": {"step_50": {"rmse_px": float(error)}}, "present": {"step_100": 1.0}})
    e = SimpleNamespace(play=play)
    monkeypatch.setattr(
        html_report, "_composed", lambda world, store: html_report.Score("frames", "1", "1", "good", "")
    )
    monkeypatch.setattr(html_report, "held_out_videos", lambda *_: [SimpleNamespace(split="val")])
    monkeypatch.setattr(html_report, "Evaluation", lambda *_, **__: e)
    monkeypatch.setattr(html_report, "animation", lambda _: {})
    monkeypatch.setattr(html_report, "prior", lambda _: {})
    found, _ = html_report.scores(SimpleNamespace(step=(2.0, 16.0)), None)
    control = next(score for score in found if score.part.startswith("control"))
    assert control.verdict == grade and control.baseline == "2 (a step)"
