"""Does the bound hold? Measure sets that the rule selects in visited states, and random sets for comparison."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from ..generation.encoding import Prompt, text_of
from ..generation.mixin import DemaskGenerationMixin
from ..generation.predictor import Predictor
from ..strategies import DemaskStrategy, UnmaskingStrategy
from .joint import OrderedSet
from .measurement import SetMeasurement, VerificationSettings, measure_set, measured_among, predicted_among
from .visits import VisitedState, drawing_predictor, visit


# Prompts decoded together; it does not change the results.
_BATCH_SIZE = 64


@dataclass(frozen=True)
class VerifiedState:
    """One state of one prompt with the sets measured in it.

    Args:
        prompt (`str`): The prompt.
        group (`str`): Task family or other group of the prompt, for the table.
        num_candidates (`int`): Positions that could be unmasked.
        selected (`SetMeasurement`): The set that the rule selects.
        random (`SetMeasurement`, *optional*): A random set of that size; `None` if all candidates were selected.
    """

    prompt: str
    group: str
    num_candidates: int
    selected: SetMeasurement
    random: SetMeasurement | None


@dataclass(frozen=True)
class StateDependencies:
    """All dependencies of one state, positions from left to right.

    Args:
        tokens (`tuple[str, ...]`): Most likely token of each position.
        maps (`dict[str, torch.Tensor]`): `D[source, target]` of shape `(positions, positions)`: "measured", and "head"
            (its predictions) if there is one.
    """

    tokens: tuple[str, ...]
    maps: dict[str, torch.Tensor]


def verify(
    model: DemaskGenerationMixin,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[tuple[str, Prompt]],
    rule: DemaskStrategy,
    settings: VerificationSettings | None = None,
    walker: UnmaskingStrategy | None = None,
    is_verbose: bool = True,
    **generate_kwargs: Any,
) -> list[VerifiedState]:
    """Measure the selected set and a random set in one random state of each prompt's decoding.

    States are drawn among those in which the rule selects at least two positions; prompts without such a state, and
    states that occurred before, are skipped. One state per prompt makes the states independent.

    Args:
        model ([`DemaskGenerationMixin`]):
            The model, with its head unless the rule measures dependencies.
        tokenizer (`PreTrainedTokenizerBase`):
            Its tokenizer.
        prompts (`Sequence[tuple[str, Prompt]]`):
            Group of each prompt, and its text or messages.
        rule ([`DemaskStrategy`]):
            The rule that selects.
        settings ([`VerificationSettings`], *optional*):
            How to measure.
        walker ([`UnmaskingStrategy`], *optional*):
            The strategy that decodes; by default the rule.
        is_verbose (`bool`, *optional*, defaults to `True`):
            Show progress with the remaining time.
        generate_kwargs:
            Further arguments of `generate`, such as `temperature`, which must be above 0.

    Returns:
        `list[VerifiedState]`, in the order of the prompts.

    Raises:
        ValueError: if the temperature is 0, the rule looks at drawn tokens, or another argument is wrong.
    """
    settings = settings or VerificationSettings()
    predictor = drawing_predictor(model, rule, generate_kwargs)
    verified, seen = [], set()
    with tqdm(total=len(prompts), unit="state", disable=not is_verbose, desc="verify") as bar:
        for group, text, state in _drawn_states(model, tokenizer, prompts, rule, settings, walker, generate_kwargs):
            key = None if state is None else tuple(state.sequence.tolist())
            if state is not None and key not in seen:
                seen.add(key)
                sets = _measured(predictor, state, settings)
                verified.append(VerifiedState(text, group, len(state.candidates), *sets))
            bar.update()
    return verified


def _drawn_states(
    model: DemaskGenerationMixin,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[tuple[str, Prompt]],
    rule: DemaskStrategy,
    settings: VerificationSettings,
    walker: UnmaskingStrategy | None,
    generate_kwargs: dict[str, Any],
) -> Iterator[tuple[str, str, VisitedState | None]]:
    """Yield group and text of each prompt with one of its states; `None` if the rule never selects two positions."""
    for start in range(0, len(prompts), _BATCH_SIZE):
        batch = prompts[start : start + _BATCH_SIZE]
        visited = visit(
            model, tokenizer, [prompt for _, prompt in batch], rule, walker, settings.seed + start, **generate_kwargs
        )
        for number, ((group, prompt), states) in enumerate(zip(batch, visited, strict=True), start=start):
            eligible = [state for state in states if len(state.selected) >= 2]
            random = Random(f"{settings.seed}/state/{number}")
            yield group, text_of(prompt), random.choice(eligible) if eligible else None


def _measured(
    predictor: Predictor, state: VisitedState, settings: VerificationSettings
) -> tuple[SetMeasurement, SetMeasurement | None]:
    """Return the measurements of the selected set and, unless it holds all candidates, of a random set of its size."""
    head = getattr(predictor.backbone.model, "demask_head", None)
    predicted = predicted_among(predictor, head, state.sequence, state.candidates)
    candidates, selected = state.candidates.tolist(), state.selected.tolist()
    chosen_sets = [(selected, settings.num_orders)]
    if len(selected) < len(candidates):
        random = Random(f"{settings.seed}/{state.sequence.tolist()}")
        places = sorted(random.sample(range(len(candidates)), len(selected)))
        chosen_sets.append(([candidates[place] for place in places], 0))
    measurements = []
    for columns, num_orders in chosen_sets:
        order = state.candidates.new_tensor(columns)
        dependencies = measured_among(
            predictor.probe, state.sequence, order, predictor.backbone.mask_token_id, settings.min_probability
        )
        place = torch.tensor([candidates.index(column) for column in columns])
        head_dependencies = None if predicted is None else predicted[place][:, place]
        ordered = OrderedSet(predictor.probe, state.sequence, order)
        measurements.append(measure_set(ordered, dependencies, head_dependencies, settings, num_orders))
    return measurements[0], measurements[1] if len(measurements) > 1 else None


def dependencies_before(
    model: DemaskGenerationMixin,
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    rule: DemaskStrategy,
    settings: VerificationSettings | None = None,
    is_measured: bool = True,
    **generate_kwargs: Any,
) -> StateDependencies:
    """Return all dependencies in the state before a prompt's first step.

    Args:
        model ([`DemaskGenerationMixin`]):
            The model.
        tokenizer (`PreTrainedTokenizerBase`):
            Its tokenizer.
        prompt (`str`, or messages):
            The prompt.
        rule ([`DemaskStrategy`]):
            The rule that decodes.
        settings ([`VerificationSettings`], *optional*):
            How to measure.
        is_measured (`bool`, *optional*, defaults to `True`):
            Also measure them, which needs many forwards with a large vocabulary.
        generate_kwargs:
            Further arguments of `generate`.
    """
    settings = settings or VerificationSettings()
    predictor = drawing_predictor(model, rule, generate_kwargs)
    state = visit(model, tokenizer, [prompt], rule, None, settings.seed, **generate_kwargs)[0][0]
    columns = state.candidates.sort().values
    likeliest = OrderedSet(predictor.probe, state.sequence, columns).marginals().argmax(dim=-1).tolist()
    maps = {}
    if is_measured:
        found = measured_among(
            predictor.probe, state.sequence, columns, predictor.backbone.mask_token_id, settings.min_probability
        )
        maps["measured"] = found.dependencies[0]
    head = getattr(model, "demask_head", None)
    predicted = predicted_among(predictor, head, state.sequence, columns)
    if predicted is not None:
        maps["head"] = predicted
    return StateDependencies(tuple(tokenizer.convert_ids_to_tokens(likeliest)), maps)
