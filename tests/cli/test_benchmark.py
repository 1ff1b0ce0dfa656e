"""`demask-hf benchmark`: how much work its progress expects."""

import pytest

from demask_hf.cli.benchmark import BenchmarkOptions, _most_settings
from demask_hf.evaluation.specs import parse_settings


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # All four and their reference to choose, the best one with its neighbours and the reference to report.
        ({}, 5 + 4),
        ({"chosen_only": True}, 5 + 2),
        ({"whole_length": True}, 5 + 4 + 1),
        ({"num_validation": 0}, 5),
        ({"num_validation": 0, "whole_length": True}, 5 + 4),
    ],
)
def test_progress_counts_settings_on_both_splits(options, expected):
    grid = [parse_settings("threshold:confidence_threshold=0.7/0.8/0.9/0.95", {})]
    assert _most_settings(grid, BenchmarkOptions(out="x", **options)) == expected
