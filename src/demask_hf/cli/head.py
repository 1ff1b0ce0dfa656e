"""`demask-hf head`: from a bare backbone to a verified, calibrated and exported head, a command for each stage."""

from __future__ import annotations

import gc
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import keep_facts, read_json, write_json
from ..tables import Column, text_lines
from ..validation import check_choice
from .options import ModelOptions
from .parser import CommandParser, option, same_as, switch
from .prompts import DataOptions, training_prompts


if TYPE_CHECKING:
    from ..training.recipes import Estimate, Recipe

EXAMPLES = """examples:
  demask-hf head MODEL --data answers.jsonl --out head --dry-run
  demask-hf head MODEL --data answers.jsonl --out head --temperature 0.2 --push ORG/NAME
  demask-hf head MODEL --recipe paper --out head --num-processes 4

Each stage is a command of its own, which is printed. The head to use is OUT/exported in the end.
To resume after an interruption, run the same command again: complete stages are kept, and a stage that was interrupted
continues where it was. On several machines, run the printed commands of collect and train with the launcher there.
"""
# A stage that finds nothing to claim does not end the others.
_CLAIMS = ("verify", "calibrate")
# Options that change no head.
_NEUTRAL = ("out", "dry_run", "push", "num_processes", "license")


@dataclass(frozen=True)
class HeadOptions:
    """What the head is made from, and where it goes.

    Args:
        out (`str`):
            Folder of everything that is made.
        data (`str`, *optional*):
            Prompts with answers, as collect takes them; by default those of the recipe.
        recipe (`str`, *optional*, defaults to "quick"):
            quick measures for half an hour at most; paper has the data and the two stages of arXiv 2604.02560.
        temperature (`float`, *optional*, defaults to 1.0):
            Temperature that the head will be used at: of the measured dependencies, and of the calibration.
        answer_length (`int`, *optional*):
            Length of the answer in tokens; by default that of the model's settings, or else of the recipe.
        num_states (`int`, *optional*):
            States to measure instead of the number of the recipe.
        steps (`int`, *optional*):
            Optimizer steps instead of the number of the recipe.
        num_verified (`int`, *optional*):
            Prompts that verify the bound instead of the number of the recipe.
        num_calibrated (`int`, *optional*):
            Prompts that calibrate it instead of the number of the recipe; below 45, nothing can be certified.
        num_processes (`int`, *optional*, defaults to 1):
            Processes that collect and train, each on its own GPU.
        push (`str`, *optional*):
            Repository of the Hub to upload the head to.
        dry_run (`bool`, *optional*, defaults to `False`):
            Estimate the cost, print the commands, and stop.
        seed (`int`, *optional*, defaults to 0):
            Seed of everything.
    """

    out: str = field(metadata={"metavar": "DIR"})
    data: str | None = option(metavar="DATA")
    recipe: str = "quick"
    temperature: float = 1.0
    answer_length: int | None = None
    num_states: int | None = None
    steps: int | None = None
    num_verified: int | None = None
    num_calibrated: int | None = None
    num_processes: int = 1
    push: str | None = option(metavar="ORG/NAME")
    dry_run: bool = switch()
    seed: int = 0
    license: str | None = same_as("head.publishing.export_head", "license")

    def check(self) -> None:
        """Raise a `ValueError` if the recipe, the data or the repository cannot be used."""
        from ..head.publishing import check_repo_id
        from ..training.recipes import RECIPES

        check_choice("recipe", self.recipe, RECIPES)
        if self.push is not None:
            check_repo_id("push", self.push)
            if self.license is None:
                raise ValueError("`--license` must be given to publish a head with --push, such as apache-2.0.")
        if self.source is None:
            raise ValueError(f"`--data` must be given for the recipe {self.recipe!r}, which names no dataset.")

    @property
    def chosen_recipe(self) -> Recipe:
        """The recipe with the numbers that were given; a given number of states is not reduced."""
        from ..training.recipes import RECIPES

        recipe = RECIPES[self.recipe]
        if self.num_states is not None:
            recipe = replace(recipe, minutes=None)
        given = {name: getattr(self, name) for name in ("num_states", "steps", "num_verified", "num_calibrated")}
        return replace(recipe, **{name: value for name, value in given.items() if value is not None})

    @property
    def source(self) -> str | None:
        """The prompts: the given ones, else those of the recipe."""
        from ..training.recipes import RECIPES

        return self.data or RECIPES[self.recipe].data


