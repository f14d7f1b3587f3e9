"""Evaluation of policies, checked by hand and in an environment of pure arithmetic."""

import json
import re

import numpy as np
import pytest

from agents import evaluation
from agents.evaluation import GreedyPolicy, RandomPolicy, confidence, evaluate, summary
from glass_gym.tasks.base import steps_between
from glass_gym.worlds.action_space import ActionTable

TABLE = ActionTable.build((4.0, 3.0), ("neutral", "turn"), "compass", 1.0)


class Plain:
    """An endless court: the agent moves as told; targets are `far` px to the right."""

    limit = 10

    def __init__(self, rows, far=20.0):
        self.rows, self.table, self.far = rows, TABLE, far
        self.place = np.zeros((rows, 4), np.float32)
        self.started = np.zeros(rows, int)

    def reset(self, mask=None):
        mask = np.ones(self.rows, bool) if mask is None else mask
        self.place[mask] = [0, 0, self.far, 0]
        self.started += mask

    def step(self, actions):
        self.place[:, :2] += TABLE.shifts[actions[:, 0]]
        reached = np.linalg.norm(self.place[:, :2] - self.place[:, 2:], axis=1) < 6
        return np.ones(self.rows), reached, reached

    def wanted_codes(self):
        return None

    def position(self):
        return self.place[:, :2].copy()

    def heading(self):
        return self.place[:, 2:].copy()

    def fewest_steps(self):
        return steps_between(self.position(), self.heading(), 6.0, (4.0, 3.0))

    def pictures(self):
        return np.repeat(self.place[:, 0].astype(np.uint8)[:, None, None, None], 3, -1).repeat(8, 1).repeat(8, 2)


@pytest.mark.parametrize(
    ("target", "steps"),
    [
        ((5.9, 0), 0),  # there already
        ((6.0, 0), 1),
        ((20, 0), 4),  # 4 px a step: 20 - 12 = 8, 20 - 16 = 4 < 6
        ((0, -20), 5),  # 3 px a step: 20 - 12 = 8, 20 - 15 = 5
        ((20, 20), 5),  # after 4: (4, 8), after 5: (0, 5)
    ],
)
def test_the_fewest_steps_by_hand(target, steps):
    assert steps_between(np.zeros((1, 2)), np.array([target]), 6.0, (4.0, 3.0)).tolist() == [steps]


def test_the_interval_of_a_rate_by_hand():
    low, high = confidence(95, 100)
    assert (round(low, 4), round(high, 4)) == (0.8882, 0.9785)  # as in any table of Wilson's interval
    assert confidence(0, 10)[0] == pytest.approx(0) and confidence(10, 10)[1] == pytest.approx(1)


def test_greedy_play_takes_the_fewest_steps_and_random_play_rarely_arrives():
    figures = evaluate(Plain(4), GreedyPolicy(), 10)
    assert (
        figures["episodes"] == 10 and figures["success"] == 1 and figures["steps_ratio"] == 1 and figures["steps"] == 4
    )
    assert figures["return"] == 4
    figures = evaluate(Plain(4, far=60), RandomPolicy(0), 12)
    assert figures["success"] == 0 and figures["steps"] is None and figures["success_95"][0] == 0


def test_every_row_plays_its_share_so_that_short_episodes_are_not_favoured():
    class OneIsFast(GreedyPolicy):
        def act(self, env):
            action = super().act(env)
            action[1:, 0] = 0  # the others never arrive
            return action

    figures = evaluate(Plain(4), OneIsFast(), 8)
    assert figures["episodes"] == 8 and figures["success"] == 0.25


def test_policies_hear_of_new_episodes():
    heard = []

    class Listening(GreedyPolicy):
        def begin(self, rows=None):
            heard.append(None if rows is None else rows.tolist())

    evaluate(Plain(2), Listening(), 4)
    assert heard[:2] == [None, [True, True]]


def test_the_best_episode_is_filmed(tmp_path):
    figures = evaluate(Plain(2), GreedyPolicy(), 2, film=1)
    assert [frame[0, 0, 0] for frame in figures["film"]] == [0, 4, 8, 12, 16]
    path = evaluation.save_film(tmp_path / "best.gif", figures["film"])
    assert path.stat().st_size > 0


def test_figures_by_hand():
    kept = [(True, 6, 4, 1.0), (True, 9, 6, 2.0), (False, 10, 5, 0.0), (True, 0, 0, 1.0)]
    figures = summary(kept)
    assert figures["success"] == 0.75 and figures["steps_ratio"] == 1.5 and figures["steps"] == 7.5
    assert figures["return"] == 1.0 and figures["fewest_steps"] == 3.75


def test_figures_are_written_and_shown_as_a_table(tmp_path):
    figures = {"policy": summary([(True, 5, 4, 1.25)] * 2)}
    path = evaluation.write(tmp_path / "deep" / "evaluation.json", {"policies": figures})
    assert json.loads(path.read_text(encoding="utf-8"))["policies"] == figures and len(list(path.parent.iterdir())) == 1
    shown = re.sub(" +", " ", evaluation.table(figures))
    assert "| policy | 100.0% | 34.2% to 100.0% | 1.25 | 5.00 | 1.25 | 2 |" in shown
