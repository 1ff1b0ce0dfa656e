"""Compare strategies on Python: a small Dream, trained here, writes statements, and expressions within them.

    python benchmarks/code_model.py --out docs/results

The model learns the short statements of Python's standard library, in about two hours on one core; it goes on where it
was interrupted. Whether a statement is right is told by `ast.parse`, which knows nothing of the model. Files, not
statements, are split into those to train on and those for the test, and no statement of the test occurs in the others.
See `infill_study.py` for what else is measured.

`--only-train` ends after the training with what decides whether the study is worth while: the share of statements that
parse if one token is drawn in each forward, and if all are drawn in one.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random

from code_backbone import PARTS, Statements, trained
from code_statements import SPLITS, Statement, load_statements
from infill_study import Settings, Study, add_arguments, settings_of

from demask_hf.files import keep_facts


BOUNDS = (0.05, 0.1, 0.2, 0.3, 0.6)
SETTINGS: Settings = settings_of((2, 3, 4, 6), (0.5, 1, 2, 3, 4), BOUNDS, (1, 2, 3, 4, 6)) | {
    **{f"punt {limit:g}": {"name": "punt", "kl_threshold": limit} for limit in (0.01, 0.1, 0.5)},
    **{
        f"dapd {bound:g}": {"name": "dapd", "initial_bound": bound, "final_bound": bound}
        for bound in (0.01, 0.03, 0.1, 0.3)
    },
    **{
        f"demask {bound:g}, norm": {"name": "demask", "dependency_bound": bound, "rule": "norm"}
        for bound in (0.1, 0.15, 0.2, 0.3, 0.5)
    },
}
# Statements that were decoded before the rule "norm" was written.
_NUM_USED = 100


def chosen(statements: Sequence[Statement], count: int, seed: int) -> list[Statement]:
    """Return some statements with expressions in them."""
    found = [statement for statement in statements if statement.spans]
    return Random(seed).sample(found, min(count, len(found)))


def main(argv: Sequence[str] | None = None) -> None:
    """Train, measure, decode, and write records and facts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/code_model"), help="folder of the resumable state")
    parser.add_argument("--vocabulary", type=int, default=3000, help="tokens of the vocabulary")
    parser.add_argument("--hidden-size", type=int, default=256, help="width of the model, a multiple of 64")
    parser.add_argument("--layers", type=int, default=6, help="layers of the model")
    parser.add_argument("--training-steps", type=int, default=6000, help="optimizer steps of 4,096 tokens")
    parser.add_argument("--float32", action="store_true", help="train in float32, not compiled")
    parser.add_argument("--device", default="cpu", help="device to train on")
    parser.add_argument("--only-train", action="store_true", help="end after the training")
    add_arguments(parser, PARTS)
    parser.set_defaults(states=4000, visited=4000, measured=64, rows=400, span_rows=200, orders=1, steps=3000)
    arguments = parser.parse_args(argv)
    names = ("vocabulary", "hidden_size", "layers", "training_steps", "float32")
    model_facts = {name: getattr(arguments, name) for name in names} | {"python": sys.version.split()[0]}
    keep_facts(arguments.work / "model.json", model_facts, "model", ["statements.json", "backbone/*"])
    tokenizer, statements = load_statements(arguments.work, arguments.vocabulary)
    sizes, steps = (arguments.hidden_size, arguments.layers), arguments.training_steps
    fast = not arguments.float32
    model = trained(tokenizer, statements["train"], arguments.work, sizes, steps, fast, arguments.device)
    domain = Statements(model.cpu(), tokenizer)
    held_out, test = (chosen(statements[split], 1000, seed=0) for split in SPLITS[1:])
    ways = {"sequential": {"name": "sequential"}, "in one pass": {"name": "distance", "gap": 1}}
    parsed = {
        task: {way: domain.share_parsed(held_out[:200], task, strategy) for way, strategy in ways.items()}
        for task in domain.tasks
    }
    print(f"share of statements that parse: {parsed}", flush=True)
    if not arguments.only_train:
        facts = {"num_parameters": sum(parameter.numel() for parameter in model.parameters()), "training_steps": steps}
        facts["num_used_before"] = _NUM_USED
        parts = (chosen(statements["train"], 20_000, seed=1), held_out, test[_NUM_USED:])
        Study(domain, parts, SETTINGS, arguments.work, arguments, dict(facts)).write("code_model", facts)


if __name__ == "__main__":
    main()
