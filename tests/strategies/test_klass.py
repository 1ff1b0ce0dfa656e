import pytest
import torch

from demask_hf import make_strategy


def _run(make_step, steps, **fields):
    """Feed steps, each a list of confidences over two tokens with None for a position no longer masked."""
    strategy, selected = make_strategy("klass", **fields), []
    for confidences in steps:
        candidates = [[confidence is not None for confidence in confidences]]
        probabilities = [[confidence, 1 - confidence] for confidence in confidences if confidence is not None]
        step = make_step(probabilities, candidates=candidates)
        selected.append(strategy.select(step).nonzero()[:, 1].tolist())
    return selected


def test_nothing_is_ready_before_the_third_forward_pass(make_step):
    # All positions are certain and never move: one by one twice, then all that are left.
    steps = [[0.99, 0.98, 0.97, 0.96], [None, 0.98, 0.97, 0.96], [None, None, 0.97, 0.96]]
    assert _run(make_step, steps) == [[0], [1], [2, 3]]


def test_confident_positions_wait_until_they_are_stable(make_step):
    # Position 0 moves from .5 to .95 in the second step, so its last two values are small from the fourth on.
    steps = [[0.5, 0.97], [0.95, 0.97], [0.95, 0.97], [0.95, 0.97]]
    assert _run(make_step, steps) == [[1], [1], [1], [0, 1]]


def test_stable_positions_wait_until_they_are_confident(make_step):
    steps = [[0.8, 0.85, 0.95], [0.8, 0.85, None], [0.8, None, None]]
    assert _run(make_step, steps) == [[2], [1], [0]]
    assert _run(make_step, [[0.8, 0.85, 0.95]] * 3, confidence_threshold=0.82) == [[2], [2], [1, 2]]


def test_a_ready_position_holds_back_the_others(make_step):
    # In the third step position 0 is ready; position 1 is more confident but has just moved.
    steps = [[0.92, 0.6], [0.92, 0.6], [0.92, 0.99]]
    assert _run(make_step, steps) == [[0], [0], [0]]


def test_history_length_is_the_number_of_stable_steps(make_step):
    steps = [[0.99, 0.98, 0.97]] * 4
    assert _run(make_step, steps, history_length=1) == [[0], [0, 1, 2], [0, 1, 2], [0, 1, 2]]
    assert _run(make_step, steps, history_length=3) == [[0], [0], [0], [0, 1, 2]]


def test_kl_is_taken_of_the_prediction_now_against_the_one_before(make_step):
    # KL((.95, .05) || (.9, .1)) = .0167 nats, the other way round .0207.
    settings = {"history_length": 1, "kl_threshold": 0.018, "confidence_threshold": 0.85}
    assert _run(make_step, [[0.9, 0.99], [0.95, 0.99]], **settings)[1] == [0, 1]
    assert _run(make_step, [[0.95, 0.99], [0.9, 0.99]], **settings)[1] == [1]


def test_the_threshold_itself_is_not_below_it(make_step):
    # A prediction that stays has a KL of exactly 0, so any limit above 0 lets it pass; the limit must be above 0.
    assert _run(make_step, [[0.99, 0.98]] * 3, kl_threshold=1e-300)[2] == [0, 1]
    with pytest.raises(ValueError, match=r"`kl_threshold` must be a number in \(0, inf\], got 0\."):
        make_strategy("klass", kl_threshold=0)


def test_new_candidates_have_no_history(make_step):
    # Position 1 becomes a candidate in the third step, as in a new block, and is ready two steps later.
    steps = [[0.99, None], [0.99, None], [None, 0.99], [None, 0.99], [None, 0.99]]
    strategy = make_strategy("klass")
    stable = []
    for confidences in steps:
        candidates = [[confidence is not None for confidence in confidences]]
        probabilities = [[confidence, 1 - confidence] for confidence in confidences if confidence is not None]
        strategy.select(make_step(probabilities, candidates=candidates))
        stable.append((strategy._memory.history < 1e-3).all(dim=0)[0].tolist())
    assert stable == [[False, False], [False, False], [False, False], [False, False], [False, True]]


def test_forward_passes_by_hand(scripted):
    model = scripted([{5: 0.99}, {6: 0.98}, {7: 0.97}, {8: 0.96}, {9: 0.6}])
    output = model.generate(torch.tensor([[9]]), max_new_tokens=5, strategy="klass", return_dict_in_generate=True)
    assert output.unmask_step.tolist() == [[-1, 0, 1, 2, 2, 3]]
    assert output.num_forward_passes.tolist() == [4]


def test_each_block_starts_its_own_history(scripted):
    model = scripted([{5: 0.99}, {6: 0.98}, {7: 0.97}, {8: 0.96}] * 2)
    output = model.generate(
        torch.tensor([[9]]), max_new_tokens=8, block_length=4, strategy="klass", return_dict_in_generate=True
    )
    assert output.unmask_step.tolist() == [[-1, 0, 1, 2, 2, 3, 4, 5, 5]]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"confidence_threshold": 1.5}, r"`confidence_threshold` must be a number in \[0, 1\], got 1\.5\."),
        ({"kl_threshold": -0.1}, r"`kl_threshold` must be a number in \(0, inf\], got -0\.1\."),
        ({"history_length": 0}, r"`history_length` must be an integer of at least 1, got 0\."),
        ({"history_length": 1.5}, r"`history_length` must be an integer of at least 1, got 1\.5\."),
    ],
)
def test_limits_outside_their_interval_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        make_strategy("klass", **fields)
