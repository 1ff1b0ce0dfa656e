import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from demask_hf.functional import dependency
from demask_hf.functional.dependency import (
    RULES,
    degree,
    dependency_bound_of,
    low_dependency_subset,
    net_influence,
    ranks,
)


# Multiples of 1/64 add up exactly in float32, so that comparisons with the bound cannot differ by rounding.
UNIT = 64


@st.composite
def selections(draw, max_batch=3, max_size=14):
    """Draw a problem in integers: dependencies, scores, eligible positions and a bound, in units of 1/64."""
    batch, size = draw(st.integers(1, max_batch)), draw(st.integers(1, max_size))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    largest = draw(st.sampled_from([2, 8, UNIT]))
    dependencies = torch.randint(0, largest + 1, (batch, size, size), generator=generator)
    # Few distinct scores make ties, which go to the lower index.
    scores = torch.randint(0, draw(st.sampled_from([2, 100])), (batch, size), generator=generator)
    eligible = torch.rand(batch, size, generator=generator) < draw(st.sampled_from([0.5, 1.0]))
    bound = draw(st.integers(0, 3 * UNIT // 2))
    return dependencies, scores, eligible, bound, draw(st.sampled_from(RULES)), draw(st.booleans())


def _solve(problem):
    dependencies, scores, eligible, bound, rule, symmetric = problem
    return low_dependency_subset(dependencies / UNIT, scores.double(), eligible, bound / UNIT, rule, symmetric)


def _walk(dependencies, scores, eligible, bound, rule, symmetric):
    """Restate the rules as a plain loop over one row, in integers; return the kept positions in order."""
    order = sorted(range(len(scores)), key=lambda position: (-scores[position], position))
    kept, total = [], 0
    for position in order:
        if not eligible[position]:
            continue
        costs = [
            max(dependencies[i][position], dependencies[position][i]) if symmetric else dependencies[i][position]
            for i in kept
        ]
        accepted = {
            "total": total + sum(costs) <= bound,
            "token": sum(costs) <= bound,
            "norm": sum(cost * cost for cost in costs) <= bound * bound,
            "max": max(costs, default=0) <= bound,
        }[rule]
        if accepted:
            kept.append(position)
            total += sum(costs)
    return kept


@settings(max_examples=300)
@given(selections())
def test_fixed_point_equals_the_plain_walk(problem):
    dependencies, scores, eligible, bound, rule, symmetric = problem
    selected = _solve(problem)
    for row in range(scores.shape[0]):
        kept = _walk(dependencies[row].tolist(), scores[row].tolist(), eligible[row].tolist(), bound, rule, symmetric)
        assert selected[row].nonzero().flatten().tolist() == sorted(kept)


@given(selections())
def test_bound_of_the_selected_set_is_never_exceeded(problem):
    dependencies, scores, eligible, bound, rule, _ = problem
    selected = _solve((dependencies, scores, eligible, bound, rule, False))
    for row in range(scores.shape[0]):
        order = torch.tensor(
            _walk(dependencies[row].tolist(), scores[row].tolist(), eligible[row].tolist(), bound, rule, False),
            dtype=torch.long,
        )
        assert set(order.tolist()) == set(selected[row].nonzero().flatten().tolist())
        size = len(order)
        factor = {"total": 1, "token": max(size - 1, 0), "max": size * (size - 1) // 2}
        factor["norm"] = sum(number**0.5 for number in range(size)) + 1e-6
        assert dependency_bound_of(dependencies[row] / UNIT, order).item() <= factor[rule] * bound / UNIT


@given(selections())
def test_first_eligible_position_is_always_kept_and_others_never_without_being_eligible(problem):
    _, scores, eligible, *_ = problem
    selected = _solve(problem)
    assert selected.dtype == torch.bool
    assert not (selected & ~eligible).any()
    for row in range(scores.shape[0]):
        if eligible[row].any():
            first = scores[row].masked_fill(~eligible[row], -1).argmax()
            assert selected[row, first]


@given(selections(max_batch=1), st.randoms(use_true_random=False))
def test_selection_moves_with_a_permutation_of_the_positions(problem, random):
    dependencies, scores, eligible, bound, rule, symmetric = problem
    size = scores.shape[1]
    scores = torch.arange(size).flip(0)[None]  # no ties: their order would follow the indices
    permutation = list(range(size))
    random.shuffle(permutation)
    moved = (dependencies[:, permutation][:, :, permutation], scores[:, permutation], eligible[:, permutation])
    assert torch.equal(
        _solve((*moved, bound, rule, symmetric)),
        _solve((dependencies, scores, eligible, bound, rule, symmetric))[:, permutation],
    )


@given(selections())
def test_rows_do_not_influence_each_other(problem):
    dependencies, scores, eligible, *rest = problem
    together = _solve(problem)
    for row in range(scores.shape[0]):
        alone = _solve((dependencies[[row]], scores[[row]], eligible[[row]], *rest))
        assert torch.equal(together[[row]], alone)


def test_the_walk_begins_with_the_highest_score_and_ties_go_to_the_lower_index():
    scores = torch.tensor([[0.1, 0.9, 0.9, float("-inf")], [3.0, 2.0, 1.0, 4.0]])
    assert ranks(scores).tolist() == [[2, 0, 1, 3], [1, 2, 3, 0]]


@given(selections())
def test_diagonal_is_ignored(problem):
    dependencies, *rest = problem
    loud = dependencies.clone()
    loud.diagonal(dim1=1, dim2=2).fill_(UNIT)
    assert torch.equal(_solve((dependencies, *rest)), _solve((loud, *rest)))


@pytest.mark.parametrize("rule", RULES)
def test_long_chains_need_more_rounds_than_run_blindly(rule):
    # Each position depends on its predecessor only, so kept and skipped alternate: the slowest fixed point.
    size = 40
    dependencies = torch.diag(torch.ones(size - 1), diagonal=1)[None]
    scores = torch.arange(size, 0, -1.0)[None]
    selected = low_dependency_subset(dependencies, scores, torch.ones(1, size, dtype=torch.bool), 0.5, rule)
    assert selected[0].tolist() == [True, False] * (size // 2)


THREE = torch.tensor([[[0.0, 0.25, 0.5], [0.0, 0.0, 0.25], [0.75, 0.0, 0.0]]])


@pytest.mark.parametrize(
    ("rule", "symmetric", "bound", "expected"),
    [
        # Costs in the order 0, 1, 2: position 1 costs 0.25, position 2 costs 0.5 + 0.25.
        ("token", False, 0.75, [0, 1, 2]),
        ("token", False, 0.74, [0, 1]),
        ("token", False, 0.24, [0]),
        # Without position 1, position 2 costs 0.5 only.
        ("token", False, 0.5, [0, 1]),
        ("total", False, 1.0, [0, 1, 2]),
        ("total", False, 0.99, [0, 1]),
        ("max", False, 0.5, [0, 1, 2]),
        ("max", False, 0.49, [0, 1]),
        # 0.5^2 + 0.25^2 = 0.3125, whose root is 0.559.
        ("norm", False, 0.56, [0, 1, 2]),
        ("norm", False, 0.55, [0, 1]),
        # Without position 1, position 2 costs 0.5, and position 1 0.25.
        ("norm", False, 0.25, [0, 1]),
        ("norm", False, 0.24, [0]),
        # Symmetrised, the pair (0, 2) has 0.75.
        ("max", True, 0.5, [0, 1]),
        ("max", True, 0.75, [0, 1, 2]),
        ("token", True, 0.99, [0, 1]),
        ("token", True, 1.0, [0, 1, 2]),
        ("total", True, 1.24, [0, 1]),
        ("total", True, 1.25, [0, 1, 2]),
    ],
)
def test_three_positions_by_hand(rule, symmetric, bound, expected):
    scores, eligible = torch.tensor([[3.0, 2.0, 1.0]]), torch.ones(1, 3, dtype=torch.bool)
    selected = low_dependency_subset(THREE, scores, eligible, bound, rule, symmetric)
    assert selected[0].nonzero().flatten().tolist() == expected


def test_skipped_positions_cost_nothing():
    # In the order 2, 1, 0: position 1 is free, position 0 would cost 0.75 from 2 and nothing from 1.
    scores, eligible = torch.tensor([[1.0, 2.0, 3.0]]), torch.ones(1, 3, dtype=torch.bool)
    assert low_dependency_subset(THREE, scores, eligible, 0.5).tolist() == [[False, True, True]]
    eligible[0, 2] = False
    assert low_dependency_subset(THREE, scores, eligible, 0.5).tolist() == [[True, True, False]]


def test_a_bound_of_zero_still_keeps_independent_positions():
    eligible = torch.ones(1, 4, dtype=torch.bool)
    scores = torch.arange(4.0)[None]
    assert low_dependency_subset(torch.zeros(1, 4, 4), scores, eligible, 0.0, "total").all()
    assert low_dependency_subset(torch.ones(1, 4, 4), scores, eligible, 0.0, "total").sum() == 1


def test_half_precision_dependencies_are_summed_in_single():
    # In bfloat16, 1 + 15 / 4096 would round to 1 and pass.
    dependencies = torch.zeros(1, 18, 18, dtype=torch.bfloat16)
    dependencies[0, 0, 17] = 1.0
    dependencies[0, 1:16, 17] = 1 / 4096
    scores, eligible = torch.arange(18, 0, -1.0)[None], torch.ones(1, 18, dtype=torch.bool)
    assert not low_dependency_subset(dependencies, scores, eligible, 1.0)[0, 17]


def test_net_influence_by_hand():
    # Position 0 moves the others, position 2 is moved by both; the diagonal and what is no position do not count.
    dependencies = torch.tensor([[[0.9, 0.25, 0.5, 1.0], [0.0, 0.9, 0.25, 1.0], [0.125, 0.0, 0.9, 1.0], [1.0] * 4]])
    is_position = torch.tensor([[True, True, True, False]])
    assert net_influence(dependencies, is_position)[0].tolist() == [0.625, 0.0, -0.625, 0.0]


def test_degree_by_hand():
    dependencies = torch.tensor([[[0.9, 0.25, 0.5, 1.0], [0.0, 0.9, 0.25, 1.0], [0.125, 0.0, 0.9, 1.0], [1.0] * 4]])
    is_position = torch.tensor([[True, True, True, False]])
    assert degree(dependencies, is_position)[0].tolist() == [0.875, 0.5, 0.875, 0.0]


@given(selections())
def test_what_one_position_gives_another_receives(problem):
    dependencies, _, is_position = problem[0] / UNIT, problem[1], problem[2]
    influence = net_influence(dependencies, is_position)
    both_ways = degree(dependencies, is_position)
    assert (both_ways >= influence.abs()).all()
    assert torch.equal(degree(dependencies.transpose(1, 2), is_position), both_ways)
    assert influence.sum(dim=-1).tolist() == [0.0] * len(influence)
    assert (influence[~is_position] == 0).all()
    assert torch.equal(net_influence(dependencies.transpose(1, 2), is_position), -influence)


def test_bound_counts_pairs_from_earlier_to_later():
    matrix = THREE[0]
    assert dependency_bound_of(matrix, torch.tensor([0, 1, 2])).item() == 1.0
    assert dependency_bound_of(matrix, torch.tensor([2, 1, 0])).item() == 0.75
    assert dependency_bound_of(matrix, torch.tensor([1])).item() == 0.0


def test_bound_covers_the_joint_of_a_chain_but_not_of_a_parity():
    # Copying, x2 = x1 for a fair bit: one pair of dependency 1/2, and the product of marginals is off by 1/2.
    copied = torch.tensor([[0.0, 0.5], [0.5, 0.0]])
    assert dependency_bound_of(copied, torch.tensor([0, 1])).item() == 0.5
    # Parity, x3 = x1 xor x2: no pair depends, yet the product of marginals is off by 1/2. Pairs cannot see it.
    independent = torch.zeros(3, 3)
    joint = torch.tensor([0.25 if x1 ^ x2 == x3 else 0.0 for x1 in (0, 1) for x2 in (0, 1) for x3 in (0, 1)])
    assert 0.5 * (joint - 1 / 8).abs().sum().item() == 0.5
    assert dependency_bound_of(independent, torch.tensor([0, 1, 2])).item() == 0.0
    eligible = torch.ones(1, 3, dtype=torch.bool)
    assert low_dependency_subset(independent[None], torch.ones(1, 3), eligible, 0.0, "total").all()


@pytest.mark.parametrize("rule", RULES)
def test_rounds_before_the_first_question_change_nothing(rule, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    dependencies = torch.randint(0, 8, (4, 30, 30), generator=generator) / 64
    scores, eligible = torch.rand(4, 30, generator=generator), torch.rand(4, 30, generator=generator) < 0.8
    asked_at_once = low_dependency_subset(dependencies, scores, eligible, 0.25, rule)
    monkeypatch.setattr(dependency, "_NUM_BLIND_ROUNDS", {})
    assert torch.equal(low_dependency_subset(dependencies, scores, eligible, 0.25, rule), asked_at_once)
