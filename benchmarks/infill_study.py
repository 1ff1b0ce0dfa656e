"""A study of strategies on sequences of one kind: heads, what they know, and what each setting writes.

At temperature 1 a decoding is right if it draws from the model's own chain, in which every token is drawn given all
before. So what is measured is how likely the chain finds what was written. Everything that was measured is kept in the
work folder; an interrupted run goes on where it was.
"""

import argparse
import json
import lzma
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from infill_designs import fits_of_designs
from infill_scores import decode, first_sets, spread_by_distance
from infilling import TEMPERATURE, Domain, measured_states, training_states

from demask_hf import DemaskHead
from demask_hf.backbones.backbone import backbone_facts
from demask_hf.files import keep_facts, read_json, replacing, write_json
from demask_hf.strategies.table import write_table
from demask_hf.training import DependencyExample, distance_dependencies, fit_of, new_head, train_head


Settings = dict[str, dict[str, Any]]
Outcomes = dict[str, list[dict[str, Any]]]
# Name of the head that is trained on states that decoding with another one visits, and of such states.
VISITED = "visited"
_TABLE = "table.json"
# A set of a partition is smaller than that of a walk at the same bound.
_PARTITION_BOUNDS = (0.1, 0.2, 0.3, 0.45, 0.7)


def settings_of(
    schedules: Sequence[int], limits: Sequence[float], bounds: Sequence[float], gaps: Sequence[int]
) -> Settings:
    """Return settings by name.

    Args:
        schedules (`Sequence[int]`): Numbers of steps.
        limits (`Sequence[float]`): Of `entropy_bound`.
        bounds (`Sequence[float]`): Of `demask` and `table`, in several orders.
        gaps (`Sequence[int]`): Of `distance`.
    """
    return {
        "sequential": {"name": "sequential"},
        **{f"schedule, {count} steps": {"name": "schedule", "max_denoising_steps": count} for count in schedules},
        **{f"entropy bound {limit:g}": {"name": "entropy_bound", "entropy_bound": float(limit)} for limit in limits},
        **_walks("demask", bounds, ("confidence", "influence", "degree")),
        **{f"distance, gap {gap}": {"name": "distance", "gap": gap} for gap in gaps},
        **_walks("table", bounds, ("confidence", "degree")),
        **{
            f"{name} {bound:g}, partition": {"name": name, "dependency_bound": bound, "selection": "partition"}
            for name in ("demask", "table")
            for bound in _PARTITION_BOUNDS
        },
    }


def _walks(name: str, bounds: Sequence[float], orders: Sequence[str]) -> Settings:
    """Return the settings of a strategy that walks by dependencies; the order "confidence" goes without saying."""
    return {
        f"{name} {bound:g}{'' if order == 'confidence' else f', {order}'}": dict(
            name=name, dependency_bound=bound, order=order
        )
        for order in orders
        for bound in bounds
    }


# They look at the drawn token, so that likely tokens are written first and unlikely ones are drawn again.
SHARPENING: Settings = {
    "sequential, drawn token": {"name": "sequential", "order": "token_probability"},
    "threshold 0.5": {"name": "threshold", "confidence_threshold": 0.5},
}
# Dependencies measured with many more forwards than they save: what a perfect head would decode.
EXACT: Settings = {
    f"exact {bound:g}, {order}": dict(name="demask", dependencies="exact", dependency_bound=bound, order=order)
    for order in ("influence", "degree")
    for bound in (0.1, 0.3)
} | {
    f"exact {bound:g}, partition": dict(
        name="demask", dependencies="exact", dependency_bound=bound, selection="partition"
    )
    for bound in (0.2, 0.45)
}
# Decoded beside them, and with every head.
BESIDE = (
    *("demask 0.1, influence", "demask 0.3, influence", "demask 0.3, degree"),
    *("demask 0.2, partition", "demask 0.45, partition", "distance, gap 2"),
)


def add_arguments(parser: argparse.ArgumentParser, parts: dict[int, int]) -> None:
    """Add the arguments that all studies have.

    Args:
        parser (`argparse.ArgumentParser`): The parser.
        parts (`dict[int, int]`): Those of the domain.
    """
    parser.add_argument("--states", type=int, default=1000, choices=tuple(parts), help="states of the largest head")
    parser.add_argument("--visited", type=int, default=3000, help="further states that decoding with this head visits")
    parser.add_argument("--measured", type=int, default=32, help="held-out rows whose dependencies are all measured")
    parser.add_argument("--rows", type=int, default=200, help="test rows to decode with all of a part to write")
    parser.add_argument("--span-rows", type=int, default=100, help="test rows to decode with a span to write")
    parser.add_argument("--head-rows", type=int, default=20, help="held-out rows to decode with every head")
    parser.add_argument("--exact-rows", type=int, default=10, help="of these, rows for measured dependencies")
    parser.add_argument("--orders", type=int, default=2, choices=(1, 2), help="orders of the model's own chain")
    parser.add_argument("--steps", type=int, default=1000, help="training steps of the head")
    parser.add_argument("--width", type=int, default=64, help="width of the head")
    parser.add_argument("--designs", type=int, default=2, help="seeds of other designs of the head; 0: none")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")


