import numpy as np
import pytest

from demask_hf.statistics import paired_difference


def test_mean_difference_by_hand():
    result = paired_difference(np.array([1, 0, 1, 1]), np.array([0, 0, 1, 0]))
    assert result.mean == 0.5
    assert result.num_prompts == 4
    assert result.lower <= result.mean <= result.upper


def test_equal_scores_leave_no_doubt():
    scores = np.array([0.0, 1.0, 1.0])
    result = paired_difference(scores, scores)
    assert (result.mean, result.lower, result.upper) == (0.0, 0.0, 0.0)


def test_seeds_of_a_prompt_are_averaged_first():
    first = np.array([[1, 0, 1, 0], [1, 1, 1, 1]])
    second = np.array([[0, 0], [1, 0]])
    averaged = paired_difference(np.array([0.5, 1.0]), np.array([0.0, 0.5]))
    assert paired_difference(first, second) == averaged
    assert averaged.mean == 0.5


def test_bounds_are_those_of_the_normal_approximation():
    generator = np.random.default_rng(1)
    differences = generator.normal(0.2, 1.0, size=400)
    result = paired_difference(differences, np.zeros(400))
    error = differences.std() / 400**0.5
    assert result.lower == pytest.approx(differences.mean() - 1.645 * error, abs=0.01)
    assert result.upper == pytest.approx(differences.mean() + 1.645 * error, abs=0.01)


def test_more_confidence_gives_wider_bounds():
    scores = np.random.default_rng(0).random(50)
    narrow, wide = (paired_difference(scores, np.zeros(50), confidence=level) for level in (0.8, 0.99))
    assert wide.lower < narrow.lower < narrow.upper < wide.upper


def test_bounds_follow_the_seed():
    first, second = np.random.default_rng(0).random((2, 30))
    assert paired_difference(first, second, seed=3) == paired_difference(first, second, seed=3)
    assert paired_difference(first, second, seed=3) != paired_difference(first, second, seed=4)


@pytest.mark.parametrize(("first", "second"), [([1, 2], [1, 2, 3]), ([1], [1]), ([], [])])
def test_scores_of_other_prompts_are_refused(first, second):
    with pytest.raises(ValueError, match="`first` and `second` must score the same prompts, at least two, got"):
        paired_difference(np.array(first), np.array(second))
