"""The demonstration: the shipped checkpoint decodes unseen prompts with three strategies, side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..tables import Column, terminal_width, text_lines
from ..validation import check_count
from .options import ModelOptions
from .parser import CommandParser, same_as


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..evaluation.records import Record
    from ..generation.mixin import DemaskGenerationMixin
    from ..tasks import TaskExample

STRATEGIES: dict[str, dict] = {
    "one token": {"name": "sequential", "order": "entropy"},
    "threshold 0.9": {"name": "threshold", "confidence_threshold": 0.9},
    "demask": {"name": "demask"},
}
# Three digits with a given sum modulo 3 depend on each other, although no two of them do.
EXCEPTION = "parity"
SHOWN_FAMILIES = ("shuffle", "bill", "pairs")
# Prompts of each task family: enough to tell the strategies apart in about half a minute.
NUM_EXAMPLES = 20


def sample_examples(num_examples: int, seed: int = 0) -> list[TaskExample]:
    """Return test examples of every family, determined by the seed.

    Args:
        num_examples (`int`):
            Examples of each family, at least 1.
        seed (`int`, *optional*, defaults to 0):
            Seed of the draw.

    Raises:
        ValueError: if `num_examples` is below 1.
    """
    from ..tasks import FAMILIES

    check_count("num_examples", num_examples)
    return [example for family in FAMILIES.values() for example in family.distinct("test", num_examples, seed)]


def run_demo(
    model: DemaskGenerationMixin,
    tokenizer: PreTrainedTokenizerBase,
    num_examples: int = NUM_EXAMPLES,
    temperature: float = 0.0,
    seed: int = 0,
) -> None:
    """Decode test prompts with each strategy and print correctness, cost, and some answers step by step.

    Args:
        model ([`DemaskGenerationMixin`]):
            The shipped checkpoint with its head.
        tokenizer (`PreTrainedTokenizerBase`):
            Its tokenizer.
        num_examples (`int`, *optional*, defaults to 20):
            Prompts of each task family.
        temperature (`float`, *optional*, defaults to 0.0):
            Sampling temperature.
        seed (`int`, *optional*, defaults to 0):
            Seed of the prompts and of the sampling.
    """
    from tqdm import tqdm

    from ..evaluation.records import evaluate

    examples = sample_examples(num_examples, seed)
    print(f"{num_examples} prompts of each task family that the model has not seen, temperature {temperature:g}.")
    print("Right answers, mean forward passes per answer, tokens per forward pass:")
    print(flush=True)
    records: dict[str, list[Record]] = {label: [] for label in STRATEGIES}
    with tqdm(total=len(STRATEGIES) * len(examples), unit="prompt", disable=None, leave=False) as bar:
        for label, strategy in STRATEGIES.items():
            for start in range(0, len(examples), num_examples):
                part, number = examples[start : start + num_examples], seed + start
                records[label] += evaluate(model, tokenizer, part, strategy, temperature=temperature, seed=number)
                bar.update(len(part))
    print("\n".join(table(records)))
    print()
    print("\n".join(comparison(records)))
    print()
    print('Answers of "demask"; below each token the step that wrote it ("_" is a space, "\\n" a new line):')
    for family in SHOWN_FAMILIES:
        print()
        first = next(record for record in records["demask"] if record.family == family)
        print("\n".join(answer_by_steps(tokenizer, first)))


def table(records: dict[str, list[Record]]) -> list[str]:
    """Return the lines of a table: a row for each family and for all of them, three columns for each strategy.

    Args:
        records (`dict[str, list[Record]]`):
            Records of each strategy by its label; all of the same examples.
    """
    from ..evaluation.comparison import Outcome
    from ..tasks import FAMILIES

    outcomes = {label: Outcome.of_records(of_one) for label, of_one in records.items()}
    families = list(dict.fromkeys(record.family for of_one in records.values() for record in of_one))
    regular = [family for family in families if family != EXCEPTION]
    members = {family: [family] for family in regular} | {"all of these": regular}
    if EXCEPTION in families:
        members[f"{EXCEPTION} (*)"] = [EXCEPTION]
    columns = [Column("family", "family", is_text=True)]
    for label in outcomes:
        columns += [
            Column(f"{label}\nright", f"{label} accuracy", ".1%"),
            Column("passes", f"{label} mean_forward_passes", ".2f"),
            Column("tok/pass", f"{label} tokens_per_forward", ".2f"),
        ]
    rows = [
        {"family": name}
        | {
            f"{label} {fact}": getattr(outcome.only(kept), fact)
            for label, outcome in outcomes.items()
            for fact in ("accuracy", "mean_forward_passes", "tokens_per_forward")
        }
        for name, kept in members.items()
    ]
    lines = text_lines(columns, rows)
    if EXCEPTION in families:
        lines += ["", f"(*) {FAMILIES[EXCEPTION].description}."]
        lines += [
            "    No two of the digits depend on each other, but all three do, which no rule about pairs can see:"
        ]
        lines += ["    the known limit of the method. The shipped model learned this family badly; it is not pooled."]
    return lines


def comparison(records: dict[str, list[Record]]) -> list[str]:
    """Return what the last strategy gains and loses against each of the others, with 95 % intervals over prompts.

    Args:
        records (`dict[str, list[Record]]`):
            Records of each strategy by its label; all of the same examples, at least two.
    """
    from ..evaluation.comparison import Outcome
    from ..evaluation.statistics import paired_difference, ratio_of_means
    from ..tasks import FAMILIES

    regular = [family for family in FAMILIES if family != EXCEPTION]
    outcomes = {label: Outcome.of_records(of_one).only(regular) for label, of_one in records.items()}
    last, ours = outcomes.popitem()
    lines = [f'"{last}" against the others, {ours.num_prompts} prompts, with 95 % intervals over prompts:']
    for label, other in outcomes.items():
        ratio = ratio_of_means(other.num_forward_passes, ours.num_forward_passes)
        # Two one-sided bounds of 97.5 % each.
        points = paired_difference(ours.is_correct, other.is_correct, confidence=0.975)
        lines.append(
            f'  "{label}" needs {ratio.value:.2f} times its forward passes ({ratio.lower:.2f} to {ratio.upper:.2f}).'
        )
        lines.append(
            f"    Right answers: {ours.accuracy:.1%} against {other.accuracy:.1%}, a difference of "
            f"{100 * points.mean:+.1f} points ({100 * points.lower:+.1f} to {100 * points.upper:+.1f})."
        )
    return lines


def answer_by_steps(tokenizer: PreTrainedTokenizerBase, record: Record) -> list[str]:
    """Return the lines that show a decoded answer, each token above the step that wrote it.

    Args:
        tokenizer (`PreTrainedTokenizerBase`):
            Tokenizer of the model.
        record ([`Record`]):
            The decoded answer.
    """
    verdict = "right" if record.is_correct else "wrong"
    lines = [f"{_visible(record.prompt)}  [{verdict}, {record.num_forward_passes} forward passes]"]
    pieces = [
        "<end>" if token == tokenizer.eos_token_id else str(tokenizer.decode([token])) for token in record.tokens
    ]
    tops, bottoms = ["  "], ["  "]
    for piece, step in zip(map(_visible, pieces), record.unmask_steps, strict=True):
        width = max(len(piece), len(str(step)))
        if len(tops[-1]) + width + 1 > terminal_width() - 4:
            tops, bottoms = [*tops, "  "], [*bottoms, "  "]
        tops[-1] += f"{piece:<{width}} "
        bottoms[-1] += f"{step:<{width}} "
    return lines + [line.rstrip() for pair in zip(tops, bottoms, strict=True) for line in pair]


def _visible(text: str) -> str:
    """Return the text with spaces and new lines shown as characters."""
    return text.replace(" ", "_").replace("\n", "\\n")


@dataclass(frozen=True)
class DemoOptions:
    """The arguments of [`run_demo`]."""

    num_examples: int = same_as("cli.demo.run_demo", "num_examples")
    temperature: float = same_as("cli.demo.run_demo", "temperature")
    seed: int = same_as("cli.demo.run_demo", "seed")


def make_parser() -> CommandParser:
    """Return the parser of the command."""
    return CommandParser("demo", DemoOptions, ModelOptions)


def run(options: DemoOptions, model_options: ModelOptions) -> None:
    """Load the model and run the demonstration."""
    model, tokenizer = model_options.load(model_options.head_or_shipped)
    run_demo(model, tokenizer, options.num_examples, options.temperature, options.seed)
