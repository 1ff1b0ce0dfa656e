"""Traces: what `generate(..., trace=True)` records, and its JSON form."""

import dataclasses
import json

import pytest
import torch

import demask_hf
from demask_hf.generation.arguments import resolve_config
from demask_hf.strategies import UnmaskingStrategy
from demask_hf.watching import Candidate, Dependency, Trace


PROMPT = torch.tensor([[9, 8]])
SCRIPT = [{5: 0.9}, {6: 0.8}]
STATES = {"prompt", "masked", "proposed", "committed", "fixed", "renoised", "padding", "unknown"}


def _trace(model, prompt=PROMPT, **kwargs) -> Trace:
    kwargs = {"max_new_tokens": 2, "trace": True, "return_dict_in_generate": True, **kwargs}
    return model.generate(prompt, **kwargs).trace


@pytest.fixture
def pair(scripted, scripted_head):
    """Return a model of two positions, 2 and 3, of which the second depends on the first."""
    table = torch.zeros(4, 4)
    table[2, 3], table[3, 2] = 0.5, 0.001
    return scripted(SCRIPT, prompt_length=2, head=scripted_head(table))


def test_a_pass_holds_predictions_dependencies_and_reasons(pair):
    trace = _trace(pair, strategy="demask", dependency_bound=0.1)
    first, second = trace.passes
    assert trace.first == (9, 8, 1, 1)
    assert (first.tokens, second.tokens) == ((9, 8, 5, 1), (9, 8, 5, 6))
    assert [(each.position, each.token) for each in first.candidates] == [(2, 5), (3, 6)]
    assert first.candidates[0].probability == pytest.approx(0.9)
    token, probability = first.candidates[1].likely[0]
    assert (token, probability) == (6, pytest.approx(0.8))
    # The other direction is too small to be kept.
    assert first.dependencies == (Dependency(2, 3, 0.5),)
    assert first.reasons == {3: "waits for position 2: D = 0.5, sum 0.5 above the bound 0.1"}
    assert (len(second.candidates), second.reasons) == (1, {})
    assert trace.decoded.tokens == (9, 8, 5, 6)
    assert trace.decoded.num_forward_passes == 2
    assert trace.strategy["dependency_bound"] == 0.1


def test_padding_on_the_left_is_left_out(pair):
    alone = _trace(pair, strategy="demask", dependency_bound=0.1)
    mask = torch.tensor([[0, 1, 1]])
    padded = _trace(pair, torch.tensor([[0, 9, 8]]), strategy="demask", dependency_bound=0.1, attention_mask=mask)
    assert dataclasses.replace(padded, settings=alone.settings) == alone
    assert padded.to_dict()["frames"] == alone.to_dict()["frames"]


def test_dropped_positions_become_padding(scripted):
    trace = _trace(scripted([{2: 0.9}, {6: 0.8}], prompt_length=2), strategy="sequential")
    assert trace.decoded.dropped == {3}
    assert trace.to_dict()["final"]["text"] == "[2]"
    *_, padding = trace.to_dict()["frames"][-1]["operations"]
    assert padding == {"type": "set-token", "slotId": "s3", "tokenId": 0, "text": "[0]", "state": "padding"}


def test_the_form_is_that_of_dllm_viz(pair, tokenizer):
    trace = _trace(pair, strategy="demask", dependency_bound=0.1, tokenizer=tokenizer)
    form = json.loads(trace.to_json())
    assert form == trace.to_dict()
    assert form["schemaVersion"] == "0.1"
    assert form["traceId"].startswith("demask-hf-")
    assert form["source"] == {"adapter": "demask-hf", "adapterVersion": demask_hf.__version__}
    assert form["geometry"] == {"timeDomain": "discrete", "stateSpace": "token", "generationMode": "full-sequence"}
    assert form["prompt"] == {"text": "w9 w8", "tokenIds": [9, 8], "slotIds": ["s0", "s1"]}
    assert form["initial"]["frameOrdinal"] == -1
    assert [slot["slotId"] for slot in form["initial"]["slots"]] == ["s0", "s1", "s2", "s3"]
    assert [slot["state"] for slot in form["initial"]["slots"]] == ["prompt", "prompt", "masked", "masked"]
    frames = form["frames"]
    assert [frame["kind"] for frame in frames] == ["initial", "denoise", "denoise", "final"]
    assert [frame["ordinal"] for frame in frames] == [0, 1, 2, 3]
    assert frames[1]["metrics"] == {"maskedCount": 1, "committedThisFrame": 1, "forwardPasses": 1}
    commit = next(each for each in frames[1]["operations"] if each["type"] == "commit")
    assert commit == {"type": "commit", "slotId": "s2", "tokenId": 5, "text": "w5", "confidence": 0.9}
    draft = next(each for each in frames[1]["operations"] if each["type"] == "set-token")
    assert draft == {
        "type": "set-token",
        "slotId": "s3",
        "tokenId": 6,
        "text": "w6",
        "confidence": 0.8,
        "state": "proposed",
    }
    scalar = next(each for each in frames[1]["operations"] if each["type"] == "set-scalar")
    assert scalar == {"type": "set-scalar", "slotId": "s3", "name": "dependency:s2", "value": 0.5}
    assert frames[1]["annotations"] == [
        {
            "annotationId": "f1-s3",
            "kind": "note",
            "text": "waits for position 2: D = 0.5, sum 0.5 above the bound 0.1",
            "target": {"slotId": "s3", "frameId": "f1"},
            "provenance": "derived",
        }
    ]
    assert form["final"]["text"] == "w5 w6"
    assert form["final"]["totalForwardPasses"] == 2


