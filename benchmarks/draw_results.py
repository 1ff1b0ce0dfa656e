"""Draw the figures of docs/results.md and docs/verification.md again, from what the commands there wrote.

    python benchmarks/draw_results.py frontier docs/results/temperature_0.json docs/results/temperature_0_more.json \
        --title "Temperature 0" --out docs/images/frontier_t0.png
    python benchmarks/draw_results.py order docs/results/temperature_0.json docs/results/temperature_0_more.json \
        --out docs/images/order.png
    python benchmarks/draw_results.py bound found.json --out docs/images

frontier: right answers against forward passes, from the summaries of `demask-hf benchmark`. order: which step wrote
which token, by decoding one prompt with the settings that were chosen there, and the default ones. bound: measured
errors against the bound, from `demask-hf verify --out found.json` with its single sets.
"""

import argparse
import json
from pathlib import Path

from transformers import AutoModel, AutoTokenizer

import demask_hf
from demask_hf.bound.figures import bound_figure, tightness_figure
from demask_hf.bound.measurement import SetMeasurement
from demask_hf.evaluation import decode_prompts, parse_settings
from demask_hf.evaluation.figures import frontier_figure, order_figure
from demask_hf.evaluation.statistics import Interval


PROMPT = "shuffle: JFP BDCP FCG DL MRH TFC -> "


def frontier(arguments: argparse.Namespace) -> None:
    """Draw the settings of one or several summaries in one figure."""
    frontier_figure(_rows(arguments.files), arguments.out, arguments.title)


def order(arguments: argparse.Namespace) -> None:
    """Decode the prompt with the chosen and default settings and draw the steps."""
    tokenizer = AutoTokenizer.from_pretrained(demask_hf.TINY_DREAM)
    model = AutoModel.from_pretrained(demask_hf.TINY_DREAM)
    model.load_demask_head(demask_hf.TINY_DEMASK)
    steps, tokens = {}, {}
    first = _rows(arguments.files[:1])
    rows = [row for row in first if row["is_chosen"]]
    rows += [row for row in _rows(arguments.files) if row["is_default"] and row not in rows and row not in first]
    for row in rows:
        (setting,) = parse_settings(row["label"])
        (found,) = decode_prompts(model, tokenizer, [PROMPT], setting.strategy, **setting.options)
        steps[row["label"]] = found.unmask_steps
        tokens[row["label"]] = [
            "end" if token == tokenizer.eos_token_id else tokenizer.decode([token]) for token in found.tokens
        ]
    order_figure(tokens, steps, arguments.out)


def bound(arguments: argparse.Namespace) -> None:
    """Draw error against bound, and how tight it is."""
    states = json.loads(arguments.files[0].read_text(encoding="utf-8"))["states"]
    fields = {"selected": "selected", "most confident": "most_confident", "random": "random"}
    kinds = {kind: [_set(state[name]) for state in states if state[name]] for kind, name in fields.items()}
    bound_figure(kinds, arguments.out / "bound.png")
    ratios = {kind: [one.tightness for one in sets if one.tightness is not None] for kind, sets in kinds.items()}
    tightness_figure(ratios, arguments.out / "tightness.png")


def _rows(files: list[Path]) -> list[dict]:
    """Return the rows of summaries, each setting once."""
    rows: dict[str, dict] = {}
    for file in files:
        for row in json.loads(file.read_text(encoding="utf-8"))["rows"]:
            rows.setdefault(row["label"], row)
    return list(rows.values())


def _set(facts: dict) -> SetMeasurement:
    return SetMeasurement(
        **{**facts, "total_variation": Interval(**facts["total_variation"]), "terms": (), "orders": ()}
    )


FIGURES = {"frontier": frontier, "order": order, "bound": bound}


def main(argv: list[str] | None = None) -> None:
    """Draw one figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figure", choices=tuple(FIGURES))
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--title", default="")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(argv)
    FIGURES[arguments.figure](arguments)


if __name__ == "__main__":
    main()
