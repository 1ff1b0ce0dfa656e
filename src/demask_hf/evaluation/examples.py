"""Example answers of a comparison, decoded again with a trace for the viewer."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..generation.encoding import encode_batch
from ..generation.mixin import DemaskGenerationMixin
from .comparison import Comparison
from .runs import Run, seed_of
from .specs import Setting


#: Strategies that are shown side by side.
MAX_EXAMPLES = 4


def example_settings(comparisons: Sequence[Comparison], margin: float) -> list[Setting]:
    """Return the settings whose answers are shown: the first reference, then the fastest ones that keep the accuracy.

    Args:
        comparisons (`Sequence[Comparison]`):
            The chosen settings.
        margin (`float`):
            Loss of accuracy that still counts as kept.

    Returns:
        `list[Setting]`: at most four, one of each strategy.
    """
    kept = [each for each in comparisons if each.is_matched(margin) and not each.is_reference]
    kept.sort(key=lambda each: each.outcome.mean_forward_passes)
    found: dict[str, Setting] = {}
    for setting in (comparisons[0].reference.setting, *(each.outcome.setting for each in kept)):
        found.setdefault(setting.strategy["name"], setting)
    return list(found.values())[:MAX_EXAMPLES]


def example_traces(
    model: DemaskGenerationMixin, tokenizer: PreTrainedTokenizerBase, settings: Sequence[Setting], run: Run
) -> list[dict[str, Any]]:
    """Decode the first prompt of a run with each setting, as the run did, and return the traces.

    Args:
        model ([`DemaskGenerationMixin`]):
            The model.
        tokenizer (`PreTrainedTokenizerBase`):
            Its tokenizer.
        settings (`Sequence[Setting]`):
            How to decode.
        run ([`Run`]):
            Its prompts and its seed.
    """
    task = run.tasks[0]
    prompt = task.examples[0].prompt
    ids, attention_mask = encode_batch(tokenizer, [prompt])
    length = {} if task.max_new_tokens is None else {"max_new_tokens": task.max_new_tokens}
    fixed = {"seed": seed_of(prompt, 0, run.seed), "num_return_sequences": 1, "tokenizer": tokenizer}
    fixed |= {"trace": True, "return_dict_in_generate": True}
    traces = []
    for setting in settings:
        output: Any = model.generate(
            ids, attention_mask, strategy=setting.build(), **{**length, **setting.options, **fixed}
        )
        traces.append(dataclasses.replace(output.trace, title=setting.label).to_dict())
    return traces
