"""Short statements of Python's standard library for `code_model.py`: their source, their tokens, their batches.

A row is a context, an end token, the statement and an end token; the context is the statement before, or the head of
the block. The licence of the standard library (PSF) allows this use; statements are read from the running Python and
not part of the repository, so their number depends on its version.
"""

import ast
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from demask_hf.files import read_json, write_json
from demask_hf.functional.masking import random_mask


SPLITS = ("train", "validation", "test")
TASKS = ("statement", "expression")
END, MASK = "<|end|>", "<|mask|>"
# Tokens of a statement, and of an expression in it.
_SIZES, _SPAN_SIZES = range(6, 25), range(4, 17)
_LONGEST_TEXT, _LONGEST_CONTEXT = 80, 24
_BLOCKS = ("body", "orelse", "finalbody")
# One file in twenty for each of the two splits that are not trained on.
_SHARE = 20
_EXPRESSION_SHARE, _WHOLE_SHARE = 1 / 3, 0.25
_BUCKET = 8


@dataclass(frozen=True)
class Statement:
    """A statement with its context.

    Args:
        context (`list[int]`): Token ids of what comes before it.
        tokens (`list[int]`): Its token ids.
        spans (`list[list[int]]`): First and last place of the expressions in it, as places of `tokens`; the last one
            is not in it.
    """

    context: list[int]
    tokens: list[int]
    spans: list[list[int]] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Number of tokens of its row."""
        return len(self.context) + len(self.tokens) + 2


def is_statement(text: str) -> bool:
    """Return whether Python parses a text as one statement."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return len(ast.parse(text).body) == 1
    # Too many brackets within each other are a MemoryError or RecursionError of the parser.
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False


def read_statements(root: Path) -> dict[str, dict[str, str]]:
    """Return the distinct short simple statements of the Python files below a folder, by split.

    Returns:
        `dict` from split to `dict` from the statement to its context. Files are split by their names; statements that
        training files have, too, are in no other split.
    """
    found: dict[str, dict[str, str]] = {split: {} for split in SPLITS}
    files = [file for file in sorted(root.rglob("*.py")) if "site-packages" not in file.parts]
    for file in tqdm(files, desc="files", unit="file"):
        digest = int(sha256(file.relative_to(root).as_posix().encode()).hexdigest(), 16) % _SHARE
        own = found[{1: "validation", 2: "test"}.get(digest, "train")]
        for text, context in _statements_of(file):
            own.setdefault(text, context)
    for split in SPLITS[1:]:
        found[split] = {text: context for text, context in found[split].items() if text not in found["train"]}
    return found


