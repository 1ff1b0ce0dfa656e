import pytest
import torch

from demask_hf.backbones.backbone import Backbone
from demask_hf.backbones.prediction import PredictionRequest
from demask_hf.functional.probes import measure_dependencies
from demask_hf.functional.sampling import Sampling
from demask_hf.head.modeling_demask import dependency_loss
from demask_hf.training.examples import collate_examples, measure_examples


MASK = 1


def _states():
    """Return two states, the first left-padded by two, with 3 and 5 masked positions."""
    sequences = torch.tensor([[0, 0, 4, MASK, 5, MASK, MASK, 7], [3, MASK, MASK, 9, MASK, MASK, 6, MASK]])
    attention_mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1], [1] * 8])
    return sequences, attention_mask, sequences == MASK


def _measure(model, num_sources=2, seed=0, rows=slice(None), **options):
    sequences, attention_mask, candidates = _states()
    generator = torch.Generator().manual_seed(seed)
    parts = (sequences[rows], attention_mask[rows], candidates[rows])
    return measure_examples(Backbone.of(model), *parts, num_sources, generator, **options)


def test_an_example_describes_its_state(dream):
    first, second = _measure(dream)
    assert first.positions.tolist() == [1, 3, 4]
    assert second.positions.tolist() == [1, 2, 4, 5, 7]
    sequences, attention_mask, candidates = _states()
    prediction = Backbone.of(dream).predict(PredictionRequest(sequences, candidates, attention_mask))
    probabilities = prediction.logits.softmax(-1)[:3]
    torch.testing.assert_close(first.hidden_states, prediction.hidden_states[:3])
    torch.testing.assert_close(first.confidence, probabilities.max(-1).values)
    assert first.tokens.tolist() == probabilities.argmax(-1).tolist()
    assert first.targets.shape == (2, 3)
    assert second.targets.shape == (2, 5)


def test_labels_hold_the_measured_rows_and_minus_one_elsewhere(dream):
    for example in _measure(dream):
        labels = example.labels
        torch.testing.assert_close(labels[example.sources], example.targets)
        assert ((labels == -1).all(-1).sum() == example.positions.numel() - 2).item()
        assert (labels.diagonal()[example.sources] == 0).all()


def test_targets_are_those_of_the_probes(dream):
    sequences, attention_mask, candidates = _states()
    backbone = Backbone.of(dream)

    def predict(revealed, rows, asked):
        return backbone.predict(PredictionRequest(revealed, asked, attention_mask[rows])).logits.softmax(-1)

    probabilities = backbone.predict(PredictionRequest(sequences, candidates, attention_mask)).logits.softmax(-1)
    exact = measure_dependencies(predict, sequences, candidates, probabilities, MASK)
    for row, example in enumerate(_measure(dream, num_sources=9, min_probability=1e-7)):
        size = example.positions.numel()
        assert example.sources.tolist() == list(range(size))
        torch.testing.assert_close(example.labels, exact.dependencies[row, :size, :size], atol=1e-5, rtol=0)


def test_targets_of_other_distributions_are_measured_in_them(dream):
    sequences, attention_mask, candidates = _states()
    backbone = Backbone.of(dream)
    sampling = Sampling(temperature=0.5, top_p=0.9)

    def predict(revealed, rows, asked):
        return sampling.probabilities(
            backbone.predict(PredictionRequest(revealed, asked, attention_mask[rows])).logits
        )

    probabilities = predict(sequences, torch.arange(len(sequences)), candidates)
    exact = measure_dependencies(predict, sequences, candidates, probabilities, MASK)
    plain = _measure(dream, num_sources=9, min_probability=1e-7)
    for row, example in enumerate(_measure(dream, num_sources=9, min_probability=1e-7, sampling=sampling)):
        size = example.positions.numel()
        torch.testing.assert_close(example.labels, exact.dependencies[row, :size, :size], atol=1e-5, rtol=0)
        assert not torch.allclose(example.labels, plain[row].labels, atol=1e-2)
        # What the head reads is what decoding gives it.
        assert torch.equal(example.confidence, plain[row].confidence)
        assert torch.equal(example.entropy, plain[row].entropy)


def test_sampled_targets_average_to_the_expectation(dream):
    exact = _measure(dream, num_sources=9, rows=slice(0, 1), min_probability=1e-7)[0].labels
    draws = [
        _measure(dream, num_sources=9, rows=slice(0, 1), seed=seed, estimator="sample")[0].labels
        for seed in range(300)
    ]
    mean, deviation = torch.stack(draws).mean(0), torch.stack(draws).std(0)
    assert deviation.max() > 0.01
    assert ((mean - exact).abs() <= 4 * deviation / 300**0.5 + 1e-4).all()


def test_a_sampled_token_is_reproducible_and_never_the_mask(dream):
    seen = []

    def predict(revealed, rows, asked):
        seen.append(revealed.clone())
        return torch.full((int(asked.sum()), 4), 0.25)

    sequences = torch.full((1, 2), MASK)
    probabilities = torch.tensor([[0.0, 0.9, 0.1, 0.0], [0.25, 0.25, 0.25, 0.25]])
    for _ in range(2):
        generator = torch.Generator().manual_seed(7)
        for _ in range(50):
            measure_dependencies(
                predict, sequences, sequences == MASK, probabilities, MASK, "sample", generator=generator
            )
    first, second = torch.cat(seen[:50]), torch.cat(seen[50:])
    assert torch.equal(first, second)
    assert (first[::2, 0] == 2).all()
    assert set(first[1::2, 1].tolist()) == {0, 2, 3}


def test_an_unknown_estimator_is_refused(dream):
    with pytest.raises(ValueError, match=r"`estimator` must be one of expectation, argmax, sample, got 'guess'\."):
        _measure(dream, estimator="guess")


def test_padding_does_not_change_the_loss(dream_with_head, dream):
    head, examples = dream_with_head.demask_head, _measure(dream)
    together = collate_examples(examples)
    assert together["labels"].shape == (2, 5, 5)
    assert (together["labels"][0, 3:] == -1).all()
    losses, pairs = [], []
    for example in examples:
        batch = collate_examples([example])
        size = example.positions.numel()
        is_pair = ~torch.eye(size, dtype=torch.bool)[None]
        losses.append(dependency_loss(head(**batch).logits, batch["labels"], is_pair))
        pairs.append(2 * (size - 1))
    expected = (losses[0] * pairs[0] + losses[1] * pairs[1]) / sum(pairs)
    torch.testing.assert_close(head(**together).loss, expected)
