"""Accuracy against forward passes: decode prompts, check answers, store records, compare settings, draw figures.

Read `decoding.py` first (prompts to answers with their cost), then `records.py` (answers checked), `specs.py` (a
setting as text), `runs.py` (records on disk, resumed), `comparison.py` with `statistics.py` and `metrics.py`
(conclusions from them), and `benchmark.py` (all of it, from a grid to a table). `report.py` and `figures.py` compute
nothing. `runs.py`, `figures.py` and the exact tests of `statistics.py` need the extra "eval", the others do not.
"""

from typing import TYPE_CHECKING

from ..lazy import lazy_names


if TYPE_CHECKING:
    from .benchmark import run_benchmark
    from .comparison import Comparison, Outcome, compare
    from .decoding import Decoding, decode_prompts
    from .records import Record, evaluate
    from .runs import Run
    from .specs import Setting, parse_settings
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "benchmark": ("run_benchmark",),
            "comparison": ("Comparison", "Outcome", "compare"),
            "decoding": ("Decoding", "decode_prompts"),
            "records": ("Record", "evaluate"),
            "runs": ("Run",),
            "specs": ("Setting", "parse_settings"),
        },
    )

__all__ = [
    "Comparison",
    "Decoding",
    "Outcome",
    "Record",
    "Run",
    "Setting",
    "compare",
    "decode_prompts",
    "evaluate",
    "parse_settings",
    "run_benchmark",
]