def _statements_of(file: Path) -> Iterator[tuple[str, str]]:
    """Yield the simple statements of a file, in one line, each with its context."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError):
            return
    for parent in ast.walk(tree):
        for block in _BLOCKS:
            before = "" if isinstance(parent, ast.Module) else parent
            statements = getattr(parent, block, None)
            for node in statements if isinstance(statements, list) else ():
                if not hasattr(node, "body"):
                    text = ast.unparse(node)
                    if text.isascii() and "\n" not in text and len(text) <= _LONGEST_TEXT:
                        yield text, before if isinstance(before, str) else _head_of(before)
                before = node


def _head_of(node: ast.AST) -> str:
    """Return the first line of a node."""
    return ast.unparse(node).lstrip("\n").split("\n", 1)[0]


def new_tokenizer(texts: Sequence[str], size: int) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer (BPE) of given texts."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[END, MASK], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=END,
        pad_token=END,
        mask_token=MASK,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def tokenized(tokenizer: PreTrainedTokenizerFast, statements: dict[str, str]) -> list[Statement]:
    """Return the statements with a suitable number of tokens."""
    texts = list(statements)
    if not texts:
        return []
    encoded = tokenizer(texts, return_offsets_mapping=True)
    contexts = tokenizer(list(statements.values()))["input_ids"]
    return [
        Statement(context[-_LONGEST_CONTEXT:], tokens, _spans_of(text, offsets))
        for text, tokens, offsets, context in zip(
            texts, encoded["input_ids"], encoded["offset_mapping"], contexts, strict=True
        )
        if len(tokens) in _SIZES
    ]


def _spans_of(text: str, offsets: list[tuple[int, int]]) -> list[list[int]]:
    """Return the places of the tokens that the expressions within a statement touch."""
    found = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nodes = list(ast.walk(ast.parse(text)))
    for node in nodes:
        if isinstance(node, ast.expr):
            start, end = node.col_offset, node.end_col_offset or 0
            touched = [place for place, (first, last) in enumerate(offsets) if first < end and last > start]
            if len(touched) in _SPAN_SIZES and len(touched) < len(offsets):
                found.add((touched[0], touched[-1] + 1))
    return [list(span) for span in sorted(found)]


def load_statements(work: Path, vocabulary: int) -> tuple[PreTrainedTokenizerFast, dict[str, list[Statement]]]:
    """Return the tokenizer and the statements by split; read from the standard library once, then from the folder."""
    file = work / "statements.json"
    if not file.exists():
        found = read_statements(Path(sysconfig.get_paths()["stdlib"]))
        tokenizer = new_tokenizer(list(found["train"]), vocabulary)
        tokenizer.save_pretrained(work / "tokenizer")
        own = {split: [vars(one) for one in tokenized(tokenizer, found[split])] for split in SPLITS}
        write_json(file, own)
    facts: dict[str, Any] = read_json(file)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(work / "tokenizer")
    return tokenizer, {split: [Statement(**fields) for fields in facts[split]] for split in SPLITS}


class StatementBatches:
    """Training batches; each depends on the seed and the step only.

    Rows of a batch have about the same length. In a third of them a part of one expression is masked, in the others
    a part of the statement; in a quarter this part is all of it.

    Args:
        statements (`Sequence[Statement]`): Statements to train on.
        end (`int`): Id of the token around statements and at padding.
        mask (`int`): Id of the mask token.
        seed (`int`): Seed of statements and masks.
        num_tokens (`int`): Number of tokens of a batch, padding included.
    """

    def __init__(self, statements: Sequence[Statement], end: int, mask: int, seed: int, num_tokens: int):
        self.end, self.mask, self.seed, self.num_tokens = end, mask, seed, num_tokens
        self.buckets: dict[int, list[Statement]] = {}
        for statement in statements:
            self.buckets.setdefault(-(-statement.length // _BUCKET) * _BUCKET, []).append(statement)

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        """Return `input_ids`, `attention_mask`, `labels` (-100 where visible) and `weights`, all `(batch, length)`."""
        random = Random(f"{self.seed}/{step}")
        generator = torch.Generator().manual_seed(random.getrandbits(48))
        sizes = [length * len(bucket) for length, bucket in self.buckets.items()]
        ((length, bucket),) = random.choices(list(self.buckets.items()), sizes)
        chosen = random.choices(bucket, k=max(1, self.num_tokens // length))
        tasks = ["expression" if random.random() < _EXPRESSION_SHARE else "statement" for _ in chosen]
        truth, attention_mask, is_open = rows_of(chosen, tasks, self.end, random, length)
        masked = random_mask(is_open, generator)
        masked |= is_open & (torch.rand(len(chosen), 1, generator=generator) < _WHOLE_SHARE)
        return {
            "input_ids": truth.masked_fill(masked, self.mask),
            "attention_mask": attention_mask,
            "labels": truth.masked_fill(~masked, -100),
            "weights": torch.ones(truth.shape),
        }


def rows_of(
    statements: Sequence[Statement], tasks: Sequence[str], end: int, random: Random, length: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return token ids, attention mask, and the places to write, all `(rows, length)`, padded on the left.

    Args:
        statements (`Sequence[Statement]`): The statements.
        tasks (`Sequence[str]`): For each of them, "statement" if all of it is to be written, "expression" if one
            expression of it is; of a statement without one, all of it.
        end (`int`): Id of the token around statements and at padding.
        random (`Random`): Chooses the expressions.
        length (`int`, *optional*, defaults to 0): Smallest number of columns.
    """
    width = max(length, *(statement.length for statement in statements))
    truth = torch.full((len(statements), width), end)
    attention_mask = torch.zeros_like(truth)
    is_open = torch.zeros_like(truth, dtype=torch.bool)
    for row, (statement, task) in enumerate(zip(statements, tasks, strict=True)):
        truth[row, width - statement.length : -1] = torch.tensor([*statement.context, end, *statement.tokens])
        attention_mask[row, width - statement.length :] = 1
        first, last = 0, len(statement.tokens)
        if task == "expression" and statement.spans:
            first, last = random.choice(statement.spans)
        start = width - 1 - len(statement.tokens)
        is_open[row, start + first : start + last] = True
    return truth, attention_mask, is_open
