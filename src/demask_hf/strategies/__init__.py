"""Unmasking strategies, one file each; importing this package registers them.

Read `step.py` first (what a strategy sees), then `base.py` (what a strategy is), `sequential.py` and `threshold.py`
(the two smallest), and `demask.py`. `settings.py` holds the settings that a strategy receives when it is bound to a
model.
"""

from .adas import AdasStrategy
from .base import (
    UnmaskingStrategy,
    WrappingStrategy,
    make_strategy,
    register_strategy,
    strategy_fields,
    strategy_names,
)
from .canvas import Canvas
from .dapd import DapdStrategy
from .dawn import DawnStrategy
from .decision import Decision, Review
from .demask import DemaskStrategy
from .distance import DistanceStrategy
from .drafts import Drafts
from .edit import EditStrategy
from .entropy_bound import EntropyBoundStrategy
from .eoser import EoserStrategy
from .frechet import FrechetStrategy
from .freedave import FreedaveStrategy
from .klass import KlassStrategy
from .local_leap import LocalLeapStrategy
from .lossless import LosslessStrategy
from .mean_field import MeanFieldStrategy
from .needs import AnswerGaps, LastLayers, Shadows
from .prophet import ProphetStrategy
from .punt import PuntStrategy
from .quota import QuotaStrategy
from .renoise import RenoiseStrategy
from .schedule import ScheduleStrategy
from .sequential import SequentialStrategy
from .settings import DecodingSettings
from .step import DenoisingStep, ProbeLedger
from .t2m import TokenToMaskStrategy
from .table import TableStrategy
from .threshold import ThresholdStrategy
from .wino import WinoStrategy


__all__ = [
    "AdasStrategy",
    "AnswerGaps",
    "Canvas",
    "DapdStrategy",
    "DawnStrategy",
    "Decision",
    "DecodingSettings",
    "DemaskStrategy",
    "DenoisingStep",
    "DistanceStrategy",
    "Drafts",
    "EditStrategy",
    "EntropyBoundStrategy",
    "EoserStrategy",
    "FrechetStrategy",
    "FreedaveStrategy",
    "KlassStrategy",
    "LastLayers",
    "LocalLeapStrategy",
    "LosslessStrategy",
    "MeanFieldStrategy",
    "ProbeLedger",
    "ProphetStrategy",
    "PuntStrategy",
    "QuotaStrategy",
    "RenoiseStrategy",
    "Review",
    "ScheduleStrategy",
    "SequentialStrategy",
    "Shadows",
    "TableStrategy",
    "ThresholdStrategy",
    "TokenToMaskStrategy",
    "UnmaskingStrategy",
    "WinoStrategy",
    "WrappingStrategy",
    "make_strategy",
    "register_strategy",
    "strategy_fields",
    "strategy_names",
]
