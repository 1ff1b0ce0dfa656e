"""Does the bound hold? Measure sets that the rule selects in visited states, and other sets of the same states."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from ..files import append_lines, kept_lines
from ..generation.encoding import Prompt, text_of
from ..generation.mixin import DemaskGenerationMixin
from ..generation.predictor import Predictor
from ..schema import from_json
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
        most_confident (`SetMeasurement`, *optional*): As many positions of the highest confidence: what a rule takes
            that looks at single positions. `None` if all candidates were selected.
        random (`SetMeasurement`, *optional*): A random set of that size, likewise.
    """

    prompt: str
    group: str
    num_candidates: int
    selected: SetMeasurement
    most_confident: SetMeasurement | None
    random: SetMeasurement | None


@dataclass(frozen=True)
class StoredState:
    """What was found for one prompt, as it is stored.

    Args:
        number (`int`): Number of the prompt, from 0.
        sequence (`tuple[int, ...]`, *optional*): Token ids of its state; `None` if there is none.
        state (`VerifiedState`, *optional*): The measurements; `None` if there is no state, or it occurred before.
    """

    number: int
    sequence: tuple[int, ...] | None
    state: VerifiedState | None

    def __post_init__(self):
        if self.state is None:
            return
        for one in filter(None, (self.state.selected, self.state.most_confident, self.state.random)):
            if min(one.positions) < 0 or min(*one.costs, *(one.head_costs or ()), one.uncovered_mass) < 0:
                raise ValueError("must have positions and costs of at least 0.")
            if len(one.terms) != len(one.costs) or len(one.costs) != len(one.positions) - 1:
                raise ValueError("must have a term and a cost for each position but the first.")


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


def verify(  # noqa: PLR0913, the facts of a verification
    model: DemaskGenerationMixin,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[tuple[str, Prompt]],
    rule: DemaskStrategy,
    settings: VerificationSettings | None = None,
    walker: UnmaskingStrategy | None = None,
    is_verbose: bool = True,
    file: Path | None = None,
    **generate_kwargs: Any,
) -> list[VerifiedState]:
    """Measure the selected set, the most confident positions and a random set in a state of each prompt's decoding.

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
        file (`Path`, *optional*):
            JSON Lines in which the states are stored one by one, so that the same call resumes after an interruption.
        generate_kwargs:
            Further arguments of `generate`, such as `temperature`, which must be above 0.

    Returns:
        `list[VerifiedState]`, in the order of the prompts.

    Raises:
        ValueError: if the temperature is 0, the rule looks at drawn tokens, another argument is wrong, or the file is
            broken.
    """
    settings = settings or VerificationSettings()
    predictor = drawing_predictor(model, rule, generate_kwargs)
    found = [] if file is None else _stored_states(file, [text_of(prompt) for _, prompt in prompts])
    seen = {one.sequence for one in found}
    drawn = _drawn_states(model, tokenizer, prompts, rule, settings, walker, generate_kwargs, len(found))
    with tqdm(total=len(prompts), initial=len(found), unit="state", disable=not is_verbose, desc="verify") as bar:
        for group, text, state in drawn:
            sequence = None if state is None else tuple(state.sequence.tolist())
            verified = None
            if state is not None and sequence not in seen:
                seen.add(sequence)
                verified = VerifiedState(text, group, len(state.candidates), *_measured(predictor, state, settings))
            found.append(StoredState(len(found), sequence, verified))
            if file is not None:
                append_lines(file, [asdict(found[-1])])
            bar.update()
    return [one.state for one in found if one.state is not None]


def _stored_states(file: Path, prompts: Sequence[str]) -> list[StoredState]:
    """Return what an earlier run found for the first prompts.

    Raises:
        ValueError: if a line is broken, missing, there twice, or of another prompt.
    """
    found: list[StoredState] = []

    def take(value: Any) -> None:
        stored = from_json(StoredState, value)
        if stored.number != len(found) or stored.number >= len(prompts):
            raise ValueError(f"must be of prompt {len(found)} of {len(prompts)}, got {stored.number}.")
        if stored.state is not None and stored.state.prompt != prompts[stored.number]:
            raise ValueError(f"must be of {prompts[stored.number]!r}, got {stored.state.prompt!r}.")
        found.append(stored)

    kept_lines(file, take, is_ordered=True)
    return found


def _drawn_states(  # noqa: PLR0913, the arguments of `verify`
    model: DemaskGenerationMixin,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[tuple[str, Prompt]],
    rule: DemaskStrategy,
    settings: VerificationSettings,
    walker: UnmaskingStrategy | None,
    generate_kwargs: dict[str, Any],
    first: int,
) -> Iterator[tuple[str, str, VisitedState | None]]:
    """Yield group and text of each prompt from `first` on with one of its states.

    The state is `None` if the rule never selects two positions.
    """
    for start in range(first // _BATCH_SIZE * _BATCH_SIZE, len(prompts), _BATCH_SIZE):
        batch = prompts[start : start + _BATCH_SIZE]
        visited = visit(
            model, tokenizer, [prompt for _, prompt in batch], rule, walker, settings.seed + start, **generate_kwargs
        )
        for number, ((group, prompt), states) in enumerate(zip(batch, visited, strict=True), start=start):
            eligible = [state for state in states if len(state.selected) >= 2]
            random = Random(f"{settings.seed}/state/{number}")
            if number >= first:
                yield group, text_of(prompt), random.choice(eligible) if eligible else None


def _measured(
    predictor: Predictor, state: VisitedState, settings: VerificationSettings
) -> tuple[SetMeasurement, SetMeasurement | None, SetMeasurement | None]:
    """Return the measurements of the selected set, the most confident positions and a random set, all of one size.

    Where the rule selects all candidates, there are no other sets.
    """
    head = getattr(predictor.backbone.model, "demask_head", None)
    predicted = predicted_among(predictor, head, state.sequence, state.candidates)
    candidates = state.candidates.tolist()

    def measured(columns: list[int], num_orders: int = 0) -> SetMeasurement:
        order = state.candidates.new_tensor(columns)
        dependencies = measured_among(
            predictor.probe, state.sequence, order, predictor.backbone.mask_token_id, settings.min_probability
        )
        place = torch.tensor([candidates.index(column) for column in columns])
        head_dependencies = None if predicted is None else predicted[place][:, place]
        ordered = OrderedSet(predictor.probe, state.sequence, order)
        return measure_set(ordered, dependencies, head_dependencies, settings, num_orders)

    selected = state.selected.tolist()
    found = measured(selected, settings.num_orders)
    if len(selected) == len(candidates):
        return found, None, None
    most_confident = sorted(state.most_confident.tolist(), key=candidates.index)
    random = Random(f"{settings.seed}/{state.sequence.tolist()}")
    places = sorted(random.sample(range(len(candidates)), len(selected)))
    return found, measured(most_confident), measured([candidates[place] for place in places])


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
