"""Compare strategies on a pretrained model of antibodies: AntiBERTy writes third loops of heavy chains, and spans.

    pip install --no-deps antiberty==0.1.3
    python benchmarks/antibodies.py --data ../shared/data/antibodies/therapeutic.tsv --out docs/results

At temperature 1 a decoding is right if it draws from the model's own chain, in which every residue is drawn given all
before. So what is measured is how likely the chain finds what was written. Heads are trained on states of other
chains, and what could be chosen was fixed before a test chain was decoded. Everything that was measured is kept in the
work folder; an interrupted run goes on where it was, and `--chains` says how many test chains to decode in all.
Without the table of chains, chains are put together from germline genes.
"""

import argparse
import json
import lzma
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from antibody_chains import Chain, generated_chains, read_chains, split
from antibody_model import PARTS, TEMPERATURE, batch_of, load_model, measured_states, training_states
from antibody_scores import add_order_from_left, decode, first_sets, spread_by_distance

from demask_hf import DemaskHead
from demask_hf.backbones.backbone import backbone_facts
from demask_hf.files import keep_facts, read_json, replacing, write_json
from demask_hf.strategies.table import write_table
from demask_hf.training import DependencyExample, distance_dependencies, fit_of, new_head, train_head


BOUNDS = (0.05, 0.1, 0.2, 0.3, 0.6)
SETTINGS: dict[str, dict[str, Any]] = {
    "sequential": {"name": "sequential"},
    **{f"schedule, {count} steps": {"name": "schedule", "max_denoising_steps": count} for count in (2, 3, 4, 6)},
    **{f"entropy bound {limit}": {"name": "entropy_bound", "entropy_bound": float(limit)} for limit in (1, 2, 3, 4)},
    **{f"demask {bound:g}": {"name": "demask", "dependency_bound": bound} for bound in BOUNDS},
    **{
        f"demask {bound:g}, influence": {"name": "demask", "dependency_bound": bound, "order": "influence"}
        for bound in BOUNDS
    },
    **{f"distance, gap {gap}": {"name": "distance", "gap": gap} for gap in (1, 2, 3)},
    **{f"table {bound:g}": {"name": "table", "dependency_bound": bound} for bound in BOUNDS},
}
# They look at the drawn token, so that likely tokens are written first and unlikely ones are drawn again.
SHARPENING: dict[str, dict[str, Any]] = {
    "sequential, drawn token": {"name": "sequential", "order": "token_probability"},
    "threshold 0.5": {"name": "threshold", "confidence_threshold": 0.5},
}
# Dependencies measured with many more forwards than they save: what a perfect head would decode.
EXACT: dict[str, dict[str, Any]] = {
    f"exact {bound:g}, influence": {
        **{"name": "demask", "dependencies": "exact", "dependency_bound": bound, "order": "influence"}
    }
    for bound in (0.1, 0.3)
}
# Decoded beside them, and with the heads of fewer states.
BESIDE = ("demask 0.1, influence", "demask 0.3, influence", "distance, gap 2")
_CHAINS_PER_FILE = 10


