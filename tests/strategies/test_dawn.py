import json

import pytest
import torch
from transformers import AutoModel

from demask_hf import make_strategy
from demask_hf.strategies import LastLayers


# Limits of these tests, so that every number below is on a clear side of its limit.
LIMITS = {
    "confidence_threshold": 0.7,
    "anchor_threshold": 0.9,
    "induced_threshold": 0.5,
    "sink_threshold": 1.0,
    "edge_threshold": 0.25,
}


def _select(make_step, confidences, edges=(), visible=(), **fields):
    """Return the selected positions of one row.

    `confidences` holds one number per position; those of `visible` hold a token already. `edges` maps (source, target)
    to the attention of the target, as a query, to the source, as a key.
    """
    length = len(confidences)
    candidates = torch.tensor([[position not in visible for position in range(length)]])
    attentions = torch.zeros(1, length, length)
    for (source, target), weight in dict(edges).items():
        attentions[0, target, source] = weight
    given = {name: fields.pop(name) for name in ("positions",) if name in fields}
    step = make_step(
        [[confidences[position], 1 - confidences[position]] for position in range(length) if position not in visible],
        candidates=candidates,
        attentions=attentions,
        context_confidence=torch.tensor([confidences]) * ~candidates,
        **given,
    )
    return make_strategy("dawn", **{**LIMITS, **fields}).select(step).nonzero()[:, 1].tolist()


def test_anchors_are_unmasked_together_whatever_they_attend_to(make_step):
    assert _select(make_step, [0.9, 0.6, 0.95, 0.97], {(0, 2): 0.5, (2, 3): 0.5, (3, 0): 0.5}) == [0, 2, 3]


def test_without_anything_else_the_most_confident_position_is_unmasked(make_step):
    assert _select(make_step, [0.6, 0.65, 0.55]) == [1]


def test_an_edge_from_a_certain_visible_position_induces(make_step):
    confidences, visible = [0.95, 0.6, 0.65], [0]
    assert _select(make_step, confidences, {(0, 1): 0.25}, visible, induced_threshold=0.55) == [1]
    assert _select(make_step, confidences, {(0, 1): 0.25, (0, 2): 0.3}, visible) == [1, 2]
    # Too weak, the wrong direction, a source that the model would not write now, a target that is too uncertain.
    assert _select(make_step, confidences, {(0, 1): 0.24}, visible) == [2]
    assert _select(make_step, confidences, {(1, 0): 0.25}, visible) == [2]
    assert _select(make_step, [0.85, 0.6, 0.65], {(0, 1): 0.25}, visible) == [2]
    assert _select(make_step, confidences, {(0, 1): 0.25}, visible, induced_threshold=0.62) == [2]


def test_masked_positions_do_not_induce(make_step):
    assert _select(make_step, [0.95, 0.6], {(0, 1): 0.5}) == [0]


def test_the_third_group_has_no_edges_within_itself(make_step):
    assert _select(make_step, [0.8, 0.75, 0.7]) == [0, 1, 2]
    for edge in ((0, 1), (1, 0)):
        assert _select(make_step, [0.8, 0.75, 0.72], {edge: 0.3}) == [0, 2]
    # A dropped position does not stand in the way of others.
    assert _select(make_step, [0.8, 0.75, 0.72], {(0, 1): 0.3, (1, 2): 0.3}) == [0, 2]
    assert _select(make_step, [0.75, 0.8, 0.72], {(0, 1): 0.3, (1, 2): 0.3}) == [1]
    assert _select(make_step, [0.8, 0.69, 0.72]) == [0, 2]


def test_the_third_group_avoids_anchors_that_are_induced_themselves(make_step):
    confidences, visible = [0.95, 0.92, 0.8], [0]
    assert _select(make_step, confidences, {(1, 2): 0.3}, visible) == [1, 2]
    assert _select(make_step, confidences, {(0, 1): 0.3, (1, 2): 0.3}, visible) == [1]
    assert _select(make_step, confidences, {(0, 1): 0.3, (2, 1): 0.3}, visible) == [1, 2]


def test_a_sink_has_no_edges(make_step):
    # Position 0 receives (.5 + .25 + .75) / 4 = .375 on average.
    edges = {(0, 1): 0.5, (0, 2): 0.25, (0, 3): 0.75}
    confidences = [0.95, 0.6, 0.6, 0.65]
    assert _select(make_step, confidences, edges, [0], sink_threshold=0.375) == [1, 2, 3]
    assert _select(make_step, confidences, edges, [0], sink_threshold=0.374) == [3]


def test_padding_does_not_dilute_a_sink(make_step):
    # Two columns of padding, so that position 0 is in column 2; the same .375 on average.
    edges = {(2, 3): 0.5, (2, 4): 0.25, (2, 5): 0.75}
    confidences, positions = [0.0, 0.0, 0.95, 0.6, 0.6, 0.65], torch.tensor([[1, 1, 0, 1, 2, 3]])
    kwargs = {"edges": edges, "visible": [0, 1, 2], "positions": positions}
    assert _select(make_step, confidences, sink_threshold=0.375, **kwargs) == [3, 4, 5]
    assert _select(make_step, confidences, sink_threshold=0.374, **kwargs) == [5]


def test_equally_confident_positions_are_taken_from_the_left(make_step):
    assert _select(make_step, [0.8, 0.8, 0.8], {(1, 2): 0.3, (0, 1): 0.3}) == [0, 2]


@pytest.mark.parametrize("num_layers", [1, 4])
def test_attention_is_averaged_over_the_last_layers(num_layers):
    (layers,) = (need for need in make_strategy("dawn", num_layers=num_layers).needs if isinstance(need, LastLayers))
    assert layers.of(28) == num_layers


def test_the_prompt_is_not_rewritten(goldens):
    model = AutoModel.from_pretrained(goldens / "checkpoints" / "R1")
    recorded = json.loads((goldens / "R1_dawn_wide.json").read_text())["cases"]
    case = next(case for case in recorded if case["overwritten"])
    prompt, settings = torch.tensor(case["prompt"]), case["settings"]
    assert case["sequences"][0][0] != prompt[0, 0]
    sequences = model.generate(
        prompt,
        strategy="dawn",
        max_new_tokens=24,
        block_length=settings["block_length"],
        confidence_threshold=settings["conf_threshold"],
        induced_threshold=settings["tau_induce"],
        sink_threshold=settings["tau_sink"],
        edge_threshold=settings["tau_edge"],
    )
    assert torch.equal(sequences[:, : prompt.shape[1]], prompt)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"confidence_threshold": 1.5}, r"`confidence_threshold` must be a number in \[0, 1\], got 1\.5\."),
        ({"anchor_threshold": 0}, r"`anchor_threshold` must be a number in \(0, 1\], got 0\."),
        ({"induced_threshold": -0.1}, r"`induced_threshold` must be a number in \[0, 1\], got -0\.1\."),
        ({"sink_threshold": "a"}, r"`sink_threshold` must be a number in \[0, 1\], got 'a'\."),
        ({"edge_threshold": 0.0}, r"`edge_threshold` must be a number in \(0, 1\], got 0\.0\."),
        ({"num_layers": 0}, r"`num_layers` must be an integer of at least 1, got 0\."),
    ],
)
def test_limits_outside_their_interval_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        make_strategy("dawn", **fields)
