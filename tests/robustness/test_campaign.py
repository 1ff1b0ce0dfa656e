"""No wrong input of the catalogue is accepted, hangs, or fails inside; the counts are those of `campaign.py`."""

import sys
from collections import Counter
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def campaign():
    """Return the module of the campaign; its catalogue imports it by its name."""
    sys.path.insert(0, str(Path(__file__).parent))
    try:
        import campaign

        yield campaign
    finally:
        sys.path.remove(str(Path(__file__).parent))


def test_minimal_commands_would_begin_to_work(campaign, tmp_path):
    # Otherwise a wrong option would be refused for another reason.
    import command_inputs

    working = [name for name in command_inputs.COMMANDS if name not in ("export", "import-head", "push")]
    for command in working:
        case = campaign.Case(command, "", lambda command=command: command_inputs.begin(command, tmp_path))
        assert campaign.outcome_of(case).outcome == "accepted", command


def test_right_arguments_of_generate_are_accepted(campaign):
    import generate_inputs

    generate_inputs.make_model().generate(generate_inputs.PROMPT, max_new_tokens=4)


def test_every_wrong_input_is_refused_in_a_clear_sentence(campaign, tmp_path):
    results = campaign.run(campaign.all_cases(tmp_path))
    counts = Counter(result.outcome for result in results)
    wrong = [(one.case.kind, one.case.name, one.outcome, one.said) for one in results if one.outcome != "clear"]
    assert len(results) >= 1500
    assert counts["internal"] == counts["accepted"] == counts["hangs"] == 0, wrong
    assert counts["clear"] >= 0.98 * len(results), wrong
