"""Verification of a model: which states and sets, what is written, and the table."""

import json

import pytest
import torch

from demask_hf import DemaskHead, make_strategy
from demask_hf.bound import verification
from demask_hf.bound.measurement import VerificationSettings
from demask_hf.bound.summary import paired_errors, summaries_of, summarise_sets, summary_table
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


def test_other_sets_of_a_state_have_the_size_of_the_selected_one(verified):
    for state in verified:
        others = (state.most_confident, state.random)
        if None in others:
            assert others == (None, None)
            assert len(state.selected.positions) == state.num_candidates
        else:
            for other in others:
                assert len(other.positions) == len(state.selected.positions)
                assert not other.orders
        assert len(state.selected.orders) == 1


def test_the_always_true_bound_holds(verified):
    for state in verified:
        for one in filter(None, (state.selected, state.most_confident, state.random)):
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
    assert names[:2] == ["sets", "selected"]
    assert {"most confident", "random", "selected, a"} <= {line.split("  ")[0] for line in lines}
    assert max(map(len, lines)) <= 100
    assert any("joints of the two orders differ by" in line for line in lines)


def test_errors_are_compared_within_states(verified):
    compared = [state for state in verified if state.random is not None]
    assert compared
    found = paired_errors(verified)
    assert list(found) == ["most confident", "random"]
    for name, difference in found.items():
        others = [getattr(state, name.replace(" ", "_")) for state in compared]
        errors = [other.total_variation.value for other in others]
        own = [state.selected.total_variation.value for state in compared]
        assert difference.value == pytest.approx(sum(errors) / len(errors) - sum(own) / len(own))
    lines = summary_table(summaries_of(verified), found)
    assert sum("is larger by" in line for line in lines) == 2


def test_nothing_cannot_be_summarised():
    with pytest.raises(ValueError, match="`measurements` must hold at least one set, got none"):
        summarise_sets([])


def test_at_temperature_0_the_bound_is_void(dream_with_wide_head, tokenizer):
    with pytest.raises(ValueError, match="`temperature` must be above 0 to measure total variation, got 0"):
        verify(dream_with_wide_head, tokenizer, PROMPTS, RULE, SETTINGS, **{**KWARGS, "temperature": 0.0})


def _stored(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("num_kept", [0, 1, 3, 4])
def test_an_interrupted_verification_goes_on(
    dream_with_wide_head, tokenizer, verified, tmp_path, monkeypatch, num_kept
):
    monkeypatch.setattr("demask_hf.bound.verification._BATCH_SIZE", 2)
    file = tmp_path / "states.jsonl"
    whole = verify(dream_with_wide_head, tokenizer, PROMPTS, RULE, SETTINGS, file=file, **KWARGS)
    assert whole == verified
    lines = file.read_text().splitlines(keepends=True)
    assert len(lines) == len(PROMPTS)
    # The next one was cut off while it was written.
    file.write_text("".join(lines[:num_kept]) + (lines[num_kept][:30] if num_kept < 4 else ""))
    asked = []
    measure = verification._measured
    monkeypatch.setattr(verification, "_measured", lambda *args: asked.append(args) or measure(*args))
    assert verify(dream_with_wide_head, tokenizer, PROMPTS, RULE, SETTINGS, file=file, **KWARGS) == whole
    assert file.read_text().splitlines(keepends=True) == lines
    assert len(asked) == sum(one["state"] is not None for one in _stored(file)[num_kept:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[1:], "line 1 of .* must be of prompt 0 of 4, got 1"),
        (
            lambda lines: [lines[0], lines[0]],
            "line 2 of .* must be of prompt 1 of 4, got 0: remove it and the lines after it",
        ),
        (
            lambda lines: [{**lines[0], "state": {**lines[0]["state"], "prompt": "w9"}}],
            "must be of 'w5 w6 w7', got 'w9'",
        ),
        (
            lambda lines: [{**lines[0], "state": {**lines[0]["state"], "num_candidates": None}}],
            "must have an integer as `num_candidates`, got None",
        ),
        (lambda lines: [_with_selected(lines[0], positions=[-1, 2])], "must have positions and costs of at least 0"),
        (lambda lines: [_with_selected(lines[0], costs=[-0.5])], "must have positions and costs of at least 0"),
        (lambda lines: [_with_selected(lines[0], terms=[])], "must have a term and a cost for each position"),
        (
            lambda lines: [_with_selected(lines[0], costs=[float("nan")])],
            "must have a finite number as `costs`, got nan",
        ),
    ],
)
def test_a_broken_state_is_named(dream_with_wide_head, tokenizer, tmp_path, change, message):
    file = tmp_path / "states.jsonl"
    verify(dream_with_wide_head, tokenizer, PROMPTS, RULE, SETTINGS, file=file, **KWARGS)
    lines = [json.dumps(line) + "\n" for line in change(_stored(file))]
    file.write_text("".join(lines))
    with pytest.raises(ValueError, match=message):
        verify(dream_with_wide_head, tokenizer, PROMPTS, RULE, SETTINGS, file=file, **KWARGS)


