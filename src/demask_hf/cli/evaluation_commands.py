"""What the subcommands that measure do: evaluate and benchmark."""

import argparse
import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import PreTrainedTokenizerBase

from ..bound.figures import dependency_figure
from ..bound.verification import dependencies_before
from ..evaluation.benchmark import DEFAULT_GRID, SAMPLING_GRID, Report, markdown_table, run_benchmark
from ..evaluation.comparison import Outcome
from ..evaluation.figures import frontier_figure, order_figure
from ..evaluation.report import environment, write_report
from ..evaluation.runs import FACTS_FILE, Run
from ..evaluation.specs import parse_settings
from ..files import keep_facts
from ..generation.mixin import DemaskGenerationMixin
from ..models.loading import weights_fingerprint
from ..strategies.demask import DemaskStrategy
from ..tasks import FAMILIES, Task, load_task
from .commands import SETTINGS, load_model


_LINE = "{:<16} {:>8} {:>8} {:>12} {:>6} {:>9} {:>9}"
_COLUMNS = {
    "right": ("accuracy", "{:.2%}"),
    "passes": ("num_forward_passes", "{:.2f}"),
    "tokens/pass": ("tokens_per_forward", "{:.2f}"),
    "AFP": ("average_finalization_parallelism", "{:.2f}"),
    "s/prompt": ("seconds", "{:.4f}"),
    "tokens/s": ("tokens_per_second", "{:.0f}"),
}