class Study:
    """What was measured so far, in a folder.

    Args:
        domain ([`Domain`]): The model.
        items (`tuple[Sequence, Sequence, Sequence]`): To train heads on, to judge them by, and for the test.
        settings (`Settings`): What is decoded, by name.
        folder (`Path`): The folder.
        arguments (`argparse.Namespace`): Those of `add_arguments`.
        facts (`dict[str, Any]`): What else must not change between two runs in one folder.
    """

    def __init__(  # noqa: PLR0913, the facts of a study
        self,
        domain: Domain,
        items: tuple[Sequence[Any], Sequence[Any], Sequence[Any]],
        settings: Settings,
        folder: Path,
        arguments: argparse.Namespace,
        facts: dict[str, Any],
    ):
        self.domain, self.folder, self.arguments = domain, folder, arguments
        self.settings = {name: dict(setting) for name, setting in (settings | SHARPENING).items()}
        self.train, self.held_out, self.test = items
        facts |= {name: getattr(arguments, name) for name in ("steps", "width")}
        facts |= {"settings": self.settings | EXACT}
        keep_facts(folder / "decoded" / "run.json", facts, "study", ["*/*/*.json"])
        for setting in self.settings.values():
            if setting["name"] == "table":
                setting["table"] = str(folder / _TABLE)
        print(f"{len(self.train)} to train, {len(self.held_out)} held out, {len(self.test)} to test", flush=True)

    @cached_property
    def heads(self) -> dict[str, DemaskHead]:
        """A head for each number of states, and one that is trained on the states that the largest visits, too."""
        found = {str(count): self._head(str(count), self.states(count)) for count in self.sizes}
        return found | {VISITED: self._head(self._learned, self.states(VISITED))}

    @property
    def _learned(self) -> str:
        """What the head that decodes is trained on."""
        return f"{self.sizes[-1]}_{self.arguments.visited}"

    @property
    def sizes(self) -> list[int]:
        """The numbers of states that heads are trained on."""
        return [count for count in self.domain.parts if count <= self.arguments.states]

    def states(self, which: int | str) -> list[DependencyExample]:
        """Return the states that a head is trained on."""
        if which != VISITED:
            return training_states(self.domain, self.train, self.folder, int(which))
        return self.states(self.sizes[-1]) + self._visited("visited", self.train, self.arguments.visited)

    @cached_property
    def held_out_states(self) -> dict[str, list[DependencyExample]]:
        """States of held-out rows that are wholly masked, and some that decoding visits, measured exactly."""
        count = self.arguments.measured
        stored = measured_states(self.domain, self.held_out, self.folder / "whole", "whole", count, seed=99)
        visited = self._visited("held_out_visited", self.held_out, count)
        return {"whole": [stored[index] for index in range(len(stored))], VISITED: visited}

    def _visited(self, kind: str, items: Sequence[Any], count: int) -> list[DependencyExample]:
        """Return states that decoding with the head of the most states visits."""
        largest = str(self.sizes[-1])
        self.domain.model.set_demask_head(self._head(largest, self.states(int(largest))))
        folder = self.folder / f"{kind}_{largest}_{count}"
        stored = measured_states(self.domain, items, folder, kind, count, seed=98)
        return [stored[index] for index in range(len(stored))]

    def _head(self, name: str, states: list[DependencyExample]) -> DemaskHead:
        """Return the head of a name, trained if it is not there yet."""
        folder = self.folder / f"head_{name}"
        if not (folder / "config.json").exists():
            head = new_head(backbone_facts(self.domain.model), 0, width=self.arguments.width)
            self._train(head, states, 0)
            head.save_pretrained(folder)
        return DemaskHead.from_pretrained(folder)

    def _train(self, head: DemaskHead, states: Sequence[DependencyExample], seed: int) -> None:
        schedule = {"max_steps": self.arguments.steps, "learning_rate": 2e-3, "warmup_steps": 50, "seed": seed}
        schedule |= {"per_device_train_batch_size": 32, "lr_scheduler_type": "cosine", "weight_decay": 0.01}
        quiet = {"save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True}
        train_head(head, states, states[:100], self.folder / "training", use_cpu=True, **schedule, **quiet)

    def decoded(self, items: Sequence[Any], place: str, task: str, settings: Settings) -> Outcomes:
        """Return what every setting wrote, and how likely it is."""
        found: Outcomes = {name: [] for name in settings}
        for start in range(0, len(items), self.domain.rows_together):
            numbers = list(range(start, min(start + self.domain.rows_together, len(items))))
            batch = self.domain.batch([items[number] for number in numbers], task, seed=start)
            for name, setting in settings.items():
                file = self.folder / "decoded" / place / task / f"{name}-{start:03d}.json"
                own = read_json(file)["rows"] if file.exists() else []
                if len(own) < len(numbers) or (self.arguments.orders == 2 and "left_log_q" not in own[0]):
                    own = decode(self.domain, batch, setting, numbers, self.arguments.orders)
                    file.parent.mkdir(parents=True, exist_ok=True)
                    write_json(file, {"rows": own})
                    print(f"{place} {task} {start}: {name}", flush=True)
                found[name] += own
        return found

    def facts(self) -> dict[str, Any]:
        """Return the fit of heads, dependencies by distance, and what first sets cost."""
        fits = []
        for name, head in self.heads.items():
            states = self.states(name)
            own = {kind: fit_of(head, states, held_out) for kind, held_out in self.held_out_states.items()}
            fits.append({"head": name, "num_states": len(states), **own})
            print(f"head: {fits[-1]}", flush=True)
        table = distance_dependencies(self.states(VISITED))
        write_table(self.folder / _TABLE, table)
        whole = self.held_out_states["whole"]
        return {
            "fits": fits,
            "distances": spread_by_distance(whole),
            "first_sets": first_sets({f"head, {name}": head for name, head in self.heads.items()}, table, whole),
            "num_measured": len(whole),
            "designs": self._designs(),
        }

    def _designs(self) -> list[dict[str, Any]]:
        """Return the fit of other designs of the head that decodes, trained on the same states."""
        folder = self.folder / f"designs_{self._learned}"
        facts = (self.domain.model, self.states(VISITED), self.held_out_states)
        return fits_of_designs(*facts, self._train, self.arguments.designs, folder)

    def decoded_with_heads(self) -> dict[str, Outcomes]:
        """Return what is written in held-out rows with every head, and with measured dependencies."""
        task, few = self.domain.tasks[0], self.held_out[: self.arguments.head_rows]
        beside = {name: self.settings[name] for name in BESIDE}
        learned = {name: setting for name, setting in beside.items() if setting["name"] == "demask"}
        outcomes: dict[str, Outcomes] = {"heads": {}}
        for head_name, head in self.heads.items():
            self.domain.model.set_demask_head(head)
            place = self._learned if head_name == VISITED else head_name
            found = self.decoded(few, f"head_{place}", task, learned)
            outcomes["heads"] |= {f"{name}, head {head_name}": own for name, own in found.items()}
        rest = {name: setting for name, setting in beside.items() if name not in learned}
        outcomes["heads"] |= self.decoded(few, "held_out", task, rest)
        if self.arguments.exact_rows:
            exact = self.decoded(few[: self.arguments.exact_rows], "held_out", task, EXACT)
            same = {name: own[: self.arguments.exact_rows] for name, own in outcomes["heads"].items()}
            outcomes["exact"] = same | exact
        return outcomes

    def outcomes(self) -> dict[str, Outcomes]:
        """Return what was written, by part of the study and by setting."""
        outcomes = self.decoded_with_heads() if self.arguments.head_rows else {}
        self.domain.model.set_demask_head(self.heads[VISITED])
        # What depends on the states lies in folders of its own, so that more of them do not need the rest again.
        is_learned = {name: setting["name"] in ("demask", "table") for name, setting in self.settings.items()}
        folders = {False: "test", True: f"test_{self._learned}"}
        for task, count in zip(self.domain.tasks, (self.arguments.rows, self.arguments.span_rows), strict=True):
            if count:
                found: Outcomes = {}
                for kind, folder in folders.items():
                    own = {name: setting for name, setting in self.settings.items() if is_learned[name] == kind}
                    found |= self.decoded(self.test[:count], folder, task, own)
                outcomes[task] = {name: found[name] for name in self.settings}
        return outcomes

    def write(self, name: str, facts: dict[str, Any]) -> None:
        """Measure what is missing, and write facts and records of the study.

        Args:
            name (`str`): Name of the files.
            facts (`dict[str, Any]`): What else to write.
        """
        facts = {**self.facts(), "temperature": TEMPERATURE, **facts}
        out = self.arguments.out
        (out / "records").mkdir(parents=True, exist_ok=True)
        write_json(out / f"{name}.json", facts)
        content = json.dumps({"outcomes": self.outcomes()}, separators=(",", ":"))
        with replacing(out / "records" / f"{name}.json.xz") as temporary:
            temporary.write_bytes(lzma.compress(content.encode()))
