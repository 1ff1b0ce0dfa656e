"""Training of the small Dream backbone on the task families."""

import time
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from ..files import replacing
from ..functional.masking import random_mask
from ..generation.configuration import DemaskGenerationConfig
from ..models.dream.configuration_dream import DreamConfig
from ..models.dream.modeling_dream import DreamModel
from ..tasks import FAMILIES, TaskFamily
from .tokenizer import build_tokenizer


ANSWER_LENGTH = 32
BATCH_SIZE = 64
NUM_STEPS = 6_800
NUM_WARMUP_STEPS = 200
DECAY_SHARE = 0.4
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


def denoising_loss(model: DreamModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the weighted mean cross-entropy of the masked tokens, read from the outputs one position earlier."""
    hidden_states = model.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    is_target = batch["labels"][:, 1:] != -100
    logits = model.lm_head(hidden_states[:, :-1][is_target])
    losses = torch.nn.functional.cross_entropy(logits.float(), batch["labels"][:, 1:][is_target], reduction="none")
    weights = batch["weights"][:, 1:][is_target]
    return (losses * weights).sum() / weights.sum()


def learning_rate_factor(step: int, num_steps: int) -> float:
    """Return the factor on the learning rates: linear warm-up, constant, then linear decay to zero."""
    decay_steps = DECAY_SHARE * num_steps
    return min((step + 1) / NUM_WARMUP_STEPS, 1.0, max(num_steps - step, 0) / decay_steps)


class BackboneTrainer:
    """Train the small backbone with Muon for the block matrices and AdamW for the rest, keeping an average (EMA).

    Args:
        seed (`int`): Seed of weights and data.
        num_steps (`int`): Number of optimizer steps.
        state_file (`Path`): File of the state, for resuming.
        device (`str`): Device to train on.
        mixture (`Mapping[TaskFamily, float]`, *optional*): Weight of each family; by default as shipped.
    """

    def __init__(
        self,
        seed: int,
        num_steps: int,
        state_file: Path,
        device: str,
        mixture: Mapping[TaskFamily, float] = MIXTURE,
    ):
        torch.manual_seed(seed)
        self.tokenizer = build_tokenizer(mixture)
        self.batches = TrainingBatches(self.tokenizer, seed, mixture)
        self.model = build_backbone(self.tokenizer)
        module: torch.nn.Module = self.model
        module.to(device)
        self.average = torch.optim.swa_utils.AveragedModel(
            self.model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.999)
        )
        matrices = [p for p in self.model.model.layers.parameters() if p.ndim == 2]
        others = [p for p in self.model.parameters() if not any(p is matrix for matrix in matrices)]
        self.optimizers = [
            torch.optim.Muon(matrices, lr=0.01, weight_decay=0.01),
            torch.optim.AdamW(others, lr=2e-3, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self.base_rates = [optimizer.param_groups[0]["lr"] for optimizer in self.optimizers]
        self.num_steps, self.state_file, self.device, self.step = num_steps, state_file, device, 0
        if state_file.exists():
            self._load()

    def _load(self) -> None:
        state = torch.load(self.state_file, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step = state["step"]

    def save(self) -> None:
        """Write the state to a new file that then replaces the old one."""
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
        }
        with replacing(self.state_file) as temporary:
            torch.save(state, temporary)

    def train_step(self) -> float:
        """Do one optimizer step and return its loss in nats per token."""
        batch = {name: tensor.to(self.device) for name, tensor in self.batches[self.step].items()}
        loss = denoising_loss(self.model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        factor = learning_rate_factor(self.step, self.num_steps)
        for optimizer, rate in zip(self.optimizers, self.base_rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * factor
            optimizer.step()
            optimizer.zero_grad()
        self.average.update_parameters(self.model)
        self.step += 1
        return loss.item()

    @property
    def trained(self) -> DreamModel:
        """The averaged model, in eval mode, with the settings that it decodes with."""
        model: Any = self.average.module.eval()
        model.generation_config = DemaskGenerationConfig(max_new_tokens=ANSWER_LENGTH)
        return model

    def run(self, save_every_seconds: float = 120.0, log_every: int = 50) -> None:
        """Train to the end, printing loss and remaining time, saving the state every few minutes."""
        started, first_step, last_save, losses = time.monotonic(), self.step, time.monotonic(), []
        while self.step < self.num_steps:
            losses.append(self.train_step())
            if self.step % log_every == 0:
                seconds = (time.monotonic() - started) / (self.step - first_step)
                print(
                    f"step {self.step}/{self.num_steps} loss {sum(losses) / len(losses):.4f} "
                    f"{seconds:.3f} s/step, {seconds * (self.num_steps - self.step) / 60:.0f} min left",
                    flush=True,
                )
                losses.clear()
            if time.monotonic() - last_save > save_every_seconds:
                self.save()
                last_save = time.monotonic()
        self.save()