def _with_selected(line, **fields):
    return {**line, "state": {**line["state"], "selected": {**line["state"]["selected"], **fields}}}


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


def test_the_command_resumes_in_a_folder_that_was_missing(command, tmp_path, monkeypatch):
    out = tmp_path / "new" / "folder" / "found.json"
    code, table, err = command("--out", out)
    assert code == 0, err
    whole = out.read_bytes()
    out.unlink()
    states = out.with_name("found.json.work") / "states.jsonl"
    states.write_text("".join(states.read_text().splitlines(keepends=True)[:1]))
    assert command("--out", out)[:2] == (0, table)
    assert out.read_bytes() == whole


def test_a_verification_belongs_to_its_settings_and_its_head(command, tmp_path):
    out = tmp_path / "found.json"
    assert command("--out", out)[0] == 0
    whole = out.read_bytes()
    for arguments, message in (
        (("--num-draws", 11), "with settings.num_draws 10 instead of 11."),
        (("--temperature", 0.5), "with generation.temperature 1.0 instead of 0.5."),
        (("--walk", "threshold"), "with walk None instead of 'threshold'."),
    ):
        code, _, err = command("--out", out, *arguments)
        assert code == 2
        assert "`out` must be a new folder or one of the same verification, got " in err
        assert message in err.splitlines()[-1]
    head = DemaskHead.from_pretrained(tmp_path / "head")
    with torch.no_grad():
        next(head.parameters()).view(-1)[-1] += 1
    head.save_pretrained(tmp_path / "head")
    code, _, err = command("--out", out)
    assert code == 2
    assert "with weights.head '" in err
    assert out.read_bytes() == whole


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_loaded(command, tmp_path, monkeypatch):
    monkeypatch.setattr("demask_hf.models.loading.AutoModelForMaskedLM", None)
    code, out, err = command("--out", tmp_path)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith(
        f"demask-hf: error: `out` must be a file, got the folder {str(tmp_path)!r}."
    )
    (tmp_path / "file").write_text("")
    code, out, err = command("--out", tmp_path / "file" / "found.json")
    assert (code, out) == (2, "")
    assert "was not written to" in err
    pytest.importorskip("matplotlib")
    code, out, err = command("--figures", tmp_path / "file")
    assert (code, out) == (2, "")
    assert "was not written to" in err


def test_another_strategy_may_walk(command):
    code, out, err = command("--walk", "threshold:confidence_threshold=0.5")
    assert code == 0, err
    assert "selected" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--temperature", "0"), "`temperature` must be above 0 to measure total variation, got 0"),
        (("--task", "pairs"), "`--file` must be used without --task."),
        (("--num-draws", "1"), "`num_draws` must be an integer of at least 2, got 1."),
        (("--set", "dependency_bound=-1"), "`dependency_bound` must be a number in [0, inf], got -1."),
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
        (["--task", "none"], "`--task` must be among pairs"),
        (["--num-prompts", "0"], "`--num-prompts` must be an integer of at least 1, got 0."),
    ],
)
def test_families_are_checked_before_the_model_is_loaded(capsys, arguments, message):
    assert main(["verify", "--model", "./none", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"demask-hf: error: {message}")
