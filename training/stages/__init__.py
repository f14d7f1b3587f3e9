"""What each stage trains, on which batches and with which losses.

Batches follow from (seed, stage, iteration) alone, so that a resumed training repeats an uninterrupted one.
"""

from .base import Batch, Sampler, Stage
from .gma import GmaConfig, GmaStage, Hints, RefineConfig, RefineStage
from .lma import LmaConfig, LmaStage
from .long import LongConfig, LongStage
from .prior import PriorConfig, PriorStage
from .token import PoseConfig, PoseStage, TokenConfig, TokenLmaStage

__all__ = [
    "Batch",
    "GmaConfig",
    "GmaStage",
    "Hints",
    "LmaConfig",
    "LmaStage",
    "LongConfig",
    "LongStage",
    "PoseConfig",
    "PoseStage",
    "PriorConfig",
    "PriorStage",
    "RefineConfig",
    "RefineStage",
    "Sampler",
    "Stage",
    "TokenConfig",
    "TokenLmaStage",
]
