"""Losses of decoded prompts for choosing the bound: every candidate is rolled out, and runs can resume."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from ..evaluation.decoding import Decoding, decode_prompts
from ..evaluation.records import evaluate
from ..files import append_lines, kept_lines
from ..generation.encoding import Prompt
from ..generation.mixin import DemaskGenerationMixin
from ..models.fingerprints import model_facts
from ..schema import from_json
from ..strategies import DemaskStrategy
from ..strategies.sequential import one_at_a_time
from ..tasks import TaskExample
from ..validation import check_choice, check_count
from .joint import OrderedSet, sampled_errors
from .visits import drawing_predictor, visit


# Prompts decoded together; it does not change the losses.
_BATCH_SIZE = 32


@dataclass(frozen=True)
class StoredLosses:
    """The losses of a batch as they are stored.

    Args:
        bound (`float`): The candidate.
        first (`int`): Number of the first prompt of the batch.
        losses (`tuple[float, ...]`): The loss of each prompt, in [0, 1].
    """

    bound: float
    first: int
    losses: tuple[float, ...]

    def __post_init__(self):
        if not self.losses or not all(0 <= loss <= 1 for loss in self.losses):
            raise ValueError(f"must have `losses` in [0, 1], got {list(self.losses)[:3]}.")


class Rollouts:
    """Decode prompts with a bound and return one loss in [0, 1] for each.

    - "tv": the mean, over the steps of the prompt's decoding, of the total variation between the product that the
      step samples from and the chain joint in selection order; a fresh unbiased estimate for each step, 0 for steps
      that unmask one position. Its tokens are drawn separately from those of decoding, so they cannot depend on the
      number of steps.
    - "disagreement": the share of tokens that differ from decoding one token per forward with the same seed and order
      of positions; the surplus of a longer answer counts as different. At temperatures above 0 the noise of a seed
      depends on the step, so two samples differ even if both rules are exact.
    - "task": 1 if the checker of the task family rejects the answer, else 0.

    Args:
        model ([`DemaskGenerationMixin`]):
            The model with its head.
        tokenizer (`PreTrainedTokenizerBase`):
            Its tokenizer.
        prompts (`Sequence[TaskExample]`, or sequence of texts or messages):
            The calibration prompts; examples for the risk "task".
        rule ([`DemaskStrategy`]):
            The rule; its bound is replaced by each candidate.
        risk (`str`):
            "tv", "disagreement" or "task".
        num_draws (`int`, *optional*, defaults to 4):
            For "tv": draws that estimate a step.
        seed (`int`, *optional*, defaults to 0):
            Prompt `i` is decoded with `seed + i`, for every bound.
        work (`str` or `Path`, *optional*):
            Folder in which losses are stored, so that the same call resumes after an interruption.
        generate_kwargs:
            Further arguments of `generate`.

    Raises:
        ValueError: if `risk` is unknown or cannot be measured with these arguments.
    """

    def __init__(  # noqa: PLR0913, the facts of a calibration
        self,
        model: DemaskGenerationMixin,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[Prompt] | Sequence[TaskExample],
        rule: DemaskStrategy,
        risk: str,
        num_draws: int = 4,
        seed: int = 0,
        work: str | Path | None = None,
        **generate_kwargs: Any,
    ):
        check_choice("risk", risk, RISKS)
        check_count("num_draws", num_draws)
        if not prompts:
            raise ValueError("`prompts` must hold at least one prompt, got none.")
        if risk == "task" and not all(isinstance(prompt, TaskExample) for prompt in prompts):
            raise ValueError("`prompts` must be examples of task families for the risk 'task', got texts.")
        self.model, self.tokenizer, self.rule = model, tokenizer, rule
        #: The prompts, and the examples that they come from, if there are such.
        self.prompts: list[Prompt] = [one.prompt if isinstance(one, TaskExample) else one for one in prompts]
        self.examples = [one for one in prompts if isinstance(one, TaskExample)]
        self.risk, self.num_draws, self.seed, self.generate_kwargs = risk, num_draws, seed, generate_kwargs
        self._references: dict[int, list[Decoding]] = {}
        if risk == "tv":
            self._predictor = drawing_predictor(model, rule, generate_kwargs)
        self._file = None if work is None else Path(work) / f"rollouts-{self._digest()}.jsonl"

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the prompts in their order."""
        return hashlib.sha256(json.dumps(self.prompts).encode()).hexdigest()

    def __call__(self, bound: float) -> np.ndarray:
        """Return the losses of all prompts with a bound, shape `(prompts,)`."""
        losses = self._stored(bound)
        rule = self.rule.fresh(dependency_bound=bound)
        with tqdm(total=len(self.prompts), initial=len(losses), unit="prompt", desc=f"bound {bound:g}") as bar:
            while len(losses) < len(self.prompts):
                part = slice(len(losses), len(losses) + _BATCH_SIZE)
                found = _LOSSES[self.risk](self, rule, part)
                self._store(bound, found)
                losses += found
                bar.update(len(found))
        return np.array(losses)

    def _tv_losses(self, rule: DemaskStrategy, part: slice) -> list[float]:
        texts, losses = self.prompts[part], []
        visited = visit(self.model, self.tokenizer, texts, rule, None, self.seed + part.start, **self.generate_kwargs)
        for number, states in enumerate(visited, start=part.start):
            random = Random(f"{self.seed}/{rule.dependency_bound}/{number}")
            generator = torch.Generator().manual_seed(random.getrandbits(62))
            sets = [OrderedSet(self._predictor.probe, state.sequence, state.selected) for state in states]
            errors = [
                float(sampled_errors(one, self.num_draws, generator).mean()) for one in sets if len(one.order) > 1
            ]
            losses.append(sum(errors) / max(len(sets), 1))
        return losses

    def _disagreement_losses(self, rule: DemaskStrategy, part: slice) -> list[float]:
        # These are the same for every bound, and most of the work.
        if part.start not in self._references:
            self._references[part.start] = self._decoded(one_at_a_time(rule), part)
        pairs = zip(self._decoded(rule, part), self._references[part.start], strict=True)
        return [share_of_different_tokens(decoding, expected) for decoding, expected in pairs]

    def _task_losses(self, rule: DemaskStrategy, part: slice) -> list[float]:
        seed = self.seed + part.start
        examples = self.examples[part]
        records = evaluate(
            self.model, self.tokenizer, examples, rule, len(examples), seed=seed, **self.generate_kwargs
        )
        return [float(not record.is_correct) for record in records]

    def _decoded(self, strategy: Any, part: slice) -> list[Decoding]:
        texts, seed = self.prompts[part], self.seed + part.start
        return decode_prompts(
            self.model, self.tokenizer, texts, strategy, len(texts), seed=seed, **self.generate_kwargs
        )

    def _digest(self) -> str:
        """Return a name for everything that the losses depend on, except the bound."""
        rule = {**self.rule.to_dict(), "dependency_bound": None}
        facts = [self.risk, self.num_draws, self.seed, self.fingerprint, rule, self.generate_kwargs]
        facts += [model_facts(self.model, self.tokenizer), [str(example) for example in self.examples]]
        facts += [getattr(getattr(self.model, "config", None), "_commit_hash", None)]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    def _stored(self, bound: float) -> list[float]:
        """Return the stored losses of an earlier run, which are those of the first prompts.

        Raises:
            ValueError: if a stored batch is broken, missing, or there twice.
        """
        losses: list[float] = []

        def take(value: Any) -> None:
            stored = from_json(StoredLosses, value)
            if stored.bound == bound:
                if stored.first != len(losses):
                    raise ValueError(
                        f"must continue with prompt {len(losses)} of bound {bound:g}, got {stored.first}."
                    )
                losses.extend(stored.losses)

        if self._file is not None:
            kept_lines(self._file, take, is_ordered=True)
        if len(losses) > len(self.prompts):
            raise ValueError(
                f"{str(self._file)!r} must hold at most {len(self.prompts)} losses of a bound, got {len(losses)}."
            )
        return losses

    def _store(self, bound: float, losses: list[float]) -> None:
        if self._file is not None:
            append_lines(self._file, [{"bound": bound, "first": len(self._stored(bound)), "losses": losses}])


def share_of_different_tokens(decoding: Decoding, expected: Decoding) -> float:
    """Return the share of positions at which two answers differ, in [0, 1], relative to the longer one.

    Args:
        decoding ([`Decoding`]):
            One answer.
        expected ([`Decoding`]):
            The other.
    """
    length = max(len(decoding.tokens), len(expected.tokens))
    same = sum(one == other for one, other in zip(decoding.tokens, expected.tokens, strict=False))
    return (length - same) / max(length, 1)


_LOSSES: dict[str, Callable[[Rollouts, DemaskStrategy, slice], list[float]]] = {
    "tv": Rollouts._tv_losses,
    "disagreement": Rollouts._disagreement_losses,
    "task": Rollouts._task_losses,
}
RISKS = tuple(_LOSSES)
