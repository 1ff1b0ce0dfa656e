"""Recipes: which prompts are used for what, and what a head will cost."""

import json
from dataclasses import replace

import pytest

from demask_hf.training.prompts import read_prompts
from demask_hf.training.recipes import PARTS, RECIPES, chosen_records, estimate, write_parts
from demask_hf.training.states import CollectionSettings


SMALL = replace(RECIPES["quick"], num_verified=2, num_calibrated=3, width=16)


def records(number):
    return [{"prompt": f"w{index}", "answer": "w3"} for index in range(3, 3 + number)]


def test_equal_prompts_count_once_and_the_order_of_the_source_does_not_matter():
    rows = records(10)
    doubled = [*rows, {"prompt": "w3", "answer": "w9"}]
    chosen = chosen_records(doubled, 20, seed=0)
    assert sorted(map(json.dumps, chosen)) == sorted(map(json.dumps, rows))
    assert chosen_records(rows[::-1], 20, seed=0) == chosen
    assert chosen_records(rows, 20, seed=1) != chosen
    # Fewer are the first of more.
    assert chosen_records(rows, 4, seed=0) == chosen[:4]


def test_parts_share_no_prompt(tmp_path):
    rows = chosen_records(records(12), 12, seed=0)
    assert write_parts(rows, SMALL, tmp_path) == {"train": 7, "verify": 2, "calibrate": 3}
    read = [json.loads(line) for part in PARTS for line in (tmp_path / f"{part}.jsonl").read_text().splitlines()]
    assert sorted(map(json.dumps, read)) == sorted(map(json.dumps, rows))


def test_too_few_prompts_are_refused(tmp_path):
    message = r"`data` must hold at least 10 different prompts, of which 2 verify and 3 calibrate the bound, got 9\."
    with pytest.raises(ValueError, match=message):
        write_parts(records(9), SMALL, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_estimate_counts_states_steps_and_bytes(dream, tokenizer, tmp_path):
    file = tmp_path / "data.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in records(8)), encoding="utf-8")
    prompts = read_prompts(file, tokenizer)
    settings = CollectionSettings(num_states=100, answer_length=6, num_sources=4)
    cost = estimate(dream, prompts, settings, replace(SMALL, minutes=None, num_states=100, steps=10))
    assert (cost.num_states, cost.answer_length, cost.device) == (100, 6, "cpu")
    assert cost.hours["collect"] == pytest.approx(100 * cost.seconds_per_state / 3600)
    assert cost.hours["train"] == pytest.approx(10 * cost.seconds_per_step / 3600)
    # 3 masked positions of 32 numbers in bf16, 16 bytes of facts and 4 dependencies in float32 each; 4 sources.
    assert cost.disk == 100 * (3 * (2 * 32 + 16 + 4 * 4) + 4 * 4 + 20)
    assert cost.memory > 0
    # A recipe with a limit on the time measures fewer states, but not too few.
    limited = estimate(dream, prompts, settings, replace(SMALL, minutes=1e-9))
    assert limited.num_states == 64
