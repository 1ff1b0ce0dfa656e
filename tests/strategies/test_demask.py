import math

import pytest
import torch

from demask_hf import make_strategy, strategy_fields
from demask_hf.functional.dependency import RULES
from demask_hf.strategies.demask import DEFAULT_DEPENDENCY_BOUND, ORDERS


PROMPT = torch.tensor([[9]])
A, B, MASK = 3, 4, 1


def _decode(model, num_tokens=3, **kwargs):
    return model.generate(PROMPT, max_new_tokens=num_tokens, strategy="demask", return_dict_in_generate=True, **kwargs)


def _table(size, **pairs):
    """Return a table of dependencies between positions; `d12=0.5` sets D[1, 2]."""
    table = torch.zeros(size, size)
    for name, value in pairs.items():
        table[int(name[1]), int(name[2])] = value
    return table


ONE_TO_THREE = torch.tensor([[1, 2, 3]])
SCRIPT = [{5: 0.9}, {6: 0.8}, {7: 0.7}]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        # The walk goes 1, 2, 3; D[1, 2] = .25, D[1, 3] = .5, D[2, 3] = .25, D[3, 1] = .75.
        ({"dependency_bound": 0.75}, [0, 0, 0]),
        ({"dependency_bound": 0.7}, [0, 0, 1]),
        ({"dependency_bound": 0.2}, [0, 1, 2]),
        ({"dependency_bound": 0.5, "rule": "max"}, [0, 0, 0]),
        ({"dependency_bound": 0.5, "rule": "max", "symmetric": True}, [0, 0, 1]),
        # The root of .5^2 + .25^2 is .559.
        ({"dependency_bound": 0.56, "rule": "norm"}, [0, 0, 0]),
        ({"dependency_bound": 0.55, "rule": "norm"}, [0, 0, 1]),
        ({"dependency_bound": 0.9, "rule": "total"}, [0, 0, 1]),
        ({"dependency_bound": 1.0, "rule": "total"}, [0, 0, 0]),
        # Position 2 is refused by the confidence threshold, so position 3 is too; position 1 comes first in any case.
        ({"dependency_bound": 1.0, "confidence_threshold": 0.85}, [0, 1, 2]),
        ({"dependency_bound": 1.0, "confidence_threshold": 0.75}, [0, 0, 1]),
        ({"dependency_bound": 1.0, "confidence_threshold": 0.99}, [0, 1, 2]),
        # The third position of the walk is not looked at while there are two before it.
        ({"dependency_bound": 1.0, "max_candidates": 2}, [0, 0, 1]),
        ({"dependency_bound": 1.0, "max_candidates": 1}, [0, 1, 2]),
        ({"dependency_bound": 0.75, "max_candidates": 3}, [0, 0, 0]),
    ],
)
def test_rules_by_hand(scripted, scripted_head, fields, expected):
    model = scripted(SCRIPT, head=scripted_head(_table(4, d12=0.25, d13=0.5, d23=0.25, d31=0.75)))
    output = _decode(model, **fields)
    assert output.unmask_step[0, 1:].tolist() == expected
    assert output.num_forward_passes.item() == max(expected) + 1
    assert output.sequences.tolist() == [[9, 5, 6, 7]]


def test_a_partition_has_few_sets_and_the_most_confident_one_is_written(scripted, scripted_head):
    # Neighbours depend on each other, and the model is surest in the middle.
    pairs = {"d12": 0.5, "d21": 0.5, "d23": 0.5, "d32": 0.5}
    model = scripted([{5: 0.7}, {6: 0.9}, {7: 0.8}], head=scripted_head(_table(4, **pairs)))
    assert _decode(model, selection="partition").unmask_step[0, 1:].tolist() == [1, 0, 1]
    # With a bound that they satisfy, all are one set.
    output = _decode(model, selection="partition", dependency_bound=1.0)
    assert output.unmask_step[0, 1:].tolist() == [0, 0, 0]
    # Positions below the threshold are in no set.
    output = _decode(model, selection="partition", dependency_bound=1.0, confidence_threshold=0.75)
    assert output.unmask_step[0, 1:].tolist() == [1, 0, 0]


