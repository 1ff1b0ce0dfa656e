"""`demask-hf generate`: what it prints, and what it says about bad input."""

import io
import json
import sys
from pathlib import Path

import pytest

import demask_hf
from demask_hf.cli.main import main


needs_checkpoint = pytest.mark.skipif(
    not Path(demask_hf.TINY_DREAM, "config.json").exists() or not Path(demask_hf.TINY_DEMASK, "config.json").exists(),
    reason="needs the shipped checkpoint, which `make tiny` writes",
)


def test_generate_prints_the_answer_and_then_its_cost(generate):
    code, out, err = generate("w3 w4")
    assert code == 0
    assert len(out.splitlines()) == 1
    assert "forward passes" in err
    assert "tokens per forward pass" in err


def test_batches_give_the_same_answers(generate):
    prompts = ["w3 w4", "w5", "w6 w7 w8"]
    sampled = ("--temperature", "1", "--seed", "5")
    assert generate(*prompts, *sampled)[1] == generate(*prompts, *sampled, "--batch-size", "2")[1]


def test_json_has_one_object_for_each_prompt_and_strategy(generate):
    code, out, _ = generate("w3 w4", "w5", "--json", "--compare", "threshold", "demask:dependency_bound=0.5,rule=max")
    objects = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [found["prompt"] for found in objects] == ["w3 w4", "w3 w4", "w5", "w5"]
    assert [found["strategy"]["name"] for found in objects] == ["threshold", "demask"] * 2
    assert objects[1]["strategy"]["dependency_bound"] == 0.5
    assert objects[1]["strategy"]["rule"] == "max"
    for found in objects:
        assert len(found["tokens"]) == len(found["unmask_steps"]) == found["num_tokens"]
        assert found["num_forward_passes"] == max(found["unmask_steps"]) + 1
        assert found["tokens_per_forward"] == found["num_tokens"] / found["num_forward_passes"]
        assert found["seconds"] > 0


def test_compare_tabulates_all_strategies(generate):
    code, out, _ = generate("w3 w4", "--compare")
    prompt, header, *rows = out.splitlines()
    assert code == 0
    assert prompt == "w3 w4"
    assert header.split() == ["strategy", "passes", "tokens/pass", "seconds", "text"]
    assert [row.split()[0] for row in rows] == demask_hf.strategy_names()


def test_masks_in_the_prompt_are_filled(generate):
    code, out, _ = generate("w3 <mask> w4", "--max-new-tokens", "0", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["num_tokens"] == 1
    assert found["unmask_steps"] == [0, -1]
    assert found["answer"].endswith("w4")


def test_stream_shows_drafts_and_ends_with_the_answer(generate):
    one_by_one = ("--strategy", "sequential")
    answer = generate("w3 w4", *one_by_one)[1]
    code, out, _ = generate("w3 w4", *one_by_one, "--stream")
    assert code == 0
    assert "\033[33m" in out
    assert out.split("\033[J")[-1].strip().split()[-1:] == answer.split()[-1:]


def test_demask_without_a_head_says_how_to_get_one(generate):
    code, _, err = generate("w3", "--strategy", "demask", head=False)
    assert code == 2
    assert "must have a dependency head" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "a prompt must be given: before --compare, with --file, or on standard input."),
        (["--compare", "threshold"], "a prompt must be given"),
        ([""], "`prompt` must hold at least one character"),
        (["w3", "--file", "prompts.txt"], "`--file` must be used without prompts on the command line."),
        (["--file", "missing.txt"], "No such file or directory: 'missing.txt'"),
        (["w3", "--strategy", "treshold"], "must be a registered name, got 'treshold'; nearest: threshold."),
        (["w3", "--set", "dependency_bond=1"], "nearest: dependency_bound"),
        (["w3", "--strategy", "threshold", "--set", "rule=max"], "`rule` must be a field of strategy 'threshold'"),
        (["w3", "--set", "dependency_bound"], "`FIELD=VALUE` must be the form of a field"),
        (["w3", "--set", "dependency_bound=-1"], "`dependency_bound` must be a number in [0, inf], got -1."),
        (["w3", "--temperature", "-1"], "`--temperature` must be a number in [0, inf), got -1.0."),
        (["w3", "--max-new-tokens", "0"], "`max_new_tokens` must be at least 1 for a prompt without mask tokens"),
        (["w3", "--block-length", "3"], "`block_length` must divide `max_new_tokens` (8), got 3."),
        (["w3", "--batch-size", "0"], "`--batch-size` must be an integer of at least 1, got 0."),
        (["w3", "--top-k", "many"], "argument --top-k: invalid int value: 'many' (see demask-hf generate --help)"),
        (["w3", "--device", "abacus"], "`device` must name a device of torch, such as cpu or cuda, got 'abacus'."),
        (["w3", "--device", "cuda:99"], "`device` must be a device that this machine has, got 'cuda:99'."),
        (["w3", "--model", "./missing"], "`model` must be a folder or a Hub repository, got './missing'"),
        (["w3", "--chat"], "`--chat` must be used with a tokenizer that has a chat template"),
        (["w3", "--stream", "--json"], "`--stream` must be used without --json and --compare."),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(folders, capsys, monkeypatch, arguments, message):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    paths = [part for option in folders.items() for part in option]
    assert main(["generate", "--device", "cpu", *paths, *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("demask-hf: error: ")
    assert len(err.splitlines()) == 1
    assert message in err


@needs_checkpoint
def test_the_shipped_checkpoint_is_the_default(capsys):
    assert main(["generate", "copy: DACBE FGAHJ TRNPM KLBCA -> ", "--json", "--device", "cpu"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["answer"] == "DACBE FGAHJ TRNPM KLBCA"
    assert found["strategy"]["name"] == "demask"


def test_help_of_generate_has_examples(capsys):
    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    assert 'demask-hf generate "' in capsys.readouterr().out
