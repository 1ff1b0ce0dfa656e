"""From prompts to a trained head: measured dependencies, their storage, the training and its metrics.

Read in the order of the work: `prompts.py` (texts to token ids), `states.py` (which states are measured),
`examples.py` (one state with its measured dependencies), `store.py` and `collection.py` (on disk, resumable),
`trainer.py` and `divergence.py` (transformers' Trainer, and when it stops), `metrics.py` (how well a head fits), and
`table.py` (means over states, for the strategy "table"). Needs the extra "train".
"""

from typing import TYPE_CHECKING

from ..lazy import lazy_names


if TYPE_CHECKING:
    from .collection import collect
    from .examples import DependencyExample, collate_examples, measure_examples
    from .metrics import fit_of, reliability_of
    from .prompts import TokenizedPrompt, read_prompts
    from .states import CollectionSettings, MeasuredStates
    from .store import StoredExamples
    from .table import distance_dependencies, mean_dependencies
    from .trainer import new_head, split_by_prompt, train_head
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "collection": ("collect",),
            "examples": (
                "DependencyExample",
                "collate_examples",
                "measure_examples",
            ),
            "metrics": (
                "fit_of",
                "reliability_of",
            ),
            "prompts": (
                "TokenizedPrompt",
                "read_prompts",
            ),
            "states": (
                "CollectionSettings",
                "MeasuredStates",
            ),
            "store": ("StoredExamples",),
            "table": ("distance_dependencies", "mean_dependencies"),
            "trainer": (
                "new_head",
                "split_by_prompt",
                "train_head",
            ),
        },
    )

__all__ = [
    "CollectionSettings",
    "DependencyExample",
    "MeasuredStates",
    "StoredExamples",
    "TokenizedPrompt",
    "collate_examples",
    "collect",
    "distance_dependencies",
    "fit_of",
    "mean_dependencies",
    "measure_examples",
    "new_head",
    "read_prompts",
    "reliability_of",
    "split_by_prompt",
    "train_head",
]
