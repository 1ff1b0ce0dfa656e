"""The most probable accepted sequence, draws and marginals equal those of an enumeration of all sequences."""

import itertools
import random

import pytest
import torch

from demask_hf.functional.automaton import TokenAutomaton
from demask_hf.functional.restriction import completion_weights, factors, walk


VOCAB_SIZE, NUM_STATES, LENGTH, EOS = 5, 4, 4, 0


def _random_case(seed):
    """Return a random automaton, what it accepts, and random distributions; every third has no end of sequence."""
    chance, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    ends = [EOS] if seed % 3 else []
    pairs = itertools.product(range(NUM_STATES), range(1, VOCAB_SIZE))
    table = {pair: chance.randrange(NUM_STATES) for pair in pairs if chance.random() < 0.6}
    accepting = {state for state in range(NUM_STATES) if chance.random() < 0.5} | {1}
    # Any integers may name states.
    transitions = [(7 * state, token, 7 * target) for (state, token), target in table.items()]
    automaton = TokenAutomaton.of(transitions, 0, [7 * state for state in accepting], VOCAB_SIZE, ends)

    def accepts(sequence):
        state = 0
        for token in sequence:
            if token in ends:
                return state in accepting
            state = table.get((state, token))
            if state is None:
                return False
        return state in accepting

    probabilities = torch.rand(LENGTH, VOCAB_SIZE, generator=generator, dtype=torch.float64)
    probabilities /= probabilities.sum(dim=-1, keepdim=True)
    accepted = [each for each in itertools.product(range(VOCAB_SIZE), repeat=LENGTH) if accepts(each)]
    return automaton, accepted, probabilities, ends


def _mass(probabilities, sequence):
    return float(torch.stack([probabilities[place, token] for place, token in enumerate(sequence)]).prod())


def _answer(sequence, ends):
    """Return the tokens up to the first end of sequence."""
    places = [place for place, token in enumerate(sequence) if token in ends]
    return tuple(sequence[: places[0] + 1] if places else sequence)


every_case = pytest.mark.parametrize("seed", range(40))


@every_case
def test_sums_and_marginals_equal_the_enumeration(seed):
    automaton, accepted, probabilities, _ = _random_case(seed)
    weights = automaton.class_weights(probabilities.log(), True)[None]
    sums = completion_weights(automaton, weights, True)
    total = sum(_mass(probabilities, each) for each in accepted)
    assert float(sums[0, 0, automaton.initial].exp()) == pytest.approx(total, rel=1e-12, abs=0)
    if not accepted:
        assert sums[0, 0, automaton.initial] == float("-inf")
        return
    expected = torch.zeros(LENGTH, VOCAB_SIZE, dtype=torch.float64)
    for each in accepted:
        for place, token in enumerate(each):
            expected[place, token] += _mass(probabilities, each) / total
    favour = factors(automaton, weights, sums)[0].exp()
    marginals = probabilities * (favour[:, automaton.class_of] + favour[:, automaton.any_class :])
    torch.testing.assert_close(marginals, expected, rtol=1e-12, atol=1e-14)


@every_case
def test_the_most_probable_answer_equals_the_enumeration(seed):
    automaton, accepted, probabilities, ends = _random_case(seed)
    if not accepted:
        return
    weights = automaton.class_weights(probabilities.log(), False)[None]
    classes, _ = walk(automaton, weights, completion_weights(automaton, weights, False))
    best = max({_answer(each, ends) for each in accepted}, key=lambda each: _mass(probabilities, each))
    found = automaton.class_of[torch.tensor(best)].tolist()
    assert classes[0, : len(best)].tolist() == found
    assert (classes[0, len(best) :] == automaton.any_class).all()


