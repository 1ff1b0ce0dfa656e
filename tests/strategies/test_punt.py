import pytest
import torch

from demask_hf import make_strategy


A, B, MASK = 3, 4, 1
PROMPT = torch.tensor([[9]])


def _decode(model, num_tokens, **fields):
    return model.generate(
        PROMPT, max_new_tokens=num_tokens, strategy="punt", stop_at_eos=False, return_dict_in_generate=True, **fields
    )


def _copying(position, context):
    """Position 1 is A (.75), and 2 copies it; position 3 is A (.5) on its own; position 4 copies 3."""
    if position in (1, 3):
        copy = context[position + 1]
        return {copy: 1.0} if copy != MASK else {A: 0.75 if position == 1 else 0.5, B: 0.25}
    source = context[position - 1]
    return {A: 0.7 if position == 2 else 0.45, B: 0.3} if source == MASK else {source: 1.0}


def test_what_depends_on_surer_positions_waits(scripted):
    # Ranks 0 to 3 are the positions 1, 2, 3, 4. The first test reveals 1 and 2: 3 and 4 stay as they are. The second
    # one reveals 1 and 3: 2 and 4 are certain now.
    output = _decode(scripted(_copying), 4)
    assert output.unmask_step[0, 1:].tolist() == [0, 1, 0, 1]
    assert output.sequences[0, 1:].tolist() == [A, A, A, A]
    # Two probes of four positions, one of two.
    assert output.num_probe_passes.tolist() == [3]
    assert output.num_forward_passes.tolist() == [2]


def test_probes_reveal_what_is_kept_with_digit_zero(scripted):
    model = scripted(_copying)
    _decode(model, 4)
    shown = [call[0, 1:].tolist() for call in model.calls]
    first = [[MASK] * 4, [A, A, MASK, MASK], [A, MASK, A, MASK]]
    assert shown == [*first, [A, MASK, A, MASK], [A, A, A, MASK]]


def test_ranks_keep_their_numbers_when_one_is_dropped(scripted):
    def script(position, context):
        # Position 3, rank 2, follows 1: it is dropped in the first test and is not revealed in the second.
        if position == 3 and context[1] == A:
            return {B: 0.9}
        return {A: 0.9 - 0.1 * position}

    model = scripted(script)
    output = _decode(model, 4)
    assert [call[0, 1:].tolist() for call in model.calls[1:3]] == [[A, A, MASK, MASK], [A, MASK, MASK, MASK]]
    assert output.unmask_step[0, 1:].tolist() == [0, 0, 1, 0]


def test_a_test_without_positions_costs_nothing(scripted):
    def script(position, context):
        return {A: 0.9} if position == 1 or context[1] == MASK else {B: 0.9}

    # Ranks 2 and 3 fall in the first test, rank 1 in the second; then three positions are left, and independent.
    output = _decode(scripted(script), 4)
    assert output.unmask_step[0, 1:].tolist() == [0, 1, 1, 1]
    assert output.num_probe_passes.tolist() == [4]
    # One position has nothing to be tested with.
    assert _decode(scripted(script), 1).num_probe_passes.tolist() == [0]


def test_the_limit_is_in_nats(scripted):
    # From (.7, .3) to certainty: log(1 / .7) and more from what has become impossible.
    model = scripted(_copying)
    assert _decode(model, 4, kl_threshold=1e3).num_forward_passes.tolist() == [1]
    assert _decode(model, 4, kl_threshold=0.3).num_forward_passes.tolist() == [2]


def test_divergence_is_taken_from_the_prediction_before(scripted):
    def script(position, context):
        return {A: 0.9} if position == 1 else ({A: 0.5, B: 0.5} if context[1] == MASK else {A: 0.8, B: 0.2})

    # KL((.5, .5) || (.8, .2)) = .2231; the other way it is .1927.
    assert _decode(scripted(script), 2, kl_threshold=0.224).num_forward_passes.tolist() == [1]
    assert _decode(scripted(script), 2, kl_threshold=0.222).num_forward_passes.tolist() == [2]


def test_the_order_decides_who_is_tested(scripted):
    # Confidences .5 and .4, entropies in the other order: the first one has many small tokens.
    script = [{A: 0.5}, {A: 0.4, B: 0.6 - 1e-3, 5: 1e-3}]
    assert _decode(scripted(script), 2, order="confidence").num_probe_passes.tolist() == [1]
    model = scripted([{A: 0.5}, {A: 0.51, B: 0.49}])
    _decode(model, 2, order="margin")
    assert model.calls[1][0, 1:].tolist() == [A, MASK]


def test_blocks_are_tested_alone(scripted):
    output = _decode(scripted(_copying), 4, block_length=2)
    assert output.unmask_step[0, 1:].tolist() == [0, 1, 2, 3]
    assert output.num_probe_passes.tolist() == [2]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kl_threshold": -0.1}, r"`kl_threshold` must be a number in \[0, inf\], got -0\.1"),
        ({"order": "random"}, "`order` must be one of confidence, entropy, margin, token_probability, got 'random'"),
    ],
)
def test_wrong_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        make_strategy("punt", **fields)
