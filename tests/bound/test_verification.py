"""Verification of a model: which states and sets, what is written, and the table."""

import json

import pytest

from demask_hf import make_strategy
from demask_hf.bound.measurement import VerificationSettings
from demask_hf.bound.summary import summaries_of, summarise_sets, summary_table
from demask_hf.bound.verification import dependencies_before, verify
from demask_hf.cli.main import main


PROMPTS = [("a", "w5 w6 w7"), ("a", "w8"), ("b", "w9 w10"), ("b", "w8")]
RULE = make_strategy("demask", dependency_bound=0.6)
KWARGS = {"max_new_tokens": 5, "temperature": 1.0, "is_verbose": False}
SETTINGS = VerificationSettings(num_draws=20, max_continuations=30, seed=4)


@pytest.fixture(scope="module")
def verified(dream_with_wide_head, tokenizer):
    return verify(dream_with_wide_head, tokenizer, PROMPTS, RULE, SETTINGS, **KWARGS)


def test_one_state_of_each_prompt_and_none_twice(verified):
    prompts = [state.prompt for state in verified]
    assert prompts == [text for _, text in PROMPTS if text in prompts][: len(prompts)]
    assert len({(state.prompt, state.selected.positions) for state in verified}) == len(verified) >= 2
    for state in verified:
        assert 2 <= len(state.selected.positions) <= state.num_candidates


def test_random_sets_have_the_size_of_the_selected_ones(verified):
    for state in verified:
        if state.random is None:
            assert len(state.selected.positions) == state.num_candidates
        else:
            assert len(state.random.positions) == len(state.selected.positions)
            assert not state.random.orders
        assert len(state.selected.orders) == 1


def test_the_always_true_bound_holds(verified):
    for state in verified:
        for one in filter(None, (state.selected, state.random)):
            if one.is_exact:
                assert one.total_variation.value <= one.telescoped + 1e-3
            assert len(one.terms) == len(one.costs) == len(one.head_costs) == len(one.positions) - 1


def test_verifying_again_gives_the_same(dream_with_wide_head, tokenizer, verified):
    again = verify(dream_with_wide_head, tokenizer, PROMPTS, RULE, SETTINGS, **KWARGS)
    assert again == verified


def test_exact_dependencies_need_no_head(dream, tokenizer):
    rule = make_strategy("demask", dependencies="exact", dependency_bound=0.6)
    (state, *_) = verify(dream, tokenizer, PROMPTS[:2], rule, SETTINGS, **KWARGS)
    assert state.selected.head_costs is None
    assert summarise_sets([state.selected]).head_bound is None
    assert summarise_sets([state.selected]).bounded_by_head is None


def test_dependencies_of_a_state_are_those_of_all_positions(dream_with_wide_head, tokenizer):
    kwargs = {name: value for name, value in KWARGS.items() if name != "is_verbose"}
    found = dependencies_before(dream_with_wide_head, tokenizer, "w5 w6", RULE, SETTINGS, **kwargs)
    assert found.maps["measured"].shape == found.maps["head"].shape == (5, 5)
    assert len(found.tokens) == 5
    assert (found.maps["measured"].diagonal() == 0).all()
    assert found.maps["measured"].max() > 0


def test_the_table_has_a_row_for_each_kind_and_group(verified):
    lines = summary_table(summaries_of(verified))
    names = [line.split("  ")[0] for line in lines[:5]]
    assert names[:3] == ["sets", "selected", "random"]
    assert names[3] == "selected, a"
    assert max(map(len, lines)) <= 100
    assert any("joints of the two orders differ by" in line for line in lines)


def test_nothing_cannot_be_summarised():
    with pytest.raises(ValueError, match="`measurements` must hold at least one set, got none"):
        summarise_sets([])


def test_at_temperature_0_the_bound_is_void(dream_with_wide_head, tokenizer):
    with pytest.raises(ValueError, match="`temperature` must be above 0 to measure total variation, got 0"):
        verify(dream_with_wide_head, tokenizer, PROMPTS, RULE, SETTINGS, **{**KWARGS, "temperature": 0.0})


@pytest.fixture
def command(dream_with_wide_head, tokenizer, tmp_path, capsys):
    """Return a function that runs `demask-hf verify` on a file of prompts."""
    dream_with_wide_head.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    dream_with_wide_head.demask_head.save_pretrained(tmp_path / "head")
    (tmp_path / "prompts.txt").write_text("w5 w6 w7\nw8\nw9 w10\n", encoding="utf-8")

    def run(*arguments):
        paths = ["--model", tmp_path / "model", "--head", tmp_path / "head", "--file", tmp_path / "prompts.txt"]
        fast = ["--num-draws", 10, "--max-continuations", 20, "--max-new-tokens", 4, "--device", "cpu"]
        fast += ["--set", "dependency_bound=0.7"]
        code = main(["verify", *map(str, [*paths, *fast, *arguments])])
        return code, *capsys.readouterr()

    return run


def test_the_command_writes_table_measurements_and_figures(command, tmp_path):
    pytest.importorskip("matplotlib")
    code, out, err = command("--out", tmp_path / "found.json", "--figures", tmp_path / "figures")
    assert code == 0, err
    assert out.splitlines()[0].startswith("sets ")
    facts = json.loads((tmp_path / "found.json").read_text())
    assert facts["rule"]["dependency_bound"] == 0.7
    assert facts["generation"]["temperature"] == 1.0
    assert len(facts["states"]) == facts["summaries"]["selected"]["num_sets"]
    for name in ("bound", "tightness", "dependencies"):
        assert (tmp_path / "figures" / f"{name}.png").stat().st_size > 1000


def test_another_strategy_may_walk(command):
    code, out, err = command("--walk", "threshold:confidence_threshold=0.5")
    assert code == 0, err
    assert "selected" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--temperature", "0"), "`temperature` must be above 0 to measure total variation, got 0"),
        (("--families", "pairs"), "`--file` must be used without --families."),
        (("--num-draws", "1"), "`num_draws` must be an integer of at least 2, got 1."),
        (("--set", "dependency_bound=-1"), "`dependency_bound` must be a number in [0, inf), got -1."),
    ],
)
def test_bad_input_is_one_sentence(command, tmp_path, arguments, message):
    code, out, err = command(*arguments, "--out", tmp_path / "found.json")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith(f"demask-hf: error: {message}")
    assert not (tmp_path / "found.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--families", "none"], "`--families` must be among pairs"),
        (["--num-prompts", "0"], "`--num-prompts` must be at least 1, got 0."),
    ],
)
def test_families_are_checked_before_the_model_is_loaded(capsys, arguments, message):
    assert main(["verify", "--model", "./none", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"demask-hf: error: {message}")
