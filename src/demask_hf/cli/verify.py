"""`demask-hf verify`: measure the error of unmasking positions together, and its bound."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import keep_facts, write_json, writing
from .options import DecodingOptions, ModelOptions, RuleOptions
from .parser import CommandParser, option, same_as
from .prompts import ExampleOptions, family_examples, file_texts, grouped_prompts


if TYPE_CHECKING:
    from ..bound.verification import StateDependencies, VerifiedState
    from ..strategies import UnmaskingStrategy

_SETTINGS = "bound.measurement.VerificationSettings"

EXAMPLES = """examples:
  demask-hf verify --num-prompts 20 --out verification.json --figures figures
  demask-hf verify --set rule=total --set dependency_bound=0.1 --temperature 0.7 --top-p 0.9
  demask-hf verify --model MODEL --head HEAD --file prompts.txt --chat

Without --file the prompts are those of the shipped checkpoint's task families.
To resume an interrupted verification that has a file OUT, run the same command again: the states in OUT.work are kept.
"""


@dataclass(frozen=True)
class VerifyOptions:
    """How states are found, and where the results go.

    Args:
        walk (`str`, *optional*):
            Strategy that decodes to the states, NAME or NAME:FIELD=VALUE,FIELD=VALUE; by default the demask strategy.
        out (`str`, *optional*):
            Write every measurement into this file, as JSON; until then, states are kept in the folder FILE.work.
        figures (`str`, *optional*):
            Draw figures into this folder.
    """

    walk: str | None = option(metavar="SPEC")
    out: str | None = option(metavar="FILE")
    figures: str | None = option(metavar="DIR")

    def walker(self) -> UnmaskingStrategy | None:
        """Return the strategy that decodes to the states, if one is named."""
        from ..evaluation.specs import strategy_of
        from ..strategies import make_strategy

        return None if self.walk is None else make_strategy(**strategy_of(self.walk))


@dataclass(frozen=True)
class MeasurementOptions:
    """Fields of [`VerificationSettings`]."""

    num_draws: int = same_as(_SETTINGS, "num_draws")
    max_continuations: int = same_as(_SETTINGS, "max_continuations")
    num_orders: int = same_as(_SETTINGS, "num_orders")
    min_probability: float = same_as(_SETTINGS, "min_probability")
    confidence: float = same_as(_SETTINGS, "confidence")
    seed: int = same_as(_SETTINGS, "seed")

    def check(self) -> None:
        """Raise a `ValueError` if a setting is outside its range."""
        from ..bound.measurement import VerificationSettings

        VerificationSettings(**asdict(self))


def make_parser() -> CommandParser:
    """Return the parser of the command."""
    options = (VerifyOptions, MeasurementOptions, ExampleOptions, RuleOptions, DecodingOptions, ModelOptions)
    parser = CommandParser("verify", *options, epilog=EXAMPLES)
    # At temperature 0 all distributions are points, and the bound is void.
    parser.set_defaults(temperature=1.0)
    return parser


def run(
    options: VerifyOptions,
    measurement: MeasurementOptions,
    source: ExampleOptions,
    rule_options: RuleOptions,
    decoding: DecodingOptions,
    model_options: ModelOptions,
) -> None:
    """Measure selected sets and others of the same states, print a table, and write measurements and figures."""
    from ..bound.measurement import VerificationSettings
    from ..bound.summary import paired_errors, summaries_of, summary_table
    from ..bound.verification import dependencies_before
    from ..bound.verification import verify as verify_sets
    from ..evaluation.runs import FACTS_FILE, RECORDS
    from ..locking import locked
    from ..models.fingerprints import model_facts

    settings = VerificationSettings(**asdict(measurement))
    if options.figures is not None:
        _need_matplotlib()
        _make_folder(Path(options.figures))
    rule = rule_options.rule()
    walker = options.walker()
    examples, texts = family_examples(source), file_texts(source)
    head = model_options.head_or_shipped
    work = None if options.out is None else _work_of(Path(options.out))
    with nullcontext() if work is None else locked(work):
        model, tokenizer = model_options.load(head)
        prompts = grouped_prompts(examples, texts, source, tokenizer)
        chosen = decoding.settings()
        # Now the bound is known, which may be that of a certificate.
        rule.bind(model)
        facts = {
            "model": model_options.public_model,
            "head": model_options.public_head,
            "rule": {**rule.to_dict(), "dependency_bound": rule.limit},
            "walk": options.walk,
            "generation": chosen,
            "settings": asdict(settings),
            "num_prompts": len(prompts),
            "prompts_sha256": hashlib.sha256(json.dumps(prompts).encode()).hexdigest(),
            **model_facts(model, tokenizer),
        }
        file = None
        if work is not None:
            keep_facts(work / FACTS_FILE, facts, "verification", RECORDS)
            file = work / "states.jsonl"
        states = verify_sets(model, tokenizer, prompts, rule, settings, walker, file=file, **chosen)
        if not states:
            raise ValueError("`prompts` must lead to states in which two positions are unmasked together, got none.")
        summaries = summaries_of(states)
        paired = paired_errors(states)
        print("\n".join(summary_table(summaries, paired)))
        if options.out is not None:
            facts["summaries"] = {name: asdict(summary) for name, summary in summaries.items()}
            facts["paired"] = {name: asdict(difference) for name, difference in paired.items()}
            _write(Path(options.out), facts, states)
        if options.figures is not None:
            example = dependencies_before(model, tokenizer, states[0].prompt, rule, settings, **chosen)
            _draw(Path(options.figures), states, example)


def _write(out: Path, facts: dict[str, Any], states: Sequence[VerifiedState]) -> None:
    write_json(out, {**facts, "states": [asdict(state) for state in states]})
    print(f"wrote {out}")


def _work_of(out: Path) -> Path:
    """Return the folder of what is measured before all of it is written.

    Raises:
        ValueError: if `out` is a folder.
    """
    if out.is_dir():
        raise ValueError(f"`out` must be a file, got the folder {str(out)!r}.")
    return out.with_name(f"{out.name}.work")


def _make_folder(folder: Path) -> None:
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


def _need_matplotlib() -> None:
    """Raise now rather than after the measurements."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ImportError("`matplotlib` must be installed for --figures: pip install demask-hf[plots].") from None


def _draw(folder: Path, states: Sequence[VerifiedState], example: StateDependencies) -> None:
    from ..bound.figures import bound_figure, dependency_figure, tightness_figure

    kinds = {
        "selected": [state.selected for state in states],
        "most confident": [state.most_confident for state in states if state.most_confident is not None],
        "random": [state.random for state in states if state.random is not None],
    }
    ratios: dict[str, Sequence[float]] = {
        name: [one.tightness for one in sets if one.tightness is not None] for name, sets in kinds.items()
    }
    bound_figure(kinds, folder / "bound.png")
    tightness_figure(ratios, folder / "tightness.png")
    dependency_figure(example.tokens, example.maps, folder / "dependencies.png")
    print(f"wrote bound.png, tightness.png and dependencies.png in {folder}")
