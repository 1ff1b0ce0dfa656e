import pytest
import torch

from demask_hf.backbones.backbone import Backbone
from demask_hf.backbones.prediction import PredictionRequest
from demask_hf.functional.dependency import dependency_bound_of
from demask_hf.functional.probes import measure_dependencies


A, B, C = 3, 4, 5
MASK = 1
PROMPT = (9,)


def _predictor(model, num_calls=None):
    """Return the probe forward of a scripted backbone, and the probabilities of a state."""
    backbone = Backbone.of(model)

    def predict(sequences, rows, asked):
        if num_calls is not None:
            num_calls.append(sequences.shape[0])
        return backbone.predict(PredictionRequest(sequences, asked, None)).logits.softmax(dim=-1)

    return predict


def _measure(model, sequences, **kwargs):
    sequences = torch.tensor(sequences)
    candidates = sequences == MASK
    predict = _predictor(model)
    rows = torch.arange(sequences.shape[0])
    probabilities = predict(sequences, rows, candidates)
    return measure_dependencies(predict, sequences, candidates, probabilities, MASK, **kwargs)


def _coupled(position, context):
    """Position 1 is A (.75) or B (.25); position 2 copies it with probability 1; position 3 is free.

    Seen from 2: 1 follows by Bayes. Before anything is known, 2 has the marginal of 1.
    """
    first, second = context[1], context[2]
    if position == 1:
        return {A: 0.75, B: 0.25} if second == MASK else {second: 1.0}
    if position == 2:
        return {A: 0.75, B: 0.25} if first == MASK else {first: 1.0}
    return {A: 0.5, B: 0.5}


def test_expectation_by_hand(scripted):
    measured = _measure(scripted(_coupled), [[9, MASK, MASK, MASK]])
    # Revealing A (.75) moves (.75, .25) to (1, 0), a distance of .25; revealing B (.25) moves it by .75.
    expected = 0.75 * 0.25 + 0.25 * 0.75
    table = torch.tensor([[0, expected, 0], [expected, 0, 0], [0, 0, 0]])
    torch.testing.assert_close(measured.dependencies[0], table, atol=1e-6, rtol=0)
    # Two tokens a source.
    assert measured.num_probes.tolist() == [6]
    assert measured.uncovered_mass.tolist() == pytest.approx([0.0], abs=1e-6)


def test_argmax_by_hand(scripted):
    measured = _measure(scripted(_coupled), [[9, MASK, MASK, MASK]], estimator="argmax")
    table = torch.tensor([[0, 0.25, 0], [0.25, 0, 0], [0, 0, 0]])
    torch.testing.assert_close(measured.dependencies[0], table, atol=1e-6, rtol=0)
    assert measured.num_probes.tolist() == [3]
    assert measured.uncovered_mass.tolist() == [0.0]


def test_argmax_can_miss_what_the_expectation_sees(scripted):
    def script(position, context):
        if position == 1:
            return {A: 0.51, B: 0.49}
        # Only the less likely token of position 1 says anything about position 2.
        return {A: 0.1, C: 0.9} if context[1] == B else {A: 0.9, C: 0.1}

    model = scripted(script)
    assert _measure(model, [[9, MASK, MASK]], estimator="argmax").dependencies[0, 0, 1].item() == pytest.approx(0)
    exact = _measure(model, [[9, MASK, MASK]]).dependencies[0, 0, 1].item()
    assert exact == pytest.approx(0.49 * 0.8, abs=1e-6)


def test_dependencies_are_rows_of_sources_and_columns_of_targets(scripted):
    def script(position, context):
        # Position 2 looks at position 1, and not the other way round.
        return {context[1]: 1.0} if position == 2 and context[1] != MASK else {A: 0.5, B: 0.5}

    measured = _measure(scripted(script), [[9, MASK, MASK]])
    torch.testing.assert_close(measured.dependencies[0], torch.tensor([[0, 0.5], [0, 0]]), atol=1e-6, rtol=0)


def test_pairs_of_a_parity_do_not_depend(scripted):
    def script(position, context):
        known = [token for token in context[1:] if token != MASK]
        return {A + sum(token - A for token in known) % 2: 1.0} if len(known) == 2 else {A: 0.5, B: 0.5}

    measured = _measure(scripted(script), [[9, MASK, MASK, MASK]])
    assert measured.dependencies.abs().max() < 1e-6
    assert dependency_bound_of(measured.dependencies[0], torch.arange(3)).item() < 1e-5
    # Yet three positions at once are wrong half of the time: the joint lives on 4 of 8 outcomes.


def test_ragged_rows_equal_rows_alone(scripted):
    model = scripted(_coupled)
    rows = [[9, MASK, MASK, MASK], [9, A, MASK, MASK], [9, MASK, 5, 6]]
    together = _measure(model, rows)
    assert together.dependencies.shape == (3, 3, 3)
    for index, row in enumerate(rows):
        alone = _measure(model, [row])
        size = alone.dependencies.shape[-1]
        torch.testing.assert_close(together.dependencies[index, :size, :size], alone.dependencies[0])
        assert (together.dependencies[index, size:] == 0).all()
        assert (together.dependencies[index, :, size:] == 0).all()
        assert together.num_probes[index] == alone.num_probes[0]


