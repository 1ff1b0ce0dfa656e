"""`demask-hf benchmark`: compare strategies on tasks, each at its best limit."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import write_json, write_text
from .evaluate import keep_run_facts, run_facts
from .options import ModelOptions, SampledDecodingOptions
from .parser import CommandParser, option, same_as, switch
from .prompts import TaskOptions, load_tasks


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..evaluation.benchmark import Report
    from ..evaluation.records import Record
    from ..evaluation.runs import Run
    from ..evaluation.specs import Setting
    from ..generation.mixin import DemaskGenerationMixin

EXAMPLES = """examples:
  demask-hf benchmark --out runs/t0
  demask-hf benchmark --out runs/t1 --temperature 1 --seeds 5
  demask-hf benchmark --out runs/mine --compare demask:dependency_bound=0.03/0.06/0.1 threshold --num-validation 0
  demask-hf benchmark --out runs/caches --compare threshold:block_cache=none/prefix/dual,block_length=16
  accelerate launch --num_processes 4 -m demask_hf benchmark --out runs/t0

To resume an interrupted benchmark, run the same command again: what is in OUT is not decoded twice. OUT then holds
report.html, summary.json, table.md, the figures, leaderboard.yaml (the points of d3LLM's AUP), one JSON Lines file of
records for each setting, and all records without the tokens in records.json.xz, from which the tables can be computed
again.
"""


@dataclass(frozen=True)
class BenchmarkOptions:
    """What is compared, and where the report goes.

    Args:
        out (`str`):
            Folder for records and report.
        compare (`list[str]`, *optional*):
            Rows of the comparison, NAME:FIELD=VALUE,FIELD=VALUE, where a field is one of the strategy or a setting of
            generate and VALUE/VALUE/... lists the values to choose from; by default all strategies.
        num_validation (`int`, *optional*, defaults to 60):
            Prompts of each task on which the limits are chosen; with 0, every setting is reported.
        chosen_only (`bool`, *optional*, defaults to `False`):
            Report the chosen settings without their neighbours in the grid.
        whole_length (`bool`, *optional*, defaults to `False`):
            Count the passes without stopping at the end of sequence, too.
    """

    out: str = field(metadata={"metavar": "DIR"})
    compare: list[str] | None = option(metavar="SPEC")
    num_validation: int = 60
    margin: float = same_as("evaluation.benchmark.run_benchmark", "margin")
    chosen_only: bool = switch()
    whole_length: bool = switch()
    batch_size: int = same_as("evaluation.runs.Run", "batch_size")


def make_parser() -> CommandParser:
    """Return the parser of the command."""
    parser = CommandParser(
        "benchmark", BenchmarkOptions, TaskOptions, SampledDecodingOptions, ModelOptions, epilog=EXAMPLES
    )
    parser.set_defaults(num_prompts=300)
    return parser


def run(
    options: BenchmarkOptions, tasks: TaskOptions, decoding: SampledDecodingOptions, model_options: ModelOptions
) -> None:
    """Choose limits on validation prompts, report them on test prompts, and write tables, figures and the report."""
    from accelerate import PartialState

    from ..evaluation.archive import ARCHIVE_FILE, Archive
    from ..evaluation.report import environment
    from ..evaluation.runs import Run
    from ..evaluation.specs import parse_settings
    from ..locking import locked

    head = model_options.head_or_shipped
    settings = decoding.settings()
    specs = options.compare or _default_grid(has_head=head is not None, is_sampled=bool(decoding.temperature))
    grid = [parse_settings(spec, settings) for spec in specs]
    sizes = {"validation": options.num_validation, "test": tasks.num_prompts}
    # From a file, choosing and reporting use different prompts.
    starts = {"validation": 0, "test": options.num_validation}
    loaded = {split: load_tasks(tasks, split, size, starts[split]) for split, size in sizes.items() if size}
    seeds = {"validation": 1, "test": tasks.seeds}
    out = Path(options.out)
    with locked(out, is_shared=True):
        model, tokenizer = model_options.load(head, is_shared=True)
        if options.compare is None:
            grid = [row for row in grid if _can_run(model, row[0])]
        facts = run_facts(model_options, decoding.seed, model, tokenizer)
        keep_run_facts(out, facts, model)
        runs = {
            split: Run(loaded[split], seeds[split], out / split, options.batch_size, decoding.seed) for split in loaded
        }
        report = _compared(grid, runs, options, model, tokenizer)
        if PartialState().is_main_process:
            facts |= {
                "model": model_options.public_model,
                "head": model_options.public_head,
                "tasks": ", ".join(task.name for task in loaded["test"]),
                "prompts": sizes,
                "prompt_seed": tasks.prompt_seed,
                "seeds": tasks.seeds,
                **settings,
                "margin": options.margin,
                **environment(),
            }
            choosing = {
                "has_validation": "validation" in runs,
                "margin": options.margin,
                "has_whole_length": options.whole_length,
                "has_neighbours": not options.chosen_only,
            }
            Archive(facts, grid, choosing, report.outcomes).write(out / ARCHIVE_FILE)
            _write(report, out, facts, runs["test"], model, tokenizer)


def _compared(
    grid: Sequence[Sequence[Setting]],
    runs: dict[str, Run],
    options: BenchmarkOptions,
    model: DemaskGenerationMixin,
    tokenizer: PreTrainedTokenizerBase,
) -> Report:
    """Choose and decode the settings, and show how far that is."""
    from tqdm import tqdm

    from ..evaluation.benchmark import run_benchmark

    with tqdm(total=_most_settings(grid, options), unit="setting", desc="at most", disable=None) as bar:

        def decode(run: Run, setting: Setting) -> None:
            run.decode(model, tokenizer, setting)
            bar.update()

        return run_benchmark(
            grid,
            runs.get("validation"),
            runs["test"],
            decode,
            options.margin,
            options.whole_length,
            not options.chosen_only,
        )


def _most_settings(grid: Sequence[Sequence[Setting]], options: BenchmarkOptions) -> int:
    """Return how many settings are decoded at most, on both splits; which ones depends on what is chosen."""
    of_row = 1 if options.chosen_only else 3
    num_all, num_chosen = sum(map(len, grid)), sum(min(len(row), of_row) for row in grid)
    references = len({setting.reference().key for row in grid for setting in row})
    if not options.num_validation:
        return references + num_all * (2 if options.whole_length else 1)
    return num_all + num_chosen + 2 * references + (len(grid) if options.whole_length else 0)


def _default_grid(has_head: bool, is_sampled: bool) -> list[str]:
    """Return the grid of all strategies that the model can run."""
    from ..evaluation.grid import DEFAULT_GRID, SAMPLING_GRID

    grid = (*DEFAULT_GRID, *SAMPLING_GRID) if is_sampled else DEFAULT_GRID
    return [spec for spec in grid if has_head or "demask" not in spec]


def _can_run(model: DemaskGenerationMixin, setting: Setting) -> bool:
    """Return whether a model has the shadow tokens that a strategy may need; few kinds of attention do."""
    from ..backbones.backbone import Backbone
    from ..backbones.shadows import check_can_shadow
    from ..strategies import Shadows

    rule = setting.build()
    if not any(isinstance(need, Shadows) for need in rule.needs):
        return True
    try:
        mask_token_id = getattr(model.generation_config, "mask_token_id", None)
        check_can_shadow(Backbone.of(model, mask_token_id), rule.name, False)
    except ValueError:
        return False
    return True


def _write(
    report: Report,
    out: Path,
    facts: dict[str, Any],
    test: Run,
    model: DemaskGenerationMixin,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Write the files of a benchmark and print its table."""
    from ..bound.figures import dependency_figure
    from ..bound.verification import dependencies_before
    from ..evaluation.benchmark import markdown_table, text_table
    from ..evaluation.examples import example_settings, example_traces
    from ..evaluation.figures import frontier_figure, order_figure
    from ..evaluation.report import reference_rows, write_report
    from ..strategies.demask import DemaskStrategy

    rows = report.rows()
    chosen = [row for row in rows if row["is_chosen"]]
    write_text(out / "table.md", markdown_table(chosen))
    report.write(out / "summary.json")
    # JSON is YAML, which the leaderboard of d3LLM reads.
    write_json(out / "leaderboard.yaml", report.sweeps())
    frontier_figure(rows, out / "frontier.png")
    figures = {
        "Right answers against forward passes; bars: bounds of the difference to the reference.": "frontier.png"
    }
    records = {each.outcome.setting.label: test.records(each.outcome.setting)[0][0] for each in report.chosen}
    first = next(iter(records.values()))
    order_figure(
        {label: _names(tokenizer, record) for label, record in records.items()},
        {label: record.unmask_steps for label, record in records.items()},
        out / "order.png",
    )
    figures[f"Which step wrote which token of an answer to {first.prompt!r}."] = "order.png"
    if model.demask_head is not None:
        rule = DemaskStrategy()
        state = dependencies_before(model, tokenizer, first.prompt, rule, is_measured=False, temperature=1.0)
        dependency_figure(state.tokens, state.maps, out / "dependencies.png")
        figures["What the head predicts for that prompt before the first step, by most likely token."] = (
            "dependencies.png"
        )
    paths = {caption: out / name for caption, name in figures.items()}
    date = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    facts = {"date": date, "command": shlex.join(["demask-hf", *sys.argv[1:]]), **facts}
    examples = example_traces(model, tokenizer, example_settings(report.chosen, report.margin), test)
    write_report(out / "report.html", "Strategies compared", [*reference_rows(report), *rows], facts, paths, examples)
    print("\n".join(text_table(chosen)))
    print(f"wrote {out / 'report.html'}")


def _names(tokenizer: PreTrainedTokenizerBase, record: Record) -> list[str]:
    return list(tokenizer.convert_ids_to_tokens(list(record.tokens)))
