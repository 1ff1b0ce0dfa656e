"""`demask-hf verify`: measure the error of unmasking positions together, and its bound."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..assets import TINY_DEMASK
from ..bound.measurement import VerificationSettings
from ..bound.summary import summaries_of, summary_table
from ..bound.verification import StateDependencies, VerifiedState, dependencies_before
from ..bound.verification import verify as verify_sets
from ..evaluation.specs import strategy_of
from ..files import write_json
from ..strategies import make_strategy
from .options import DecodingOptions, ModelOptions, RuleOptions
from .parser import CommandParser, option
from .prompts import ExampleOptions, family_examples, file_texts, grouped_prompts


EXAMPLES = """examples:
  demask-hf verify --num-prompts 20 --out verification.json --figures figures
  demask-hf verify --set rule=total --set dependency_bound=0.1 --temperature 0.7 --top-p 0.9
  demask-hf verify --model MODEL --head HEAD --file prompts.txt --chat

Without --file the prompts are those of the shipped checkpoint's task families.
A verification does not resume: everything is measured again. To see how long it takes, start with few prompts.
"""


@dataclass(frozen=True)
class VerifyOptions:
    """How states are found, and where the results go.

    Args:
        walk (`str`, *optional*):
            Strategy that decodes to the states, NAME or NAME:FIELD=VALUE,FIELD=VALUE; by default the demask strategy.
        out (`str`, *optional*):
            Write every measurement into this file, as JSON.
        figures (`str`, *optional*):
            Draw figures into this folder.
    """

    walk: str | None = option(metavar="SPEC")
    out: str | None = option(metavar="FILE")
    figures: str | None = option(metavar="DIR")


def make_parser() -> CommandParser:
    """Return the parser of the command."""
    options = (VerifyOptions, VerificationSettings, ExampleOptions, RuleOptions, DecodingOptions, ModelOptions)
    parser = CommandParser("verify", *options, epilog=EXAMPLES)
    # At temperature 0 all distributions are points, and the bound is void.
    parser.set_defaults(temperature=1.0)
    return parser


def run(
    options: VerifyOptions,
    settings: VerificationSettings,
    source: ExampleOptions,
    rule_options: RuleOptions,
    decoding: DecodingOptions,
    model_options: ModelOptions,
) -> None:
    """Measure selected and random sets, print a table, and write measurements and figures."""
    if options.figures is not None:
        _need_matplotlib()
    rule = rule_options.rule()
    walker = None if options.walk is None else make_strategy(**strategy_of(options.walk))
    examples, texts = family_examples(source), file_texts(source)
    head = model_options.head_or_shipped
    model, tokenizer = model_options.load(head)
    prompts = grouped_prompts(examples, texts, source, tokenizer)
    chosen = decoding.settings()
    # Now the bound is known, which may be that of a certificate.
    rule.bind(model)
    states = verify_sets(model, tokenizer, prompts, rule, settings, walker, **chosen)
    if not states:
        raise ValueError("`prompts` must lead to states in which two positions are unmasked together, got none.")
    summaries = summaries_of(states)
    print("\n".join(summary_table(summaries)))
    if options.out is not None:
        facts = {
            "model": model_options.public_model,
            "head": "demask_hf.TINY_DEMASK" if head == TINY_DEMASK else head,
            "rule": {**rule.to_dict(), "dependency_bound": rule.limit},
            "walk": options.walk,
            "generation": chosen,
            "settings": asdict(settings),
            "num_prompts": len(prompts),
            "summaries": {name: asdict(summary) for name, summary in summaries.items()},
            "states": [asdict(state) for state in states],
        }
        write_json(Path(options.out), facts)
        print(f"wrote {options.out}")
    if options.figures is not None:
        example = dependencies_before(model, tokenizer, states[0].prompt, rule, settings, **chosen)
        _draw(Path(options.figures), states, example)


def _need_matplotlib() -> None:
    """Raise now rather than after the measurements."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ImportError("`matplotlib` must be installed for --figures: pip install demask-hf[plots].") from None


def _draw(folder: Path, states: Sequence[VerifiedState], example: StateDependencies) -> None:
    from ..bound.figures import bound_figure, dependency_figure, tightness_figure

    folder.mkdir(parents=True, exist_ok=True)
    kinds = {
        "selected": [state.selected for state in states],
        "random": [state.random for state in states if state.random is not None],
    }
    ratios: dict[str, Sequence[float]] = {
        name: [one.tightness for one in sets if one.tightness is not None] for name, sets in kinds.items()
    }
    bound_figure(kinds["selected"], kinds["random"], folder / "bound.png")
    tightness_figure(ratios, folder / "tightness.png")
    dependency_figure(example.tokens, example.maps, folder / "dependencies.png")
    print(f"wrote bound.png, tightness.png and dependencies.png in {folder}")