def test_only_chosen_sources_are_probed(scripted):
    sequences = torch.tensor([[9, MASK, MASK, MASK]])
    sources = torch.tensor([[False, True, False, False]])
    full = _measure(scripted(_coupled), sequences.tolist())
    some = _measure(scripted(_coupled), sequences.tolist(), sources=sources)
    torch.testing.assert_close(some.dependencies[0, 0], full.dependencies[0, 0])
    assert some.dependencies[0, 1:].abs().sum() == 0
    assert some.num_probes.tolist() == [2]


def test_mass_of_the_mask_token_is_spread_over_the_others(scripted):
    def script(position, context):
        if position == 1:
            return {MASK: 0.5, A: 0.3, B: 0.2}
        return {A: 0.5, B: 0.5} if context[1] == MASK else {context[1]: 1.0}

    measured = _measure(scripted(script), [[9, MASK, MASK]])
    assert measured.dependencies[0, 0, 1].item() == pytest.approx(0.6 * 0.5 + 0.4 * 0.5, abs=1e-6)
    assert measured.uncovered_mass.item() == pytest.approx(0.0, abs=1e-6)
    # The mask itself is never revealed: two tokens of position 1 and two of position 2.
    assert measured.num_probes.tolist() == [4]


@pytest.mark.parametrize("limit", ["_MAX_PROBE_ELEMENTS", "_MAX_PROBE_TOKENS_ON_CPU"])
def test_probing_in_chunks_changes_nothing(scripted, monkeypatch, limit):
    whole = _measure(scripted(_coupled), [[9, MASK, MASK, MASK], [9, A, MASK, MASK]])
    monkeypatch.setattr(f"demask_hf.functional.probes.{limit}", 1)
    chunked = _measure(scripted(_coupled), [[9, MASK, MASK, MASK], [9, A, MASK, MASK]])
    torch.testing.assert_close(chunked.dependencies, whole.dependencies)
    assert torch.equal(chunked.num_probes, whole.num_probes)


def test_probes_are_batched(scripted):
    model = scripted(_coupled)
    _measure(model, [[9, MASK, MASK, MASK]])
    assert [call.shape[0] for call in model.calls] == [1, 6]
    # Each probe reveals one token of one source.
    assert [(call == MASK).sum().item() for call in model.calls[1]] == [2] * 6


def _large_problem(vocab_size=2000):
    """Two positions; the first is spread over the vocabulary, its token moves the second by a known distance."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(vocab_size, generator=generator).pow(30)
    weights[MASK] = 0.0
    first = weights / weights.sum()
    shift = torch.rand(vocab_size, generator=generator)
    second = torch.zeros(vocab_size)
    second[A] = 1.0

    def predict(sequences, rows, asked):
        outputs = []
        for row, columns in zip(sequences, asked, strict=True):
            for column in columns.nonzero().flatten().tolist():
                if column == 1:
                    outputs.append(first)
                    continue
                moved = second.clone()
                if row[1] != MASK:
                    moved[A], moved[B] = 1 - shift[row[1]], shift[row[1]]
                outputs.append(moved)
        return torch.stack(outputs)

    return predict, first, second, shift


def test_large_vocabularies_are_probed_by_their_likeliest_tokens():
    predict, first, second, shift = _large_problem()
    sequences = torch.tensor([[9, MASK, MASK]])
    probabilities = torch.stack([first, second])
    measured = measure_dependencies(predict, sequences, sequences == MASK, probabilities, MASK)
    top = first.topk(32)
    covered = top.values.sum().item()
    assert 0.1 < covered < 0.9
    # Thirty-two tokens of the first source and the one of the second.
    assert measured.num_probes.tolist() == [33]
    assert measured.uncovered_mass.item() == pytest.approx(1 - covered, abs=1e-5)
    partial = measured.dependencies[0, 0, 1].item()
    assert partial == pytest.approx((top.values * shift[top.indices]).sum().item(), abs=1e-5)
    exact = (first * shift).sum().item()
    assert partial <= exact <= partial + measured.uncovered_mass.item() + 1e-5


def test_small_vocabularies_are_probed_completely():
    predict, first, second, shift = _large_problem(vocab_size=1000)
    sequences = torch.tensor([[9, MASK, MASK]])
    measured = measure_dependencies(predict, sequences, sequences == MASK, torch.stack([first, second]), MASK)
    assert measured.dependencies[0, 0, 1].item() == pytest.approx((first * shift).sum().item(), abs=1e-4)
    assert measured.uncovered_mass.item() < 1e-4


def test_measured_dependencies_of_a_dream_equal_plain_enumeration(dream):
    sequences = torch.tensor([[5, 6, 1, 1, 7, 1]])
    backbone = Backbone.of(dream)
    candidates = sequences == MASK

    def predict(ids, rows, asked):
        return backbone.predict(PredictionRequest(ids, asked, None)).logits.softmax(dim=-1)

    before = predict(sequences, torch.zeros(1, dtype=torch.long), candidates)
    measured = measure_dependencies(predict, sequences, candidates, before, MASK)
    columns = candidates[0].nonzero().flatten().tolist()
    for source, column in enumerate(columns):
        expected = torch.zeros(len(columns))
        weights = before[source].clone()
        weights[MASK] = 0
        weights /= weights.sum()
        for token in range(len(weights)):
            revealed = sequences.clone()
            revealed[0, column] = token
            after = predict(revealed, torch.zeros(1, dtype=torch.long), candidates)
            expected += weights[token] * 0.5 * (after - before).abs().sum(dim=-1)
        expected[source] = 0
        torch.testing.assert_close(measured.dependencies[0, source], expected, atol=1e-5, rtol=0)
