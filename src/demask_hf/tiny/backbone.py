"""Training of the small Dream backbone on the task families."""

from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from ..functional.masking import random_mask
from ..generation.configuration import DemaskGenerationConfig
from ..models.dream.configuration_dream import DreamConfig
from ..models.dream.modeling_dream import DreamModel
from ..tasks import FAMILIES, TaskFamily
from .denoising import DenoisingTrainer
from .tokenizer import build_tokenizer


ANSWER_LENGTH = 32
BATCH_SIZE = 64
NUM_STEPS = 6_800
# Lists have four operations; parity is included only to show where pairwise dependencies must fail.
_WEIGHTS = {
    "pairs": 1.2,
    "sentences": 0.8,
    "bill": 1.2,
    "shuffle": 1.5,
    "brackets": 1.2,
    "lists": 1.8,
    "sudoku": 1.0,
    "parity": 0.8,
}
#: Weight of each family among the training examples.
MIXTURE: dict[TaskFamily, float] = {FAMILIES[name]: weight for name, weight in _WEIGHTS.items()}


def build_backbone(tokenizer: PreTrainedTokenizerFast) -> DreamModel:
    """Return the small Dream model with random weights (about 1.9 million parameters)."""
    config = DreamConfig(
        vocab_size=len(tokenizer),
        hidden_size=160,
        intermediate_size=432,
        num_hidden_layers=6,
        num_attention_heads=5,
        num_key_value_heads=5,
        max_position_embeddings=512,
        rope_theta=10000.0,  # type: ignore[call-arg]
        mask_token_id=tokenizer.mask_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return DreamModel(config)


class TrainingBatches:
    """Batches of the task mixture; each depends on the seed and the step only, so that training can resume.

    Args:
        tokenizer (`PreTrainedTokenizerFast`):
            Tokenizer of the small checkpoint.
        seed (`int`):
            Seed of the mixture and of the masks.
        mixture (`Mapping[TaskFamily, float]`, *optional*):
            Weight of each family; by default those of the shipped checkpoint.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, seed: int, mixture: Mapping[TaskFamily, float] = MIXTURE):
        self.tokenizer, self.seed, self.mixture = tokenizer, seed, mixture

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        """Return `input_ids`, `attention_mask`, `labels` (-100 where visible) and `weights`, all `(batch, length)`.

        Answers are followed by end-of-sequence tokens up to a length between the shortest that fits and that of
        the shipped settings, so that the model does not rely on the end of the sequence.
        """
        random = Random(f"{self.seed}/{step}")
        generator = torch.Generator().manual_seed(hash((self.seed, step)))
        families = random.choices(list(self.mixture), list(self.mixture.values()), k=BATCH_SIZE)
        examples = [next(family.examples("train", seed=random.getrandbits(48))) for family in families]
        prompts = self.tokenizer([example.prompt for example in examples], padding=True, return_tensors="pt")
        tokens = self.tokenizer([example.answer for example in examples])["input_ids"]
        answer_length = random.randint(max(map(len, tokens)) + 1, ANSWER_LENGTH)
        eos = self.tokenizer.eos_token_id
        answers = torch.full((BATCH_SIZE, answer_length), eos)
        for row, answer in enumerate(tokens):
            answers[row, : len(answer)] = torch.tensor(answer)
        is_padding = (answers == eos).cumsum(-1) > 1
        masked = random_mask(torch.ones_like(answers, dtype=torch.bool), generator)
        visible = torch.where(masked, self.tokenizer.mask_token_id, answers)
        ignored = torch.full_like(prompts["input_ids"], -100)
        return {
            "input_ids": torch.cat([prompts["input_ids"], visible], dim=1),
            "attention_mask": torch.nn.functional.pad(prompts["attention_mask"], (0, answer_length), value=1),
            "labels": torch.cat([ignored, answers.masked_fill(~masked, -100)], dim=1),
            "weights": torch.cat([torch.zeros_like(ignored), torch.ones_like(answers)], dim=1)
            * torch.nn.functional.pad(1.0 - 0.9 * is_padding.float(), (ignored.shape[1], 0)),
        }


class BackboneTrainer(DenoisingTrainer):
    """Train the small backbone.

    Args:
        seed (`int`): Seed of weights and data.
        num_steps (`int`): Number of optimizer steps.
        state_file (`Path`): File of the state, for resuming.
        device (`str`): Device to train on.
        mixture (`Mapping[TaskFamily, float]`, *optional*): Weight of each family; by default as shipped.
        is_mixed (`bool`, *optional*, defaults to `False`): As in [`DenoisingTrainer`].
    """

    def __init__(  # noqa: PLR0913, the facts of a training
        self,
        seed: int,
        num_steps: int,
        state_file: Path,
        device: str,
        mixture: Mapping[TaskFamily, float] = MIXTURE,
        is_mixed: bool = False,
    ):
        torch.manual_seed(seed)
        self.tokenizer = build_tokenizer(mixture)
        batches = TrainingBatches(self.tokenizer, seed, mixture)
        super().__init__(build_backbone(self.tokenizer), batches, num_steps, state_file, device, is_mixed)

    @property
    def trained(self) -> DreamModel:
        """The averaged model, in eval mode, with the settings that it decodes with."""
        model: Any = self.average.module.eval()
        model.generation_config = DemaskGenerationConfig(max_new_tokens=ANSWER_LENGTH)
        return model
