"""Decode the prompts of tasks and check the answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..generation.mixin import DemaskGenerationMixin
from ..strategies import UnmaskingStrategy
from ..tasks import FAMILIES, Task, TaskExample
from .decoding import Decoding, decode_prompts


@dataclass(frozen=True)
class Record(Decoding):
    """A decoded task prompt with the result of its task's checker.

    Args:
        family (`str`):
            Name of the task.
        is_correct (`bool`):
            Whether the answer is right.
    """

    family: str
    is_correct: bool


def evaluate(
    model: DemaskGenerationMixin,
    tokenizer: PreTrainedTokenizerBase,
    examples: Task | Sequence[TaskExample],
    strategy: str | dict | UnmaskingStrategy | None = None,
    batch_size: int = 64,
    **generate_kwargs: Any,
) -> list[Record]:
    """Decode the prompts of a task, or of examples of task families, and check each answer.

    Args:
        model ([`DemaskGenerationMixin`]):
            The model.
        tokenizer (`PreTrainedTokenizerBase`):
            Its tokenizer.
        examples ([`Task`] or `Sequence[TaskExample]`):
            A task, whose `max_new_tokens` is the default; or examples of the generated families.
        strategy (`str`, `dict` or [`UnmaskingStrategy`], *optional*):
            As in `generate`.
        batch_size (`int`, *optional*, defaults to 64):
            Prompts decoded together; it does not change the answers.
        generate_kwargs:
            Further arguments of `generate`; `seed` as in [`decode_prompts`].

    Returns:
        `list[Record]`: one for each example, in their order.

    Raises:
        ValueError: if an argument of `generate` is wrong.

    Example:

    ```python
    >>> from demask_hf.evaluation import Outcome, evaluate
    >>> from demask_hf.tasks import FAMILIES

    >>> examples = FAMILIES["pairs"].distinct("test", 100)
    >>> records = evaluate(model, tokenizer, examples, strategy="demask")  # doctest: +SKIP
    >>> Outcome.of_records(records).accuracy  # doctest: +SKIP

    ```
    """
    if isinstance(examples, Task) and examples.max_new_tokens is not None:
        generate_kwargs.setdefault("max_new_tokens", examples.max_new_tokens)
    listed = examples.examples if isinstance(examples, Task) else examples
    prompts = [example.prompt for example in listed]
    return judge(examples, decode_prompts(model, tokenizer, prompts, strategy, batch_size, **generate_kwargs))


def judge(examples: Task | Sequence[TaskExample], decodings: Sequence[Decoding]) -> list[Record]:
    """Check answers that are decoded.

    Args:
        examples ([`Task`] or `Sequence[TaskExample]`):
            As in [`evaluate`].
        decodings (`Sequence[Decoding]`):
            One for each example, in their order.

    Returns:
        `list[Record]`: one for each example, in their order.
    """
    check: Callable[[TaskExample, str], bool] = _check_by_family
    if isinstance(examples, Task):
        check, examples = examples.check, examples.examples
    return [
        Record(
            **vars(decoding),
            family=example.family,
            is_correct=check(example, decoding.answer),
        )
        for example, decoding in zip(examples, decodings, strict=True)
    ]


def _check_by_family(example: TaskExample, answer: str) -> bool:
    return FAMILIES[example.family].check(example.prompt, answer)
