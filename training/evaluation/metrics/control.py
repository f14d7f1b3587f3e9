"""Does the simulated agent go where it is sent, and does it last? Figures of :mod:`.probe`."""

from __future__ import annotations

from typing import Any

from .evaluation import Evaluation
from .probe import cycle, detector_noise, walk_right


def simulator(e: Evaluation) -> dict[str, Any]:
    """Control error, presence and drift of the simulator, and the detectors' own error on real video."""
    return {
        "starts": len(e.probe.start),
        "detectors_on_real_video": detector_noise(e.probe, e.store, e.videos),
        "right": walk_right(e.probe),
        "cycle": cycle(e.probe),
        "random_play": e.play.figures,
    }
