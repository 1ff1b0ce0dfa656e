import pytest
import torch

from demask_hf import make_strategy
from demask_hf.strategies.lossless import ORDERS
from demask_hf.strategies.sequential import one_at_a_time


PROMPTS = torch.tensor([[0, 0, 5, 6, 7], [8, 9, 10, 11, 12], [0, 0, 0, 0, 13]])
PADDING = (PROMPTS > 0).long()
SEEDS = [3, 4, 5]


def _decode(model, strategy, **settings):
    known = {"max_new_tokens": 12, "stop_at_eos": False, "seed": SEEDS}
    return model.generate(PROMPTS, PADDING, strategy=strategy, return_dict_in_generate=True, **{**known, **settings})


def _check_equal(model, settings, **fields):
    """Check that the answer is that of one token per pass, written in the same order; return both."""
    strategy = make_strategy(fields.pop("name", "lossless"), **fields)
    one, several = (_decode(model, rule, **settings) for rule in (one_at_a_time(strategy), strategy))
    assert one.sequences.tolist() == several.sequences.tolist()
    assert (several.num_forward_passes <= one.num_forward_passes).all()
    assert (several.num_row_forwards <= several.num_forward_passes * strategy.num_versions).all()
    for first, second in zip(one.unmask_step, several.unmask_step, strict=True):
        is_written = first >= 0
        in_order = second[is_written][first[is_written].argsort(stable=True)]
        assert (in_order.diff() >= 0).all()
    return one, several


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("order", ORDERS)
def test_every_order_has_the_answer_of_one_token_per_pass(dream_with_head, order, temperature):
    _check_equal(dream_with_head, {"temperature": temperature}, order=order)


@pytest.mark.parametrize("name", ["lossless", "freedave"])
@pytest.mark.parametrize(
    "settings",
    [
        {"block_length": 4},
        {"block_length": 4, "temperature": 0.8, "top_p": 0.9},
        {"stop_at_eos": True},
        {"eos_penalty": 5.0, "stop_at_eos": True, "temperature": 1.0},
        {"max_denoising_steps": 5},
        {"max_denoising_steps": 5, "block_length": 4},
        {"block_cache": "dual", "block_length": 4},
        {"block_cache": "prefix", "block_length": 6, "cache_commits_first": True, "temperature": 1.0},
        {"block_cache": "dual", "block_length": 4, "max_denoising_steps": 7},
        {"batch_invariant": True, "temperature": 1.0},
        {"repetition_penalty": 1.3},
    ],
    ids=str,
)
def test_every_setting_has_the_answer_of_one_token_per_pass(dream_with_head, name, settings):
    _check_equal(dream_with_head, settings, name=name, num_versions=6)


@pytest.mark.parametrize("bias", [-200.0, -2.0, 2.5, 200.0])
@pytest.mark.parametrize("order", ["confidence", "influence", "degree"])
def test_no_head_can_change_the_answer(make_dream, make_head, bias, order):
    model = make_dream()
    model.set_demask_head(make_head(model))
    with torch.no_grad():
        # At -200 all dependencies are 0, at 200 all are 1.
        model.demask_head.scorer.bias.fill_(bias)
    _check_equal(model, {"temperature": 1.0}, order=order)


def test_without_a_head_it_is_lossless_too(dream):
    one, several = _check_equal(dream, {})
    assert several.num_forward_passes.sum() < one.num_forward_passes.sum()


def test_certain_positions_are_verified_in_one_pass(scripted):
    model = scripted([{5: 0.9}, {6: 0.8}, {7: 0.7}, {8: 0.6}])
    settings = {"max_new_tokens": 4, "return_dict_in_generate": True, "strategy": "lossless"}
    output = model.generate(torch.tensor([[9]]), **settings)
    # One row first; then the row with one token, with two and with three, the last of which needs no further forward.
    assert output.unmask_step.tolist() == [[-1, 0, 1, 1, 1]]
    assert (output.num_forward_passes.item(), output.num_row_forwards.item()) == (2, 4)
    output = model.generate(torch.tensor([[9]]), num_versions=2, **settings)
    assert output.unmask_step.tolist() == [[-1, 0, 1, 1, 2]]
    assert (output.num_forward_passes.item(), output.num_row_forwards.item()) == (3, 4)
    output = model.generate(torch.tensor([[9]]), num_versions=1, **settings)
    assert (output.num_forward_passes.item(), output.num_row_forwards.item()) == (4, 4)


def test_a_surprise_ends_the_chain(scripted):
    def script(position, context):
        # Once the first token is there, the last position is certain, and of another token.
        if position == 3 and 5 in context:
            return {8: 0.99}
        return {1: {5: 0.9}, 2: {6: 0.8}, 3: {7: 0.7}}.get(position, {3: 1.0})

    settings = {"max_new_tokens": 3, "return_dict_in_generate": True}
    for name in ("lossless", "freedave"):
        output = scripted(script).generate(torch.tensor([[9]]), strategy=name, **settings)
        assert output.sequences.tolist() == [[9, 5, 6, 8]]
        assert output.unmask_step.tolist() == [[-1, 0, 2, 1]]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_versions": 0}, "`num_versions` must be .*, got 0"),
        ({"order": "random"}, "`order` must be one of .*, got 'random'"),
    ],
)
def test_wrong_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        make_strategy("lossless", **fields)


@pytest.mark.parametrize("name", ["lossless", "freedave"])
def test_a_renewed_cache_is_refused(dream, name):
    message = f"`cache_refresh_interval` must be None for strategy '{name}', whose drafts .*, got 3"
    with pytest.raises(ValueError, match=message):
        _decode(dream, name, block_cache="dual", cache_refresh_interval=3)


def test_influence_needs_a_head(dream):
    with pytest.raises(ValueError, match="must have a dependency head"):
        _decode(dream, "lossless", order="influence")