def test_distributions_say_what_they_leave_out(pair):
    frame = _trace(pair, strategy="sequential").to_dict()["frames"][1]
    found = next(each for each in frame["operations"] if each["type"] == "set-distribution")
    assert [each["rank"] for each in found["candidates"]] == [0, 1, 2, 3, 4]
    assert found["candidates"][0]["probability"] == 0.9
    # Five of ten tokens are kept; nine share 0.1, and the mask is none of those drawn from.
    assert found["omittedMass"] == pytest.approx(0.1 * 5 / 9, abs=1e-3)


def test_what_is_masked_again_and_written_without_a_prediction_is_told(pair):
    trace = _trace(pair, strategy="sequential")
    first, second = trace.passes
    again = dataclasses.replace(second, tokens=(9, 8, 1, 6), candidates=())
    frame = dataclasses.replace(trace, passes=(first, again)).to_dict()["frames"][2]
    assert frame["operations"] == [
        {"type": "mask", "slotId": "s2", "previousTokenId": 5, "reason": "masked again"},
        {"type": "commit", "slotId": "s3", "tokenId": 6, "text": "[6]"},
    ]
    assert frame["metrics"]["maskedCount"] == 1


def test_slots_keep_their_region(pair):
    trace = _trace(pair, torch.tensor([[9, 1, 8, 1]]), max_new_tokens=0, strategy="sequential")
    slots = trace.to_dict()["initial"]["slots"]
    assert [slot["region"] for slot in slots] == ["prompt", "completion", "suffix", "completion"]


@pytest.mark.parametrize("name", demask_hf.strategy_names())
def test_a_trace_changes_nothing_and_every_operation_has_its_slot(dream_with_head, name):
    prompt = torch.tensor([[3, 4, 5]])
    settings = {"max_new_tokens": 8, "strategy": name, "return_dict_in_generate": True, "temperature": 0.7, "seed": 3}
    plain = dream_with_head.generate(prompt, **settings)
    traced = dream_with_head.generate(prompt, **settings, trace=True)
    assert plain.trace is None
    for field in ("sequences", "unmask_step", "num_forward_passes", "num_probe_passes"):
        assert torch.equal(plain[field], traced[field])
    form = traced.trace.to_dict()
    slots = {slot["slotId"] for slot in form["initial"]["slots"]}
    states = dict.fromkeys(slots, "masked")
    written = {}
    for frame in form["frames"]:
        for operation in frame["operations"]:
            assert operation["slotId"] in slots
            assert operation.get("state", "committed") in STATES
            if operation["type"] == "mask":
                states[operation["slotId"]] = "masked"
            if operation["type"] == "commit":
                states[operation["slotId"]] = "committed"
                written[operation["slotId"]] = operation["tokenId"], frame["step"] - 1
        for note in frame.get("annotations", ()):
            assert states[note["target"]["slotId"]] == "masked"
    steps = traced.unmask_step[0].tolist()
    for position, token in enumerate(traced.sequences[0].tolist()):
        if steps[position] >= 0:
            assert written[f"s{position}"] == (token, steps[position])


@pytest.mark.parametrize("name", ["lossless", "freedave"])
def test_of_drafts_the_version_that_was_verified_is_shown(scripted, name):
    trace = _trace(scripted([{5: 0.9}, {6: 0.8}, {7: 0.7}], prompt_length=2), max_new_tokens=3, strategy=name)
    # The second pass verified two tokens; its predictions are those of the draft that holds the first of them.
    assert [each.tokens for each in trace.passes] == [(9, 8, 5, 1, 1), (9, 8, 5, 6, 7)]
    assert [[each.position for each in one.candidates] for one in trace.passes] == [[2, 3, 4], [4]]
    assert trace.passes[0].reasons.keys() == {3, 4}
    assert trace.decoded.num_forward_passes == 2


