import pytest
import torch

from demask_hf import make_strategy
from demask_hf.strategies import Review


WORD, OTHER, MASK = 3, 4, 1


def _decide(make_step, strategy, masked=(), kept=(), other=()):
    """Decide on one row: masked positions with these probabilities, then written ones.

    Of each written position, the probability of its token, which is 3, and of the most likely one, which is 4.
    """
    count = len(masked) + len(kept)
    candidates = torch.arange(count)[None] < len(masked)
    spread = [torch.zeros(1, count), torch.zeros(1, count)]
    for values, given in zip(spread, (kept, other or kept), strict=True):
        values[0, len(masked) :] = torch.tensor(given)
    tokens = torch.full((1, count), OTHER if other else WORD).masked_fill(candidates, 0)
    probabilities = torch.tensor([[0.0, 0.0, 0.0, each, 1 - each] for each in masked]).view(len(masked), 5)
    step = make_step(
        probabilities,
        candidates,
        tokens=[WORD] * len(masked),
        written=~candidates,
        review=Review(spread[0], tokens, spread[1]),
    )
    return strategy.select(step)


def _places(mask):
    return mask.nonzero()[:, 1].tolist()


def _select(make_step, masked=(), kept=(), other=(), **fields):
    decision = _decide(make_step, make_strategy("t2m", **fields), masked, kept, other)
    return _places(decision.selected), _places(decision.remasked)


def test_masked_positions_above_the_threshold_are_written_or_else_the_best(make_step):
    assert _select(make_step, [0.75, 0.5, 0.875], confidence_threshold=0.75) == ([2], [])
    assert _select(make_step, [0.5, 0.625], confidence_threshold=0.75) == ([1], [])


def test_tokens_of_low_probability_are_remasked(make_step):
    assert _select(make_step, [0.9], [0.05, 0.1, 0.5], remask_share=1.0) == ([0], [1])
    assert _select(make_step, [0.9], [0.05, 0.1, 0.5], remask_threshold=0.5, remask_share=1.0) == ([0], [1, 2])


def test_only_the_worst_are_remasked_where_the_share_is_small(make_step):
    kept = [0.0625, 0.03125, 0.09375, 0.9, 0.9, 0.9, 0.9, 0.9]
    assert _select(make_step, [], kept) == ([], [0, 1])
    # A quarter of seven is one, and one is always allowed.
    assert _select(make_step, [], kept[:7]) == ([], [1])
    assert _select(make_step, [], kept, remask_share=0.0) == ([], [1])


def test_tokens_are_remasked_where_another_one_is_likely(make_step):
    fields = {"rule": "t2t_remask", "remask_threshold": 0.75, "remask_share": 0.5}
    assert _select(make_step, [], [0.1] * 4, [0.75, 0.8, 0.9, 0.85], **fields) == ([], [2, 3])
    # Where the token itself is the most likely one, nothing is remasked.
    assert _select(make_step, [], [0.9] * 4, **fields) == ([], [])


def test_tokens_are_remasked_that_lost_probability(make_step):
    strategy = make_strategy("t2m", rule="logit_diff", remask_threshold=0.25, remask_share=1.0)
    assert _places(_decide(make_step, strategy, [0.9, 0.8, 0.9]).remasked) == []
    # As in the public code, there is nothing to compare with before the second step that saw tokens.
    assert _places(_decide(make_step, strategy, [], [0.1, 0.9, 0.75]).remasked) == []
    assert _places(_decide(make_step, strategy, [], [0.1, 0.65, 0.25]).remasked) == [2]


def test_a_token_that_was_just_written_is_compared_with_its_probability_before(make_step):
    strategy = make_strategy("t2m", rule="logit_diff", remask_threshold=0.25)
    _decide(make_step, strategy, [0.5, 0.9], [0.9])
    assert _places(_decide(make_step, strategy, [0.5], [0.6, 0.9]).remasked) == [1]


def test_editing_replaces_the_token_in_place(make_step):
    decision = _decide(make_step, make_strategy("t2m", rule="t2t"), [0.9], [0.1, 0.1], [0.5, 0.6])
    assert _places(decision.selected) == [0, 2]
    assert decision.tokens.tolist() == [[WORD, 0, OTHER]]
    assert _places(decision.remasked) == []


def test_a_position_is_remasked_a_limited_number_of_times(make_step):
    strategy = make_strategy("t2m", max_position_remasks=2, max_review_steps=4)
    decisions = [_decide(make_step, strategy, [], [0.01, 0.02]) for _ in range(5)]
    assert [_places(each.remasked) for each in decisions] == [[0], [0], [1], [1], []]
    # The fourth step with nothing masked is the last one that the strategy returns to.
    assert [each.revisited.item() for each in decisions] == [True, True, True, False, False]


def test_a_decode_by_hand(scripted):
    # Position 1 is written too early: with its neighbour in place, its token is unlikely, and another one is written.
    def script(position, context):
        return {1: {5: 0.9} if context[2] == MASK else {5: 0.05, 6: 0.8}, 2: {7: 0.9}}.get(position, {3: 1.0})

    output = scripted(script).generate(
        torch.tensor([[9]]), max_new_tokens=2, strategy="t2m", return_dict_in_generate=True, output_history=True
    )
    mask = MASK
    assert [each[0].tolist() for each in output.history] == [
        [9, mask, mask],
        [9, 5, 7],
        [9, mask, 7],
        [9, 6, 7],
        [9, 6, 7],
    ]
    assert output.num_forward_passes.tolist() == [4]
    assert output.num_remasked.tolist() == [1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"confidence_threshold": 1.5}, r"`confidence_threshold` must be a number in \[0, 1\], got 1\.5\."),
        ({"rule": "best"}, "`rule` must be one of low_prob, t2t_remask, logit_diff, t2t, got 'best'"),
        ({"remask_threshold": -0.1}, r"`remask_threshold` must be a number in \[0, 1\], got -0\.1\."),
        ({"editing_threshold": 2}, r"`editing_threshold` must be a number in \[0, 1\], got 2\."),
        ({"remask_share": 1.5}, r"`remask_share` must be a number in \[0, 1\], got 1\.5\."),
        ({"max_position_remasks": 0}, r"`max_position_remasks` must be an integer of at least 1, got 0\."),
        ({"max_review_steps": 0}, r"`max_review_steps` must be an integer of at least 1, got 0\."),
    ],
)
def test_limits_outside_their_interval_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        make_strategy("t2m", **fields)
