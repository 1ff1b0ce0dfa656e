import numpy as np
import pytest
import torch
from transformers.utils import ModelOutput

from demask_hf import DemaskConfig, DemaskHead
from demask_hf.targets import DependencyExample
from demask_hf.training import area_under_curve, fit_of, train_head


HIDDEN_SIZE = 8


def _examples(count, seed=0):
    """Return states whose dependencies are readable from the hidden states of source and target."""
    generator = torch.Generator().manual_seed(seed)
    examples = []
    for _ in range(count):
        size = int(torch.randint(2, 6, (), generator=generator))
        states = torch.randn(size, HIDDEN_SIZE, generator=generator)
        labels = ((states[:, None, 0] > 0) & (states[None, :, 1] > 0)).float() * 0.6
        examples.append(DependencyExample(states, torch.arange(size) * 2, labels))
    return examples


def _head():
    torch.manual_seed(0)
    return DemaskHead(
        DemaskConfig(backbone_hidden_size=HIDDEN_SIZE, width=16, num_attention_heads=2, num_distance_buckets=8)
    )


class Table:
    """A head that predicts a constant, or what it is told."""

    device = torch.device("cpu")

    def __init__(self, predict):
        self.predict = predict

    def __call__(self, labels, **batch):
        return ModelOutput(dependencies=self.predict(labels))


def test_training_makes_the_head_fit(tmp_path):
    examples, held_out, head = _examples(120), _examples(30, seed=1), _head()
    before = fit_of(head, examples, held_out)
    settings = {"max_steps": 150, "learning_rate": 1e-2, "per_device_train_batch_size": 16, "save_strategy": "no"}
    fit = train_head(head, examples, held_out, tmp_path, disable_tqdm=True, use_cpu=True, **settings)
    assert fit == fit_of(head, examples, held_out)
    assert fit["mae"] < 0.5 * before["mae"]
    assert fit["auc"] > 0.95
    assert fit["r2"] > 0.7
    assert not head.training


def test_an_interrupted_training_goes_on(tmp_path):
    examples, held_out = _examples(20), _examples(5, seed=1)
    settings = {"per_device_train_batch_size": 4, "save_steps": 3, "disable_tqdm": True, "use_cpu": True, "seed": 3}
    whole, resumed = _head(), _head()
    train_head(whole, examples, held_out, tmp_path / "whole", max_steps=6, lr_scheduler_type="constant", **settings)
    train_head(resumed, examples, held_out, tmp_path / "parts", max_steps=3, lr_scheduler_type="constant", **settings)
    again = _head()
    train_head(again, examples, held_out, tmp_path / "parts", max_steps=6, lr_scheduler_type="constant", **settings)
    for name, parameter in whole.named_parameters():
        torch.testing.assert_close(again.state_dict()[name], parameter.data, atol=1e-5, rtol=1e-4)


def test_fit_of_a_perfect_head():
    held_out = _examples(10)
    fit = fit_of(Table(lambda labels: labels.clamp(min=0)), _examples(10, seed=2), held_out, batch_size=4)
    assert fit["mae"] == 0
    assert fit["r2"] == 1
    assert fit["auc"] == 1
    # Pairs off the diagonal.
    assert fit["num_pairs"] == sum(example.positions.numel() * (example.positions.numel() - 1) for example in held_out)


def test_fit_of_the_mean_explains_nothing():
    held_out = _examples(10)
    mean = fit_of(Table(torch.zeros_like), held_out, held_out)["mean"]
    fit = fit_of(Table(lambda labels: torch.full_like(labels, mean)), held_out, held_out)
    assert fit["r2"] == pytest.approx(0.0, abs=1e-6)
    assert fit["mae"] == pytest.approx(fit["mae_mean"], abs=1e-6)
    assert fit["auc"] == 0.5


def test_trivial_predictor_by_distance():
    labels = torch.tensor([[0.0, 0.2, 0.4], [0.6, 0.0, 0.2], [0.8, 0.6, 0.0]])
    example = DependencyExample(torch.zeros(3, HIDDEN_SIZE), torch.tensor([1, 2, 3]), labels)
    fit = fit_of(Table(lambda labels: labels), [example], [example])
    # Every distance has one dependency in this state, so the mean by distance is exact.
    assert fit["mae_distance"] == pytest.approx(0.0, abs=1e-6)
    assert fit["r2_distance"] == pytest.approx(1.0, abs=1e-6)
    assert fit["mean"] == pytest.approx(2.8 / 6)


def test_unlabelled_pairs_do_not_count():
    labels = torch.full((3, 3), -1.0)
    labels[1] = 0.3
    example = DependencyExample(torch.zeros(3, HIDDEN_SIZE), torch.tensor([1, 2, 3]), labels)
    other = DependencyExample(torch.zeros(2, HIDDEN_SIZE), torch.tensor([1, 2]), torch.full((2, 2), 0.1))
    fit = fit_of(Table(lambda labels: labels.clamp(min=0)), [example, other], [example, other])
    assert fit["num_pairs"] == 4
    assert fit["mean"] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("scores", "positive", "expected"),
    [
        ([0.1, 0.2, 0.3, 0.4], [False, False, True, True], 1.0),
        ([0.4, 0.3, 0.2, 0.1], [False, False, True, True], 0.0),
        ([0.1, 0.3, 0.2, 0.4], [False, False, True, True], 0.75),
        ([0.5, 0.5, 0.5, 0.5], [False, True, False, True], 0.5),
        ([0.1, 0.5, 0.5], [False, False, True], 0.75),
    ],
)
def test_area_under_curve_counts_pairs(scores, positive, expected):
    assert area_under_curve(np.array(scores), np.array(positive)) == expected


@pytest.mark.parametrize("positive", [[True, True], [False, False]])
def test_area_under_curve_of_one_class_is_not_a_number(positive):
    assert np.isnan(area_under_curve(np.array([0.1, 0.2]), np.array(positive)))
