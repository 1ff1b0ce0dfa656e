r"""The comparison of the DEMASK paper (arXiv 2604.02560), on a machine that has the weights.

    pip install -e ".[eval,harness]"
    python benchmarks/paper.py --model Dream-org/Dream-v0-Instruct-7B --head HEAD --out runs/paper \
        --batch-size 8 --allow-code-execution
    python benchmarks/paper.py ... --limit 100 --tasks gsm8k_cot=256      # a first look

MMLU-Pro, GSM8K, HumanEval and MBPP as lm-evaluation-harness asks and scores them, in the lengths of Dream's own
evaluation. Every setting is compared, prompt by prompt, with one token per pass in order of entropy, which the paper
calls "Dream (1 TPF)": its baselines (entropy, top-1 probability, order of the tokens, KLASS), a threshold, and demask
over a grid of `dependency_bound` and `confidence_threshold`, as in its Figure 1. The paper's own settings are not
known here: entropy and top-1 take two tokens per pass, and the harness's variant of a task may be another one.

What is decoded is kept, answer by answer: the same command, run again, goes on. Programs that the model wrote run shut
in, as `demask-hf evaluate` runs them, not as the harness would. `--data TASK=FOLDER` reads `test.jsonl`, and what else
a task needs, from a folder instead of the Hub.
"""

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib import metadata
from itertools import groupby, product
from pathlib import Path
from typing import Any

import evaluate as metrics_of_hub
import lm_eval
from lm_eval.tasks import TaskManager

from demask_hf.evaluation.benchmark import row_of
from demask_hf.evaluation.comparison import Outcome, compare
from demask_hf.evaluation.decoding import Decoding, decode_prompts
from demask_hf.evaluation.figures import frontier_figure
from demask_hf.evaluation.records import Record
from demask_hf.evaluation.report import environment
from demask_hf.evaluation.runs import seed_of
from demask_hf.evaluation.specs import Setting, parse_settings
from demask_hf.files import append_lines, keep_facts, kept_lines, read_json, write_json, write_text
from demask_hf.harness.model import DemaskLM
from demask_hf.locking import locked
from demask_hf.models.fingerprints import model_facts
from demask_hf.tables import Column, markdown_lines
from demask_hf.tasks.base import before_stop
from demask_hf.tasks.execution import check_execution, run_program


# New tokens as in Dream's own evaluation.
TASKS = {"mmlu_pro": 128, "gsm8k_cot": 256, "humaneval_instruct": 768, "mbpp_instruct": 1024}
CODE_TASKS = ("humaneval", "mbpp")
REFERENCE = "sequential:order=entropy"
BASELINES = [
    "schedule:algorithm=entropy,max_denoising_steps={half}",
    "schedule:algorithm=maskgit_plus,max_denoising_steps={half}",
    "sequential:order=left_to_right",
    "klass",
    "threshold",
]
BOUNDS = (0.02, 0.05, 0.1, 0.2, 0.4)
THRESHOLDS = (0, 0.3, 0.5, 0.7, 0.9)
MARGIN = 0.005
COLUMNS = [
    Column("setting", "label", is_text=True),
    Column("right", "accuracy", ".1%"),
    Column(
        "points against the reference (95 % bounds)",
        lambda row: "{mean:+.1f} ({lower:+.1f} to {upper:+.1f})".format(
            **{name: 100 * value for name, value in row["difference"].items()}
        ),
    ),
    Column("p (Holm)", "p_value", ".2g"),
    Column("passes", "mean_forward_passes", ".1f"),
    Column("tokens per pass", "tokens_per_forward", ".2f"),
    Column(
        "times fewer passes (95 %)",
        lambda row: "{value:.2f} ({lower:.2f} to {upper:.2f})".format(**row["speed_up"]),
    ),
    Column("loss below half a point", lambda row: "yes" if row["is_matched"] else "not shown"),
]


