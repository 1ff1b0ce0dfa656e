"""The demonstration: the shipped checkpoint decodes unseen prompts with three strategies, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from ..evaluation.decoding import Record, Summary, evaluate, summarise
from ..generation.mixin import DemaskGenerationMixin
from ..tasks import FAMILIES, TaskExample
from ..validation import check_count
from .options import ModelOptions
from .parser import CommandParser, same_as


STRATEGIES: dict[str, dict] = {
    "one token": {"name": "sequential", "score": "entropy"},
    "threshold 0.9": {"name": "threshold", "confidence_threshold": 0.9},
    "demask": {"name": "demask"},
}
# Three digits with a given sum modulo 3 depend on each other while no two of them do.
EXCEPTION = "parity"
SHOWN_FAMILIES = ("sentences", "bill", "pairs")
_TEXT_WIDTH = 96


def sample_examples(num_examples: int, seed: int = 0) -> list[TaskExample]:
    """Return test examples of every family, the same for the same seed.

    Args:
        num_examples (`int`):
            Examples of each family, at least 1.
        seed (`int`, *optional*, defaults to 0):
            Seed of the draw.

    Raises:
        ValueError: if `num_examples` is below 1.
    """
    check_count("num_examples", num_examples)
    return [example for family in FAMILIES.values() for example in family.distinct("test", num_examples, seed)]


def run_demo(
    model: DemaskGenerationMixin,
    tokenizer: PreTrainedTokenizerBase,
    num_examples: int = 8,
    temperature: float = 0.0,
    seed: int = 0,
) -> None:
    """Decode test prompts with each strategy and print correctness, cost, and some answers step by step.

    Args:
        model ([`DemaskGenerationMixin`]):
            The shipped checkpoint with its head.
        tokenizer (`PreTrainedTokenizerBase`):
            Its tokenizer.
        num_examples (`int`, *optional*, defaults to 8):
            Prompts of each task family.
        temperature (`float`, *optional*, defaults to 0.0):
            Sampling temperature.
        seed (`int`, *optional*, defaults to 0):
            Seed of the prompts and of the sampling.
    """
    examples = sample_examples(num_examples, seed)
    print(f"{num_examples} prompts of each task family that the model has not seen, temperature {temperature:g}.")
    print("Right answers, mean forward passes an answer, tokens per forward pass:")
    print(flush=True)
    records = {
        label: evaluate(model, tokenizer, examples, strategy, temperature=temperature, seed=seed)
        for label, strategy in STRATEGIES.items()
    }
    print("\n".join(table(records)))
    print()
    print("\n".join(comparison(records)))
    print()
    print('Answers of "demask"; below each token the step that wrote it ("_" is a space, "\\n" a new line):')
    for family in SHOWN_FAMILIES:
        print()
        print("\n".join(answer_by_steps(tokenizer, _of_families(records["demask"], [family])[0])))


def table(records: dict[str, list[Record]]) -> list[str]:
    """Return the lines of a table: a row for each family and for all of them, three columns for each strategy.

    Args:
        records (`dict[str, list[Record]]`):
            Records of each strategy by its label; all of the same examples.
    """
    families = list(dict.fromkeys(record.family for of_one in records.values() for record in of_one))
    regular = [family for family in families if family != EXCEPTION]
    lines = [f"{'':13}" + "".join(f"  {label:>24}" for label in records)]
    lines.append(f"{'family':13}" + f"  {'right':>7} {'passes':>7} {'tok/pass':>8}" * len(records))
    rows = {family: [family] for family in regular} | {"all of these": regular}
    if EXCEPTION in families:
        rows[f"{EXCEPTION} (*)"] = [EXCEPTION]
    for label, members in rows.items():
        summaries = (summarise(_of_families(of_one, members)) for of_one in records.values())
        lines.append(f"{label:13}" + "".join(f"  {_cells(summary)}" for summary in summaries))
    if EXCEPTION in families:
        lines += ["", f"(*) {FAMILIES[EXCEPTION].description}."]
        lines += ["    No two of the digits depend on each other, all three do, which no rule about pairs can see:"]
        lines += ["    the known limit of the method. The shipped model learned this family badly; it is not pooled."]
    return lines


def comparison(records: dict[str, list[Record]]) -> list[str]:
    """Return a sentence for each strategy but the last: its forward passes against those of the last."""
    regular = [family for family in FAMILIES if family != EXCEPTION]
    summaries = {label: summarise(_of_families(of_one, regular)) for label, of_one in records.items()}
    last, ours = summaries.popitem()
    return [
        f'"{label}" needs {other.num_forward_passes / ours.num_forward_passes:.2f} times the forward passes of '
        f'"{last}" ({other.accuracy:.1%} right against {ours.accuracy:.1%}).'
        for label, other in summaries.items()
    ]


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
    pieces = ["<end>" if token == tokenizer.eos_token_id else tokenizer.decode([token]) for token in record.tokens]
    tops, bottoms = ["  "], ["  "]
    for piece, step in zip(map(_visible, pieces), record.unmask_steps, strict=True):
        width = max(len(piece), len(str(step)))
        if len(tops[-1]) + width + 1 > _TEXT_WIDTH:
            tops, bottoms = [*tops, "  "], [*bottoms, "  "]
        tops[-1] += f"{piece:<{width}} "
        bottoms[-1] += f"{step:<{width}} "
    return lines + [line.rstrip() for pair in zip(tops, bottoms, strict=True) for line in pair]


def _of_families(records: Sequence[Record], families: Sequence[str]) -> list[Record]:
    return [record for record in records if record.family in families]


def _cells(summary: Summary) -> str:
    return f"{summary.accuracy:>7.1%} {summary.mean_forward_passes:>7.2f} {summary.tokens_per_forward:>8.2f}"


def _visible(text: str) -> str:
    """Return the text with spaces and new lines shown as characters."""
    return text.replace(" ", "_").replace("\n", "\\n")


@dataclass(frozen=True)
class DemoOptions:
    """The arguments of [`run_demo`]."""

    num_examples: int = same_as(run_demo, "num_examples")
    temperature: float = same_as(run_demo, "temperature")
    seed: int = same_as(run_demo, "seed")


def make_parser() -> CommandParser:
    """Return the parser of the command."""
    return CommandParser("demo", DemoOptions, ModelOptions)


def run(options: DemoOptions, model_options: ModelOptions) -> None:
    """Load the model and run the demonstration."""
    model, tokenizer = model_options.load(model_options.head_or_shipped)
    run_demo(model, tokenizer, options.num_examples, options.temperature, options.seed)
