"""Unmasking strategies, one file each; importing this package registers them."""

from .base import (
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
from .entropy_bound import EntropyBoundStrategy
from .klass import KlassStrategy
from .schedule import ScheduleStrategy
from .sequential import SequentialStrategy
from .settings import DecodingSettings
from .step import DenoisingStep, ProbeLedger
from .threshold import ThresholdStrategy


__all__ = [
    "DapdStrategy",
    "DawnStrategy",
    "DecodingSettings",
    "DemaskStrategy",
    "DenoisingStep",
    "EntropyBoundStrategy",
    "KlassStrategy",
    "LastLayers",
    "ProbeLedger",
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
