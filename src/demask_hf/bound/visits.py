"""States that decoding visits, each with the positions that the demask rule selects in it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from ..backbones.backbone import Backbone
from ..functional.sampling import Sampling
from ..generation.arguments import resolve_config
from ..generation.encoding import Prompt, encode_batch
from ..generation.mixin import DemaskGenerationMixin
from ..generation.predictor import Predictor
from ..strategies import Decision, DemaskStrategy, DenoisingStep, UnmaskingStrategy, WrappingStrategy


@dataclass(frozen=True)
class VisitedState:
    """A state before a denoising step, without padding.

    Args:
        sequence (`torch.LongTensor` of shape `(length,)`):
            Token ids, masks included.
        candidates (`torch.LongTensor` of shape `(count,)`):
            Columns that may be unmasked, in the order of the rule's walk.
        selected (`torch.LongTensor` of shape `(size,)`):
            Columns that the rule selects, in the same order.
        most_confident (`torch.LongTensor` of shape `(size,)`):
            As many candidates of the highest confidence, highest first.
    """

    sequence: torch.Tensor
    candidates: torch.Tensor
    selected: torch.Tensor
    most_confident: torch.Tensor


@dataclass
class RecordingStrategy(WrappingStrategy):
    """Decode with one strategy and record what the demask rule selects in the visited states.

    Args:
        walker ([`UnmaskingStrategy`]):
            The strategy that decodes.
        rule ([`DemaskStrategy`]):
            The rule whose sets are recorded; may be the walker.
        visited (`list[list[VisitedState]]`):
            The recorded states: one list per row of the batch, in the order of the steps.
    """

    walker: UnmaskingStrategy
    rule: DemaskStrategy
    visited: list[list[VisitedState]] = field(default_factory=list)

    def __post_init__(self):
        is_same = self.walker is self.rule
        self.rule = self.rule.fresh()
        self.walker = self.rule if is_same else self.walker.fresh()

    @property
    def wrapped(self) -> tuple[UnmaskingStrategy, ...]:
        return (self.rule,) if self.walker is self.rule else (self.walker, self.rule)

    def select(self, step: DenoisingStep) -> torch.Tensor | Decision:
        if not step.index.host_active:
            # The walker looks at rows in which nothing is masked.
            return self.walker.select(step)
        selected = self.rule.select(step)
        scores = step.at_positions(self.rule.walk_scores(step), float("-inf"))
        order = scores.argsort(dim=-1, descending=True, stable=True)
        confidence = step.at_positions(step.score("confidence").double(), float("-inf"))
        by_confidence = confidence.argsort(dim=-1, descending=True, stable=True)
        for row in step.candidates.any(dim=-1).nonzero().squeeze(-1).tolist():
            length, walk = step.sequences.shape[1], order[row]
            start = length - 1 - int(step.positions[row, -1])
            columns = [walk[is_member[row, walk]] - start for is_member in (step.candidates, selected)]
            columns.append(by_confidence[row, : len(columns[1])] - start)
            self.visited[row].append(VisitedState(step.sequences[row, start:].clone(), *columns))
        return selected if self.walker is self.rule else self.walker.select(step)


def visit(
    model: DemaskGenerationMixin,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    rule: DemaskStrategy,
    walker: UnmaskingStrategy | None = None,
    seed: int = 0,
    **generate_kwargs: Any,
) -> list[list[VisitedState]]:
    """Decode one batch of prompts and return the states that each prompt visits.

    Args:
        model ([`DemaskGenerationMixin`]):
            The model.
        tokenizer (`PreTrainedTokenizerBase`):
            Its tokenizer.
        prompts (`Sequence[str]`, or sequence of messages):
            Prompts, decoded in one left-padded batch.
        rule ([`DemaskStrategy`]):
            The rule whose sets are recorded.
        walker ([`UnmaskingStrategy`], *optional*):
            The strategy that decodes; by default the rule.
        seed (`int`, *optional*, defaults to 0):
            Prompt `i` is decoded with `seed + i`.
        generate_kwargs:
            Further arguments of `generate`.

    Returns:
        `list[list[VisitedState]]`: for each prompt the states in the order of the steps.
    """
    ids, attention_mask = encode_batch(tokenizer, prompts)
    recording = RecordingStrategy(rule if walker is None else walker, rule, [[] for _ in prompts])
    seeds = [seed + row for row in range(len(prompts))]
    model.generate(ids, attention_mask, strategy=recording, seed=seeds, **generate_kwargs)
    return recording.visited


def drawing_predictor(
    model: DemaskGenerationMixin, rule: DemaskStrategy, generate_kwargs: dict[str, Any]
) -> Predictor:
    """Return a predictor of sequences without padding, with the sampling settings of `generate`.

    Its [`~Predictor.probe`] returns the distributions that tokens are drawn from.

    Args:
        model ([`DemaskGenerationMixin`]):
            The model.
        rule ([`DemaskStrategy`]):
            The rule whose bound is measured.
        generate_kwargs (`dict`):
            Arguments of `generate`.

    Raises:
        ValueError: if the bound on total variation is void because the temperature is 0 or the rule looks at drawn
            tokens, if the attention is causal between blocks, or if a setting is wrong.
    """
    config, _ = resolve_config(model, None, rule, dict(generate_kwargs))
    backbone = Backbone.of(model, config.mask_token_id)
    if backbone.quirks.is_block_causal:
        raise ValueError(
            f"`model` must attend to all positions to measure its bound, got a {type(model).__name__}, which attends "
            "from block to block."
        )
    temperature = float(config.temperature or 0.0)
    if not temperature > 0:
        raise ValueError(
            f"`temperature` must be above 0 to measure total variation, got {temperature:g}: at 0 all "
            "distributions are points and the bound is void."
        )
    if rule.order == "token_probability":
        raise ValueError(
            "`order` must not be 'token_probability' to measure total variation: a selection that looks at the drawn "
            "tokens is not sampled from the product of marginals."
        )
    sampling = Sampling(temperature=temperature, top_p=config.top_p, top_k=config.top_k or None)
    scored = sampling if config.scores == "sampled" else Sampling()
    return Predictor(backbone, sampling, scored, excludes_mask=True)