def test_influence_reveals_causes_before_their_effect(scripted, scripted_head):
    # Positions 2 and 3 determine position 1, of which the model is surest.
    model = scripted(SCRIPT, head=scripted_head(_table(4, d21=0.5, d31=0.5, d12=0.25, d13=0.25)))
    assert _decode(model).unmask_step[0, 1:].tolist() == [0, 1, 1]
    output = _decode(model, order="influence")
    assert output.unmask_step[0, 1:].tolist() == [1, 0, 0]
    # A threshold does not hold for the first of the walk; candidates are the most confident ones.
    assert _decode(model, order="influence", confidence_threshold=0.95).unmask_step[0, 1:].tolist() == [2, 0, 1]
    assert _decode(model, order="influence", max_candidates=2).unmask_step[0, 1:].tolist() == [2, 0, 1]


def test_degree_reveals_first_what_all_others_depend_on(scripted, scripted_head):
    # The model is least sure of position 3, and positions 1 and 2 are independent once it is known.
    model = scripted(SCRIPT, head=scripted_head(_table(4, d13=0.25, d31=0.25, d23=0.25, d32=0.25)))
    assert _decode(model).unmask_step[0, 1:].tolist() == [0, 0, 1]
    assert _decode(model, order="degree").unmask_step[0, 1:].tolist() == [1, 1, 0]


def test_the_order_of_a_walk_is_that_of_its_scores(scripted, scripted_head, make_step):
    model = scripted(SCRIPT, head=scripted_head(_table(4, d21=0.5, d31=0.5, d12=0.25, d13=0.25)))
    step = make_step([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]], hidden_states=torch.zeros(3, 4), positions=ONE_TO_THREE)
    for fields, expected in (
        ({}, [0.9, 0.8, 0.7]),
        ({"order": "influence"}, [-0.5, 0.25, 0.25]),
        ({"order": "influence", "max_candidates": 2}, [-0.25, 0.25, -math.inf]),
        ({"order": "degree"}, [1.5, 0.75, 0.75]),
        ({"max_candidates": 1}, [0.9, -math.inf, -math.inf]),
    ):
        strategy = make_strategy("demask", **fields)
        strategy.bind(model)
        assert strategy.walk_scores(step).tolist() == pytest.approx(expected)


def test_default_is_rule_token_at_the_default_bound(scripted, scripted_head):
    bound = DEFAULT_DEPENDENCY_BOUND
    assert strategy_fields("demask")["dependency_bound"] is None
    # Position 3 depends on both others: the sum of two shares passes the bound where each alone does not.
    for share, expected in ((0.45, [0, 0, 0]), (0.55, [0, 0, 1])):
        model = scripted(SCRIPT, head=scripted_head(_table(4, d13=share * bound, d23=share * bound)))
        assert _decode(model).unmask_step[0, 1:].tolist() == expected


@pytest.mark.parametrize(
    ("order", "first"), [("confidence", 3), ("entropy", 1), ("margin", 2), ("token_probability", 3)]
)
def test_walk_goes_by_the_chosen_order(scripted, scripted_head, order, first):
    # Everything depends on everything, so each step unmasks the first position of the walk only.
    script = [{5: 0.59, 6: 0.405}, {5: 0.6, 6: 0.2, 7: 0.2}, {5: 0.61, 6: 0.37, 7: 0.02}]
    model = scripted(script, head=scripted_head(torch.ones(4, 4)))
    output = _decode(model, order=order)
    assert output.unmask_step[0].tolist().index(0) == first


def test_token_probability_looks_at_the_drawn_token(make_step, scripted, scripted_head):
    model = scripted(SCRIPT, head=scripted_head(torch.ones(3, 3)))
    step = make_step([[0.7, 0.3], [0.6, 0.4]], tokens=[1, 0], hidden_states=torch.zeros(2, 4))
    for order, expected in (("confidence", 0), ("token_probability", 1)):
        strategy = make_strategy("demask", order=order)
        strategy.bind(model)
        assert strategy.select(step).nonzero().tolist() == [[0, expected]]


def test_head_sees_states_and_positions_of_the_candidates(scripted, scripted_head):
    head = scripted_head(torch.zeros(9, 9))
    model = scripted(lambda position, context: {5: 0.9}, head=head)
    ids = torch.tensor([[0, 0, 9, 8], [9, 9, 8, 8]])
    model.generate(ids, torch.tensor([[0, 0, 1, 1], [1] * 4]), max_new_tokens=2, strategy="demask")
    ((states, positions, is_position),) = head.calls
    assert positions.tolist() == [[2, 3], [4, 5]]
    assert states[..., 0].tolist() == [[2, 3], [4, 5]]
    # Nothing is padded.
    assert is_position is None