def test_positions_of_later_blocks_have_not_begun_where_all_blocks_are_seen(scripted):
    script = [{5: 0.9}, {6: 0.8}, {7: 0.7}, {3: 0.6}]
    inner = {"name": "threshold", "confidence_threshold": 0.99}
    settings = {"max_new_tokens": 4, "block_length": 2, "early_gap": 9.0, "middle_gap": 0.0, "inner": inner}
    trace = _trace(scripted(script, prompt_length=2), strategy="prophet", **settings)
    assert [each.tokens for each in trace.passes] == [(9, 8, 5, 1, 1, 1), (9, 8, 5, 6, 7, 3)]
    reasons = trace.passes[0].reasons
    assert reasons[3].endswith("is below the threshold 0.99")
    assert reasons[4] == reasons[5] == "its block has not begun"
    assert [each.position for each in trace.passes[1].candidates] == [3, 4, 5]


def test_measured_dependencies_are_not_measured_twice(dream_with_head):
    settings = {"max_new_tokens": 4, "strategy": "demask", "dependencies": "exact", "return_dict_in_generate": True}
    prompt = torch.tensor([[3, 4]])
    plain = dream_with_head.generate(prompt, **settings)
    traced = dream_with_head.generate(prompt, **settings, trace=True)
    assert torch.equal(plain.num_probe_passes, traced.num_probe_passes)
    assert traced.trace.decoded.num_probe_passes == int(plain.num_probe_passes)
    assert traced.trace.to_dict()["provenance"]["fields"]["dependency"] == "measured"


def test_a_strategy_that_wraps_another_one_is_looked_through(pair, seeing):
    rule = demask_hf.make_strategy("demask", dependency_bound=0.1)
    trace = _trace(pair, strategy=seeing(rule))
    assert trace.strategy["name"] == "demask"
    assert trace.passes[0].reasons == {3: "waits for position 2: D = 0.5, sum 0.5 above the bound 0.1"}


def test_fields_that_json_has_no_form_for_are_texts(pair):
    trace = _trace(pair, strategy="entropy_bound", entropy_bound=float("inf"))
    assert json.loads(trace.to_json())["generation"]["strategy"]["entropy_bound"] == "inf"


def test_a_strategy_without_a_name_has_that_of_its_class(pair):
    @dataclasses.dataclass
    class Everything(UnmaskingStrategy):
        share: tuple = (1, 2)

        def select(self, step):
            return step.candidates

    trace = _trace(pair, strategy=Everything())
    assert json.loads(trace.to_json())["generation"]["strategy"] == {"name": "Everything", "share": "(1, 2)"}
    assert [each.tokens for each in trace.passes] == [(9, 8, 5, 6)]


def test_streamers_and_history_go_with_it(pair):
    output = pair.generate(
        PROMPT, max_new_tokens=2, strategy="sequential", trace=True, output_history=True, return_dict_in_generate=True
    )
    assert [list(each.tokens) for each in output.trace.passes] == [row[0].tolist() for row in output.history[1:]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"trace": 1}, "`trace` must be True or False, got 1."),
        ({"trace": "yes"}, "`trace` must be True or False, got 'yes'."),
        (
            {"return_dict_in_generate": False},
            "`return_dict_in_generate` must be True with `trace=True`, got False.",
        ),
        ({"prompt": PROMPT.repeat(2, 1)}, "`trace` must be used with a single prompt, got 2 prompts."),
        ({"num_return_sequences": 3}, "`trace` must be used with a single prompt, got 3 prompts."),
    ],
)
def test_what_cannot_be_traced_is_refused(pair, arguments, message):
    with pytest.raises(ValueError, match="must") as error:
        _trace(pair, **{"strategy": "sequential", **arguments})
    assert str(error.value) == message


def test_no_trace_is_asked_for_with_false(pair):
    output = pair.generate(PROMPT, max_new_tokens=2, trace=False, return_dict_in_generate=True)
    assert output.trace is None


def test_trace_is_no_setting_that_a_checkpoint_could_keep(pair):
    assert "trace" not in demask_hf.DemaskGenerationConfig().to_dict()
    with pytest.raises(ValueError, match="`trace` must be an argument of generate"):
        resolve_config(pair, None, "sequential", {"trace": True})


def test_candidates_are_plain_numbers(pair):
    (candidate, _) = _trace(pair, strategy="sequential").passes[0].candidates
    assert isinstance(candidate, Candidate)
    json.dumps(dataclasses.asdict(candidate))
