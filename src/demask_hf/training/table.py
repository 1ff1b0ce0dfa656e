"""A fixed table of dependencies: the mean over visited states, for the strategy "table"."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from ..generation.encoding import Prompt, encode_batch
from ..generation.mixin import DemaskGenerationMixin
from ..strategies import DecodingSettings, DemaskStrategy, DenoisingStep, UnmaskingStrategy, WrappingStrategy
from ..strategies.base import Compiled, as_it_is
from .examples import Examples
from .metrics import trivial_predictors


def mean_dependencies(
    model: DemaskGenerationMixin,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    rule: DemaskStrategy | None = None,
    batch_size: int = 64,
    **generate_kwargs: Any,
) -> torch.Tensor:
    """Decode prompts and return the mean dependency of each pair of answer positions over the visited states.

    Args:
        model ([`DemaskGenerationMixin`]):
            The model.
        tokenizer (`PreTrainedTokenizerBase`):
            Its tokenizer.
        prompts (`Sequence[str]`, or sequence of messages):
            The prompts, for instance of one task family.
        rule ([`DemaskStrategy`], *optional*):
            Decodes, and says whether the head's dependencies are averaged (by default) or exact ones.
        batch_size (`int`, *optional*, defaults to 64):
            Prompts decoded together.
        generate_kwargs:
            Further arguments of `generate`.

    Returns:
        `torch.Tensor` of shape `(positions, positions)`, `D[source, target]` in [0, 1], float32; for
        [`~strategies.table.write_table`]. A pair that was never masked in the same state depends fully.

    Raises:
        ValueError: if there is no prompt, or an argument of `generate` is wrong.

    Example:

    ```python
    >>> from demask_hf.strategies.table import write_table
    >>> from demask_hf.tasks import FAMILIES

    >>> prompts = [example.prompt for example in FAMILIES["pairs"].distinct("train", 100)]
    >>> write_table("pairs.json", mean_dependencies(model, tokenizer, prompts))  # doctest: +SKIP

    ```
    """
    if not prompts:
        raise ValueError("`prompts` must hold at least one prompt, got none.")
    averaging = AveragingStrategy(rule or DemaskStrategy())
    for start in range(0, len(prompts), batch_size):
        ids, attention_mask = encode_batch(tokenizer, list(prompts[start : start + batch_size]))
        model.generate(ids, attention_mask, strategy=averaging, tokenizer=tokenizer, **generate_kwargs)
    size = max(sums.shape[-1] for sums in averaging.sums)
    padded = [torch.nn.functional.pad(sums, (0, size - sums.shape[-1]) * 2) for sums in averaging.sums]
    total, count = torch.stack(padded).sum(dim=0)
    return torch.where(count > 0, total / count.clamp(min=1), 1.0).float()


def distance_dependencies(examples: Examples) -> torch.Tensor:
    """Return the mean dependency at each distance over measured states, for masks in any place.

    Args:
        examples (`Sequence[DependencyExample]`):
            Measured states.

    Returns:
        `torch.Tensor` of shape `(2 * n + 1,)`: distances from -n to n, target minus source, float32; for
        [`~strategies.table.write_table`]. A distance that was never measured has the mean of all pairs.
    """
    mean, by_distance = trivial_predictors(examples)
    farthest = max(map(abs, by_distance))
    return torch.tensor([by_distance.get(distance, mean) for distance in range(-farthest, farthest + 1)])


@dataclass
class AveragingStrategy(WrappingStrategy):
    """Decode with the demask rule, and sum up its dependencies by answer positions.

    Args:
        rule ([`DemaskStrategy`]):
            The rule.
        sums (`list[torch.Tensor]`):
            For each call of `generate`, sums of dependencies and their numbers, of shape `(2, positions, positions)`.
    """

    rule: DemaskStrategy
    sums: list[torch.Tensor] = field(default_factory=list)
    _prompt_length: int = field(default=0, init=False, repr=False, compare=False)

    def __post_init__(self):
        self.rule = self.rule.fresh()

    @property
    def wrapped(self) -> tuple[UnmaskingStrategy, ...]:
        return (self.rule,)

    def bind(
        self,
        model: torch.nn.Module,
        settings: DecodingSettings | None = None,
        compiled: Compiled = as_it_is,
    ) -> None:
        super().bind(model, settings, compiled)
        self._prompt_length = 0 if settings is None else settings.prompt_length
        length = 0 if settings is None else settings.num_new_tokens
        self.sums.append(torch.zeros(2, length, length, dtype=torch.float64))

    def select(self, step: DenoisingStep) -> torch.Tensor:
        sums, dependencies = self.sums[-1], self.rule.dependencies_of(step)
        # One more than the place in the answer; 0 where there is none, in padding and in the prompt.
        places = step.index.padded((step.columns - self._prompt_length + 1).clamp(min=0))
        source, target = places[:, :, None].expand_as(dependencies), places[:, None, :].expand_as(dependencies)
        is_pair = (source > 0) & (target > 0) & (source != target)
        at = ((source[is_pair] - 1).cpu(), (target[is_pair] - 1).cpu())
        values = dependencies[is_pair].double().cpu()
        sums[0].index_put_(at, values, accumulate=True)
        sums[1].index_put_(at, torch.ones_like(values), accumulate=True)
        return self.rule.select(step)
