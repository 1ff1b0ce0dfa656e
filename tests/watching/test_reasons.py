"""Why positions wait: cases with numbers by hand."""

import pytest
import torch

from demask_hf.strategies import DemaskStrategy, UnmaskingStrategy
from demask_hf.watching import Choice, Walk, reasons


# Six tokens before the answer, so that its positions are 6, 7, 8 and 9.
PROMPT = torch.tensor([[9, 9, 9, 9, 9, 9]])
SCRIPT = [{5: 0.7}, {6: 0.9}, {7: 0.8}, {8: 0.6}]


def _first(model, prompt=PROMPT, **kwargs):
    """Return what was written, and why positions waited, in the first pass."""
    kwargs = {"max_new_tokens": 4, "trace": True, "return_dict_in_generate": True, **kwargs}
    output = model.generate(prompt, **kwargs)
    first = output.trace.passes[0]
    written = [place for place, token in enumerate(first.tokens) if place >= prompt.shape[1] and token != 1]
    return written, first.reasons


def _table(**pairs):
    """Return a table of dependencies; `d79=0.5` sets D[7, 9]."""
    table = torch.zeros(10, 10)
    for name, value in pairs.items():
        table[int(name[1]), int(name[2])] = value
    return table


# The walk goes 7, 8, 6, 9.
@pytest.mark.parametrize(
    ("fields", "written", "expected"),
    [
        # Position 6 depends on 7 (0.41) and 8 (0.06), so its sum is 0.47; what 9 depends on is 7 (0.02).
        (
            {"dependency_bound": 0.06},
            [7, 8, 9],
            {6: "waits for position 7: D = 0.41, sum 0.47 above the bound 0.06"},
        ),
        (
            {"dependency_bound": 0.06, "rule": "max"},
            [7, 8, 9],
            {6: "waits for position 7: D = 0.41, above the bound 0.06"},
        ),
        # The root of 0.41^2 + 0.06^2.
        (
            {"dependency_bound": 0.06, "rule": "norm"},
            [7, 8, 9],
            {6: "waits for position 7: D = 0.41, norm 0.41 above the bound 0.06"},
        ),
        # 8 costs nothing and is kept, 6 costs 0.47, and 9 costs 0.02 after 6 did not stay.
        (
            {"dependency_bound": 0.01, "rule": "total"},
            [7, 8],
            {
                6: "waits for position 7: D = 0.41, total 0.47 above the bound 0.01",
                9: "waits for position 7: D = 0.02, total 0.02 above the bound 0.01",
            },
        ),
        # The other direction of the pair 9 and 8 is 0.3.
        (
            {"dependency_bound": 0.06, "symmetric": True},
            [7, 8],
            {
                6: "waits for position 7: D = 0.41, sum 0.47 above the bound 0.06",
                9: "waits for position 8: D = 0.3, sum 0.32 above the bound 0.06",
            },
        ),
        (
            {"dependency_bound": 1.0, "confidence_threshold": 0.75},
            [7, 8],
            {
                6: "its confidence 0.7 is below the threshold 0.75",
                9: "its confidence 0.6 is below the threshold 0.75",
            },
        ),
        (
            {"dependency_bound": 1.0, "max_candidates": 3},
            [6, 7, 8],
            {9: "not among the 3 candidates that are considered"},
        ),
        ({"dependency_bound": 1.0}, [6, 7, 8, 9], {}),
        # Two sets: position 6, of the largest degree, begins one with 9, and 7 and 8 go to the other. D[8, 9] is 0.
        (
            {"dependency_bound": 0.06, "selection": "partition"},
            [7, 8],
            {
                6: "waits for position 7: D = 0.2 in both directions, in another set of the partition",
                9: "waits for position 8: D = 0.15 in both directions, in another set of the partition",
            },
        ),
    ],
)
def test_demask_names_the_position_that_is_waited_for(scripted, scripted_head, fields, written, expected):
    head = scripted_head(_table(d76=0.41, d86=0.06, d79=0.02, d98=0.3))
    model = scripted(SCRIPT, prompt_length=6, head=head)
    assert _first(model, strategy="demask", **fields) == (written, expected)


def test_the_total_counts_what_was_spent_before(scripted, scripted_head):
    model = scripted(SCRIPT, prompt_length=6, head=scripted_head(_table(d78=0.05, d86=0.04)))
    written, found = _first(model, strategy="demask", dependency_bound=0.08, rule="total")
    assert written == [7, 8, 9]
    # D[8, 6] = 0.04, and 8 has spent 0.05.
    assert found == {6: "waits for position 8: D = 0.04, total 0.09 above the bound 0.08"}


