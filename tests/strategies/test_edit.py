import pytest
import torch

from demask_hf import make_strategy


MASK, EOS, PAD = 1, 2, 0
PROMPT = torch.tensor([[9]])


def _pair(position, context):
    """Predict two positions that must hold equal tokens, 5 or 6, and look different while both are masked."""
    first, second = context[1:3]
    if position == 1:
        return {5: 0.6, 6: 0.3} if second == MASK else {second: 0.95}
    if position == 2:
        return {6: 0.6, 5: 0.3} if first == MASK else {first: 0.95}
    return {7: 0.9}


EVERYTHING = {"name": "threshold", "confidence_threshold": 0.0}


def _decode(model, prompt=PROMPT, inner=EVERYTHING, **kwargs):
    settings = {"max_new_tokens": 3, "return_dict_in_generate": True, "output_history": True}
    return model.generate(prompt, strategy="edit", inner=inner, **{**settings, **kwargs})


def test_tokens_that_do_not_fit_together_are_not_written_together(scripted):
    # The step would write 5 6 7. Given each other, 5 and 6 are doubted; the loop keeps the surest one of all, 7.
    output = _decode(scripted(_pair))
    assert [each[0].tolist() for each in output.history[1:]] == [[9, MASK, MASK, 7], [9, 5, MASK, 7], [9, 5, 5, 7]]
    assert output.unmask_step.tolist() == [[-1, 1, 2, 0]]
    # Each of three positions was masked alone, twice.
    assert output.num_probe_passes.tolist() == [6]
    # Nothing that was written had to be taken back.
    assert output.num_remasked.tolist() == [0]


def test_what_an_earlier_step_wrote_is_remasked(scripted):
    # One position per step, in an order that writes the third last; then the first one no longer fits.
    def script(position, context):
        tokens = {1: {5: 0.9} if context[3] == MASK else {6: 0.9}, 2: {7: 0.8}, 3: {8: 0.7}}
        return tokens.get(position, {3: 1.0})

    output = _decode(scripted(script), inner="sequential")
    assert [each[0].tolist() for each in output.history[3:]] == [[9, MASK, 7, 8], [9, 6, 7, 8]]
    assert output.unmask_step.tolist() == [[-1, 3, 1, 2]]
    assert output.num_remasked.tolist() == [1]
    assert output.num_forward_passes.tolist() == [4]


def test_a_row_without_doubts_costs_no_forward_pass_more(scripted):
    script = [{5: 0.9}, {6: 0.8}, {7: 0.7}]
    plain = scripted(script).generate(PROMPT, max_new_tokens=3, strategy=EVERYTHING, return_dict_in_generate=True)
    output = _decode(scripted(script))
    assert torch.equal(output.sequences, plain.sequences)
    assert torch.equal(output.num_forward_passes, plain.num_forward_passes)


def test_the_number_of_looks_is_limited(scripted):
    # The first position is to differ from the second one, which is to be equal to it: every look takes both back.
    def script(position, context):
        first, second = context[1:3]
        if position == 1:
            return {5: 0.9} if second == MASK else {11 - second: 0.9}
        return {6: 0.8} if first == MASK else {first: 0.9}

    for max_looks in (1, 2, 4):
        output = _decode(scripted(script), max_looks=max_looks, max_new_tokens=2, edit_share=0.5)
        assert output.num_probe_passes.tolist() == [2 * max_looks]
        assert not (output.sequences == MASK).any()


def test_the_share_and_the_threshold_decide_what_is_taken_back(scripted):
    assert _decode(scripted(_pair), edit_threshold=0.0).sequences.tolist() == [[9, 5, 6, 7]]
    # Of three positions one is taken back: both are as bad, and the earlier one goes first.
    output = _decode(scripted(_pair), edit_share=0.3)
    assert output.sequences.tolist() == [[9, 6, 6, 7]]
    assert output.unmask_step.tolist() == [[-1, 1, 0, 0]]


def test_only_suspect_positions_are_probed(scripted):
    # The least likely ones when they were written are the first two.
    output = _decode(scripted(_pair), max_probes=2)
    assert output.sequences.tolist() == [[9, 5, 5, 7]]
    assert output.num_probe_passes.tolist() == [4]
    assert _decode(scripted(_pair), max_probes=1).num_probe_passes.tolist() == [2]


def test_predicted_dependencies_are_taken_for_doubts(scripted, scripted_head):
    table = torch.zeros(4, 4)
    table[1, 2], table[2, 1], table[3, 1] = 0.05, 0.25, 0.125
    model = scripted(_pair, head=scripted_head(table))
    inner = {"name": "demask", "dependency_bound": 0.5}
    # The first position depends on both others, the second one on the first: half of three is two.
    output = _decode(model, inner=inner, doubt="dependency", edit_share=0.5, max_looks=1)
    assert [each[0].tolist() for each in output.history[1:]] == [[9, MASK, MASK, 7], [9, 5, MASK, 7], [9, 5, 5, 7]]
    assert output.num_probe_passes.tolist() == [0]


