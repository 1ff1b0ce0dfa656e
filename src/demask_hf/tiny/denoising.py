"""Training of a small Dream on examples whose answers are masked at random."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch

from ..files import replacing
from ..models.dream.modeling_dream import DreamModel


NUM_WARMUP_STEPS = 200
DECAY_SHARE = 0.4


class Batches(Protocol):
    """Batches by step: `input_ids`, `attention_mask`, `labels` (-100 where visible), `weights`, `(batch, length)`."""

    def __getitem__(self, step: int, /) -> dict[str, torch.Tensor]: ...


def denoising_loss(
    model: DreamModel, batch: dict[str, torch.Tensor], body: Callable[..., Any] | None = None
) -> torch.Tensor:
    """Return the weighted mean cross-entropy of the masked tokens, read from the outputs one position earlier.

    Args:
        model ([`DreamModel`]): The model.
        batch (`dict[str, torch.Tensor]`): As in [`Batches`].
        body (`Callable`, *optional*): What computes its hidden states; by default its layers as they are.
    """
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    hidden_states = (model.model if body is None else body)(**inputs).last_hidden_state
    is_target = batch["labels"][:, 1:] != -100
    logits = model.lm_head(hidden_states[:, :-1][is_target])
    losses = torch.nn.functional.cross_entropy(logits.float(), batch["labels"][:, 1:][is_target], reduction="none")
    weights = batch["weights"][:, 1:][is_target]
    return (losses * weights).sum() / weights.sum()


def learning_rate_factor(step: int, num_steps: int) -> float:
    """Return the factor on the learning rates: linear warm-up, constant, then linear decay to zero."""
    decay_steps = DECAY_SHARE * num_steps
    return min((step + 1) / NUM_WARMUP_STEPS, 1.0, max(num_steps - step, 0) / decay_steps)


class DenoisingTrainer:
    """Train with Muon for the block matrices and AdamW for the rest, keeping an average of the weights (EMA).

    Args:
        model ([`DreamModel`]): The model, with random weights.
        batches ([`Batches`]): Its training batches.
        num_steps (`int`): Number of optimizer steps.
        state_file (`Path`): File of the state, for resuming.
        device (`str`): Device to train on.
        is_mixed (`bool`, *optional*, defaults to `False`): Compute products in bfloat16 and compile the layers, which
            needs a C++ compiler.
    """

    def __init__(  # noqa: PLR0913, the facts of a training
        self,
        model: DreamModel,
        batches: Batches,
        num_steps: int,
        state_file: Path,
        device: str,
        is_mixed: bool = False,
    ):
        self.model, self.batches = model, batches
        module: torch.nn.Module = self.model
        module.to(device)
        self.average = torch.optim.swa_utils.AveragedModel(
            self.model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.999)
        )
        self.body: Callable[..., Any] = self.model.model
        if is_mixed:
            # The backward pass of the fused attention is slow in bfloat16 on a CPU.
            self.model.set_attn_implementation("eager")
            self.body = torch.compile(self.model.model, dynamic=True)
        matrices = [p for p in self.model.model.layers.parameters() if p.ndim == 2]
        others = [p for p in self.model.parameters() if not any(p is matrix for matrix in matrices)]
        self.optimizers = [
            torch.optim.Muon(matrices, lr=0.01, weight_decay=0.01),
            torch.optim.AdamW(others, lr=2e-3, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self.base_rates = [optimizer.param_groups[0]["lr"] for optimizer in self.optimizers]
        self.num_steps, self.state_file, self.device, self.step = num_steps, state_file, device, 0
        self.is_mixed = is_mixed
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
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.is_mixed):
            loss = denoising_loss(self.model, batch, self.body)
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