def test_ragged_rows_are_padded_for_the_head(scripted, scripted_head):
    head = scripted_head(torch.zeros(9, 9))
    model = scripted(lambda position, context: {5: 0.9}, head=head)
    ids = torch.tensor([[9, MASK, 8, 7], [9, MASK, MASK, 7]])
    model.generate(ids, max_new_tokens=0, strategy="demask")
    ((_, positions, is_position),) = head.calls
    assert is_position.tolist() == [[True, False], [True, True]]
    assert positions[is_position].tolist() == [1, 1, 2]


def test_a_head_that_reads_certainty_gets_that_of_the_distributions_that_are_scored(scripted, scripted_head):
    script = [{4: 0.9, 5: 0.1}, {4: 0.6, 5: 0.4}]
    seen = []
    head = scripted_head(torch.zeros(4, 4))
    head.config.reads_certainty = True
    head.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs["certainty"]), with_kwargs=True)
    model = scripted(script, head=head)
    model.generate(torch.tensor([[7]]), strategy="demask", max_new_tokens=2)
    (certainty,) = seen
    torch.testing.assert_close(certainty[0, :, 0], torch.tensor([0.9, 0.6]))
    entropies = [-(p * math.log(p) + (1 - p) * math.log(1 - p)) for p in (0.9, 0.6)]
    torch.testing.assert_close(certainty[0, :, 1], torch.tensor(entropies), atol=1e-5, rtol=0)
    filters = {"temperature": 1.0, "top_k": 1, "seed": 0}
    model.generate(torch.tensor([[7]]), strategy="demask", max_new_tokens=2, **filters)
    assert torch.equal(seen[1], certainty)
    model.generate(torch.tensor([[7]]), strategy="demask", max_new_tokens=2, scores="sampled", **filters)
    torch.testing.assert_close(seen[2][0], torch.tensor([[1.0, 0.0], [1.0, 0.0]]), atol=1e-5, rtol=0)


def test_no_extra_forward_passes_with_a_head(scripted, scripted_head):
    model = scripted(SCRIPT, head=scripted_head(torch.zeros(4, 4)))
    output = _decode(model)
    assert len(model.calls) == 1
    assert output.num_probe_passes.tolist() == [0]
    assert output.uncovered_mass.tolist() == [0.0]


def _copying(position, context):
    """Positions 1 and 2 are equal, A (.75) or B; position 3 is free."""
    if position == 3:
        return {A: 0.6, B: 0.4}
    other = context[3 - position]
    return {A: 0.75, B: 0.25} if other == MASK else {other: 1.0}


def test_exact_dependencies_need_no_head(scripted):
    model = scripted(_copying)
    # D[1, 2] = D[2, 1] = .375, all others 0; the walk goes 1, 2, 3.
    output = _decode(model, dependencies="exact", dependency_bound=0.3)
    assert output.unmask_step.tolist() == [[-1, 0, 1, 0]]
    assert output.num_forward_passes.tolist() == [2]
    # In the first step two tokens of three sources, in the second one certain token of one source.
    assert output.num_probe_passes.tolist() == [7]
    assert output.tokens_per_forward.tolist() == [1.5]
    assert output.uncovered_mass.item() == pytest.approx(0.0, abs=1e-6)
    assert sum(call.shape[0] for call in model.calls) == 2 + 7


def test_argmax_estimate_is_a_proxy(scripted):
    # Revealing A (.75) moves the other by .25 only, below the bound at which the expectation of .375 is not.
    output = _decode(scripted(_copying), dependencies="exact", dependency_bound=0.3, estimator="argmax")
    assert output.unmask_step.tolist() == [[-1, 0, 0, 0]]
    assert output.num_probe_passes.tolist() == [3]


def test_a_parity_is_decoded_at_once_as_its_pairs_are_independent(scripted):
    def script(position, context):
        known = [token for token in context[1:] if token != MASK]
        return {A + sum(token - A for token in known) % 2: 1.0} if len(known) == 2 else {A: 0.51, B: 0.49}

    output = _decode(scripted(script), dependencies="exact", dependency_bound=0.05)
    # The documented failure: the answer A A A has an even sum here, but only by luck of the argmax.
    assert output.num_forward_passes.tolist() == [1]
    sampled = [
        _decode(scripted(script), dependencies="exact", dependency_bound=0.05, temperature=1.0, seed=seed).sequences
        for seed in range(40)
    ]
    wrong = sum(int((ids[0, 1:] - A).sum()) % 2 for ids in sampled)
    assert 8 <= wrong <= 32


