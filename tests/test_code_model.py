"""The benchmark on Python statements: what is read from files, and the study on a small random model."""

import json
import sys
from pathlib import Path
from random import Random

import pytest
import torch


ROOT = Path(__file__).parents[1]
FILE = '''"""A module."""

import os

class Shop:
    """A class."""

    def sell(self, count, price=1.0):
        total = count * (price + self.fee(count, 2))
        if total > 3:
            self.log.append((total, "sold"))
        else:
            return None
        try:
            print(total)
        finally:
            del total
        x = """two
lines"""
        ä = 3
'''


@pytest.fixture
def statements(benchmark, tmp_path):
    """The tokenizer, and tokenized statements that are alike in all splits."""
    module = benchmark("code_statements")
    (tmp_path / "one.py").write_text(FILE, encoding="utf-8")
    found = {text: context for own in module.read_statements(tmp_path).values() for text, context in own.items()}
    tokenizer = module.new_tokenizer(list(found), 300)
    return tokenizer, module.tokenized(tokenizer, found)


def test_statements_are_read_with_their_contexts(benchmark, tmp_path):
    module = benchmark("code_statements")
    (tmp_path / "one.py").write_text(FILE, encoding="utf-8")
    (tmp_path / "broken.py").write_text("def :", encoding="utf-8")
    found = module.read_statements(tmp_path)
    assert set(found) == {"train", "validation", "test"}
    contexts = {text: context for own in found.values() for text, context in own.items()}
    head = "def sell(self, count, price=1.0):"
    assert contexts["total = count * (price + self.fee(count, 2))"] == head
    assert contexts["self.log.append((total, 'sold'))"] == "if total > 3:"
    assert contexts["return None"] == "if total > 3:"
    assert contexts["print(total)"] == "try:"
    assert contexts["x = 'two\\nlines'"] == "try:"
    assert contexts["import os"] == "'A module.'"
    assert not any("ä" in text for text in contexts)


def test_files_are_split_and_statements_of_training_files_are_in_no_other_split(benchmark, tmp_path):
    module = benchmark("code_statements")
    for number in range(200):
        (tmp_path / f"f{number}.py").write_text(f"same = 1\nown{number} = 2\n", encoding="utf-8")
    found = module.read_statements(tmp_path)
    assert [len(found[split]) > 1 for split in module.SPLITS] == [True, True, True]
    assert sum(len(own) for own in found.values()) == 201
    assert "same = 1" in found["train"]


@pytest.mark.parametrize(
    ("text", "is_right"),
    [("return x", True), ("x = (1", False), ("", False), ("x = 1; y = 2", False), ("(" * 300 + ")" * 300, False)],
)
def test_python_is_the_judge(benchmark, text, is_right):
    assert benchmark("code_statements").is_statement(text) is is_right


def test_rows_hold_context_statement_and_ends(benchmark, statements):
    module, (tokenizer, found) = benchmark("code_statements"), statements
    statement = next(one for one in found if one.spans)
    tasks = ["statement", "expression"]
    truth, attention_mask, is_open = module.rows_of([statement] * 2, tasks, tokenizer.eos_token_id, Random(0), 80)
    assert truth.shape == (2, 80)
    end = [tokenizer.eos_token_id]
    assert truth[0, -statement.length :].tolist() == statement.context + end + statement.tokens + end
    assert attention_mask.sum(dim=-1).tolist() == [statement.length] * 2
    assert truth[0][is_open[0]].tolist() == statement.tokens
    assert [int(is_open[1].sum())] in [[last - first] for first, last in statement.spans]
    # A token that an expression ends in belongs to it.
    spans = [tokenizer.decode(statement.tokens[first:last]) for first, last in statement.spans]
    assert any("self.fee(count, 2)" in span for span in spans)


