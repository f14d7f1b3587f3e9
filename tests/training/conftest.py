import pytest


@pytest.fixture(autouse=True)
def short_passport(monkeypatch):
    """Long random play takes 40 steps instead of 4,500."""
    monkeypatch.setattr("training.evaluation.metrics.passport.MARKS", (2, 20, 40))