class Work:
    """What was measured so far, in a folder.

    Args:
        folder (`Path`): The folder.
        arguments (`argparse.Namespace`): Those of `main`.
    """

    def __init__(self, folder: Path, arguments: argparse.Namespace):
        self.folder, self.arguments = folder, arguments
        self.model, self.tokenizer = load_model(folder / "antiberty", arguments.wheel, arguments.dtype)
        chains = read_chains(arguments.data) if arguments.data.is_file() else generated_chains(2000, seed=0)
        self.train, self.held_out, self.test = split(chains, arguments.num_test, arguments.num_held_out)
        facts = {name: str(getattr(arguments, name)) for name in ("steps", "width", "dtype")}
        facts |= {"settings": SETTINGS | SHARPENING | EXACT, "test": [chain.name for chain in self.test]}
        keep_facts(folder / "decoded" / "run.json", facts, "study", ["*/*/*.json"])
        print(f"chains: {len(self.train)} train, {len(self.held_out)} held out, {len(self.test)} test", flush=True)

    def head(self, count: int) -> tuple[DemaskHead, dict[str, float]]:
        """Return the head that is trained on so many states, and its fit on whole loops of held-out chains."""
        folder = self.folder / f"head_{count}"
        states = training_states(self.model, self.tokenizer, self.train, self.folder, count)
        if not (folder / "config.json").exists():
            head = new_head(backbone_facts(self.model), 0, width=self.arguments.width)
            schedule = {"max_steps": self.arguments.steps, "learning_rate": 2e-3, "warmup_steps": 50, "seed": 0}
            schedule |= {"per_device_train_batch_size": 32, "lr_scheduler_type": "cosine", "weight_decay": 0.01}
            quiet = {"save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True}
            train_head(head, states, self.loops, folder / "training", use_cpu=True, **schedule, **quiet)
            head.save_pretrained(folder)
        head = DemaskHead.from_pretrained(folder)
        return head, fit_of(head, states, self.loops)

    @cached_property
    def loops(self) -> list[DependencyExample]:
        """Wholly masked loops of held-out chains, measured exactly."""
        chosen = (self.held_out, self.folder / "loop", "loop", self.arguments.num_loops)
        stored = measured_states(self.model, self.tokenizer, *chosen, seed=99)
        return [stored[index] for index in range(len(stored))]

    def decoded(
        self, chains: Sequence[Chain], place: str, task: str, settings: dict[str, dict[str, Any]]
    ) -> dict[str, list[dict[str, Any]]]:
        """Return what every setting wrote, and how likely it is."""
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in settings}
        for start in range(0, len(chains), _CHAINS_PER_FILE):
            numbers = range(start, min(start + _CHAINS_PER_FILE, len(chains)))
            batch = batch_of(self.tokenizer, [chains[number] for number in numbers], task, seed=start)
            for name, setting in settings.items():
                file = self.folder / "decoded" / place / task / f"{name}-{start:03d}.json"
                if not file.exists():
                    own = decode(self.model, self.tokenizer, batch, setting, list(numbers))
                    file.parent.mkdir(parents=True, exist_ok=True)
                    write_json(file, {"chains": own})
                    print(f"{place} {task} {start}: {name}", flush=True)
                own = read_json(file)["chains"]
                if self.arguments.orders == 2 and "left_log_q" not in own[0]:
                    add_order_from_left(self.model, self.tokenizer, batch, own)
                    write_json(file, {"chains": own})
                found[name] += own
        return found


def sizes_of(arguments: argparse.Namespace) -> list[int]:
    """Return the numbers of states that heads are trained on."""
    return [count for count in PARTS if count <= arguments.states]


