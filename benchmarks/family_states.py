"""Measured states and decoding of the task families on the shipped checkpoint, shared by the studies of heads."""

from collections.abc import Sequence
from pathlib import Path
from random import Random

from transformers import AutoModel, AutoTokenizer

import demask_hf
from demask_hf.evaluation import Outcome, evaluate
from demask_hf.tasks import FAMILIES
from demask_hf.training.collection import collect
from demask_hf.training.prompts import TokenizedPrompt
from demask_hf.training.states import CollectionSettings
from demask_hf.training.store import StoredExamples


ANSWER_LENGTH = 32
# Parity is the documented exception and belongs to no study.
NAMES = [name for name in FAMILIES if name != "parity"]


def load_backbone(folder: str = demask_hf.TINY_DREAM) -> tuple[demask_hf.DreamModel, object]:
    """Return the small checkpoint's backbone and tokenizer."""
    return AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def family_states(
    model, tokenizer, folder: Path, names: Sequence[str], split: str, num_states: int, seed: int = 0
) -> StoredExamples:
    """Measure states of some families, as many prompts of each; resumes."""
    prompts = []
    for name in names:
        stream = FAMILIES[name].examples(split, seed=seed)
        for example in (next(stream) for _ in range(-(-num_states // len(names)))):
            ids = [tuple(tokenizer(text)["input_ids"]) for text in (example.prompt, example.answer)]
            prompts.append(TokenizedPrompt(*ids))
    Random(seed).shuffle(prompts)
    settings = CollectionSettings(
        num_states=num_states,
        answer_length=ANSWER_LENGTH,
        estimator="expectation",
        strategy={"name": "demask"} if model.demask_head is not None else "threshold",
        batch_size=32,
        states_per_shard=128,
        seed=seed,
    )
    return collect(model, prompts, folder, settings, {"model": "demask_hf.TINY_DREAM", "families": list(names)})


def decode_with(model, tokenizer, names: Sequence[str], num_prompts: int, strategy: dict, seed: int = 1) -> dict:
    """Decode validation prompts of each family at temperature 0; return accuracy and forward passes per prompt."""
    examples = [example for name in names for example in FAMILIES[name].distinct("validation", num_prompts, seed=seed)]
    records = evaluate(model, tokenizer, examples, strategy, max_new_tokens=ANSWER_LENGTH)
    outcome = Outcome.of_records(records)
    return {
        "accuracy": round(outcome.accuracy, 4),
        "forward_passes": round(outcome.mean_forward_passes, 3),
        "num_prompts": outcome.num_prompts,
    }