def make_parser() -> CommandParser:
    """Return the parser of the command."""
    parser = CommandParser("head", HeadOptions, DataOptions, ModelOptions, epilog=EXAMPLES)
    parser.add_argument("path", metavar="MODEL", help="folder or Hub repository of the backbone")
    return parser


def run(options: HeadOptions, data: DataOptions, model_options: ModelOptions, path: str) -> None:
    """Estimate the cost, then run one stage after the other."""
    from ..locking import locked
    from ..training.prompts import check_source, read_records
    from ..training.recipes import PARTS, chosen_records, write_parts

    if model_options.model is not None or model_options.head is not None:
        raise ValueError("`MODEL` must be given alone, got --model or --head with it.")
    source, out, recipe = str(options.source), Path(options.out), options.chosen_recipe
    model_options = replace(model_options, model=path)
    check_source(source, data.split)
    with locked(out):
        asked = {name: value for name, value in asdict(options).items() if name not in _NEUTRAL}
        facts = {**asked, "model": path, "revision": model_options.revision, **asdict(data)}
        keep_facts(out / "head.json", facts, "head")
        if not (out / "data" / f"{PARTS[-1]}.jsonl").exists():
            records = chosen_records(
                read_records(source, data.split, data.data_revision),
                data.limit or 10 * recipe.num_states,
                options.seed,
            )
            sizes = write_parts(records, recipe, out / "data")
            print("prompts:", ", ".join(f"{size} to {part}" for part, size in sizes.items()))
        cost = _estimate(options, data, model_options, recipe)
        print("\n".join(_estimate_lines(cost)))
        stages = stage_commands(options, data, model_options, cost)
        for name, command in stages.items():
            print(f"  {name:<10} demask-hf {shlex.join(command)}")
        if not options.dry_run:
            _run_stages(stages, out, options.num_processes)


def _estimate(options: HeadOptions, data: DataOptions, models: ModelOptions, recipe: Recipe) -> Estimate:
    """Return what the stages will cost: measured now, or by an earlier run of the same command."""
    from ..training.recipes import Estimate, estimate
    from ..training.states import CollectionSettings

    file = Path(options.out) / "estimate.json"
    if file.exists():
        return Estimate(**read_json(file))
    model, tokenizer = models.load(None)
    prompts = training_prompts(str(Path(options.out) / "data" / "train.jsonl"), _of_parts(data), tokenizer)
    length = options.answer_length or model.generation_config.max_new_tokens
    length = length or min(recipe.answer_length, max(len(prompt.answer) for prompt in prompts) + 1)
    settings = CollectionSettings(
        num_states=recipe.num_states,
        answer_length=length,
        num_sources=recipe.num_sources,
        trajectory_ratio=recipe.trajectory_ratio,
        temperature=options.temperature,
        seed=options.seed,
    )
    found = estimate(model, prompts, settings, recipe)
    write_json(file, asdict(found))
    return found


def _of_parts(data: DataOptions) -> DataOptions:
    """Return how the written parts of the prompts are read."""
    return DataOptions(chat_template=data.chat_template)


def _estimate_lines(cost: Estimate) -> list[str]:
    """Return the table of the estimated cost."""
    from ..training.collection import size_text

    rows = [{"stage": name, "hours": hours} for name, hours in cost.hours.items()]
    rows.append({"stage": "together", "hours": sum(cost.hours.values())})
    columns = (Column("stage", "stage", is_text=True), Column("hours, about", "hours", ".2f"))
    return [
        f"{cost.num_states} states of {cost.answer_length} tokens, {cost.seconds_per_state:.3g} s each on this "
        f"{cost.device}; {size_text(cost.memory)} of memory, {size_text(cost.disk)} on disk",
        *text_lines(columns, rows),
        "the hours of verify and calibrate are rough: they follow from the number of sequences in forward passes",
    ]


