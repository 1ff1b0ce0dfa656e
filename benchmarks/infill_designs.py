"""Designs of the head on the states of a study, as `head_design.py` compares them on the shipped checkpoint."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import head_design

from demask_hf.backbones.backbone import backbone_facts
from demask_hf.files import read_json, write_json
from demask_hf.head.modeling_demask import DemaskHead
from demask_hf.training import DependencyExample, fit_of


# Those of the other comparison that say nothing of confidence and entropy, which are inputs here.
_PLAIN = ("width 64, 1 layer", "width 32", "width 128", "no mixing layer", "2 mixing layers")
_PLAIN += ("with the predicted token's embedding",)
DESIGNS: dict[str, dict[str, Any]] = {
    **{name: head_design.DESIGNS[name] for name in _PLAIN},
    "without confidence and entropy": {"reads_certainty": False},
    "with the mean embedding of the prediction": {"added": "mean"},
}


def fits_of_designs(
    model: Any,
    states: Sequence[DependencyExample],
    held_out: dict[str, list[DependencyExample]],
    train: Callable[[DemaskHead, Sequence[DependencyExample], int], None],
    num_seeds: int,
    folder: Path,
) -> list[dict[str, Any]]:
    """Return the fit of each design on held-out states, for several seeds; what is in the folder is not trained again.

    Args:
        model (`Any`): The backbone.
        states (`Sequence[DependencyExample]`): States to train on.
        held_out (`dict[str, list[DependencyExample]]`): States to judge by, by kind.
        train (`Callable`): Trains a head on states, with a seed.
        num_seeds (`int`): Seeds of weights and batches.
        folder (`Path`): Folder of the results.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for seed in range(num_seeds):
        for name, design in DESIGNS.items():
            file = folder / f"{name}-{seed}.json"
            if not file.exists():
                head = head_design.build({"reads_certainty": True, **design}, model, backbone_facts(model), seed)
                train(head, states, seed)
                fits = {kind: fit_of(head, states, own) for kind, own in held_out.items()}
                write_json(file, {"design": name, "seed": seed, "parameters": head.num_parameters(), **fits})
                print(f"design: {name}, seed {seed}", flush=True)
            found.append(read_json(file))
    return found
