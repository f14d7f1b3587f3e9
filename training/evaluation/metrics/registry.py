"""The metrics that :mod:`training.evaluation.evaluate` knows, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .action_classifier import action_classifier
from .actions import local_actions, transfer
from .animation import animation
from .crispness import crispness
from .evaluation import Evaluation
from .identity import identity
from .passport import passport
from .pose_transitions import pose_transitions
from .prior import prior
from .probe import simulator
from .residue import residue
from .two_sample import two_sample
from .video import reconstruction

Metric = Callable[[Evaluation], dict[str, Any]]

METRICS: dict[str, Metric] = {
    "lma": animation,
    "video": reconstruction,
    "codes": local_actions,
    "transfer": transfer,
    "simulator": simulator,
    "passport": passport,
    "crispness": crispness,
    "residue": residue,
    "two_sample": two_sample,
    "pose_transitions": pose_transitions,
    "action_classifier": action_classifier,
    "identity": identity,
    "prior": prior,
}


def register_metric(name: str, metric: Metric) -> None:
    """Let evaluations have a part of your own: nested figures under `name`.

    Raises:
        ValueError: the name is taken.
    """
    if METRICS.get(name, metric) is not metric:
        raise ValueError(f"a metric called {name!r} is registered already; choose another name")
    METRICS[name] = metric
