"""The shipped checkpoint on its task families: wall clock beside forward passes, and what approximations cost.

    python benchmarks/end_to_end.py strategies --prompts 30 --batch-size 1 --out docs/results/end_to_end.json
    python benchmarks/end_to_end.py caches --prompts 100 --out docs/results/caches.json
    python benchmarks/end_to_end.py candidates --prompts 100 --out docs/results/candidates.json

strategies: seconds for all prompts with each strategy, in turn, over those of one token per forward pass, beside the
same ratio of forward passes. caches: right answers and forward passes with each cache, blocks of 8. candidates: the
same with demask looking at some candidates only, the whole answer in one block.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from speed_common import build_model, interleaved, median_ratio, report
from transformers import AutoTokenizer

import demask_hf
from demask_hf.evaluation import Outcome, evaluate
from demask_hf.evaluation.statistics import paired_difference
from demask_hf.tasks import FAMILIES


REFERENCE = "sequential"
STRATEGIES = (REFERENCE, "klass", "threshold", "demask")


def strategies(arguments: argparse.Namespace) -> list[dict]:
    """Compare wall clock with forward passes."""
    run = _runner(arguments)
    records = {}

    def decode(strategy: str) -> None:
        records[strategy] = run(strategy)

    seconds = interleaved({name: lambda name=name: decode(name) for name in STRATEGIES}, arguments.rounds)
    reference = Outcome.of_records(records[REFERENCE])
    rows = []
    for name in STRATEGIES:
        outcome = Outcome.of_records(records[name])
        time_ratio = median_ratio(seconds[name], seconds[REFERENCE])
        pass_ratio = outcome.mean_forward_passes / reference.mean_forward_passes
        rows.append(
            {
                "strategy": name,
                "prompts": outcome.num_prompts,
                "batch": arguments.batch_size,
                "right": outcome.accuracy,
                "passes": outcome.mean_forward_passes,
                "seconds": median(seconds[name]),
                "seconds ratio": time_ratio,
                "passes ratio": pass_ratio,
                "seconds / passes": time_ratio / pass_ratio,
            }
        )
    return rows


def caches(arguments: argparse.Namespace) -> list[dict]:
    """Compare the answers with each cache to those without."""
    variants = [
        {"block_cache": cache, "cache_refresh_interval": interval}
        for cache, interval in (("none", None), ("prefix", None), ("dual", None), ("prefix", 2), ("dual", 2))
    ]
    run, rules = _runner(arguments), ("threshold", "demask")
    return [row for rule in rules for row in _compared(run, rule, variants, block_length=8)]


def candidates(arguments: argparse.Namespace) -> list[dict]:
    """Compare the answers where demask looks at some candidates only to those where it looks at all."""
    variants = [{"max_candidates": count} for count in (None, 32, 16, 8)]
    return _compared(_runner(arguments), "demask", variants)


def _compared(run: Callable, strategy: str, variants: list[dict], **settings) -> list[dict]:
    """Compare a rule's answers with each variant of its settings to those with the first."""
    rows, exact = [], None
    for variant in variants:
        records = run(strategy, **variant, **settings)
        exact = records if exact is None else exact
        outcome = Outcome.of_records(records)
        # By prompt and seed, here one seed.
        verdicts = (np.array([[record.is_correct] for record in which]) for which in (records, exact))
        difference = paired_difference(*verdicts)
        same = sum(one.answer == other.answer for one, other in zip(records, exact, strict=True))
        row = {"strategy": strategy, **variant, "prompts": outcome.num_prompts, "right": outcome.accuracy}
        row |= {"difference": difference.mean, "95 % lower bound": difference.lower}
        rows.append(row | {"passes": outcome.mean_forward_passes, "same answer": same / outcome.num_prompts})
        print(rows[-1], flush=True)
    return rows


def _runner(arguments: argparse.Namespace):
    model, tokenizer = build_model("tiny", "cpu"), AutoTokenizer.from_pretrained(demask_hf.TINY_DREAM)
    examples = [example for family in FAMILIES.values() for example in family.distinct("test", arguments.prompts)]

    def run(strategy: str, **settings):
        return evaluate(model, tokenizer, examples, strategy, arguments.batch_size, **settings)

    return run


BENCHMARKS = {"strategies": strategies, "caches": caches, "candidates": candidates}


def main(argv: list[str] | None = None) -> list[dict]:
    """Run one benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", choices=tuple(BENCHMARKS))
    parser.add_argument("--prompts", type=int, default=10, help="prompts of each family")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args(argv)
    rows = BENCHMARKS[arguments.benchmark](arguments)
    report(rows, "cpu", arguments.out)
    return rows


if __name__ == "__main__":
    main()