class ConfinedCode:
    """Stands in for the metric "code_eval" of the Hub, which runs programs with all rights.

    Args:
        allowed (`str`): "confined" or "unconfined".
    """

    def __init__(self, allowed: str):
        self.is_confined = allowed == "confined"

    def compute(self, references: Sequence[str], predictions: Sequence[Sequence[str]], k: Sequence[int]):
        """Return the share of programs that pass their tests, and nothing on the single ones."""
        # The harness asks for one answer a prompt; its files try the metric with k on import.
        pairs = [(program, tests) for own, tests in zip(predictions, references, strict=True) for program in own]
        passed = [self._passes(program, tests) for program, tests in pairs]
        return {f"pass@{count}": sum(passed) / len(passed) for count in k}, {}

    def _passes(self, program: str, tests: str) -> bool:
        name = re.search(r"check\((\w+)\)\s*$", tests)
        # HumanEval's tests may use the imports and helpers that stand before the function.
        before = re.split(rf"^def {name[1]}\b", program, maxsplit=1, flags=re.MULTILINE)[0] if name else ""
        return run_program(program, f"{before}\n{tests}\n", confined=self.is_confined) == "passed"


class RecordingLM(DemaskLM):
    """Keeps what each answer cost, and decodes no prompt twice; `setting`, `file` and `seed` are set before use."""

    setting: Setting
    file: Path
    first_seed: int

    def generate_until(self, requests, disable_tqdm=False):
        """Return the answers, those of earlier runs from their file."""
        self.settings = dict(self.setting.options)
        found = self.kept()
        missing = [request for request in requests if key_of(request) not in found]
        for _, group in groupby(missing, key=lambda request: json.dumps(request.args[1], sort_keys=True)):
            alike = list(group)
            settings, _ = self._settings_of(alike[0].args[1])
            for start in range(0, len(alike), self.batch_size):
                batch = alike[start : start + self.batch_size]
                prompts = [request.args[0] for request in batch]
                seeds = [seed_of(prompt, 0, self.first_seed) for prompt in prompts]
                decodings = decode_prompts(
                    self.model, self.tokenizer, prompts, self.setting.strategy, self.batch_size, seed=seeds, **settings
                )
                pairs = list(zip(batch, decodings, strict=True))
                append_lines(self.file, [{"key": key_of(request), **asdict(decoding)} for request, decoding in pairs])
                print(f"{self.file.parent.name}: {self.setting.label}: {len(self.kept())} answers", flush=True)
        found = self.kept()
        stops = [self._settings_of(request.args[1])[1] for request in requests]
        return [
            before_stop(found[key_of(request)].answer, stop) for request, stop in zip(requests, stops, strict=True)
        ]

    def kept(self) -> dict[str, Decoding]:
        """Return what is decoded already."""
        return {line.pop("key"): _decoding(line) for line in kept_lines(self.file)}


def _decoding(line: dict[str, Any]) -> Decoding:
    return Decoding(**{**line, "tokens": tuple(line["tokens"]), "unmask_steps": tuple(line["unmask_steps"])})


def key_of(request) -> str:
    """Return the name of a request of the harness in our files."""
    return f"{request.task_name.rpartition(':')[2]}/{request.doc_id}"


def grid(has_head: bool, bounds: Sequence[float], thresholds: Sequence[float]) -> list[str]:
    """Return the texts of all settings, the reference first."""
    demask = "demask:dependency_bound={},confidence_threshold={}"
    sweep = [demask.format(bound, limit) for limit, bound in product(thresholds, bounds)] if has_head else []
    return [REFERENCE, *BASELINES, *sweep]


