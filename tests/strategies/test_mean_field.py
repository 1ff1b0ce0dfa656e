from math import exp, log

import pytest
import torch

from demask_hf import make_strategy


def _selected(step, **fields):
    return make_strategy("mean_field", **fields).select(step).nonzero()[:, 1].tolist()


def _sigmoid(value):
    return 1 / (1 + exp(-value))


def _entropy(row):
    return -sum(each * log(each) for each in row if each > 0)


def _intensities(rows, num_iterations):
    """Compute the rule with plain numbers."""
    margins = [log(ordered[0]) - log(ordered[1]) for ordered in (sorted(row, reverse=True) for row in rows)]
    alike = [
        [
            1
            - (_entropy([(a + b) / 2 for a, b in zip(one, two, strict=True)]) - (_entropy(one) + _entropy(two)) / 2)
            / log(2)
            for two in rows
        ]
        for one in rows
    ]
    size = range(len(rows))
    largest = max((alike[i][j] for i in size for j in size if i != j), default=1)
    found = [_sigmoid(margin) for margin in margins]
    for _ in range(num_iterations):
        found = [_sigmoid(margins[i] - sum(alike[i][j] / largest * found[j] for j in size if j != i)) for i in size]
    return found


def test_two_positions_that_are_predicted_alike_by_hand(make_step):
    # c = log 8, and D = 1: sigmoid(log 8 - sigmoid(log 8 - sigmoid(log 8))).
    step = make_step([[0.8, 0.1, 0.1], [0.8, 0.1, 0.1]])
    first = _sigmoid(log(8) - _sigmoid(log(8)))
    second = _sigmoid(log(8) - first)
    assert first < second
    assert _selected(step, intensity_threshold=first - 1e-6, num_iterations=1) == [0, 1]
    assert _selected(step, intensity_threshold=first + 1e-6, num_iterations=1) == [0]
    assert _selected(step, intensity_threshold=second - 1e-6) == [0, 1]
    assert _selected(step, intensity_threshold=second + 1e-6) == [0]


def test_positions_that_are_predicted_differently_do_not_count(make_step):
    # Nothing in common: D is 0 and the intensity that of the position alone, here 0.8 / (0.8 + 0.2).
    step = make_step([[0.8, 0.2, 0.0, 0.0], [0.0, 0.0, 0.8, 0.2]])
    assert _selected(step, intensity_threshold=0.79) == [0, 1]
    assert _selected(step, intensity_threshold=0.81) == [0]


def test_a_point_and_a_single_candidate(make_step):
    assert _selected(make_step([[1.0, 0.0], [0.6, 0.4]]), intensity_threshold=1.0) == [0]
    assert _selected(make_step([[0.5, 0.5]]), intensity_threshold=1.0) == [0]


@pytest.mark.parametrize("num_iterations", [1, 2, 5])
def test_it_equals_plain_numbers(make_step, num_iterations):
    generator = torch.Generator().manual_seed(num_iterations)
    for _ in range(10):
        rows = torch.rand(6, 5, generator=generator, dtype=torch.float64).pow(4)
        rows = (rows / rows.sum(dim=-1, keepdim=True)).tolist()
        found = _intensities(rows, num_iterations)
        for threshold in (0.5, 0.7, 0.9):
            expected = {index for index, value in enumerate(found) if value >= threshold} | {found.index(max(found))}
            selected = _selected(make_step(rows), intensity_threshold=threshold, num_iterations=num_iterations)
            assert selected == sorted(expected)


def test_rows_are_independent(make_step):
    rows = [[0.8, 0.1, 0.1], [0.8, 0.1, 0.1], [0.6, 0.3, 0.1]]
    step = make_step(rows, candidates=[[True, True, False], [False, False, True]])
    assert make_strategy("mean_field").select(step).tolist() == [[True, False, False], [False, False, True]]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"intensity_threshold": 1.1}, r"`intensity_threshold` must be a number in \[0, 1\], got 1\.1"),
        ({"num_iterations": 0}, "`num_iterations` must be an integer of at least 1, got 0"),
    ],
)
def test_wrong_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        make_strategy("mean_field", **fields)
