"""AntiBERTy with our `generate`, its tokenizer, and states of it to train a dependency head on.

The checkpoint (Ruffolo and others, arXiv 2112.07782; MIT) comes in a wheel as a pickle. It is read once, without
running code from it, and kept as safetensors.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from antibody_chains import Chain
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

import demask_hf
from demask_hf.backbones.backbone import Backbone, backbone_facts
from demask_hf.files import keep_facts
from demask_hf.functional.masking import random_mask
from demask_hf.functional.sampling import Sampling
from demask_hf.training.collection import fill_shards
from demask_hf.training.examples import DependencyExample, Examples, measure_examples
from demask_hf.training.store import COLLECTION_FILE, SHARDS, StoredExamples


PACKAGE, VERSION = "antiberty", "0.1.3"
SPAN = 12
TASKS = ("loop", "span")
TEMPERATURE = 1.0
# Heads are trained on the states of the first one, two, ... of these parts.
PARTS = {96: 96, 400: 304, 1000: 600, 4000: 3000}
_SHARD = 32
# All tokens of all sources of a state are hundreds of forwards.
_STATES_TOGETHER = {"train": _SHARD, "loop": 4}
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


@dataclass(frozen=True)
class Batch:
    """Left-padded chains with the places to write.

    Args:
        truth (`torch.LongTensor` of shape `(chains, length)`): Token ids of the chains.
        attention_mask (`torch.LongTensor` of shape `(chains, length)`): 0 at padding.
        is_open (`torch.BoolTensor` of shape `(chains, length)`): The places to write.
    """

    truth: torch.Tensor
    attention_mask: torch.Tensor
    is_open: torch.Tensor

    def masked(self, mask_token_id: int) -> torch.Tensor:
        """Return the chains with all these places masked."""
        return self.truth.masked_fill(self.is_open, mask_token_id)


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


def measured_states(
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    chains: Sequence[Chain],
    folder: Path,
    kind: str,
    count: int,
    seed: int,
) -> StoredExamples:
    """Draw states and measure them at the temperature in use; resumes after the last complete shard.

    Args:
        model: The model.
        tokenizer (`PreTrainedTokenizerFast`): Its tokenizer.
        chains (`Sequence[Chain]`): Where the states come from.
        folder (`Path`): Folder of the collection.
        kind (`str`): One of `KINDS`.
        count (`int`): Number of states.
        seed (`int`): A shard is a function of the seed and its number.
    """
    num_shards = -(-count // _SHARD)
    facts = {"num_states": count, "num_shards": num_shards, "seed": seed, "kind": kind, **vars(KINDS[kind])}
    facts |= {"num_chains": len(chains), "temperature": TEMPERATURE, "backbone": backbone_facts(model)}
    keep_facts(folder / COLLECTION_FILE, facts, "collection", [SHARDS])
    sizes = {index: min(_SHARD, count - index * _SHARD) for index in range(num_shards)}

    def shard(index: int) -> list[list[DependencyExample]]:
        generator = torch.Generator().manual_seed(1000 * seed + index)
        # No chain twice in a shard if there are enough.
        order = torch.randperm(len(chains), generator=generator).repeat(-(-sizes[index] // len(chains)))
        order = order[: sizes[index]]
        chosen = sorted((chains[place] for place in order.tolist()), key=lambda chain: len(chain.residues))
        size = _STATES_TOGETHER[kind]
        parts = [chosen[start : start + size] for start in range(0, len(chosen), size)]
        return [measured(model, tokenizer, part, KINDS[kind], generator) for part in parts]

    fill_shards(folder, sizes, shard, facts=facts)
    return StoredExamples(folder)


@dataclass(frozen=True)
class Kind:
    """Which states are drawn and how they are measured.

    Args:
        estimator (`str`): As in [`measure_examples`].
        num_sources (`int`): Likewise.
        share_of_spans (`float`): Share of the states that are of a random span; the others are of the third loop.
        share_of_whole (`float`): Share in which everything is masked. In the others a random part is visible: the
            residues of the chain, or as often residues that the model drew.
    """

    estimator: str
    num_sources: int
    share_of_spans: float
    share_of_whole: float


# States in which everything is masked come first in every decoding, and random ratios hardly ever mask all.
KINDS = {
    "train": Kind("sample", 8, 1 / 3, 0.25),
    "loop": Kind("expectation", 64, 0.0, 1.0),
}


def measured(
    model: Any, tokenizer: Any, chains: Sequence[Chain], kind: Kind, generator: torch.Generator
) -> list[DependencyExample]:
    """Return one measured state of each chain."""
    seed, mask = int(torch.randint(1 << 40, (), generator=generator)), tokenizer.mask_token_id
    batches = [batch_of(tokenizer, chains, task, seed) for task in TASKS]
    truth, attention_mask = batches[0].truth, batches[0].attention_mask
    draws = torch.rand(3, len(chains), 1, generator=generator)
    is_open = torch.where(draws[0] < kind.share_of_spans, batches[1].is_open, batches[0].is_open)
    candidates, visible = is_open, truth
    if kind.share_of_whole < 1:
        candidates = torch.where(draws[1] < kind.share_of_whole, is_open, random_mask(is_open, generator))
        drawn = model.generate(
            truth.masked_fill(is_open, mask),
            attention_mask,
            strategy="distance",
            max_new_tokens=0,
            temperature=TEMPERATURE,
            seed=[seed + row for row in range(len(chains))],
        )
        visible = torch.where(draws[2] < 0.5, truth, drawn)
    return measure_examples(
        Backbone.of(model),
        visible.masked_fill(candidates, mask),
        None if attention_mask.all() else attention_mask,
        candidates,
        kind.num_sources,
        generator,
        kind.estimator,
        min_probability=0.01,
        sampling=Sampling(temperature=TEMPERATURE),
    )


def training_states(model: Any, tokenizer: Any, chains: Sequence[Chain], work: Path, count: int) -> Examples:
    """Return the first states of the training chains, in memory; `count` is one of `PARTS`."""
    parts = [(total, own) for total, own in PARTS.items() if total <= count]
    found: list[DependencyExample] = []
    for seed, (total, own) in enumerate(parts, start=1):
        stored = measured_states(model, tokenizer, chains, work / f"states_{total}", "train", own, seed)
        found += [stored[index] for index in range(len(stored))]
    return found
