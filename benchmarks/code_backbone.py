"""The backbone of `code_model.py`: a small Dream that writes Python statements."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import torch
from code_statements import TASKS, Statement, StatementBatches, is_statement, rows_of
from infilling import Batch, decoded
from transformers import AutoModel, PreTrainedTokenizerFast

from demask_hf.models.dream.configuration_dream import DreamConfig
from demask_hf.models.dream.modeling_dream import DreamModel
from demask_hf.tiny.denoising import DenoisingTrainer


HEAD_SIZE = 64
TOKENS_PER_STEP = 4096
PARTS = {1000: 1000, 4000: 3000, 16000: 12000}


def build_model(tokenizer: PreTrainedTokenizerFast, hidden_size: int, num_layers: int) -> DreamModel:
    """Return a Dream with random weights."""
    end = tokenizer.eos_token_id
    config = DreamConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=hidden_size * 8 // 3 // 16 * 16,
        num_hidden_layers=num_layers,
        num_attention_heads=hidden_size // HEAD_SIZE,
        num_key_value_heads=hidden_size // HEAD_SIZE,
        max_position_embeddings=128,
        rope_theta=10000.0,  # type: ignore[call-arg]
        mask_token_id=tokenizer.mask_token_id,
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
    )
    return DreamModel(config)


def trained(  # noqa: PLR0913, the facts of a training
    tokenizer: PreTrainedTokenizerFast,
    statements: Sequence[Statement],
    work: Path,
    sizes: tuple[int, int],
    num_steps: int,
    is_mixed: bool,
    device: str,
    seed: int = 0,
) -> Any:
    """Return the trained model; resumes where it was interrupted.

    Args:
        tokenizer (`PreTrainedTokenizerFast`): The tokenizer.
        statements (`Sequence[Statement]`): Statements to train on.
        work (`Path`): Folder of the state and of the model.
        sizes (`tuple[int, int]`): Hidden size and number of layers.
        num_steps (`int`): Number of optimizer steps.
        is_mixed (`bool`): As in `DenoisingTrainer`.
        device (`str`): Device to train on.
        seed (`int`, *optional*, defaults to 0): Seed of weights and data.
    """
    folder = work / "backbone"
    if not (folder / "model.safetensors").exists():
        torch.manual_seed(seed)
        batches = StatementBatches(statements, tokenizer.eos_token_id, tokenizer.mask_token_id, seed, TOKENS_PER_STEP)
        trainer = DenoisingTrainer(
            build_model(tokenizer, *sizes), batches, num_steps, work / "state.pt", device, is_mixed
        )
        trainer.run()
        model: Any = trainer.average.module
        model.to(torch.bfloat16).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return AutoModel.from_pretrained(folder, dtype=torch.float32).to(device).eval()


@dataclass(frozen=True)
class Statements:
    """Statements that are to be written, or one expression in each; see `infilling.Domain`."""

    model: Any
    tokenizer: PreTrainedTokenizerFast
    tasks: tuple[str, str] = TASKS
    parts: dict[int, int] = field(default_factory=lambda: dict(PARTS))
    rows_together: int = 50

    def batch(self, items: Sequence[Statement], task: str, seed: int = 0) -> Batch:
        return Batch(*rows_of(items, [task] * len(items), self.tokenizer.eos_token_id, Random(seed)))

    def length(self, item: Statement) -> int:
        return item.length

    def record(self, sequence: torch.Tensor, is_open: torch.Tensor) -> dict[str, Any]:
        """Return what was written (`written`), and whether Python parses the whole statement (`parses`)."""
        # It lies between the last two end tokens that were not written.
        start = int(((sequence == self.tokenizer.eos_token_id) & ~is_open)[:-1].nonzero().max()) + 1
        whole = self.tokenizer.decode(sequence[start:-1])
        return {"written": self.tokenizer.decode(sequence[is_open]), "parses": is_statement(whole)}

    def share_parsed(self, items: Sequence[Statement], task: str, strategy: dict[str, Any]) -> float:
        """Return which share of the statements parses that the model writes, given their numbers of tokens."""
        batch = self.batch(items, task)
        written = decoded(self, batch, strategy, list(range(len(items)))).sequences
        rows = zip(written, batch.is_open, strict=True)
        return sum(self.record(*row)["parses"] for row in rows) / len(items)
