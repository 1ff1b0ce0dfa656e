import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from demask_hf.functional.dependency import RULES, low_dependency_subset
from demask_hf.functional.partition import best_set, low_dependency_partition


# Multiples of 1/64 add up exactly in float32.
UNIT = 64


def _line(*by_distance):
    """Return dependencies of nine positions in a line by their distance, from 1."""
    places = torch.arange(9)
    apart = (places[:, None] - places[None, :]).abs()
    table = torch.tensor([0.0, *by_distance, *[0.0] * (8 - len(by_distance))])
    return table[apart][None]


ALL = torch.ones(1, 9, dtype=torch.bool)
# The surest positions are those in the middle.
SCORES = torch.tensor([[1.0, 2, 3, 4, 5, 4, 3, 2, 1]])


def test_neighbours_by_hand():
    found = low_dependency_partition(_line(0.5), SCORES, ALL, 0.4)
    assert found.tolist() == [[1, 0, 1, 0, 1, 0, 1, 0, 1]]
    # Mean scores 3 and 2.6.
    assert best_set(_line(0.5), SCORES, ALL, 0.4).tolist() == [[False, True] * 4 + [False]]
    # Each of three neighbours costs the one in the middle at most 1 in all.
    assert low_dependency_partition(_line(0.5), SCORES, ALL, 1.0).unique().tolist() == [0]
    assert low_dependency_partition(_line(0.5), SCORES, ALL, 0.0).unique().tolist() == [0, 1]


def test_sets_are_about_equal_where_a_walk_leaves_small_ones():
    """Neighbours depend much on each other, and others a little."""
    dependencies = _line(0.5, *[1 / UNIT] * 7)
    bound = 3 / UNIT
    left, sizes = ALL.clone(), []
    while left.any():
        kept = low_dependency_subset(dependencies, SCORES, left, bound)
        sizes.append(int(kept.sum()))
        left &= ~kept
    assert sizes == [4, 4, 1]
    parts = low_dependency_partition(dependencies, SCORES, ALL, bound)
    assert sorted(parts.unique(return_counts=True)[1].tolist()) == [3, 3, 3]


@pytest.mark.parametrize("rule", RULES)
def test_what_is_not_eligible_is_in_no_set(rule):
    eligible = ALL.clone()
    eligible[0, [3, 5]] = False
    found = low_dependency_partition(_line(0.5), SCORES, eligible, 0.1, rule)
    assert ((found == -1) == ~eligible).all()
    # Position 4 has no neighbours any more.
    assert found.max() == 1
    assert not low_dependency_partition(_line(0.5), SCORES, ~ALL, 0.1, rule).ge(0).any()
    assert not best_set(_line(0.5), SCORES, ~ALL, 0.1, rule).any()


def test_unknown_dependencies_keep_positions_apart():
    dependencies = torch.full((1, 9, 9), float("nan"))
    assert sorted(low_dependency_partition(dependencies, SCORES, ALL, 0.5)[0].tolist()) == list(range(9))


@st.composite
def problems(draw):
    """Draw dependencies, scores, eligible positions, bound, rule and whether the larger direction counts."""
    batch, size = draw(st.integers(1, 3)), draw(st.integers(1, 14))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    dependencies = torch.randint(0, draw(st.sampled_from([3, UNIT + 1])), (batch, size, size), generator=generator)
    scores = torch.randint(0, draw(st.sampled_from([2, 100])), (batch, size), generator=generator)
    eligible = torch.rand(batch, size, generator=generator) < draw(st.sampled_from([0.5, 1.0]))
    rule = (draw(st.integers(0, UNIT)) / UNIT, draw(st.sampled_from(RULES)), draw(st.booleans()))
    return dependencies / UNIT, scores.double(), eligible, *rule


def _spread(weights, order, count):
    """Restate how positions are spread over sets, as a plain loop."""
    sets = [[] for _ in range(count)]
    for position in order:
        min(sets, key=lambda own: sum(weights[position][other] for other in own)).append(position)
    return sets


@settings(max_examples=300)
@given(problems())
def test_it_is_the_first_spread_of_which_every_set_satisfies_the_rule(problem):
    dependencies, scores, eligible, bound, rule, symmetric = problem
    found = low_dependency_partition(*problem)
    pairs = torch.maximum(dependencies, dependencies.mT) if symmetric else dependencies
    for row, own in enumerate(eligible):
        positions = own.nonzero().flatten().tolist()
        weights = (pairs[row] + pairs[row].T).tolist()
        degrees = {place: sum(weights[place][other] for other in positions if other != place) for place in positions}
        order = sorted(positions, key=lambda place: (-degrees[place], place))
        for count in range(1, len(positions) + 1):
            sets = _spread(weights, order, count)
            masks = torch.stack([torch.isin(torch.arange(len(own)), torch.tensor(each)) for each in sets])
            same = [part.expand(count, *part.shape) for part in (dependencies[row], scores[row])]
            kept = low_dependency_subset(*same, masks, bound, rule, symmetric)
            if torch.equal(kept, masks):
                break
        expected = torch.full_like(found[row], -1)
        for number, each in enumerate(sets if positions else []):
            expected[each] = number
        assert found[row].tolist() == expected.tolist()


@given(problems())
def test_little_dependency_lies_within_the_sets(problem):
    dependencies, _, eligible, _, _, symmetric = problem
    found = low_dependency_partition(*problem)
    pairs = torch.maximum(dependencies, dependencies.mT) if symmetric else dependencies
    for row, own in enumerate(found):
        is_pair = eligible[row][:, None] & eligible[row][None, :] & ~torch.eye(len(own), dtype=torch.bool)
        total = pairs[row][is_pair].sum()
        within = pairs[row][is_pair & (own[:, None] == own[None, :])].sum()
        assert within <= total / (own.max() + 1).clamp(min=1) + 1e-4


@given(problems())
def test_the_best_set_satisfies_the_rule_and_has_the_highest_mean(problem):
    dependencies, scores, eligible, *rule = problem
    kept = best_set(*problem)
    assert not (kept & ~eligible).any()
    assert torch.equal(low_dependency_subset(dependencies, scores, kept, *rule), kept)
    sets = low_dependency_partition(*problem)
    for row, own in enumerate(eligible):
        means = [float(scores[row][sets[row] == number].mean()) for number in range(int(sets[row].max()) + 1)]
        if own.any():
            assert float(scores[row][kept[row]].mean()) == pytest.approx(max(means))


@given(problems())
def test_rows_do_not_depend_on_each_other(problem):
    dependencies, scores, eligible, *rule = problem
    together = low_dependency_partition(*problem)
    for row in range(len(together)):
        own = slice(row, row + 1)
        alone = low_dependency_partition(dependencies[own], scores[own], eligible[own], *rule)
        assert torch.equal(together[own], alone)


def test_more_sets_than_are_tried_together():
    size = 30
    dependencies, scores = torch.ones(2, size, size), torch.arange(size).flip(0).expand(2, size)
    eligible = torch.ones(2, size, dtype=torch.bool)
    eligible[1, 4:] = False
    found = low_dependency_partition(dependencies, scores, eligible, 0.5)
    assert sorted(found[0].tolist()) == list(range(size))
    assert found[1].tolist() == [0, 1, 2, 3, *[-1] * 26]
