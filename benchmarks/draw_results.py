"""Draw the figures of docs/results.md and docs/verification.md again, from what the commands there wrote.

    python benchmarks/draw_results.py frontier docs/results/records/temperature_0.json.xz \
        --title "Temperature 0" --out docs/images/frontier_t0.png
    python benchmarks/draw_results.py order docs/results/records/temperature_0.json.xz --out docs/images/order.png
    python benchmarks/draw_results.py bound found.json --out docs/images

frontier: right answers against forward passes of every setting, on the validation prompts of `demask-hf benchmark`.
order: which step wrote which token, by decoding one prompt with the settings that were chosen there. bound: measured
errors against the bound, from `demask-hf verify --out found.json` with its single sets.
"""

import argparse
import json
from pathlib import Path

from transformers import AutoModel, AutoTokenizer

import demask_hf
from demask_hf.bound.figures import bound_figure, tightness_figure
from demask_hf.bound.measurement import SetMeasurement
from demask_hf.evaluation import compare, decode_prompts
from demask_hf.evaluation.archive import Archive
from demask_hf.evaluation.benchmark import row_of
from demask_hf.evaluation.figures import frontier_figure, order_figure
from demask_hf.evaluation.statistics import Interval


PROMPT = "shuffle: JFP BDCP FCG DL MRH TFC -> "


def frontier(arguments: argparse.Namespace) -> None:
    """Draw all settings of an archive in one figure."""
    archive = Archive.read(arguments.file)
    settings = {setting.key: setting for row in archive.grid for setting in row}
    split = "validation" if ("validation", next(iter(settings))) in archive.outcomes else "test"
    outcomes = [archive.outcomes[split, key] for key in settings]
    references = [archive.outcome(split, setting.reference()) for setting in settings.values()]
    rows = [row_of(comparison, 0.0, {}) for comparison in compare(outcomes, references)]
    frontier_figure(rows, arguments.out, arguments.title)


def order(arguments: argparse.Namespace) -> None:
    """Decode the prompt with the chosen settings and draw the steps."""
    tokenizer = AutoTokenizer.from_pretrained(demask_hf.TINY_DREAM)
    model = AutoModel.from_pretrained(demask_hf.TINY_DREAM)
    model.load_demask_head(demask_hf.TINY_DEMASK)
    steps, tokens = {}, {}
    for comparison in Archive.read(arguments.file).report().chosen:
        setting = comparison.outcome.setting
        (found,) = decode_prompts(model, tokenizer, [PROMPT], setting.strategy, **setting.options)
        steps[setting.label] = found.unmask_steps
        tokens[setting.label] = [
            "end" if token == tokenizer.eos_token_id else tokenizer.decode([token]) for token in found.tokens
        ]
    order_figure(tokens, steps, arguments.out)


def bound(arguments: argparse.Namespace) -> None:
    """Draw error against bound, and how tight it is."""
    states = json.loads(arguments.file.read_text(encoding="utf-8"))["states"]
    fields = {"selected": "selected", "most confident": "most_confident", "random": "random"}
    kinds = {kind: [_set(state[name]) for state in states if state.get(name)] for kind, name in fields.items()}
    bound_figure(kinds, arguments.out / "bound.png")
    ratios = {kind: [one.tightness for one in sets if one.tightness is not None] for kind, sets in kinds.items()}
    tightness_figure(ratios, arguments.out / "tightness.png")


def _set(facts: dict) -> SetMeasurement:
    return SetMeasurement(
        **{**facts, "total_variation": Interval(**facts["total_variation"]), "terms": (), "orders": ()}
    )


FIGURES = {"frontier": frontier, "order": order, "bound": bound}


def main(argv: list[str] | None = None) -> None:
    """Draw one figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figure", choices=tuple(FIGURES))
    parser.add_argument("file", type=Path)
    parser.add_argument("--title", default="")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(argv)
    FIGURES[arguments.figure](arguments)


if __name__ == "__main__":
    main()
