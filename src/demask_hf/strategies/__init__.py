"""Unmasking strategies, one file each; importing this package registers them.

Read `step.py` first (what a strategy sees), then `base.py` (what a strategy is), `sequential.py` and `threshold.py`
(the two smallest), and `demask.py`. `settings.py` holds the settings that a strategy receives when it is bound to a
model.
"""

from .base import (
    AnswerGaps,
    LastLayers,
    UnmaskingStrategy,
    WrappingStrategy,
    make_strategy,
    register_strategy,
    strategy_fields,
    strategy_names,
)
from .dapd import DapdStrategy
from .dawn import DawnStrategy
from .demask import DemaskStrategy
from .drafts import Drafts
from .entropy_bound import EntropyBoundStrategy
from .eoser import EoserStrategy
from .freedave import FreedaveStrategy
from .klass import KlassStrategy
from .lossless import LosslessStrategy
from .prophet import ProphetStrategy
from .schedule import ScheduleStrategy
from .sequential import SequentialStrategy
from .settings import DecodingSettings
from .step import DenoisingStep, ProbeLedger
from .threshold import ThresholdStrategy


__all__ = [
    "AnswerGaps",
    "DapdStrategy",
    "DawnStrategy",
    "DecodingSettings",
    "DemaskStrategy",
    "DenoisingStep",
    "Drafts",
    "EntropyBoundStrategy",
    "EoserStrategy",
    "FreedaveStrategy",
    "KlassStrategy",
    "LastLayers",
    "LosslessStrategy",
    "ProbeLedger",
    "ProphetStrategy",
    "ScheduleStrategy",
    "SequentialStrategy",
    "ThresholdStrategy",
    "UnmaskingStrategy",
    "WrappingStrategy",
    "make_strategy",
    "register_strategy",
    "strategy_fields",
    "strategy_names",
]
