"""AntiBERTy with our `generate`, its tokenizer, and what it may write.

The checkpoint (Ruffolo and others, arXiv 2112.07782; MIT) comes in a wheel as a pickle. It is read once, without
running code from it, and kept as safetensors.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from antibody_chains import Chain
from infilling import Batch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

import demask_hf


PACKAGE, VERSION = "antiberty", "0.1.3"
SPAN = 12
TASKS = ("loop", "span")
PARTS = {96: 96, 400: 304, 1000: 600, 4000: 3000}
_CHECKPOINT = "antiberty/trained_models/AntiBERTy_md_smooth"


def wheel_folder() -> Path:
    """Return the folder that the wheel was installed into.

    Raises:
        ModuleNotFoundError: if it is not installed.
    """
    try:
        return Path(str(metadata.distribution(PACKAGE).locate_file("")))
    except metadata.PackageNotFoundError as error:
        message = f"{PACKAGE} is missing: pip install --no-deps {PACKAGE}=={VERSION}"
        raise ModuleNotFoundError(message) from error


def load_model(cache: Path, wheel: Path | None = None, dtype: str = "bfloat16") -> tuple[Any, PreTrainedTokenizerFast]:
    """Return AntiBERTy with our `generate`, and its tokenizer.

    Args:
        cache (`Path`): Folder for the converted checkpoint.
        wheel (`Path`, *optional*): Folder with the unpacked wheel; by default where it is installed.
        dtype (`str`, *optional*, defaults to "bfloat16"): Precision of the weights.
    """
    if not (cache / "config.json").exists():
        convert((wheel or wheel_folder()) / _CHECKPOINT, cache)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(cache)
    model = BertForMaskedLM.from_pretrained(cache, dtype=getattr(torch, dtype)).eval()
    return demask_hf.attach(model, tokenizer=tokenizer), tokenizer


def convert(checkpoint: Path, cache: Path) -> None:
    """Write a checkpoint as safetensors, with its config and its tokenizer."""
    weights = torch.load(checkpoint / "pytorch_model.bin", map_location="cpu", weights_only=True)
    cache.mkdir(parents=True, exist_ok=True)
    # Without the pooler and the three classifiers on top of it, and without the numbers of the positions.
    unused = ("pooler", "position_ids", "cls.species", "cls.chain", "cls.graft")
    kept = {name: tensor.clone() for name, tensor in weights.items() if not any(part in name for part in unused)}
    save_file(kept, cache / "model.safetensors", {"format": "pt"})
    words = (checkpoint.parent / "vocab.txt").read_text(encoding="utf-8").split()
    new_tokenizer(words).save_pretrained(cache)
    fields = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    names += ("max_position_embeddings", "hidden_act", "layer_norm_eps", "pad_token_id", "type_vocab_size")
    BertConfig(**{name: fields[name] for name in names}).save_pretrained(cache)


def new_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """Return a tokenizer of single residues, for special tokens in brackets followed by the residues."""
    vocabulary = {word: index for index, word in enumerate(words)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"\[[A-Z]+\]|."), behavior="isolated")
    special = [(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=special)
    names = {f"{name.lower()}_token": f"[{name}]" for name in ("CLS", "SEP", "MASK", "PAD", "UNK")}
    return PreTrainedTokenizerFast(tokenizer_object=backend, padding_side="left", **names)


def batch_of(tokenizer: PreTrainedTokenizerFast, chains: Sequence[Chain], task: str, seed: int = 0) -> Batch:
    """Return chains with their third loop to write ("loop"), or a random span of 12 residues ("span")."""
    inputs = tokenizer([chain.residues for chain in chains], padding=True, return_tensors="pt")
    truth, attention_mask = inputs["input_ids"], inputs["attention_mask"]
    generator = torch.Generator().manual_seed(seed)
    is_open = torch.zeros_like(truth, dtype=torch.bool)
    for row, chain in enumerate(chains):
        start, end = chain.start, chain.end
        if task == "span":
            start = int(torch.randint(len(chain.residues) - SPAN + 1, (), generator=generator))
            end = start + SPAN
        # The start token, and padding before it.
        first = 1 + int(attention_mask[row].argmax())
        is_open[row, first + start : first + end] = True
    return Batch(truth, attention_mask, is_open)


@dataclass(frozen=True)
class Antibodies:
    """Heavy chains whose third loop, or a random span of 12 residues, is to be written; see `infilling.Domain`."""

    model: Any
    tokenizer: PreTrainedTokenizerFast
    tasks: tuple[str, str] = TASKS
    parts: dict[int, int] = field(default_factory=lambda: dict(PARTS))
    rows_together: int = 10

    def batch(self, items: Sequence[Chain], task: str, seed: int = 0) -> Batch:
        return batch_of(self.tokenizer, items, task, seed)

    def length(self, item: Chain) -> int:
        return len(item.residues)

    def record(self, sequence: torch.Tensor, is_open: torch.Tensor) -> dict[str, Any]:
        return {"written": "".join(self.tokenizer.convert_ids_to_tokens(sequence[is_open].tolist()))}