def stage_commands(
    options: HeadOptions, data: DataOptions, models: ModelOptions, cost: Estimate
) -> dict[str, list[str]]:
    """Return the arguments of the command of each stage, in their order.

    Args:
        options ([`HeadOptions`]):
            What the head is made from.
        data ([`DataOptions`]):
            How prompts are read.
        models ([`ModelOptions`]):
            The backbone.
        cost ([`~training.recipes.Estimate`]):
            Says how many states are measured, and how long an answer is.
    """
    out, recipe, seed = Path(options.out), options.chosen_recipe, ["--seed", str(options.seed)]
    model = [part for name, value in _given(models) for part in (name, str(value))]
    template = {None: [], True: ["--chat-template"], False: ["--no-chat-template"]}[data.chat_template]
    # The calibration writes its certificate into the trained head.
    states, head = str(out / "states"), str(out / "trained")
    license = [] if options.license is None else ["--license", options.license]

    def prompts(part: str) -> list[str]:
        return ["--data", str(out / "data" / f"{part}.jsonl"), *template]

    # At temperature 0 all distributions are points: the bound is verified where it says something.
    drawn = ["--temperature", f"{options.temperature or 1.0:g}", "--max-new-tokens", str(cost.answer_length)]
    risk = "tv" if options.temperature else "disagreement"
    sources = ["--num-sources", str(recipe.num_sources), "--trajectory-ratio", f"{recipe.trajectory_ratio:g}"]
    return {
        "collect": [
            *("collect", *prompts("train"), "--out", states, "--num-states", str(cost.num_states), *sources),
            *("--answer-length", str(cost.answer_length), "--temperature", f"{options.temperature:g}", *seed, *model),
        ],
        "train": [
            *("train", "--data", states, "--out", head, "--steps", str(recipe.steps), "--width", str(recipe.width)),
            *("--batch-size", str(recipe.batch_size), *seed),
        ],
        "verify": [
            *("verify", *prompts("verify"), "--head", head, "--out", str(out / "verification.json"), *drawn),
            *("--num-draws", str(recipe.num_draws), *seed, *model),
        ],
        "calibrate": [
            *("calibrate", *prompts("calibrate"), "--head", head, "--risk", risk),
            *("--work", str(out / "calibration"), "--bounds", *(f"{bound:g}" for bound in recipe.bounds)),
            *("--temperature", f"{options.temperature:g}", *drawn[2:], *seed, *model),
        ],
        "export": [
            *("export", str(out / "exported"), "--head", head, *license),
            *([] if options.push is None else ["--repo", options.push]),
        ],
        **({} if options.push is None else {"push": ["push", options.push, "--head", head, *license]}),
    }


def _given(options: ModelOptions) -> Iterator[tuple[str, Any]]:
    """Yield the options of the model that are not the defaults."""
    for each in fields(ModelOptions):
        value = getattr(options, each.name)
        if value != each.default:
            yield f"--{each.name.replace('_', '-')}", value


def _run_stages(stages: dict[str, list[str]], out: Path, num_processes: int) -> None:
    """Run the stages that are not complete, and keep in a file which are and how long they took.

    Raises:
        ValueError: if a stage refuses.
    """
    from tqdm import tqdm

    file = out / "stages.json"
    done = read_json(file) if file.exists() else {}
    for number, (name, command) in enumerate(stages.items(), start=1):
        title = f"stage {number} of {len(stages)}, {name}:"
        if name in done:
            print(f"{title} complete, kept ({done[name]['outcome']})")
            continue
        print(title, flush=True)
        started, outcome = time.perf_counter(), "done"
        try:
            _run_stage(command, num_processes if name in ("collect", "train") else 1)
        except ValueError as error:
            if name not in _CLAIMS:
                raise
            outcome = f"nothing to claim: {str(error).rstrip('.')}"
        seconds = time.perf_counter() - started
        done[name] = {"outcome": outcome, "seconds": round(seconds, 1)}
        write_json(file, done)
        print(f"{title} {outcome}, in {tqdm.format_interval(seconds)}", flush=True)
        # The next stage loads the model again.
        gc.collect()
    print(f"the head is in {out / 'exported'}")


def _run_stage(command: list[str], num_processes: int) -> None:
    """Run a command here, or in several processes.

    Raises:
        ValueError: if the command refuses.
    """
    if num_processes == 1:
        from .main import carry_out

        carry_out(command[0], command[1:])
        return
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(num_processes)]
    if subprocess.run([*launch, "-m", "demask_hf", *command], check=False).returncode:
        raise ValueError(f"`num_processes` must be a number with which {command[0]} succeeds, got {num_processes}.")
