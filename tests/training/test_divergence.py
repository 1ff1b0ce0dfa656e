"""A training that diverges stops in the step in which it does, and leaves the last good head."""

import dataclasses

import pytest
import torch

from demask_hf import DemaskHead
from demask_hf.training.collection import collect
from demask_hf.training.divergence import last_checkpoint
from demask_hf.training.prompts import TokenizedPrompt
from demask_hf.training.states import CollectionSettings
from demask_hf.training.trainer import best_kept, new_head, split_by_prompt, train_head


PROMPTS = [TokenizedPrompt((3, 4, 5)[: 1 + row % 3], (6, 7, 8, 9)[: 1 + row % 4]) for row in range(10)]
SETTINGS = CollectionSettings(num_states=40, answer_length=6, states_per_shard=40, estimator="argmax")
ARGUMENTS = {
    "max_steps": 8,
    "per_device_train_batch_size": 8,
    "logging_strategy": "no",
    "disable_tqdm": True,
    **best_kept(2),
}


@pytest.fixture(scope="module")
def collection(dream, tmp_path_factory):
    return collect(dream, PROMPTS, tmp_path_factory.mktemp("states"), SETTINGS, is_verbose=False)


class Changed(torch.utils.data.Dataset):
    """States of which one field is changed."""

    def __init__(self, states, field, value):
        self.states, self.field, self.value = states, field, value

    def __len__(self):
        return len(self.states)

    def __getitem__(self, index):
        example = self.states[index]
        return dataclasses.replace(
            example, **{self.field: torch.full_like(getattr(example, self.field).float(), self.value)}
        )


def _head(collection):
    return new_head(collection.facts["backbone"], 0, width=16)


def _break_at(head, step, broken):
    """Change the head when its forward runs for the given time in train mode."""
    count = 0

    def hook(module, *unused):
        nonlocal count
        count += module.training
        if module.training and count == step:
            broken(module)

    return head.register_forward_pre_hook(hook)


def _assert_last_good_head(folder, step):
    assert last_checkpoint(folder).endswith(f"checkpoint-{step}")
    # Loading refuses a head whose weights are not finite.
    assert isinstance(DemaskHead.from_pretrained(last_checkpoint(folder)), DemaskHead)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_at_once(collection, tmp_path, value):
    head, (training, held_out) = _head(collection), split_by_prompt(collection, 0.2, 0)
    _break_at(head, 5, lambda module: module.scorer.weight.data.fill_(value))
    message = (
        r"`learning_rate` must let the training converge, got a loss of (nan|inf) at step 5 with 0\.01; "
        r"the last good head is '.*checkpoint-4'\.$"
    )
    with pytest.raises(ValueError, match=message):
        train_head(head, training, held_out, tmp_path, **ARGUMENTS, learning_rate=0.01)
    _assert_last_good_head(tmp_path, 4)


def test_gradients_that_are_not_finite_stop_at_once(collection, tmp_path):
    head, (training, held_out) = _head(collection), split_by_prompt(collection, 0.2, 0)
    count = []

    def spoil(gradient):
        count.append(1)
        return gradient * float("nan") if len(count) == 3 else gradient

    head.query.weight.register_hook(spoil)
    message = r"got gradients that are NaN or infinite at step 3 with 0\.01; the last good head is '.*checkpoint-2'\.$"
    with pytest.raises(ValueError, match=message):
        train_head(head, training, held_out, tmp_path, **ARGUMENTS, learning_rate=0.01)
    _assert_last_good_head(tmp_path, 2)
    assert torch.isfinite(head.query.weight).all()


def test_a_head_that_is_not_finite_is_not_stored(collection, tmp_path):
    head, (training, held_out) = _head(collection), split_by_prompt(collection, 0.2, 0)
    with pytest.raises(ValueError, match=r"got weights that are NaN or infinite at step \d with 1e\+39; no head was"):
        train_head(
            head, training, held_out, tmp_path, **{**ARGUMENTS, **best_kept(1)}, learning_rate=1e39, max_grad_norm=0.0
        )
    assert last_checkpoint(tmp_path) is None


@pytest.mark.parametrize(
    ("field", "value", "place"),
    [
        ("targets", float("nan"), "labels"),
        ("hidden_states", float("inf"), "hidden_states"),
        ("confidence", float("nan"), "certainty"),
    ],
)
def test_states_that_are_not_finite_are_refused(collection, tmp_path, field, value, place):
    training, held_out = split_by_prompt(collection, 0.2, 0)
    message = rf"`data` must hold finite numbers, got NaN or infinity in the {place} of a state: collect it again\.$"
    with pytest.raises(ValueError, match=message):
        train_head(_head(collection), Changed(training, field, value), held_out, tmp_path, **ARGUMENTS)
    with pytest.raises(ValueError, match=message):
        train_head(_head(collection), training, Changed(held_out, field, value), tmp_path, **ARGUMENTS)
    assert last_checkpoint(tmp_path) is None
