"""What each stage trains, on which batches and with which losses.

Batches follow from (seed, stage, iteration) alone, so that a resumed training repeats an uninterrupted one.
"""

from training.stages.base import Batch, Sampler, Stage
from training.stages.gma import GmaConfig, GmaStage, Hints
from training.stages.lma import LmaConfig, LmaStage
from training.stages.long import LongConfig, LongStage
from training.stages.prior import PriorConfig, PriorStage
from training.stages.token import PoseConfig, PoseStage, TokenConfig, TokenLmaStage

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
    "Sampler",
    "Stage",
    "TokenConfig",
    "TokenLmaStage",
]
