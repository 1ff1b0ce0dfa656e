"""What the subcommands about the bound do: measure it, and choose it with a guarantee."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..assets import TINY_DEMASK, TINY_DREAM
from ..evaluation.specs import field_of, strategy_of
from ..files import write_json
from ..head.certificate import uncertify
from ..strategies import DemaskStrategy, make_strategy
from ..tasks import FAMILIES, TaskExample
from ..validation import check_choice
from .commands import SETTINGS, load_model, model_texts, read_texts


def verify(arguments: argparse.Namespace) -> None:
    """Measure selected and random sets, print a table, and write measurements and figures."""
    from ..bound.measurement import VerificationSettings
    from ..bound.summary import summaries_of, summary_table
    from ..bound.verification import dependencies_before
    from ..bound.verification import verify as verify_sets

    if arguments.figures is not None:
        _need_matplotlib()
    rule = _rule(arguments)
    walker = None
    if arguments.walk is not None:
        walker = make_strategy(**strategy_of(arguments.walk))
    names = ("num_draws", "max_continuations", "num_orders", "seed")
    settings = VerificationSettings(**{name: getattr(arguments, name) for name in names})
    examples = _examples(arguments)
    model, tokenizer = load_model(arguments)
    prompts = _prompts(arguments, tokenizer, examples)
    chosen = {name: getattr(arguments, name) for name in SETTINGS if getattr(arguments, name) is not None}
    # Now the bound is known, which may be that of a certificate.
    rule.bind(model)
    states = verify_sets(model, tokenizer, prompts, rule, settings, walker, **chosen)
    if not states:
        raise ValueError("`prompts` must lead to states in which two positions are unmasked together, got none.")
    summaries = summaries_of(states)
    print("\n".join(summary_table(summaries)))
    if arguments.out is not None:
        facts = {
            "model": "demask_hf.TINY_DREAM" if arguments.model == TINY_DREAM else arguments.model,
            "head": "demask_hf.TINY_DEMASK" if arguments.head == TINY_DEMASK else arguments.head,
            "rule": {**rule.to_dict(), "dependency_bound": rule.limit},
            "walk": arguments.walk,
            "generation": chosen,
            "settings": asdict(settings),
            "num_prompts": len(prompts),
            "summaries": {name: asdict(summary) for name, summary in summaries.items()},
            "states": [asdict(state) for state in states],
        }
        write_json(Path(arguments.out), facts)
        print(f"wrote {arguments.out}")
    if arguments.figures is not None:
        example = dependencies_before(model, tokenizer, states[0].prompt, rule, settings, **chosen)
        _draw(Path(arguments.figures), states, example)


def calibrate(arguments: argparse.Namespace) -> None:
    """Roll out the candidates, print them, and store the certified bound with its certificate."""
    from ..bound.calibration import calibrate as calibrate_bound
    from ..bound.calibration import check_calibration
    from ..bound.certification import certificate_of, check_destination, store_certificate
    from ..bound.risks import RISKS, Rollouts

    check_choice("risk", arguments.risk, RISKS)
    check_calibration(arguments.bounds, arguments.epsilon, arguments.delta, arguments.test)
    if arguments.head == TINY_DEMASK and arguments.out is None:
        raise ValueError("`--out` must be given for the shipped head, which stays as it is.")
    check_destination(arguments.head, arguments.out)
    rule = _rule(arguments)
    if rule.dependencies != "head":
        raise ValueError(f"`dependencies` must be 'head' to calibrate a head, got {rule.dependencies!r}.")
    examples = _examples(arguments)
    model, tokenizer = load_model(arguments)
    # An older certificate must not speak while a new one is made.
    uncertify(model.demask_head)
    prompts = examples or [text for _, text in _prompts(arguments, tokenizer, examples)]
    chosen = {name: getattr(arguments, name) for name in SETTINGS if getattr(arguments, name) is not None}
    rollouts = Rollouts(
        model, tokenizer, prompts, rule, arguments.risk, arguments.num_draws, arguments.seed, arguments.work, **chosen
    )
    found = calibrate_bound(rollouts, arguments.bounds, arguments.epsilon, arguments.delta, arguments.test)
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
    certificate = certificate_of(rollouts, found)
    place = store_certificate(arguments.head, arguments.out, certificate)
    print(f"wrote dependency_bound {found.chosen.dependency_bound:g} with its certificate to {place}")


def _rule(arguments: argparse.Namespace) -> DemaskStrategy:
    return make_strategy("demask", **dict(map(field_of, arguments.set)))


def _examples(arguments: argparse.Namespace) -> list[TaskExample]:
    """Return the examples of the chosen families; none where the prompts come from a file."""
    if arguments.file is not None:
        if arguments.families is not None:
            raise ValueError("`--file` must be used without --families.")
        return []
    names = arguments.families or list(FAMILIES)
    for name in names:
        if name not in FAMILIES:
            raise ValueError(f"`--families` must be among {', '.join(FAMILIES)}, got {name!r}.")
    if arguments.num_prompts < 1:
        raise ValueError(f"`--num-prompts` must be at least 1, got {arguments.num_prompts}.")
    return [example for name in names for example in FAMILIES[name].distinct(arguments.split, arguments.num_prompts)]


def _prompts(
    arguments: argparse.Namespace, tokenizer: PreTrainedTokenizerBase, examples: list[TaskExample]
) -> list[tuple[str, str]]:
    """Return group and text of each prompt."""
    if examples:
        return [(example.family, example.prompt) for example in examples]
    arguments.prompts = []
    return [(Path(arguments.file).name, text) for text in model_texts(read_texts(arguments), tokenizer, arguments)]


def _need_matplotlib() -> None:
    """Raise now rather than after the measurements."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ImportError("`matplotlib` must be installed for --figures: pip install demask-hf[plots].") from None


def _draw(folder: Path, states: list[Any], example: Any) -> None:
    from ..bound.figures import bound_figure, dependency_figure, tightness_figure

    folder.mkdir(parents=True, exist_ok=True)
    kinds = {
        "selected": [state.selected for state in states],
        "random": [state.random for state in states if state.random is not None],
    }
    ratios = {name: [one.tightness for one in sets if one.tightness is not None] for name, sets in kinds.items()}
    bound_figure(kinds["selected"], kinds["random"], folder / "bound.png")
    tightness_figure(ratios, folder / "tightness.png")
    dependency_figure(example.tokens, example.maps, folder / "dependencies.png")
    print(f"wrote bound.png, tightness.png and dependencies.png in {folder}")
