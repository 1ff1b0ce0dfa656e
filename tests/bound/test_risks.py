"""Losses of decoded prompts: their definitions, their seeds, and what is kept on disk."""

import copy
import json

import numpy as np
import pytest
import torch

from demask_hf import make_strategy
from demask_hf.bound import risks
from demask_hf.bound.joint import OrderedSet, exact_error
from demask_hf.bound.risks import Rollouts, share_of_different_tokens
from demask_hf.bound.visits import drawing_predictor, visit
from demask_hf.evaluation.decoding import Decoding, decode_prompts
from demask_hf.tasks import FAMILIES, TaskExample, TaskFamily


PROMPTS = ["w5 w6 w7", "w8", "w9 w10"]
RULE = make_strategy("demask", rule="max")
KWARGS = {"max_new_tokens": 4, "temperature": 1.0}


def _rollouts(model, tokenizer, risk="tv", prompts=PROMPTS, **kwargs):
    return Rollouts(model, tokenizer, prompts, RULE, risk, **{**KWARGS, **kwargs})


def test_tv_is_the_mean_error_of_a_step(dream_with_wide_head, tokenizer):
    losses = _rollouts(dream_with_wide_head, tokenizer, num_draws=3000, seed=5)(0.5)
    rule = make_strategy("demask", rule="max", dependency_bound=0.5)
    predict = drawing_predictor(dream_with_wide_head, rule, KWARGS).probe
    for loss, states in zip(
        losses, visit(dream_with_wide_head, tokenizer, PROMPTS, rule, seed=5, **KWARGS), strict=True
    ):
        sets = [OrderedSet(predict, state.sequence, state.selected) for state in states]
        errors = [exact_error(one, 100_000, 1e-3).total_variation for one in sets]
        assert loss == pytest.approx(np.mean(errors), abs=0.03)
    assert losses.max() > 0.05


def test_tv_is_0_where_one_position_is_unmasked_at_a_time(dream_with_wide_head, tokenizer):
    assert _rollouts(dream_with_wide_head, tokenizer)(0.0).tolist() == [0, 0, 0]


def test_a_loss_does_not_depend_on_the_other_prompts_and_follows_the_seed(dream_with_wide_head, tokenizer):
    whole = _rollouts(dream_with_wide_head, tokenizer, seed=3)(0.5)
    assert _rollouts(dream_with_wide_head, tokenizer, prompts=PROMPTS[:2], seed=3)(0.5).tolist() == whole[:2].tolist()
    assert _rollouts(dream_with_wide_head, tokenizer, seed=4)(0.5).tolist() != whole.tolist()


def test_disagreement_is_with_one_token_a_forward_in_the_same_order(dream_with_wide_head, tokenizer):
    kwargs = {"max_new_tokens": 6, "temperature": 0.0}
    losses = _rollouts(dream_with_wide_head, tokenizer, "disagreement", **kwargs)(0.5)
    ours, reference = (
        decode_prompts(dream_with_wide_head, tokenizer, PROMPTS, strategy, **kwargs)
        for strategy in (make_strategy("demask", rule="max", dependency_bound=0.5), "sequential")
    )
    assert losses.tolist() == [share_of_different_tokens(*pair) for pair in zip(ours, reference, strict=True)]
    assert _rollouts(dream_with_wide_head, tokenizer, "disagreement", **kwargs)(0.0).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [((5, 6), (5, 6), 0.0), ((5, 6), (5, 7), 0.5), ((5,), (5, 6, 7, 8), 0.75), ((), (), 0.0), ((), (5,), 1.0)],
)
def test_share_of_different_tokens_by_hand(one, other, expected):
    decodings = [Decoding("", "", tokens, (0,) * len(tokens), 1, 0, 0.0) for tokens in (one, other)]
    assert share_of_different_tokens(*decodings) == pytest.approx(expected)


def test_task_is_what_the_checker_says(scripted, scripted_head, tokenizer, monkeypatch):
    head = scripted_head(torch.zeros(8, 8))
    model = scripted(lambda position, context: {4 if context[0] == 5 else 6: 0.99}, head=head)
    family = TaskFamily("fours", "only w4", lambda random: ("", ""), lambda prompt, answer: answer == "w4 w4")
    monkeypatch.setitem(FAMILIES, "fours", family)
    examples = [TaskExample("fours", prompt, "") for prompt in ("w5", "w3", "w5 w3")]
    found = _rollouts(model, tokenizer, "task", examples, max_new_tokens=2, temperature=0.0)(0.1)
    assert found.tolist() == [0.0, 1.0, 0.0]


