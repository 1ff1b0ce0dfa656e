"""The sentences that refuse a value."""

import pytest

from demask_hf import validation


@pytest.mark.parametrize("value", [None, "0.5", float("nan"), -0.01, 1.01, True])
def test_intervals_refuse_other_values(value):
    with pytest.raises(ValueError, match=r"`limit` must be a number in \[0, 1\], got"):
        validation.check_interval("limit", value, 0, 1)


def test_half_open_intervals():
    validation.check_interval("limit", 1, 0, 1, open_low=True)
    with pytest.raises(ValueError, match=r"`limit` must be a number in \(0, inf\), got 0\."):
        validation.check_interval("limit", 0, 0, open_low=True)


def test_choices_are_listed():
    validation.check_choice("rule", "a", ("a", "b"))
    with pytest.raises(ValueError, match=r"`rule` must be one of a, b, got 'c'\."):
        validation.check_choice("rule", "c", ("a", "b"))


@pytest.mark.parametrize("value", [0, 1, "0.5"])
def test_open_intervals_leave_out_their_ends(value):
    validation.check_interval("share", 0.5, 0, 1, open_low=True, open_high=True)
    with pytest.raises(ValueError, match=rf"`share` must be a number in \(0, 1\), got {value!r}\."):
        validation.check_interval("share", value, 0, 1, open_low=True, open_high=True)


@pytest.mark.parametrize("value", [0, 1.5, True, None, "2"])
def test_counts_refuse_other_values(value):
    validation.check_count("count", 1)
    with pytest.raises(ValueError, match=rf"`count` must be an integer of at least 1, got {value!r}\."):
        validation.check_count("count", value)


def test_nearest_lists_close_words_or_all():
    assert validation.nearest("treshold", ["threshold", "klass"]) == "nearest: threshold"
    assert validation.nearest("xyz", ["threshold", "klass"]) == "known: klass, threshold"
    assert validation.nearest("xyz", []) == ""