def evaluate(arguments: argparse.Namespace) -> None:
    """Decode task prompts with one strategy and print what came out, by task."""
    name = arguments.strategy or ("demask" if arguments.head else "threshold")
    settings = parse_settings(name, _options(arguments))
    if len(settings) > 1:
        raise ValueError(f"`--strategy` must be one setting, got {name!r}; `benchmark --compare` takes several.")
    tasks = _tasks(arguments, arguments.split, arguments.num_prompts)
    model, tokenizer = _load(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(arguments.out or temporary)
        _keep_facts(folder, _facts(arguments, model), model)
        run = Run(tasks, arguments.seeds, folder, arguments.batch_size)
        run.decode(model, tokenizer, settings[0])
        if not PartialState().is_main_process:
            return
        outcome = Outcome.of(settings[0], run.records(settings[0]))
    print(f"{settings[0].label}, {len(outcome.family)} prompts, {arguments.seeds} seed(s)")
    print(_LINE.format("task", *_COLUMNS))
    families = sorted(set(outcome.family.tolist()))
    for label, kept in [*((family, [family]) for family in families), ("all", families)]:
        summary = outcome.only(kept).summary()
        print(_LINE.format(label, *(text.format(summary[field]) for field, text in _COLUMNS.values())))
    print(f"peak memory: {_peak_memory(model)}")


def benchmark(arguments: argparse.Namespace) -> None:
    """Choose limits on validation prompts, report them on test prompts, and write tables, figures and the report."""
    options = _options(arguments)
    specs = arguments.compare or _default_grid(arguments)
    grid = [parse_settings(spec, options) for spec in specs]
    sizes = {"validation": arguments.num_validation, "test": arguments.num_prompts}
    tasks = {split: _tasks(arguments, split, size) for split, size in sizes.items() if size}
    model, tokenizer = _load(arguments)
    out = Path(arguments.out)
    facts = _facts(arguments, model)
    _keep_facts(out, facts, model)
    runs = {
        split: Run(tasks[split], 1 if split == "validation" else arguments.seeds, out / split, arguments.batch_size)
        for split in tasks
    }
    report = run_benchmark(
        grid,
        runs.get("validation"),
        runs["test"],
        lambda run, setting: run.decode(model, tokenizer, setting),
        arguments.margin,
        arguments.whole_length,
    )
    if PartialState().is_main_process:
        facts |= {
            "tasks": ", ".join(task.name for task in tasks["test"]),
            "prompts": sizes,
            "seeds": arguments.seeds,
            **options,
        }
        _write(report, out, {**facts, "margin": arguments.margin, **environment()}, runs["test"], model, tokenizer)


def _write(
    report: Report,
    out: Path,
    facts: dict[str, Any],
    test: Run,
    model: DemaskGenerationMixin,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Write the files of a benchmark and print its table."""
    rows = report.rows()
    table = markdown_table([row for row in rows if row["is_chosen"]])
    (out / "table.md").write_text(table, encoding="utf-8")
    report.write(out / "summary.json")
    frontier_figure(rows, out / "frontier.png")
    figures = {
        "Right answers against forward passes; bars: bounds of the difference to the reference.": "frontier.png"
    }
    records = {each.outcome.setting.label: test.records(each.outcome.setting)[0][0] for each in report.chosen}
    first = next(iter(records.values()))
    order_figure(
        tokenizer.convert_ids_to_tokens(first.tokens),
        {label: record.unmask_steps for label, record in records.items() if len(record.tokens) == len(first.tokens)},
        out / "order.png",
    )
    figures[f"Which step wrote which token of an answer to {first.prompt!r}."] = "order.png"
    if model.demask_head is not None:
        rule = DemaskStrategy()
        state = dependencies_before(model, tokenizer, first.prompt, rule, is_measured=False, temperature=1.0)
        dependency_figure(state.tokens, state.maps, out / "dependencies.png")
        figures["What the head says of that prompt before the first step, by likeliest token."] = "dependencies.png"
    figures = {caption: out / name for caption, name in figures.items()}
    write_report(out / "report.html", "Strategies compared", rows, facts, figures)
    print(table, end="")
    print(f"wrote {out / 'report.html'}")


def _default_grid(arguments: argparse.Namespace) -> list[str]:
    """Return the grid of all strategies that the model can run."""
    grid = (*DEFAULT_GRID, *SAMPLING_GRID) if arguments.temperature else DEFAULT_GRID
    return [spec for spec in grid if arguments.head or not spec.startswith("demask")]


def _tasks(arguments: argparse.Namespace, split: str, num_prompts: int) -> list[Task]:
    """Return the tasks that were asked for; of a file, prompts to choose on and prompts to report are different."""
    if num_prompts < 1:
        raise ValueError(f"`--num-prompts` must be at least 1, got {num_prompts}.")
    tasks = []
    for spec in arguments.task or [name for name in FAMILIES if name != "parity"]:
        name, _, path = spec.partition("=")
        if not path:
            tasks.append(load_task(name, split=split, num_examples=num_prompts))
            continue
        task = load_task(name, path, allow_code_execution=arguments.allow_code_execution)
        start = arguments.num_validation if split == "test" and "num_validation" in arguments else 0
        tasks.append(dataclasses.replace(task, examples=task.examples[start : start + num_prompts]))
    return tasks


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(arguments, name) for name in SETTINGS if getattr(arguments, name) is not None}


def _load(arguments: argparse.Namespace) -> tuple[DemaskGenerationMixin, PreTrainedTokenizerBase]:
    if arguments.device is None:
        arguments.device = str(PartialState().device)
    return load_model(arguments)


def _keep_facts(folder: Path, facts: dict[str, Any], model: DemaskGenerationMixin) -> None:
    """Write the facts of a folder in one process, and compare them in the others."""
    with PartialState(cpu=model.device.type == "cpu").main_process_first():
        keep_facts(folder / FACTS_FILE, facts, "run")


def _facts(arguments: argparse.Namespace, model: DemaskGenerationMixin) -> dict[str, Any]:
    """Return what the records depend on, besides settings and prompts."""
    modules = {"model": model, "head": getattr(model, "demask_head", None)}
    return {
        "model": arguments.model,
        "head": arguments.head,
        "dtype": str(model.dtype),
        "seed": arguments.seed,
        "weights": {name: weights_fingerprint(module) for name, module in modules.items() if module is not None},
    }


def _peak_memory(model: DemaskGenerationMixin) -> str:
    if model.device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(model.device) / 1e9:.2f} GB on the device"
    import resource

    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9:.2f} GB of the whole process"
