"""The command line: what it prints, and what it says about bad input."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import demask_hf
from demask_hf import DemaskGenerationConfig
from demask_hf.cli.main import main


NUM_NEW_TOKENS = 8
needs_checkpoint = pytest.mark.skipif(
    not Path(demask_hf.TINY_DREAM, "config.json").exists() or not Path(demask_hf.TINY_DEMASK, "config.json").exists(),
    reason="needs the shipped checkpoint, which `make tiny` writes",
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory, dream_with_head, tokenizer) -> dict[str, str]:
    """Return the folders of a tiny random Dream and of its head."""
    model, head = (tmp_path_factory.mktemp(name) for name in ("model", "head"))
    dream_with_head.save_pretrained(model)
    tokenizer.save_pretrained(model)
    DemaskGenerationConfig(max_new_tokens=NUM_NEW_TOKENS).save_pretrained(model)
    dream_with_head.demask_head.save_pretrained(head)
    return {"--model": str(model), "--head": str(head)}


@pytest.fixture
def generate(folders, capsys, monkeypatch):
    """Return a function that runs `demask-hf generate` with the tiny model: its exit code, output and messages."""

    def run(*arguments: str, stdin: str = "", head: bool = True):
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        paths = [part for option in folders.items() if head or option[0] == "--model" for part in option]
        code = main(["generate", *arguments, *paths, "--device", "cpu"])
        return code, *capsys.readouterr()

    return run


def test_generate_prints_the_answer_and_then_its_cost(generate):
    code, out, err = generate("w3 w4")
    assert code == 0
    assert len(out.splitlines()) == 1
    assert "forward passes" in err
    assert "tokens per forward pass" in err


def test_prompts_come_from_arguments_a_file_or_standard_input(generate, tmp_path):
    expected = generate("w3 w4", "w5")[1]
    assert len(expected.splitlines()) == 2
    file = tmp_path / "prompts.txt"
    file.write_text("w3 w4\n\nw5\n", encoding="utf-8")
    assert generate("--file", str(file))[1] == expected
    assert generate(stdin="w3 w4\nw5\n")[1] == expected
    assert generate("--file", "-", stdin="w3 w4\nw5\n")[1] == expected


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


def test_set_reaches_every_strategy_that_has_the_field(generate):
    _, out, _ = generate("w3", "--json", "--compare", "threshold", "demask", "--set", "confidence_threshold=0.25")
    assert [json.loads(line)["strategy"]["confidence_threshold"] for line in out.splitlines()] == [0.25, 0.25]


@pytest.mark.parametrize(("head", "name"), [(True, "demask"), (False, "threshold")])
def test_the_default_strategy_depends_on_the_head(generate, head, name):
    assert json.loads(generate("w3", "--json", head=head)[1])["strategy"]["name"] == name


def test_compare_tabulates_all_strategies(generate):
    code, out, _ = generate("w3 w4", "--compare")
    prompt, header, *rows = out.splitlines()
    assert code == 0
    assert prompt == "w3 w4"
    assert header.split() == ["strategy", "passes", "tokens/pass", "seconds", "text"]
    assert [row.split()[0] for row in rows] == demask_hf.strategy_names()


def test_compare_leaves_demask_out_without_a_head(generate):
    rows = generate("w3 w4", "--compare", head=False)[1].splitlines()[2:]
    assert [row.split()[0] for row in rows] == [name for name in demask_hf.strategy_names() if name != "demask"]


def test_decoding_options_reach_generate(generate):
    options = ("--no-stop-at-eos", "--max-new-tokens", "6", "--block-length", "2", "--top-k", "5", "--top-p", "0.9")
    found = json.loads(generate("w3", "--json", *options)[1])
    assert found["num_tokens"] == 6
    capped = json.loads(generate("w3", "--json", *options, "--max-denoising-steps", "1")[1])
    assert capped["num_forward_passes"] == 1


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


def test_escapes_are_read_on_request_only(generate):
    assert json.loads(generate(r"w3\nw4", "--json", "-e")[1])["prompt"] == "w3\nw4"
    assert json.loads(generate(r"w3\\nw4", "--json", "-e")[1])["prompt"] == r"w3\nw4"
    assert json.loads(generate(r"w3\nw4", "--json")[1])["prompt"] == r"w3\nw4"


def test_chat_applies_the_template(folders, generate, tokenizer, tmp_path):
    plain = json.loads(generate("w9 w3 w10", "--json")[1])
    template = Path(folders["--model"], "chat_template.jinja")
    template.write_text("w9 {{ messages[0].content }}{% if add_generation_prompt %} w10{% endif %}", encoding="utf-8")
    try:
        chat = json.loads(generate("w3", "--json", "--chat")[1])
    finally:
        template.unlink()
    assert chat["prompt"] == "w3"
    assert chat["tokens"] == plain["tokens"]


def test_unknown_text_is_reported(folders, generate):
    file = Path(folders["--model"], "tokenizer_config.json")
    before = file.read_text(encoding="utf-8")
    file.write_text(json.dumps({**json.loads(before), "unk_token": "<pad>"}), encoding="utf-8")
    try:
        code, _, err = generate("w3 nonsense")
    finally:
        file.write_text(before, encoding="utf-8")
    assert code == 0
    assert "warning: the tokenizer does not know all of 'w3 nonsense'." in err


def test_strategies_lists_fields_and_defaults(capsys):
    assert main(["strategies"]) == 0
    out = capsys.readouterr().out
    assert "threshold\n    Unmask the most confident position" in out
    assert "    confidence_threshold = 0.9\n" in out


def test_strategies_as_json_agrees_with_the_registry(capsys):
    assert main(["strategies", "--json"]) == 0
    listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {found["name"]: found["fields"] for found in listed} == {
        name: demask_hf.strategy_fields(name) for name in demask_hf.strategy_names()
    }
    assert all(found["description"].endswith(".") for found in listed)


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
        (["w3", "--set", "dependency_bound"], "a field of a strategy must be given as FIELD=VALUE"),
        (["w3", "--set", "dependency_bound=-1"], "`dependency_bound` must be a number in [0, inf), got -1."),
        (["w3", "--temperature", "-1"], "`temperature` must be a number in [0, inf), got -1.0."),
        (["w3", "--max-new-tokens", "0"], "`max_new_tokens` must be at least 1 for a prompt without mask tokens"),
        (["w3", "--block-length", "3"], "`block_length` must divide `max_new_tokens` (8), got 3."),
        (["w3", "--batch-size", "0"], "`batch_size` must be an integer of at least 1, got 0."),
        (["w3", "--top-k", "many"], "argument --top-k: invalid int value: 'many' (see demask-hf generate --help)"),
        (["w3", "--device", "abacus"], "`--device` must name a device of torch, such as cpu or cuda, got 'abacus'."),
        (["w3", "--device", "cuda:99"], "`--device` must be a device that this machine has, got 'cuda:99'."),
        (["w3", "--model", "./missing"], "`--model` must be a folder or a Hub repository, got './missing'"),
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


def test_demask_without_a_head_says_how_to_get_one(generate):
    code, _, err = generate("w3", "--strategy", "demask", head=False)
    assert code == 2
    assert "must have a dependency head" in err


def test_a_command_is_required(capsys):
    assert main([]) == 2
    assert "COMMAND" in capsys.readouterr().err


def test_unexpected_errors_keep_their_traceback(monkeypatch):
    def fail(arguments):
        raise ZeroDivisionError

    monkeypatch.setattr("demask_hf.cli.commands.strategies", fail)
    with pytest.raises(ZeroDivisionError):
        main(["strategies"])


def test_interruption_exits_with_130(monkeypatch):
    def interrupt(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("demask_hf.cli.commands.strategies", interrupt)
    assert main(["strategies"]) == 130


@pytest.mark.parametrize("arguments", [["--help"], ["generate", "--help"], ["--version"]])
def test_help_and_version_exit_with_0(capsys, arguments):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 0
    assert "demask-hf" in capsys.readouterr().out


def test_help_of_generate_has_examples(capsys):
    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    assert 'demask-hf generate "' in capsys.readouterr().out


def test_the_module_is_the_command():
    result = subprocess.run([sys.executable, "-m", "demask_hf", "--version"], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, f"demask-hf {demask_hf.__version__}\n")


@pytest.mark.skipif(os.name != "posix", reason="needs pipes of a posix system")
def test_a_reader_that_leaves_is_no_error():
    process = subprocess.Popen(
        [sys.executable, "-m", "demask_hf", "strategies"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 1


@needs_checkpoint
def test_the_shipped_checkpoint_is_the_default(capsys):
    assert main(["generate", "copy: DACBE FGAHJ TRNPM KLBCA -> ", "--json", "--device", "cpu"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["answer"] == "DACBE FGAHJ TRNPM KLBCA"
    assert found["strategy"]["name"] == "demask"


@needs_checkpoint
def test_demo_compares_strategies_and_shows_answers_step_by_step(capsys):
    assert main(["demo", "--num-examples", "2", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "temperature 0." in out
    assert out.count("forward passes]") == 3
    for row in ("pairs", "all of these", "parity (*)"):
        assert f"\n{row} " in out


@needs_checkpoint
def test_demo_needs_at_least_one_example(capsys):
    assert main(["demo", "--num-examples", "0"]) == 2
    assert "`num_examples` must be an integer of at least 1, got 0." in capsys.readouterr().err