def measured_facts(work: Work, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the fit of heads by number of states, dependencies by distance, and what first sets cost."""
    heads, fits = {}, []
    for count in sizes_of(arguments):
        heads[f"head, {count} states"], fit = work.head(count)
        fits.append({"num_states": count, **fit})
        print(f"head: {fits[-1]}", flush=True)
    table = distance_dependencies(
        training_states(work.model, work.tokenizer, work.train, work.folder, arguments.states)
    )
    write_table(work.folder / f"table_{arguments.states}.json", table)
    return {
        "fits": fits,
        "distances": spread_by_distance(work.loops),
        "first_sets": first_sets(heads, table, work.loops),
        "num_loops": len(work.loops),
    }


def decoded_with_heads(
    work: Work, arguments: argparse.Namespace, settings: dict[str, dict[str, Any]]
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Return what is written in loops of held-out chains with every head, and with measured dependencies."""
    few = work.held_out[: arguments.head_chains]
    outcomes: dict[str, dict[str, list[dict[str, Any]]]] = {"heads": {}}
    for count in sizes_of(arguments):
        work.model.set_demask_head(work.head(count)[0])
        rules = {name: settings[name] for name in BESIDE if settings[name]["name"] == "demask"}
        found = work.decoded(few, f"head_{count}", "loop", rules)
        outcomes["heads"] |= {f"{name}, head of {count} states": own for name, own in found.items()}
    rest = {name: settings[name] for name in BESIDE if settings[name]["name"] != "demask"}
    outcomes["heads"] |= work.decoded(few, "held_out", "loop", rest)
    if arguments.exact_chains:
        exact = work.decoded(few[: arguments.exact_chains], "held_out", "loop", EXACT)
        same = {name: own[: arguments.exact_chains] for name, own in outcomes["heads"].items()}
        outcomes["exact"] = same | exact
    return outcomes


def measured_outcomes(work: Work, arguments: argparse.Namespace) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Return what was written, by part of the study and by setting."""
    settings = {name: dict(setting) for name, setting in (SETTINGS | SHARPENING).items()}
    for setting in settings.values():
        if setting["name"] == "table":
            setting["table"] = str(work.folder / f"table_{arguments.states}.json")
    outcomes = decoded_with_heads(work, arguments, settings) if arguments.head_chains else {}
    work.model.set_demask_head(work.head(arguments.states)[0])
    # What depends on the states lies in folders of its own, so that more of them do not need the rest again.
    is_learned = {name: setting["name"] in ("demask", "table") for name, setting in settings.items()}
    folders = {False: "test", True: f"test_{arguments.states}"}
    for task, count in (("loop", arguments.chains), ("span", arguments.span_chains)):
        if count:
            found = {}
            for kind, folder in folders.items():
                own = {name: settings[name] for name in settings if is_learned[name] == kind}
                found |= work.decoded(work.test[:count], folder, task, own)
            outcomes[task] = {name: found[name] for name in settings}
    return outcomes


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, train, decode, and write records and facts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/antibodies"))
    parser.add_argument("--data", type=Path, default=Path("../shared/data/antibodies/therapeutic.tsv"))
    parser.add_argument("--wheel", type=Path, help="folder with the unpacked wheel; by default the installed one")
    parser.add_argument("--dtype", default="bfloat16", help="precision of the model")
    parser.add_argument("--states", type=int, default=1000, choices=tuple(PARTS), help="states of the largest head")
    parser.add_argument("--num-test", type=int, default=200, help="chains to keep for the test")
    parser.add_argument("--num-held-out", type=int, default=40, help="chains to judge heads and choose settings by")
    parser.add_argument("--num-loops", type=int, default=16, help="loops of these whose dependencies are measured")
    parser.add_argument("--chains", type=int, default=200, help="test chains to decode with their loop to write")
    parser.add_argument("--span-chains", type=int, default=100, help="test chains to decode with a span to write")
    parser.add_argument("--head-chains", type=int, default=20, help="held-out chains to decode with every head")
    parser.add_argument("--exact-chains", type=int, default=10, help="of these, chains for measured dependencies")
    parser.add_argument("--orders", type=int, default=2, choices=(1, 2), help="orders of the model's own chain")
    parser.add_argument("--steps", type=int, default=600, help="training steps of the head")
    parser.add_argument("--width", type=int, default=64, help="width of the head")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    arguments = parser.parse_args(argv)
    work = Work(arguments.work, arguments)
    facts = measured_facts(work, arguments)
    outcomes = measured_outcomes(work, arguments)
    facts |= {"num_states": arguments.states, "temperature": TEMPERATURE, "dtype": arguments.dtype}
    (arguments.out / "records").mkdir(parents=True, exist_ok=True)
    write_json(arguments.out / "antibodies.json", facts)
    content = json.dumps({"outcomes": outcomes}, separators=(",", ":"))
    with replacing(arguments.out / "records" / "antibodies.json.xz") as temporary:
        temporary.write_bytes(lzma.compress(content.encode()))


if __name__ == "__main__":
    main()
