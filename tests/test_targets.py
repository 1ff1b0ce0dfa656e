import pytest
import torch

from demask_hf.backbone import Backbone
from demask_hf.probes import measure_dependencies
from demask_hf.targets import DependencyExample, collate_examples, measure_examples


MASK = 1
# Three states: two masks, four masks, and three masks behind padding.
SEQUENCES = torch.tensor([[5, 6, MASK, 7, MASK, 8], [MASK, 5, MASK, MASK, MASK, 6], [0, 0, 9, MASK, MASK, MASK]])
ATTENTION_MASK = torch.tensor([[1] * 6, [1] * 6, [0, 0, 1, 1, 1, 1]])


def _measure(model, num_sources, seed=0, **kwargs):
    generator = torch.Generator().manual_seed(seed)
    candidates = SEQUENCES == MASK
    return measure_examples(
        Backbone.of(model), SEQUENCES, ATTENTION_MASK, candidates, num_sources, generator, **kwargs
    )


def test_there_is_one_example_for_each_state(dream):
    examples = _measure(dream, num_sources=9)
    assert [example.positions.tolist() for example in examples] == [[2, 4], [0, 2, 3, 4], [1, 2, 3]]
    for example in examples:
        size = example.positions.numel()
        assert example.hidden_states.shape == (size, dream.config.hidden_size)
        assert example.hidden_states.dtype == example.labels.dtype == torch.float32
        assert example.labels.shape == (size, size)


def test_labels_are_the_measured_dependencies(dream):
    examples = _measure(dream, num_sources=9, min_probability=0.0)
    backbone = Backbone.of(dream)

    def predict(sequences, rows, asked):
        return backbone.predict(sequences, asked, ATTENTION_MASK[rows]).logits.softmax(dim=-1)

    candidates = SEQUENCES == MASK
    before = predict(SEQUENCES, torch.arange(3), candidates)
    measured = measure_dependencies(predict, SEQUENCES, candidates, before, MASK).dependencies
    for example, expected in zip(examples, measured, strict=True):
        size = example.positions.numel()
        torch.testing.assert_close(example.labels, expected[:size, :size], atol=1e-5, rtol=0)


def test_states_are_those_that_the_head_will_see(dream):
    examples = _measure(dream, num_sources=1)
    prediction = Backbone.of(dream).predict(SEQUENCES, SEQUENCES == MASK, ATTENTION_MASK)
    torch.testing.assert_close(torch.cat([example.hidden_states for example in examples]), prediction.hidden_states)


@pytest.mark.parametrize("num_sources", [1, 2, 3])
def test_rows_of_other_sources_are_not_labelled(dream, num_sources):
    for example in _measure(dream, num_sources):
        is_measured = (example.labels >= 0).all(dim=-1)
        assert is_measured.sum() == min(num_sources, example.positions.numel())
        assert (example.labels[~is_measured] == -1).all()


def test_sources_follow_the_generator(dream):
    def rows(seed):
        return [(example.labels >= 0).all(dim=-1).tolist() for example in _measure(dream, 1, seed)]

    assert rows(0) == rows(0)
    assert len({str(rows(seed)) for seed in range(8)}) > 1


def test_argmax_targets_are_cheaper_and_differ(dream):
    expectation, argmax = (_measure(dream, 9, estimator=estimator) for estimator in ("expectation", "argmax"))
    assert any(
        (first.labels - second.labels).abs().max() > 1e-3 for first, second in zip(expectation, argmax, strict=True)
    )


def test_examples_are_padded_to_the_longest():
    examples = [
        DependencyExample(torch.ones(2, 4), torch.tensor([3, 5]), torch.full((2, 2), 0.25)),
        DependencyExample(torch.ones(3, 4), torch.tensor([1, 2, 4]), torch.full((3, 3), 0.5)),
    ]
    batch = collate_examples(examples)
    assert {name: tuple(tensor.shape) for name, tensor in batch.items()} == {
        "hidden_states": (2, 3, 4),
        "positions": (2, 3),
        "is_position": (2, 3),
        "labels": (2, 3, 3),
    }
    assert batch["is_position"].tolist() == [[True, True, False], [True, True, True]]
    assert batch["labels"][0].tolist() == [[0.25, 0.25, -1.0], [0.25, 0.25, -1.0], [-1.0, -1.0, -1.0]]
    assert batch["positions"].tolist() == [[3, 5, 0], [1, 2, 4]]


def test_a_batch_of_examples_is_what_the_head_takes(dream, make_head):
    batch = collate_examples(_measure(dream, num_sources=2))
    output = make_head(dream)(**batch)
    assert output.loss.isfinite()
    assert output.dependencies.shape == batch["labels"].shape
