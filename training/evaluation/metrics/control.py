"""The simulator's obedience and endurance, as figures."""

from __future__ import annotations

from typing import Any

from .evaluation import Evaluation
from .probe import cycle, detector_noise, walk_right


def simulator(e: Evaluation) -> dict[str, Any]:
    """Walks, cycles and random play, and what the detectors say about real video."""
    return {
        "starts": len(e.probe.start),
        "detectors_on_real_video": detector_noise(e.probe, e.store, e.videos),
        "right": walk_right(e.probe),
        "cycle": cycle(e.probe),
        "random_play": e.play.figures,
    }