def test_suspects_of_demask_are_those_with_the_largest_dependency(scripted, scripted_head):
    table = torch.zeros(4, 4)
    table[1, 3] = 0.25
    model = scripted(_pair, head=scripted_head(table))
    output = _decode(model, inner={"name": "demask", "dependency_bound": 0.5}, max_probes=1)
    # Only the third position is probed, which is what it should be.
    assert output.sequences.tolist() == [[9, 5, 6, 7]]
    assert output.num_probe_passes.tolist() == [1]


def test_a_row_is_complete_at_its_end(scripted):
    script = [{5: 0.9}, {EOS: 0.8}, {7: 0.7}]
    output = _decode(scripted(script), inner="sequential")
    assert output.sequences.tolist() == [[9, 5, EOS, PAD]]
    assert output.num_forward_passes.tolist() == [2]
    # Only what lies before the end is looked at.
    assert output.num_probe_passes.tolist() == [2]


def test_a_doubted_end_opens_the_rest(scripted):
    def script(position, context):
        words = {1: EOS if context[2] == MASK else 5, 2: 6, 3: 7}
        return {words.get(position, 3): {1: 0.9, 2: 0.8, 3: 0.7}.get(position, 1.0)}

    # All three are written; the end is doubted, because the word behind it makes another one likely.
    output = _decode(scripted(script), stop_at_eos=False)
    assert output.sequences.tolist() == [[9, 5, 6, 7]]
    # With a stop at the end, what lies behind it is dropped, and nothing speaks against the end.
    assert _decode(scripted(script), inner="sequential").sequences.tolist() == [[9, EOS, PAD, PAD]]


def test_the_look_waits_for_the_last_block(scripted):
    output = _decode(scripted(_pair), block_length=1)
    # The first block is written before the others are known, and all fit.
    assert output.sequences.tolist() == [[9, 5, 5, 7]]
    assert output.num_probe_passes.tolist() == [3]


def test_a_doubted_block_is_opened_again(scripted):
    def script(position, context):
        tokens = {1: {5: 0.9} if context[3] == MASK else {6: 0.9}, 2: {7: 0.8}, 3: {8: 0.7}}
        return tokens.get(position, {3: 1.0})

    output = _decode(scripted(script), block_length=1)
    assert output.sequences.tolist() == [[9, 6, 7, 8]]
    assert output.unmask_step.tolist() == [[-1, 3, 1, 2]]


def test_rows_of_a_batch_are_looked_at_apart(scripted):
    prompts = torch.tensor([[9, 9], [0, 9]])
    mask = torch.tensor([[1, 1], [0, 1]])

    def script(position, context):
        shift = len(context) - 4
        return _pair(position - shift, context[shift:])

    output = _decode(scripted(script), prompts, attention_mask=mask)
    alone = _decode(scripted(script), prompts[1:, 1:])
    assert output.sequences[1, 1:].tolist() == alone.sequences[0].tolist()
    assert output.num_probe_passes.tolist() == [6, 6]


def test_an_inner_plan_is_kept_and_edits_come_after_it(dream):
    inner = {"name": "schedule", "algorithm": "maskgit_plus", "plan": "llada"}
    output = _decode(dream, inner=inner, max_new_tokens=8, max_denoising_steps=2, stop_at_eos=False)
    plain = dream.generate(
        PROMPT,
        strategy=inner,
        max_new_tokens=8,
        max_denoising_steps=2,
        stop_at_eos=False,
        return_dict_in_generate=True,
    )
    assert torch.equal(output.history[1] == MASK, (plain.unmask_step > 0))
    assert output.num_forward_passes.item() > 2
    assert not (output.sequences == MASK).any()


def test_an_object_is_kept_as_name_and_fields():
    inner = make_strategy("threshold", confidence_threshold=0.5)
    strategy = make_strategy("edit", inner=inner)
    assert strategy.inner == inner.to_dict()
    assert make_strategy(**strategy.to_dict()) == strategy


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"inner": 3}, "`inner` must be a strategy's name, or hold its `name`, got 3"),
        ({"inner": {"order": "entropy"}}, "`inner` must be a strategy's name, or hold its `name`, got {'order'"),
        ({"inner": "best"}, "`strategy` must be a registered name, got 'best'"),
        ({"inner": "t2m"}, "`inner` must be a strategy that does not remask, .*, got 't2m'"),
        ({"inner": "lossless"}, "`inner` must be a strategy that does not .* make drafts, .*, got 'lossless'"),
        ({"inner": {"name": "freedave", "num_versions": 2}}, "`inner` must .* make drafts, .*, got 'freedave'"),
        ({"inner": "prophet"}, "`inner` must be .* or select in all blocks, got 'prophet'"),
        ({"doubt": "all"}, "`doubt` must be one of confidence, dependency, got 'all'"),
        (
            {"inner": "threshold", "doubt": "dependency"},
            "`doubt` must be 'confidence' for an `inner` other than 'demask', got 'dependency'",
        ),
        ({"edit_threshold": 1.5}, r"`edit_threshold` must be a number in \[0, 1\], got 1\.5\."),
        ({"edit_share": 0}, r"`edit_share` must be a number in \(0, 1\], got 0\."),
        ({"max_looks": 0}, r"`max_looks` must be an integer of at least 1, got 0\."),
        ({"max_probes": 0}, r"`max_probes` must be an integer of at least 1, got 0\."),
    ],
)
def test_limits_outside_their_interval_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        make_strategy("edit", **fields)