def test_an_interrupted_run_goes_on(dream_with_wide_head, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("demask_hf.bound.risks._BATCH_SIZE", 2)
    expected = _rollouts(dream_with_wide_head, tokenizer)(0.5).tolist()
    rollouts = _rollouts(dream_with_wide_head, tokenizer, work=tmp_path)
    assert rollouts(0.5).tolist() == expected
    (file,) = tmp_path.iterdir()
    lines = file.read_text().splitlines()
    # The second batch was cut off while it was written; another bound is in the same file.
    file.write_text(lines[0] + "\n" + lines[1][:20])
    again = _rollouts(dream_with_wide_head, tokenizer, work=tmp_path)
    asked = []
    compute = risks._LOSSES["tv"]
    monkeypatch.setitem(risks._LOSSES, "tv", lambda *args: asked.append(args[2]) or compute(*args))
    assert again(0.5).tolist() == expected
    assert [part.start for part in asked] == [2]
    assert again(0.5).tolist() == expected
    assert len(asked) == 1
    assert again(0.2).tolist() == _rollouts(dream_with_wide_head, tokenizer)(0.2).tolist()


def test_losses_of_other_settings_are_kept_apart(dream_with_wide_head, tokenizer, tmp_path):
    for kwargs in ({}, {"seed": 1}, {"temperature": 0.5}, {"num_draws": 2}, {"prompts": PROMPTS[:2]}):
        _rollouts(dream_with_wide_head, tokenizer, work=tmp_path, **kwargs)(0.5)
    assert len(list(tmp_path.iterdir())) == 5
    for file in tmp_path.iterdir():
        records = [json.loads(line) for line in file.read_text().split("\n") if line]
        assert [record["bound"] for record in records] == [0.5]


def test_losses_of_other_weights_and_settings_of_the_checkpoint_are_kept_apart(
    dream_with_wide_head, tokenizer, tmp_path
):
    model = copy.deepcopy(dream_with_wide_head)
    _rollouts(model, tokenizer, work=tmp_path)(0.5)
    with torch.no_grad():
        model.lm_head.weight.view(-1)[-1] += 1e-3
    _rollouts(model, tokenizer, work=tmp_path)(0.5)
    model.generation_config.block_length = 2
    _rollouts(model, tokenizer, work=tmp_path)(0.5)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"losses": [0.5, 1.5]}, r"must have `losses` in \[0, 1\], got \[0\.5, 1\.5\]"),
        ({"losses": []}, r"must have `losses` in \[0, 1\], got \[\]"),
        ({"losses": [None]}, "must have a number as `losses`, got None"),
        ({"first": 2}, "must continue with prompt 0 of bound 0.5, got 2"),
        ({"first": "0"}, "must have an integer as `first`, got '0'"),
        ({"bound": None}, "must have a number as `bound`, got None"),
    ],
)
def test_broken_losses_are_named(dream_with_wide_head, tokenizer, tmp_path, change, message):
    rollouts = _rollouts(dream_with_wide_head, tokenizer, work=tmp_path)
    rollouts(0.5)
    (file,) = tmp_path.iterdir()
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}) + "\n")
    with pytest.raises(ValueError, match=rf"line 1 of '.*\.jsonl' {message}"):
        rollouts(0.5)


def test_losses_that_are_there_twice_are_refused(dream_with_wide_head, tokenizer, tmp_path):
    rollouts = _rollouts(dream_with_wide_head, tokenizer, work=tmp_path)
    rollouts(0.5)
    (file,) = tmp_path.iterdir()
    line = json.loads(file.read_text())
    file.write_text(2 * (json.dumps(line) + "\n"))
    with pytest.raises(ValueError, match="line 2 of .* must continue with prompt 3 of bound 0.5, got 0"):
        rollouts(0.5)
    file.write_text(json.dumps({**line, "losses": [0.1] * 4}) + "\n")
    with pytest.raises(ValueError, match="must hold at most 3 losses of a bound, got 4"):
        rollouts(0.5)


def test_the_fingerprint_is_of_the_prompts_in_their_order(dream_with_wide_head, tokenizer):
    same = [_rollouts(dream_with_wide_head, tokenizer, seed=seed).fingerprint for seed in (0, 1)]
    assert same[0] == same[1]
    assert _rollouts(dream_with_wide_head, tokenizer, prompts=PROMPTS[::-1]).fingerprint != same[0]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"risk": "none"}, "`risk` must be one of tv, disagreement, task, got 'none'"),
        ({"num_draws": 0}, "`num_draws` must be an integer of at least 1, got 0"),
        ({"prompts": []}, "`prompts` must hold at least one prompt, got none"),
        ({"risk": "task"}, "`prompts` must be examples of task families for the risk 'task', got texts"),
        ({"temperature": 0.0}, "`temperature` must be above 0 to measure total variation, got 0"),
    ],
)
def test_wrong_arguments_are_refused(dream_with_wide_head, tokenizer, kwargs, message):
    with pytest.raises(ValueError, match=message):
        _rollouts(dream_with_wide_head, tokenizer, **kwargs)
