"""What commands read: prompts, examples of task families, tasks, and prompts with answers to train on."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..assets import TINY_DREAM
from ..files import read_text
from .options import ModelOptions
from .parser import CommandParser, Switch, option, same_as, switch


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..generation.encoding import Prompt
    from ..generation.mixin import DemaskGenerationMixin
    from ..tasks import Task, TaskExample
    from ..training.prompts import TokenizedPrompt

_READ_PROMPTS = "training.prompts.read_prompts"
_ESCAPES = {r"\n": "\n", r"\t": "\t", r"\\": "\\"}


@dataclass(frozen=True)
class PromptOptions:
    r"""Where prompts come from if not from the command line, and how they are read.

    Args:
        file (`str`, *optional*):
            Read one prompt from each line that is not empty; - is standard input.
        escapes (`bool`, *optional*, defaults to `False`):
            Read \n, \t and \\ in prompts as characters.
        chat (`bool`, *optional*, defaults to `False`):
            Put each prompt into the tokenizer's chat template.
    """

    _argument_group_name = "prompts"

    file: str | None = option(metavar="FILE")
    escapes: bool = switch(aliases="-e")
    chat: bool = switch()


@dataclass(frozen=True)
class ExampleOptions(PromptOptions):
    """Prompts of task families, or of a file.

    Args:
        data (`str`, *optional*):
            Take prompts, without their answers, from what collect reads: a JSON Lines file, a saved dataset, or a
            dataset of the Hub.
        chat_template (`bool`, *optional*):
            Put the prompts of --data into the tokenizer's chat template; by default if it has one.
        task (`list[str]`, *optional*):
            Task families; by default all.
        split (`str`, *optional*, defaults to "test"):
            Split of the families: train, validation or test.
        num_prompts (`int`, *optional*, defaults to 20):
            Prompts of each family.
    """

    data: str | None = option(metavar="DATA")
    chat_template: bool | None = same_as(
        _READ_PROMPTS, "use_chat_template", action=Switch, aliases="--no-chat-template"
    )
    task: list[str] | None = option(metavar="NAME")
    split: str = "test"
    num_prompts: int = 20

    def check(self) -> None:
        """Raise a `ValueError` if prompts have two sources."""
        if self.data is not None and (self.file is not None or self.task is not None):
            raise ValueError("`--data` must be used without --file and --task.")
        if self.data is None and self.chat_template is not None:
            raise ValueError("`--chat-template` must be used with --data.")


@dataclass(frozen=True)
class TaskOptions:
    """Tasks, and how often their prompts are decoded.

    Args:
        task (`list[str]`, *optional*):
            Task families, or formats of files; by default all families but parity.
        num_prompts (`int`, *optional*, defaults to 100):
            Prompts of each task.
        seeds (`int`, *optional*, defaults to 1):
            How often each prompt is decoded, each time with another seed.
        prompt_seed (`int`, *optional*, defaults to 0):
            Seed of the prompts of task families: another one gives other prompts of the same split.
        allow_code_execution (`str`, *optional*):
            Run the programs that the model writes for a task, shut in or not at all; with the word unconfined, run
            them with your own rights.
    """

    _argument_group_name = "tasks"

    task: list[str] | None = option(metavar="NAME[=FILE]")
    num_prompts: int = 100
    seeds: int = 1
    prompt_seed: int = 0
    allow_code_execution: str | None = option(
        nargs="?", const="confined", choices=("confined", "unconfined"), metavar="unconfined"
    )


@dataclass(frozen=True)
class DataOptions:
    """How prompts with answers are read; the options are those of [`read_prompts`], and a limit.

    Args:
        limit (`int`, *optional*):
            Use the first N prompts only.
    """

    _argument_group_name = "data"

    split: str = same_as(_READ_PROMPTS, "split")
    data_revision: str | None = same_as(_READ_PROMPTS, "revision")
    chat_template: bool | None = same_as(
        _READ_PROMPTS, "use_chat_template", action=Switch, aliases="--no-chat-template"
    )
    limit: int | None = option()


def add_prompts(parser: CommandParser) -> None:
    """Let a command take prompts as its arguments, see [`read_texts`]."""
    parser.add_argument(
        "prompts", nargs="*", metavar="PROMPT", help="A prompt; by default the lines of standard input"
    )


def read_texts(prompts: Sequence[str], options: PromptOptions) -> list[str]:
    """Return the prompts of the command line, or else those of the file or of standard input.

    Raises:
        ValueError: if there are none, or two sources, or an empty prompt.
    """
    if prompts and options.file is not None:
        raise ValueError("`--file` must be used without prompts on the command line.")
    if prompts:
        texts = list(prompts)
    elif options.file not in (None, "-"):
        texts = [line for line in read_text(Path(options.file)).split("\n") if line.strip()]
    else:
        lines: Iterable[str] = [] if sys.stdin.isatty() else sys.stdin
        texts = [line.removesuffix("\n") for line in lines if line.strip()]
    if not texts:
        raise ValueError("a prompt must be given: before --compare, with --file, or on standard input.")
    if not all(texts):
        raise ValueError("`prompt` must hold at least one character, got an empty one.")
    if options.escapes:
        return [re.sub(r"\\[nt\\]", lambda match: _ESCAPES[match[0]], text) for text in texts]
    return texts


def model_prompts(prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase, options: PromptOptions) -> list[Prompt]:
    """Return what the model is asked: the texts, or the messages of a chat.

    Warns of text that the tokenizer does not know.

    Raises:
        ValueError: if a chat template is requested and there is none.
    """
    for prompt in prompts:
        if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in tokenizer(prompt)["input_ids"]:
            print(f"demask-hf: warning: the tokenizer does not know some characters of {prompt!r}.", file=sys.stderr)
    if not options.chat:
        return list(prompts)
    if tokenizer.chat_template is None:
        raise ValueError("`--chat` must be used with a tokenizer that has a chat template, got one without.")
    return [[{"role": "user", "content": prompt}] for prompt in prompts]


def warn_of_missing_space(texts: Sequence[str], options: ModelOptions) -> None:
    """Say so if prompts of the shipped checkpoint lack the space at their end, without which it answers badly."""
    if options.model_or_shipped == TINY_DREAM and any(text.endswith("->") for text in texts):
        print(
            "demask-hf: warning: prompts of the shipped checkpoint end with '-> ', and the last space is missing.",
            file=sys.stderr,
        )


def family_examples(options: ExampleOptions) -> list[TaskExample]:
    """Return the examples of the chosen families; none where the prompts come from a file.

    Raises:
        ValueError: if a family is unknown, there is no prompt to take, or a file is given as well.
    """
    if options.data is not None:
        return []
    if options.file is not None:
        if options.task is not None:
            raise ValueError("`--file` must be used without --task.")
        return []
    from ..tasks import FAMILIES

    names = options.task or list(FAMILIES)
    for name in names:
        if name not in FAMILIES:
            raise ValueError(f"`--task` must be among {', '.join(FAMILIES)}, got {name!r}.")
    _check_num_prompts(options.num_prompts)
    return [example for name in names for example in FAMILIES[name].distinct(options.split, options.num_prompts)]


def file_texts(options: ExampleOptions) -> list[Prompt]:
    """Return the prompts of the file, see [`read_texts`], or of the data; none where they come from families."""
    if options.data is not None:
        from ..training.prompts import prompt_of, read_records

        return [prompt_of(record) for record in read_records(options.data)]
    return [] if options.file is None else list(read_texts([], options))


def grouped_prompts(
    examples: Sequence[TaskExample],
    texts: Sequence[Prompt],
    options: ExampleOptions,
    tokenizer: PreTrainedTokenizerBase,
) -> list[tuple[str, Prompt]]:
    """Return group and prompt of the examples, or else of the texts of the file or the data.

    Raises:
        ValueError: if a chat template is needed and there is none, or messages are given where none is used.
    """
    if options.data is not None:
        from ..training.prompts import templated

        name = Path(options.data).name
        return [(name, templated(prompt, options.chat_template, tokenizer)) for prompt in texts]
    if options.file is None:
        return [(example.family, example.prompt) for example in examples]
    lines = [prompt for prompt in texts if isinstance(prompt, str)]
    return [(Path(options.file).name, prompt) for prompt in model_prompts(lines, tokenizer, options)]


def load_tasks(options: TaskOptions, split: str, num_prompts: int, start: int = 0) -> list[Task]:
    """Return the requested tasks.

    Args:
        options ([`TaskOptions`]):
            Their names.
        split (`str`):
            Split of the task families; a file is one split.
        num_prompts (`int`):
            Prompts of each task.
        start (`int`, *optional*, defaults to 0):
            Number of prompts of a file to skip, because they are used elsewhere.

    Raises:
        ValueError: if a task is unknown or needs an argument, or `num_prompts` is below 1.
    """
    from ..tasks import FAMILIES, load_task

    _check_num_prompts(num_prompts)
    tasks = []
    word = options.allow_code_execution
    allowed: bool | str = word if word == "unconfined" else word is not None
    for spec in options.task or [name for name in FAMILIES if name != "parity"]:
        name, _, path = spec.partition("=")
        if not path:
            tasks.append(load_task(name, split=split, num_examples=num_prompts, seed=options.prompt_seed))
            continue
        task = load_task(name, path, allow_code_execution=allowed)
        tasks.append(dataclasses.replace(task, examples=task.examples[start : start + num_prompts]))
    return tasks


def training_prompts(source: str, options: DataOptions, tokenizer: PreTrainedTokenizerBase) -> list[TokenizedPrompt]:
    """Return prompts with answers of a file, folder or dataset."""
    from ..training.prompts import read_prompts

    prompts = read_prompts(source, tokenizer, options.split, options.data_revision, options.chat_template)
    return prompts[: options.limit]


def provenance(source: str, data: DataOptions, options: ModelOptions, model: DemaskGenerationMixin) -> dict[str, Any]:
    """Return where model and data come from, for the records of a collection."""
    revision = getattr(model.config, "_commit_hash", None) or options.revision
    return {"model": options.public_model, "model_revision": revision, "data": source, "data_split": data.split}


def _check_num_prompts(num_prompts: int) -> None:
    if num_prompts < 1:
        raise ValueError(f"`--num-prompts` must be at least 1, got {num_prompts}.")
