"""`demask-hf calibrate`: choose the dependency bound with a guarantee on a loss."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ..assets import TINY_DEMASK
from ..validation import check_choice
from .options import DecodingOptions, ModelOptions, RuleOptions
from .parser import CommandParser, option, same_as
from .prompts import ExampleOptions, family_examples, file_texts, grouped_prompts


if TYPE_CHECKING:
    from ..bound.calibration import Calibration

_CALIBRATE, _ROLLOUTS = "bound.calibration.calibrate", "bound.risks.Rollouts"

EXAMPLES = """examples:
  demask-hf calibrate --model MODEL --head HEAD --file prompts.txt --risk tv --epsilon 0.05 --delta 0.1
  demask-hf calibrate --risk task --task pairs bill --num-prompts 100 --temperature 0 --out head
  demask-hf calibrate --risk disagreement --temperature 0 --bounds 0 0.05 0.1 --test bonferroni --out head

Except with probability DELTA over the draw of the prompts, the expected loss is at most EPSILON. The chosen bound goes
into the head's config.json with what it was chosen for, and decoding then uses it by default.
To resume an interrupted calibration, run the same command again: the losses in WORK are kept.
"""
_BOUNDS = (0.0, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.3, 0.5)


@dataclass(frozen=True)
class CalibrateOptions:
    """The guarantee, and the folders of losses and certificate.

    Args:
        risk (`str`, *optional*, defaults to "tv"):
            The loss: tv (mean error of a step), disagreement (with one token per forward pass) or task (wrong
            answers).
        bounds (`list[float]`, *optional*):
            Candidates for the bound.
        work (`str`, *optional*, defaults to "calibration"):
            Folder in which losses are stored.
        out (`str`, *optional*):
            Write a copy of the head there; by default the head itself is changed.
    """

    _argument_group_name = "guarantee"

    risk: str = "tv"
    epsilon: float = same_as(_CALIBRATE, "epsilon")
    delta: float = same_as(_CALIBRATE, "delta")
    bounds: list[float] = field(default_factory=lambda: list(_BOUNDS))
    test: str = same_as(_CALIBRATE, "test")
    num_draws: int = same_as(_ROLLOUTS, "num_draws")
    seed: int = same_as(_ROLLOUTS, "seed")
    work: str = option("calibration", metavar="DIR")
    out: str | None = option(metavar="DIR")


def make_parser() -> CommandParser:
    """Return the parser of the command."""
    options = (CalibrateOptions, ExampleOptions, RuleOptions, DecodingOptions, ModelOptions)
    parser = CommandParser("calibrate", *options, epilog=EXAMPLES)
    parser.set_defaults(temperature=1.0, split="validation", num_prompts=50)
    return parser


def run(
    options: CalibrateOptions,
    source: ExampleOptions,
    rule_options: RuleOptions,
    decoding: DecodingOptions,
    model_options: ModelOptions,
) -> None:
    """Roll out the candidates, print them, and store the certified bound with its certificate."""
    from ..bound.calibration import calibrate, check_calibration
    from ..bound.certification import certificate_of, check_destination, store_certificate
    from ..bound.risks import RISKS, Rollouts
    from ..head.certificate import uncertify
    from ..locking import locked

    check_choice("risk", options.risk, RISKS)
    check_calibration(options.bounds, options.epsilon, options.delta, options.test)
    head = model_options.head_or_shipped
    if head == TINY_DEMASK and options.out is None:
        raise ValueError("`--out` must be given for the shipped head, which is not changed.")
    check_destination(head, options.out)
    rule = rule_options.rule()
    if rule.dependencies != "head":
        raise ValueError(f"`dependencies` must be 'head' to calibrate a head, got {rule.dependencies!r}.")
    examples, texts = family_examples(source), file_texts(source)
    with locked(Path(options.work), "work"):
        model, tokenizer = model_options.load(head)
        # An older certificate must not be used while a new one is made.
        if model.demask_head is not None:
            uncertify(model.demask_head)
        prompts = [prompt for _, prompt in grouped_prompts(examples, texts, source, tokenizer)]
        rollouts = Rollouts(
            model,
            tokenizer,
            examples or prompts,
            rule,
            options.risk,
            options.num_draws,
            options.seed,
            options.work,
            **decoding.settings(),
        )
        found = calibrate(rollouts, options.bounds, options.epsilon, options.delta, options.test)
    _report(found)
    certificate = certificate_of(rollouts, found)
    # That there is a head was checked before.
    place = store_certificate(cast(str, head), options.out, certificate)
    print(f"wrote dependency_bound {certificate['dependency_bound']:g} with its certificate to {place}")


def _report(found: Calibration) -> None:
    """Print the candidates that were tested.

    Raises:
        ValueError: if none is certified.
    """
    for one in found.tested:
        verdict = "certified" if one.is_certified else "not certified"
        print(f"bound {one.dependency_bound:<6g} mean loss {one.mean_loss:.4f}  p {one.p_value:.3g}  {verdict}")
    if found.chosen is None:
        safest = found.tested[0]
        raise ValueError(
            f"no bound can be certified, the head is unchanged: at {safest.dependency_bound:g} the mean loss of "
            f"{found.num_prompts} prompts is {safest.mean_loss:.4f}, which does not show an expected loss of at most "
            f"{found.epsilon:g}."
        )
