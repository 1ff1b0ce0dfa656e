import pytest
import torch

from demask_hf import make_strategy


def _step(make_step, confidences, **kwargs):
    return make_step(
        [[1 - confidence, confidence, 0.0] for confidence in confidences], tokens=[1] * len(confidences), **kwargs
    )


def _selected(strategy, step):
    return strategy.select(step).nonzero()[:, 1].tolist()


def test_all_confident_positions_are_unmasked(make_step):
    step = _step(make_step, [0.95, 0.5, 0.75, 0.85])
    assert _selected(make_strategy("threshold", confidence_threshold=0.8), step) == [0, 3]
    assert _selected(make_strategy("threshold"), step) == [0]


def test_the_threshold_itself_is_enough(make_step):
    step = _step(make_step, [0.5, 0.75, 0.25])
    assert _selected(make_strategy("threshold", confidence_threshold=0.5), step) == [0, 1]


def test_the_most_confident_position_always_is(make_step):
    assert _selected(make_strategy("threshold"), _step(make_step, [0.25, 0.5, 0.5])) == [1]


def test_confidence_is_that_of_the_token_to_be_written(make_step):
    step = make_step([[0.75, 0.25], [0.5, 0.5]], tokens=[1, 0])
    assert _selected(make_strategy("threshold", confidence_threshold=0.4), step) == [1]


@pytest.mark.parametrize(
    ("factor", "expected"),
    [
        # Ranks 1, 2, 3 at columns 2, 0, 3 give (n + 1)(1 - c_n) = 0.25, 0.75, 1.0 and the last, 4 at column 1, 3.75.
        (0.7, [2]),
        (0.75, [0, 2]),
        (0.99, [0, 2]),
        (1.0, [0, 2, 3]),
        (3.74, [0, 2, 3]),
        (3.75, [0, 1, 2, 3]),
        (0.0, [2]),
    ],
)
def test_factor_takes_the_largest_prefix_whose_every_rank_passes(make_step, factor, expected):
    step = _step(make_step, [0.75, 0.25, 0.875, 0.75])
    assert _selected(make_strategy("threshold", factor=factor), step) == expected


def test_a_failing_rank_ends_the_prefix(make_step):
    # Rank 2 fails with 3 * 0.5 = 1.5; rank 3 would fail with 4 * 0.5 as well, whatever comes later.
    step = _step(make_step, [0.875, 0.5, 0.5])
    assert _selected(make_strategy("threshold", factor=1.4), step) == [0]
    # Ranks are by confidence: the second best passes with 3 * 0.25 although it stands last.
    step = _step(make_step, [0.875, 0.5, 0.75])
    assert _selected(make_strategy("threshold", factor=1.4), step) == [0, 2]


def test_factor_equals_the_public_loop(make_step):
    generator = torch.Generator().manual_seed(0)
    for factor in (0.2, 0.5, 1.0, 2.0):
        confidences = torch.randint(1, 64, (9,), generator=generator).div(64).tolist()
        order = sorted(range(9), key=lambda column: -confidences[column])
        taken = []
        for n, column in enumerate(order, start=1):
            if n > 1 and confidences[column] < 1 - factor / (n + 1):
                break
            taken.append(column)
        assert _selected(make_strategy("threshold", factor=factor), _step(make_step, confidences)) == sorted(taken)


# By rank .875, .75, .75, .25: (n + 1)(1 - c_n) is .25, .75, 1 and, at the last, 3.75.
@pytest.mark.parametrize(
    ("variant", "factor", "expected"),
    [
        ("fast_dllm", 0.7, [2]),
        ("fast_dllm", 0.8, [0, 2]),
        # Only the last rank fails, and is unmasked all the same.
        ("fast_dllm", 1.0, [0, 1, 2, 3]),
        ("fast_dllm", 4.0, [0, 1, 2, 3]),
        # The last rank stays although it passes; a rank fails at equality.
        ("d2cache", 4.0, [0, 2, 3]),
        ("d2cache", 1.1, [0, 2, 3]),
        ("d2cache", 1.0, [0, 2]),
        ("d2cache", 0.75, [2]),
        ("d2cache", 0.0, [2]),
    ],
)
def test_public_codes_treat_the_last_rank_in_their_own_way(make_step, variant, factor, expected):
    strategy = make_strategy("threshold", factor=factor, factor_variant=variant)
    assert _selected(strategy, _step(make_step, [0.75, 0.25, 0.875, 0.75])) == expected


@pytest.mark.parametrize("variant", ["stated", "fast_dllm", "d2cache"])
def test_a_position_that_is_left_alone_is_unmasked(make_step, variant):
    strategy = make_strategy("threshold", factor=0.5, factor_variant=variant)
    step = _step(make_step, [0.25, 0.5, 0.25], candidates=[[True, False], [False, False], [True, True]])
    assert strategy.select(step).tolist() == [[True, False], [False, False], [True, variant == "fast_dllm"]]


def test_rows_have_their_own_best_position(make_step):
    step = _step(make_step, [0.5, 0.625, 0.95, 0.25], candidates=[[True, True, False], [False, True, True]])
    assert make_strategy("threshold").select(step).tolist() == [[False, True, False], [False, True, False]]


def test_forward_passes_by_hand(scripted):
    model = scripted([{5: 0.95}, {6: 0.5}, {7: 0.92}, {8: 0.6}])
    output = model.generate(torch.tensor([[9]]), max_new_tokens=4, strategy="threshold", return_dict_in_generate=True)
    assert output.unmask_step.tolist() == [[-1, 0, 2, 0, 1]]
    assert output.num_forward_passes.tolist() == [3]
    assert output.tokens_per_forward.tolist() == pytest.approx([4 / 3])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"confidence_threshold": 1.1}, r"`confidence_threshold` must be a number in \[0, 1\], got 1\.1\."),
        ({"confidence_threshold": -0.1}, r"`confidence_threshold` must be a number in \[0, 1\], got -0\.1\."),
        ({"factor_variant": "nvidia"}, "`factor_variant` must be one of stated, fast_dllm, d2cache, got 'nvidia'"),
        ({"factor": -1}, r"`factor` must be a number in \[0, inf\], got -1\."),
    ],
)
def test_limits_outside_their_interval_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        make_strategy("threshold", **fields)
