"""Prompts with answers: from JSON Lines, saved datasets or the Hub to token ids."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from transformers import PreTrainedTokenizerBase

from ..files import parsed_lines, read_text
from ..generation.encoding import Prompt, encode
from ..validation import check_choice


_Found = TypeVar("_Found")


@dataclass(frozen=True)
class TokenizedPrompt:
    """A prompt with one valid answer, as the model reads them.

    Args:
        prompt (`tuple[int, ...]`): Token ids of the prompt.
        answer (`tuple[int, ...]`): Token ids of the answer, without an end-of-sequence token.
    """

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


def read_prompts(
    source: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    split: str = "train",
    revision: str | None = None,
    use_chat_template: bool | None = None,
) -> list[TokenizedPrompt]:
    """Read prompts with answers.

    A record has the fields `prompt` and `answer`, or a field `messages` in the form of chat templates whose last
    message is the answer.

    Args:
        source (`str` or `Path`):
            A JSON Lines file, a folder written by `datasets.save_to_disk`, or a dataset of the Hub.
        tokenizer (`PreTrainedTokenizerBase`):
            The model's tokenizer.
        split (`str`, *optional*, defaults to "train"):
            Split of a dataset that has several.
        revision (`str`, *optional*):
            Revision of a dataset of the Hub.
        use_chat_template (`bool`, *optional*):
            Put prompts into the tokenizer's chat template; by default if the tokenizer has one.

    Returns:
        `list[TokenizedPrompt]`, in the order of the source.

    Raises:
        ValueError: if the source contains no record, or a record is broken; the message names its line.
        OSError: if the source cannot be found.
        ImportError: if the source is a dataset and `datasets` is not installed.
    """
    if use_chat_template is None:
        use_chat_template = tokenizer.chat_template is not None
    if use_chat_template and tokenizer.chat_template is None:
        raise ValueError("`use_chat_template` must be False for a tokenizer without a chat template, got True.")
    tokenized = partial(_tokenized, tokenizer=tokenizer, use_chat_template=use_chat_template)
    return list(_read(source, split, revision, tokenized))


def read_records(source: str | Path, split: str = "train", revision: str | None = None) -> Iterator[dict[str, Any]]:
    """Return the records of a source one by one, with the fields that are read and no others.

    Args:
        source (`str` or `Path`):
            As in [`read_prompts`].
        split (`str`, *optional*, defaults to "train"):
            Split of a dataset that has several.
        revision (`str`, *optional*):
            Revision of a dataset of the Hub.

    Raises:
        ValueError: if the source contains no record, or a record is broken; the message names its line.
        OSError: if the source cannot be found.
        ImportError: if the source is a dataset and `datasets` is not installed.
    """
    return _read(source, split, revision, _record)


def prompt_of(record: dict[str, Any]) -> Prompt:
    """Return the prompt of a record without its answer: a text, or the messages before the last."""
    return record["messages"][:-1] if "messages" in record else str(record["prompt"])


def templated(prompt: Prompt, use_chat_template: bool | None, tokenizer: PreTrainedTokenizerBase) -> Prompt:
    """Return the prompt of a record in the form in which [`read_prompts`] gives it to the model.

    Args:
        prompt (`str`, or messages):
            What [`prompt_of`] returns.
        use_chat_template (`bool`, *optional*):
            Put it into the chat template; by default if the tokenizer has one.
        tokenizer (`PreTrainedTokenizerBase`):
            The model's tokenizer.

    Raises:
        ValueError: if messages are given where no chat template is used.
    """
    if use_chat_template is None:
        use_chat_template = tokenizer.chat_template is not None
    if use_chat_template:
        return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if not isinstance(prompt, str):
        raise ValueError("`data` must have `prompt` and `answer` where no chat template is used, got `messages`.")
    return prompt


def check_source(source: str | Path, split: str = "train") -> None:
    """Raise the errors of [`read_prompts`] that need no tokenizer; a dataset of the Hub is not downloaded.

    Args:
        source (`str` or `Path`):
            As in [`read_prompts`].
        split (`str`, *optional*, defaults to "train"):
            Split of a dataset that has several.
    """
    if _is_local(source):
        for _ in read_records(source, split):
            pass


def _is_local(source: str | Path) -> bool:
    path = Path(source)
    return path.exists() or path.suffix in (".jsonl", ".json") or str(source).startswith(("/", "."))


def prompts_digest(prompts: Sequence[TokenizedPrompt]) -> str:
    """Return the SHA-256 of prompts and answers in their order."""
    return hashlib.sha256(repr([(prompt.prompt, prompt.answer) for prompt in prompts]).encode()).hexdigest()


def _read(source: str | Path, split: str, revision: str | None, read: Callable[[Any], _Found]) -> Iterator[_Found]:
    """Yield what `read` makes of each record; its errors get the place of the record."""
    is_empty = True
    for place, row in _rows(source, split, revision):
        is_empty = False
        try:
            found = read(row)
        except ValueError as error:
            raise ValueError(f"{place} of {str(source)!r} {error}") from None
        yield found
    if is_empty:
        raise ValueError(f"`data` must hold at least one record, got none in {str(source)!r}.")


def _record(row: Any) -> dict[str, Any]:
    """Return the fields of a record that are read."""
    _check_row(row)
    names = ("prompt", "answer") if row.get("messages") is None else ("messages",)
    return {name: row[name] for name in names}


def _rows(source: str | Path, split: str, revision: str | None) -> Iterator[tuple[str, Any]]:
    """Yield the records of a source, each with its place in words."""
    path = Path(source)
    if path.is_file():
        if split != "train":
            raise ValueError(f"`split` must be left out for a file, which is one split, got {split!r}.")
        yield from parsed_lines(read_text(path).split("\n"), path)
        return
    if _is_local(source) and not path.is_dir():
        raise OSError(
            f"`data` must be a file, a folder or a dataset of the Hub, got {str(source)!r}, which does not exist."
        )
    try:
        import datasets
    except ImportError:
        raise ImportError("`datasets` must be installed to read this data: pip install demask-hf[train].") from None
    if path.is_dir():
        table = datasets.load_from_disk(str(path))
        if isinstance(table, datasets.DatasetDict):
            check_choice("split", split, table)
            table = table[split]
    else:
        table = datasets.load_dataset(str(source), split=split, revision=revision)
    for number, row in enumerate(table, start=1):
        yield f"record {number}", row


def _tokenized(row: Any, tokenizer: PreTrainedTokenizerBase, use_chat_template: bool) -> TokenizedPrompt:
    """Return a record's token ids; the message of an error continues after the name of the record."""
    _check_row(row)
    if row.get("messages") is not None:
        messages = row["messages"]
        if not use_chat_template:
            raise ValueError("must have `prompt` and `answer` where no chat template is used, got `messages`.")
    else:
        messages = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["answer"]}]
    if not use_chat_template:
        prompt, answer = (message["content"] for message in messages)
        return TokenizedPrompt(tuple(encode(tokenizer, prompt)), _answer(tokenizer, answer))
    before, whole = (
        str(tokenizer.apply_chat_template(part, tokenize=False, add_generation_prompt=is_open))
        for part, is_open in ((messages[:-1], True), (messages, False))
    )
    # Including the template's end of turn, but not a line break after it.
    answer = whole.removeprefix(before).rstrip() if whole.startswith(before) else messages[-1]["content"]
    return TokenizedPrompt(tuple(encode(tokenizer, messages[:-1])), _answer(tokenizer, answer))


def _answer(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """Return the token ids of an answer, which continues a prompt."""
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def _check_row(row: Any) -> None:
    """Raise a `ValueError` unless a record has a prompt with an answer, or messages."""
    if not isinstance(row, dict):
        raise ValueError(f"must be a JSON object, got {type(row).__name__}.")
    if row.get("messages") is not None:
        _check_messages(row["messages"])
        return
    for name in ("prompt", "answer"):
        if not isinstance(row.get(name), str) or not row[name]:
            raise ValueError(f"must have a text `{name}` of at least one character, got {row.get(name)!r}.")


def _check_messages(messages: Any) -> None:
    is_list = isinstance(messages, list) and len(messages) >= 2
    if not is_list or not all(isinstance(message, dict) and message.get("content") for message in messages):
        raise ValueError("must have at least two `messages` with a `role` and a `content` each.")
    if messages[-1].get("role") != "assistant":
        raise ValueError(f"must end with a message of the assistant, got {messages[-1].get('role')!r}.")
