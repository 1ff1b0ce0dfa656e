"""What several commands share: model, strategy and decoding."""

import json

import pytest

import demask_hf


def test_set_reaches_every_strategy_that_has_the_field(generate):
    _, out, _ = generate("w3", "--json", "--compare", "threshold", "demask", "--set", "confidence_threshold=0.25")
    assert [json.loads(line)["strategy"]["confidence_threshold"] for line in out.splitlines()] == [0.25, 0.25]


@pytest.mark.parametrize(("head", "name"), [(True, "demask"), (False, "threshold")])
def test_the_default_strategy_depends_on_the_head(generate, head, name):
    assert json.loads(generate("w3", "--json", head=head)[1])["strategy"]["name"] == name


def test_compare_leaves_demask_out_without_a_head(generate):
    rows = generate("w3 w4", "--compare", head=False)[1].splitlines()[2:]
    assert [row.split()[0] for row in rows] == [name for name in demask_hf.strategy_names() if name != "demask"]


def test_decoding_options_reach_generate(generate):
    options = ("--no-stop-at-eos", "--max-new-tokens", "6", "--block-length", "2", "--top-k", "5", "--top-p", "0.9")
    found = json.loads(generate("w3", "--json", *options)[1])
    assert found["num_tokens"] == 6
    capped = json.loads(generate("w3", "--json", *options, "--max-denoising-steps", "1")[1])
    assert capped["num_forward_passes"] == 1