def test_probes_see_filters_but_no_logits_processor(scripted):
    from transformers import LogitsProcessorList

    calls = []

    def processor(ids, scores):
        calls.append(ids.shape)
        return scores

    model = scripted(_copying)
    output = _decode(
        model,
        dependencies="exact",
        top_k=1,
        scores="sampled",
        dependency_bound=0.01,
        logits_processor=LogitsProcessorList([processor]),
    )
    # With the single best token left there is nothing to depend on, and one probe a source.
    assert output.num_forward_passes.tolist() == [1]
    assert output.num_probe_passes.tolist() == [3]
    assert calls == [(3, 4)]


def test_probes_of_a_row_are_counted_with_the_row(scripted):
    model = scripted(_copying)
    ids = torch.tensor([[9, MASK, MASK, 5], [9, A, MASK, MASK]])
    output = model.generate(
        ids,
        max_new_tokens=0,
        strategy="demask",
        dependencies="exact",
        dependency_bound=0.3,
        return_dict_in_generate=True,
    )
    assert output.num_forward_passes.tolist() == [2, 1]
    # First row: two tokens of two sources, then one. Second row: the certain copy of A and the two of position 3.
    assert output.num_probe_passes.tolist() == [5, 3]


def test_missing_head_message_says_how_to_get_one(scripted):
    message = (
        r"must have a dependency head, got a model without one: .*`model\.load_demask_head\(.*`dependencies='exact'`"
    )
    with pytest.raises(ValueError, match=message) as error:
        _decode(scripted(SCRIPT))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dependency_bound": -0.1}, r"`dependency_bound` must be a number in \[0, inf\], got -0\.1\."),
        ({"dependency_bound": float("nan")}, r"`dependency_bound` must be a number in \[0, inf\], got nan\."),
        ({"rule": "sum"}, rf"`rule` must be one of {', '.join(RULES)}, got 'sum'\."),
        ({"order": "random"}, rf"`order` must be one of {', '.join(ORDERS)}, got 'random'\."),
        ({"confidence_threshold": 2}, r"`confidence_threshold` must be a number in \[0, 1\], got 2\."),
        ({"selection": "best"}, r"`selection` must be one of walk, partition, got 'best'\."),
        ({"dependencies": "magic"}, r"`dependencies` must be one of head, exact, got 'magic'\."),
        ({"estimator": "sample"}, r"`estimator` must be one of expectation, argmax, got 'sample'\."),
    ],
)
def test_limits_outside_their_interval_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        make_strategy("demask", **fields)


def test_the_head_sees_as_many_candidates_as_it_may(scripted, scripted_head):
    head = scripted_head(_table(4))
    _decode(scripted(SCRIPT, head=head), max_candidates=2)
    assert [positions.tolist() for _, positions, _ in head.calls] == [[[1, 2]], [[3]]]


@pytest.mark.parametrize("dependencies", ["head", "exact"])
def test_rows_with_few_candidates_looked_at_equal_rows_alone(dream_with_head, dependencies):
    prompts = torch.tensor([[0, 5, 6], [7, 8, 9]])
    attention_mask = torch.tensor([[0, 1, 1], [1, 1, 1]])
    arguments = {"dependencies": dependencies, "max_candidates": 3, "dependency_bound": 0.3, "max_new_tokens": 8}
    arguments |= {"strategy": "demask", "return_dict_in_generate": True}
    together = dream_with_head.generate(prompts, attention_mask, **arguments)
    for row, first in enumerate([1, 0]):
        alone = dream_with_head.generate(prompts[row : row + 1, first:], **arguments)
        assert together.unmask_step[row, first:].tolist() == alone.unmask_step[0].tolist()


@pytest.mark.parametrize("value", [0, 2.5])
def test_a_wrong_number_of_candidates_is_refused(value):
    with pytest.raises(ValueError, match=f"`max_candidates` must be an integer of at least 1, got {value}"):
        make_strategy("demask", max_candidates=value)