@pytest.mark.parametrize("seed", [4, 7, 10])
def test_draws_follow_the_restricted_distribution(seed):
    # Noise on a grid: the share of the cells that give a class is its marginal, up to the size of a cell.
    automaton, _, probabilities, _ = _random_case(seed)
    num_cells, length = 60, 2
    weights = automaton.class_weights(probabilities[:length].log(), True)[None]
    sums = completion_weights(automaton, weights, True)
    assert sums[0, 0, automaton.initial].isfinite()
    grid = (torch.arange(num_cells, dtype=torch.float64) + 0.5) / num_cells
    noise = torch.cartesian_prod(grid, grid)
    rows = len(noise)
    classes, left = walk(automaton, weights.expand(rows, -1, -1), sums.expand(rows, -1, -1), noise)
    favour = factors(automaton, weights, sums)[0]
    marginals = (favour + weights[0]).exp()
    for place in range(length):
        shares = torch.bincount(classes[:, place], minlength=marginals.shape[1]).double() / rows
        assert (shares - marginals[place]).abs().max() < 2 / num_cells
    assert ((left >= 0) & (left < 1)).all()
    assert (left.mean(dim=0) - 0.5).abs().max() < 0.05


def test_a_draw_is_exact_for_given_noise():
    # "ab" or "ba" with tokens a = 1 and b = 2: probabilities 0.3 * 0.5 and 0.6 * 0.2 of a total of 0.27.
    automaton = TokenAutomaton.of([(0, 1, 1), (0, 2, 2), (1, 2, 3), (2, 1, 3)], 0, [3], 3, [0])
    probabilities = torch.tensor([[0.1, 0.3, 0.6], [0.3, 0.2, 0.5]], dtype=torch.float64)
    weights = automaton.class_weights(probabilities.log(), True)[None].expand(4, -1, -1)
    sums = completion_weights(automaton, weights, True)
    border = 0.15 / 0.27
    first = torch.tensor([0.01, border - 1e-9, border + 1e-9, 0.99], dtype=torch.float64)
    classes, left = walk(automaton, weights, sums, torch.stack([first, first], dim=1))
    a, b = automaton.class_of[1:].tolist()
    assert classes.tolist() == [[a, b], [a, b], [b, a], [b, a]]
    torch.testing.assert_close(left[:, 0], torch.tensor([0.01 / border, 1, 0, 0.9775]).double(), atol=1e-7, rtol=0)


def test_written_tokens_are_fixed_and_what_is_unknown_lies_behind_the_end():
    automaton = TokenAutomaton.of([(0, 1, 0), (0, 2, 1), (1, 2, 1)], 0, [1], 3, [0])
    weights = automaton.fixed_weights(torch.tensor([[1, 2, 0, -1], [2, 1, 0, -1], [1, 2, -1, -1]]))
    found = completion_weights(automaton, weights, True)[:, 0, automaton.initial]
    assert found.tolist() == [0.0, float("-inf"), float("-inf")]


def test_an_answer_is_found_however_improbable_it_is():
    automaton = TokenAutomaton.of([(0, 1, 0)], 0, [0], 3, [])
    log_probabilities = torch.tensor([[0.0, -1e5, 0.0]], dtype=torch.float64).expand(300, -1)
    weights = automaton.class_weights(log_probabilities, True)[None]
    sums = completion_weights(automaton, weights, True)
    assert float(sums[0, 0, automaton.initial]) == -3e7
    assert automaton.class_of[1] in walk(automaton, weights, sums, torch.full((1, 300), 0.9).double())[0]


def test_tokens_that_are_never_told_apart_share_a_class():
    edges = [(0, token, 1) for token in range(2, 50)] + [(1, token, 0) for token in range(2, 50)] + [(1, 1, 2)]
    automaton = TokenAutomaton.of(edges, 0, [2], 50, [0])
    assert automaton.class_of[2:].unique().numel() == 1
    # One for each state and class, the end, and what follows it.
    assert automaton.num_edges == 5


def test_the_shortest_answer_is_known():
    automaton = TokenAutomaton.of([(0, 1, 1), (1, 2, 2), (0, 3, 2)], 0, [2], 4, [0])
    assert automaton.shortest() == 1
    assert automaton.shortest([3]) == 2
    assert automaton.shortest([2, 3]) is None


def test_a_row_of_a_batch_equals_the_row_alone():
    automaton, _, probabilities, _ = _random_case(4)
    weights = torch.stack(
        [automaton.class_weights(each.log(), True) for each in (probabilities, probabilities.flip(0))]
    )
    together = completion_weights(automaton, weights, True)
    for row in range(2):
        alone = completion_weights(automaton, weights[row : row + 1], True)
        assert torch.equal(together[row], alone[0])
        assert torch.equal(
            factors(automaton, weights, together)[row], factors(automaton, weights[row : row + 1], alone)[0]
        )