@pytest.mark.parametrize(
    ("fields", "written", "expected"),
    [
        (
            {"strategy": "threshold", "confidence_threshold": 0.75},
            [7, 8],
            {
                6: "its probability 0.7 is below the threshold 0.75",
                9: "its probability 0.6 is below the threshold 0.75",
            },
        ),
        # (n + 1) (1 - p): 2 * 0.1 for position 7, 3 * 0.2 for 8, 4 * 0.3 for 6, 5 * 0.4 for 9.
        (
            {"strategy": "threshold", "factor": 0.7},
            [7, 8],
            {
                6: "number 3 by probability: (n + 1) (1 - p) = 1.2 is above the factor 0.7",
                9: "number 4 by probability: (n + 1) (1 - p) = 2 is above the factor 0.7",
            },
        ),
        (
            {"strategy": "sequential"},
            [7],
            dict.fromkeys((6, 8, 9), "one position a pass, by confidence"),
        ),
        (
            {"strategy": "schedule", "plan": "llada", "algorithm": "maskgit_plus", "max_denoising_steps": 2},
            [7, 8],
            dict.fromkeys((6, 9), "the schedule writes 2 in this pass, and ranks others before it (by maskgit_plus)"),
        ),
        (
            {"strategy": "klass", "confidence_threshold": 0.75},
            [7],
            {
                6: "its confidence 0.7 is below the threshold 0.75",
                8: "its prediction still changes: KL was not below 0.001 nats in each of the last 2 steps",
                9: "its confidence 0.6 is below the threshold 0.75",
            },
        ),
    ],
)
def test_other_rules_by_hand(scripted, fields, written, expected):
    assert _first(scripted(SCRIPT, prompt_length=6), **fields) == (written, expected)


def test_the_entropy_bound_names_the_sum_before_a_position(scripted):
    # Nine other tokens share 0.1: the entropy of position 7 is 0.9 ln(1 / 0.9) + 0.1 ln(90) = 0.54 nats, and so on.
    _, found = _first(scripted(SCRIPT, prompt_length=6), strategy="entropy_bound", entropy_bound=0.1)
    assert found[8] == "entropies of the positions before it sum to 0.54 nats, above the bound 0.1"


def test_a_strategy_without_reasons_of_its_own_says_that_it_did_not_select(make_step):
    class Nothing(UnmaskingStrategy):
        name = "nothing"

        def select(self, step):
            return torch.zeros_like(step.candidates)

    step = make_step([[0.25, 0.75], [0.5, 0.5]])
    found = reasons(Nothing(), Choice(step, Nothing().select(step)))
    assert found == {
        0: "nothing does not select it: its confidence is 0.75",
        1: "nothing does not select it: its confidence is 0.5",
    }


def test_positions_are_counted_without_padding(make_step):
    step = make_step([[0.25, 0.75], [0.5, 0.5]], [[False, False, True, True]])
    walk = Walk([2, 3], torch.tensor([[0.0, 0.5], [0.0, 0.0]]), torch.tensor([0.75, 0.5]), torch.ones(2).bool())
    selected = torch.tensor([[False, False, True, False]])
    found = reasons(DemaskStrategy(dependency_bound=0.1), Choice(step, selected, start=1, walk=walk))
    assert found == {2: "waits for position 1: D = 0.5, sum 0.5 above the bound 0.1"}


def test_a_later_block_has_not_begun(scripted):
    model = scripted(SCRIPT, prompt_length=6)
    written, found = _first(model, strategy="sequential", block_length=2)
    assert written == [7]
    assert found[6] == "one position a pass, by confidence"
    assert found[8] == found[9] == "its block has not begun"


def test_positions_after_the_end_say_so(scripted):
    model = scripted([{5: 0.7}, {2: 0.9}, {7: 0.8}, {8: 0.6}], prompt_length=6)
    written, found = _first(model, strategy="sequential")
    assert written == [7]
    assert found[8] == found[9] == "lies after the end of the answer"


def test_an_end_that_waits_says_so(scripted):
    model = scripted([{5: 0.7}, {6: 0.6}, {7: 0.8}, {2: 0.51, 3: 0.48}], prompt_length=6)
    written, found = _first(model, strategy="threshold", confidence_threshold=0.1, eos_penalty=float("inf"))
    assert written == [6, 7, 8]
    assert found == {9: "would end the answer, so it waits for the rest of its block (eos_penalty)"}