def test_batches_depend_on_seed_and_step_only(benchmark, statements):
    module, (tokenizer, found) = benchmark("code_statements"), statements
    ids = (tokenizer.eos_token_id, tokenizer.mask_token_id)
    batches = [module.StatementBatches(found, *ids, seed, 400) for seed in (0, 0, 1)]
    one, same, other = (each[3] for each in batches)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert one["input_ids"].shape != other["input_ids"].shape or not torch.equal(one["input_ids"], other["input_ids"])
    is_masked = one["input_ids"] == tokenizer.mask_token_id
    assert torch.equal(is_masked, one["labels"] != -100)
    assert is_masked.any(dim=-1).all()
    assert not (is_masked & (one["attention_mask"] == 0)).any()


def test_a_whole_statement_is_judged_also_where_only_an_expression_is_written(benchmark, statements):
    backbone, (tokenizer, found) = benchmark("code_backbone"), statements
    domain = backbone.Statements(None, tokenizer)
    statement = next(one for one in found if one.spans)
    batch = domain.batch([statement], "expression")
    truth, is_open = batch.truth[0], batch.is_open[0]
    assert domain.record(truth, is_open)["parses"]
    # An end token that was written is no end of the statement.
    written = truth.clone()
    written[is_open] = tokenizer.eos_token_id
    assert domain.record(written, is_open) == {"written": "<|end|>" * int(is_open.sum()), "parses": False}


def test_the_study_end_to_end(benchmark, statements, tmp_path, monkeypatch):
    tokenizer, found = statements
    main, shared, tables = (benchmark(name) for name in ("code_model", "infill_study", "infill_tables"))
    names = ("sequential", *shared.BESIDE, "table 0.1", "punt 0.1")
    monkeypatch.setattr(main, "SETTINGS", {name: main.SETTINGS[name] for name in names})
    monkeypatch.setattr(benchmark("code_backbone"), "PARTS", {6: 6})
    monkeypatch.setattr(main, "PARTS", {6: 6})
    monkeypatch.setattr(main, "_NUM_USED", 0)
    monkeypatch.setattr(shared, "EXACT", {})
    monkeypatch.setattr(main, "load_statements", lambda *_: (tokenizer, dict.fromkeys(main.SPLITS, found)))
    counts = {
        "states": 6,
        "measured": 2,
        "visited": 3,
        "steps": 2,
        "rows": 2,
        "span-rows": 2,
        "head-rows": 2,
        "exact-rows": 1,
        "designs": 1,
    }
    counts |= {"width": 16, "hidden-size": 64, "layers": 1, "training-steps": 2}
    arguments = [f"--{name}={count}" for name, count in counts.items()]
    arguments += [f"--work={tmp_path / 'work'}", "--float32", f"--out={tmp_path / 'out'}"]
    main.main(arguments)
    monkeypatch.setattr(tables, "RESULTS", tmp_path / "out")
    tables.outcomes_of.cache_clear()
    assert set(tables.outcomes_of("code_model")) == {"heads", "exact", "statement", "expression"}
    (row, *_) = tables.rows_of(tables.outcomes_of("code_model")["statement"])
    assert row["excess"][0] == pytest.approx(0, abs=1e-5)
    for name, table in tables.TABLES.items():
        part = "code_model.statement" if name in ("strategies", "drawn", "front") else "code_model"
        assert len(table(part)) > 2
    tables.draw(tmp_path / "figure.png", "code_model.statement")
    tables.outcomes_of.cache_clear()


def test_a_folder_of_another_model_is_refused(benchmark, tmp_path):
    main = benchmark("code_model")
    (tmp_path / "statements.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match="statements.json but without model.json"):
        main.main([f"--work={tmp_path}", f"--out={tmp_path}"])
    facts = {"vocabulary": 300, "hidden_size": 256, "layers": 6, "training_steps": 6000, "float32": False}
    facts |= {"python": sys.version.split()[0]}
    (tmp_path / "model.json").write_text(json.dumps(facts), encoding="utf-8")
    with pytest.raises(ValueError, match="vocabulary 300 instead of 3000"):
        main.main([f"--work={tmp_path}", f"--out={tmp_path}"])
