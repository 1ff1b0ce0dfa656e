"""Training on randomly masked answers: what a step is, resuming, and products in bfloat16."""

import math
import shutil

import pytest
import torch

from demask_hf.models.dream.configuration_dream import DreamConfig
from demask_hf.models.dream.modeling_dream import DreamModel
from demask_hf.tiny.denoising import DenoisingTrainer, denoising_loss, learning_rate_factor


class _Copies:
    """The same token on both sides of a mask."""

    def __getitem__(self, step):
        tokens = torch.randint(2, 8, (16, 1), generator=torch.Generator().manual_seed(step)).expand(-1, 3).clone()
        is_masked = torch.tensor([False, True, False]).expand_as(tokens)
        return {
            "input_ids": tokens.masked_fill(is_masked, 1),
            "attention_mask": torch.ones_like(tokens),
            "labels": tokens.masked_fill(~is_masked, -100),
            "weights": torch.ones(tokens.shape),
        }


def _model():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"mask_token_id": 1, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
    return DreamModel(DreamConfig(vocab_size=8, num_key_value_heads=2, max_position_embeddings=16, **sizes, **ids))


def _trainer(tmp_path, num_steps=60, **fields):
    return DenoisingTrainer(_model(), _Copies(), num_steps, tmp_path / "state.pt", "cpu", **fields)


def test_the_loss_reads_one_place_earlier_and_weighs():
    model, batch = _model(), _Copies()[0]
    logits = model(batch["input_ids"], attention_mask=batch["attention_mask"], logits_shift=0).logits[:, 0]
    losses = torch.nn.functional.cross_entropy(logits, batch["labels"][:, 1], reduction="none")
    assert denoising_loss(model, batch).item() == pytest.approx(losses.mean().item(), rel=1e-5)
    batch["weights"][:8] = 0
    assert denoising_loss(model, batch).item() == pytest.approx(losses[8:].mean().item(), rel=1e-5)


def test_what_can_be_learned_is_learned_and_training_resumes(tmp_path):
    trainer = _trainer(tmp_path)
    first = trainer.train_step()
    assert first == pytest.approx(math.log(8), rel=0.2)
    while trainer.step < 30:
        trainer.train_step()
    trainer.save()
    losses = [trainer.train_step() for _ in range(30)]
    resumed = _trainer(tmp_path)
    assert resumed.step == 30
    assert [resumed.train_step() for _ in range(30)] == pytest.approx(losses, rel=1e-5)
    assert losses[-1] < 0.7 * first


def test_rates_warm_up_and_decay():
    assert [learning_rate_factor(step, 1000) for step in (0, 199, 500, 800, 1000)] == [0.005, 1.0, 1.0, 0.5, 0.0]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiles, which needs g++")
def test_products_in_bfloat16_give_nearly_the_same_losses(tmp_path):
    losses = [
        [trainer.train_step() for _ in range(10)]
        for trainer in (_trainer(tmp_path), _trainer(tmp_path, is_mixed=True))
    ]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