def setting_of(spec: str, length: int, shared: dict[str, Any]) -> Setting:
    """Return a setting for answers of a length; the places of a figure's line have one row."""
    (setting,) = parse_settings(spec.format(half=-(-length // 2)), {**shared, "max_new_tokens": length})
    label = spec.replace("max_denoising_steps={half}", "2 tokens a pass")
    line = re.sub(r"dependency_bound=[^,]*,", "", label)
    return replace(setting, row=line, label=label)


def scored(
    lm: RecordingLM, task: str, data: Path | None, manager: TaskManager, arguments: argparse.Namespace
) -> dict[str, bool]:
    """Let the harness ask and score a task; returns whether each answer is right."""
    file = lm.file.with_name(f"{lm.setting.key}-{arguments.limit or 'all'}.scores.json")
    if file.exists():
        return read_json(file)
    asked: Any = task
    if data is not None:
        local = {"dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": _splits(data)}}
        asked = {"group": f"{task}_here", "task": [{"task": task, **local}]}
    results = lm_eval.simple_evaluate(
        lm,
        tasks=[asked],
        task_manager=manager,
        limit=arguments.limit,
        apply_chat_template=arguments.chat and lm.tokenizer.chat_template is not None,
        bootstrap_iters=0,
        confirm_run_unsafe_code=True,
    )
    verdicts = {}
    for name, samples in results["samples"].items():
        # With several ways to read an answer the last one counts, in GSM8K the flexible one.
        for sample in samples:
            verdict = float(sample[sample["metrics"][0]]) > 0
            verdicts[f"{name.rpartition(':')[2]}/{sample['doc_id']}"] = verdict
    write_json(file, verdicts)
    return verdicts


def _splits(folder: Path) -> dict[str, str]:
    return {file.name.partition(".")[0]: str(file) for file in sorted(folder.glob("*.jsonl*"))}


def outcome_of(lm: RecordingLM, task: str, verdicts: dict[str, bool]) -> Outcome:
    """Return the outcome of a setting on a task."""
    found = lm.kept()
    records = [
        Record(**vars(found[key]), family=task, is_correct=is_right) for key, is_right in sorted(verdicts.items())
    ]
    return Outcome.of_records(records, lm.setting)


def summary(outcomes: dict[str, dict[str, Outcome]]) -> str:
    """Return the table with all tasks; the average is that of the tasks, whatever their number of prompts."""
    tasks = list(outcomes)
    reference = {task: outcomes[task][REFERENCE].mean_forward_passes for task in tasks}
    rows = []
    for label in outcomes[tasks[0]]:
        own = [outcomes[task][label] for task in tasks]
        row: dict[str, Any] = {"label": own[0].setting.label, **{each.family[0]: each.accuracy for each in own}}
        row["average"] = sum(each.accuracy for each in own) / len(own)
        row["tokens"] = sum(each.tokens_per_forward for each in own) / len(own)
        ratios = [reference[task] / each.mean_forward_passes for task, each in zip(tasks, own, strict=True)]
        rows.append(row | {"fewer": sum(ratios) / len(ratios)})
    columns = [Column("setting", "label", is_text=True), *(Column(task, task, ".1%") for task in tasks)]
    columns += [Column("average", "average", ".1%"), Column("tokens per pass", "tokens", ".2f")]
    return "\n".join(markdown_lines([*columns, Column("times fewer passes", "fewer", ".2f")], rows))


def write_all(out: Path, outcomes: dict[str, dict[str, Outcome]], facts: dict[str, Any]) -> None:
    """Write report.md, report.json and a figure for each task."""
    parts = ["# DEMASK's comparison", "", *(f"- {name}: {value}" for name, value in facts.items()), ""]
    parts += ["Mean over tasks; passes against one token per pass in order of entropy.", "", summary(outcomes)]
    rows_of_tasks = {}
    for task, found in outcomes.items():
        listed = list(found.values())
        rows = [row_of(each, MARGIN, {}) for each in compare(listed, [found[REFERENCE]] * len(listed))]
        rows_of_tasks[task] = rows
        frontier_figure(rows, out / f"{task}.png", f"{task}, {listed[0].num_prompts} prompts")
        parts += [
            "",
            f"## {task}",
            "",
            f"![Right answers against passes]({task}.png)",
            "",
            *markdown_lines(COLUMNS, rows),
        ]
    # NaN, of an order with one step, and infinity are no JSON.
    text = json.dumps({"facts": facts, "tasks": rows_of_tasks})
    write_json(out / "report.json", json.loads(text, parse_constant=lambda name: None))
    write_text(out / "report.md", "\n".join(parts) + "\n")


def run(arguments: argparse.Namespace) -> None:
    """Decode, score, compare and report."""
    tasks = {name: int(length or TASKS[name]) for name, _, length in (each.partition("=") for each in arguments.tasks)}
    data = {name: Path(folder) for name, _, folder in (each.partition("=") for each in arguments.data)}
    allowed, code_tasks = arguments.allow_code_execution, [name for name in tasks if name.startswith(CODE_TASKS)]
    if code_tasks and allowed is None:
        raise ValueError(
            f"`--allow-code-execution` must be given for {code_tasks[0]}, which runs what the model wrote."
        )
    if code_tasks:
        check_execution(True if allowed == "confined" else allowed)
        metrics_of_hub.load = lambda name: ConfinedCode(allowed)
    shared = {"temperature": arguments.temperature} | ({"top_p": arguments.top_p} if arguments.temperature else {})
    names = {"device": arguments.device, "dtype": arguments.dtype, "batch_size": arguments.batch_size}
    lm = RecordingLM(arguments.model, arguments.head, strategy="threshold", **names)
    lm.first_seed = arguments.seed
    kept = {"model": arguments.model, "head": arguments.head, "seed": arguments.seed, "chat": arguments.chat, **shared}
    kept |= {"harness": metadata.version("lm_eval"), **model_facts(lm.model, lm.tokenizer)}
    keep_facts(arguments.out / "paper.json", kept, "comparison", ("*/*.jsonl",))
    manager = TaskManager(include_path=arguments.include_path)
    outcomes: dict[str, dict[str, Outcome]] = {task: {} for task in tasks}
    for spec in grid(arguments.head is not None, arguments.bounds, arguments.thresholds):
        for task, length in tasks.items():
            lm.setting = setting_of(spec, length, shared)
            lm.file = arguments.out / task / f"{lm.setting.key}.jsonl"
            outcomes[task][spec] = outcome_of(lm, task, scored(lm, task, data.get(task), manager, arguments))
    facts = {name: kept[name] for name in ("model", "head", "harness", "seed", *shared)}
    write_all(arguments.out, outcomes, {**facts, "prompts of a task": arguments.limit or "all", **environment()})
    print((arguments.out / "report.md").read_text(encoding="utf-8"))


def main(argv: list[str] | None = None) -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--head", help="without one the settings of demask are left out")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--tasks", nargs="+", default=list(TASKS), metavar="TASK[=LENGTH]", help="tasks of the harness"
    )
    parser.add_argument("--data", nargs="+", default=[], metavar="TASK=FOLDER")
    parser.add_argument("--include-path", help="folder with further tasks of the harness")
    parser.add_argument("--limit", type=int, help="prompts of each task, or of each part of one")
    parser.add_argument("--bounds", type=float, nargs="+", default=BOUNDS)
    parser.add_argument("--thresholds", type=float, nargs="+", default=THRESHOLDS)
    parser.add_argument("--temperature", type=float, default=0.1, help="as in Dream's own evaluation")
    parser.add_argument("--top-p", type=float, default=0.9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--device")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--no-chat", dest="chat", action="store_false", help="no chat template")
    parser.add_argument(
        "--allow-code-execution", nargs="?", const="confined", choices=("confined", "unconfined"), metavar="unconfined"
    )
    arguments = parser.parse_args(argv)
    unknown = [name for name in arguments.tasks if "=" not in name and name not in TASKS]
    if unknown:
        parser.error(f"--tasks must name the length of an answer, TASK=LENGTH, got {unknown[0]}.")
    if arguments.limit is not None and arguments.limit < 2:
        parser.error(f"--limit must be at least 2, got {arguments.limit}.")
    with locked(arguments.out):
        run(arguments)


if __name__ == "__main__":
    main()
