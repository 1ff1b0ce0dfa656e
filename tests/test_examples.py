"""Every example runs, is short, and uses public names only."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import demask_hf


EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
needs_checkpoint = pytest.mark.skipif(
    not Path(demask_hf.TINY_DREAM, "config.json").exists() or not Path(demask_hf.TINY_DEMASK, "config.json").exists(),
    reason="needs the shipped checkpoint, which `make tiny` writes",
)


def _run(name: str, *arguments: str) -> list[str]:
    # A process of its own: an example may register a strategy. Small tensors are slow where threads outnumber cores.
    script, environment = next(path for path in EXAMPLES if path.name == name), {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, script, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def _is_right(text: str) -> bool:
    """Tell whether each group of a shuffled answer holds the letters of its group in the prompt."""
    asked, answer = text.removeprefix("shuffle: ").split(" -> ")
    return [sorted(group) for group in asked.split(" ")] == [sorted(group) for group in answer.split(" ")]


@needs_checkpoint
def test_generate_prints_answers_and_their_cost():
    slow, slow_cost, fast, fast_cost, *sampled = _run("generate.py")
    assert _is_right(slow)
    assert _is_right(fast)
    num_slow, num_fast = (int(cost.split()[1]) for cost in (slow_cost, fast_cost))
    assert slow_cost == f"sequential: {num_slow} forward passes"
    assert fast_cost == f"demask: {num_fast} forward passes"
    assert 2 * num_fast < num_slow
    assert len(sampled) == 3


@needs_checkpoint
def test_compare_strategies_has_a_row_for_each_strategy():
    header, *rows = _run("compare_strategies.py")
    assert header.split()[0] == "strategy"
    assert [row.split()[0] for row in rows] == demask_hf.strategy_names()


@needs_checkpoint
def test_add_a_strategy_decodes_with_each_setting():
    assert [line.split()[0] for line in _run("add_a_strategy.py")] == ["1", "2", "4"]


def test_add_a_backbone_decodes_with_a_model_of_its_own():
    tokens, passes = _run("add_a_backbone.py")
    ids = [int(token) for token in tokens.removeprefix("tokens: [").removesuffix("]").split(", ")]
    assert ids[:3] == [5, 6, 7]
    assert len(ids) == 11
    assert 0 not in ids
    assert 1 <= int(passes.removeprefix("forward passes: ")) <= 8


@needs_checkpoint
def test_train_head_prints_the_fit_and_decodes_with_the_new_head():
    *_, fit, slow, fast = _run("train_head.py")
    assert float(fit.split()[1]) > float(fit.split()[5])
    passes, answers = zip(*(line.split(" forward passes: ") for line in (slow, fast)), strict=True)
    num_slow, num_fast = (int(count.split(": ")[1]) for count in passes)
    assert num_fast < num_slow
    assert all(answer.startswith("shuffle: JFP BDC FCG DLA MRH TFC -> ") for answer in answers)


@needs_checkpoint
def test_finetune_head_peft_decodes_with_the_adapted_head():
    *_, sizes, answer = _run("finetune_head_peft.py")
    assert int(sizes.split()[1]) < int(sizes.split()[4])
    num_passes, text = answer.split(" ", 1)
    assert 1 <= int(num_passes) <= 32
    assert text.startswith("shuffle: ")


@needs_checkpoint
def test_laptop_decodes_with_a_random_model():
    costs = [line for line in _run("laptop.py", "--random", "--max-new-tokens", "8") if line.endswith(" seconds")]
    assert [cost.split(": ")[0] for cost in costs] == ["sequential", "threshold"]
    assert all(1 <= int(cost.split()[1]) <= 8 for cost in costs)


def test_no_example_is_left_out():
    assert [path.name for path in EXAMPLES] == [
        "add_a_backbone.py",
        "add_a_strategy.py",
        "compare_strategies.py",
        "finetune_head_peft.py",
        "generate.py",
        "laptop.py",
        "train_head.py",
    ]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_short_and_says_what_it_shows(path):
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    assert len(source.splitlines()) <= 40
    assert ast.get_docstring(tree)
    assert "main" in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_uses_public_names_only(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not [node.module for node in imported if node.module.startswith("demask_hf")]
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "demask_hf"
    }
    assert used <= set(demask_hf.__all__)
