"""`demask-hf chat`: what is remembered, its commands, and what is shown in a terminal and elsewhere."""

import io
import os
import re
import sys
import threading

import pytest

from demask_hf.cli.main import main
from demask_hf.cli.terminal import LiveAnswer, Screen
from demask_hf.evaluation.decoding import Decoding


TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}"


@pytest.fixture
def talk(folders, capsys, monkeypatch):
    """Return a function that chats with piped input: exit code, answers and notes."""

    def run(*lines, options=(), model=None):
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        code = main(["chat", model or folders["--model"], "--head", folders["--head"], "--device", "cpu", *options])
        out, err = capsys.readouterr()
        return code, out.splitlines(), err.splitlines()

    return run


@pytest.fixture
def with_template(dream, tokenizer, tmp_path):
    """Return the folder of a model whose tokenizer has a chat template."""
    dream.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    return str(tmp_path)


@pytest.fixture
def prompts(monkeypatch):
    """Do not decode, and return the list of prompts that would be; each answer is its number."""
    seen = []

    def decode(model, tokenizer, asked, strategy, batch_size, **settings):
        seen.append((asked[0], strategy.to_dict()["name"], settings["seed"]))
        if len(seen) == 1 and asked[0] == "w9":
            raise KeyboardInterrupt
        return [Decoding("", f"answer {len(seen)}", (3,), (0,), 2, 0, 0.5)]

    monkeypatch.setattr("demask_hf.evaluation.decoding.decode_prompts", decode)
    return seen


def test_piped_lines_are_answered_on_standard_output(talk, generate):
    code, answers, notes = talk("w3 w4", "", "w5", "/quit", "w6", options=["--strategy", "threshold"])
    assert code == 0
    assert answers == [generate(text, "--strategy", "threshold")[1].rstrip("\n") for text in ("w3 w4", "w5")]
    assert "has no chat template: each line is sent as plain text" in notes[0]
    assert "with threshold; /help lists the commands" in notes[1]
    costs = [re.fullmatch(r"\[(\d+) forward passes with threshold, .* s; (\d+) passes in all\]", n) for n in notes[2:]]
    assert [int(cost[2]) for cost in costs] == [int(costs[0][1]), int(costs[0][1]) + int(costs[1][1])]


def test_what_was_said_is_sent_again_until_it_is_forgotten(talk, with_template, prompts):
    lines = ("w3", "w4", "/reset", "//w5")
    code, answers, notes = talk(*lines, model=with_template, options=["--system", "w7", "--seed", "5"])
    assert (code, answers) == (0, ["answer 1", "answer 2", "answer 3"])
    said = [[message["content"] for message in prompt] for prompt, _, _ in prompts]
    assert said == [["w7", "w3"], ["w7", "w3", "answer 1", "w4"], ["w7", "/w5"]]
    assert [seed for _, _, seed in prompts] == [5, 6, 7]
    assert "forgotten" in notes


def test_the_strategy_can_be_changed(talk, prompts):
    lines = ("/strategy threshold confidence_threshold=0.5", "w3", "/strategy demsk", "/strategy demask bound=1")
    _, _, notes = talk(*lines, "/strategy", "w3")
    assert [name for _, name, _ in prompts] == ["threshold", "threshold"]
    spec = "threshold:confidence_threshold=0.5"
    assert notes[2] == f"decoding with {spec}"
    assert notes[4] == f"still {spec}: `strategy` must be a registered name, got 'demsk'; nearest: demask."
    assert notes[5].startswith(f"still {spec}: `bound` must be a field of strategy 'demask'")
    assert notes[6].startswith(f"decoding with {spec}; there are ")


def test_commands_are_listed_and_others_refused(talk, prompts):
    _, _, notes = talk("/help", "/what")
    assert any(note.startswith("/reset") for note in notes)
    assert notes[-1] == "`/what` must be /strategy, /reset, /help or /quit; // begins a text with a slash"
    assert prompts == []


def test_an_answer_that_fails_or_is_stopped_is_a_note(talk, prompts):
    _, answers, notes = talk("w9", "w3")
    assert "stopped; what was asked is forgotten" in notes
    assert answers == ["answer 2"]


def test_an_error_of_generate_is_a_note(talk):
    code, answers, notes = talk("w3", options=["--block-length", "3"])
    assert (code, answers) == (0, [])
    assert notes[-1] == "no answer: `block_length` must divide `max_new_tokens` (8), got 3."


def test_a_system_message_needs_a_chat_template(talk):
    code, _, notes = talk("w3", options=["--system", "w7"])
    assert code == 2
    assert "`--system` must be used with a tokenizer that has a chat template, got one without." in notes[-1]


def test_a_prompt_of_the_shipped_checkpoint_without_its_space_is_warned_of(capsys, monkeypatch, prompts):
    monkeypatch.setattr(sys, "stdin", io.StringIO("sort: BA ->\nsort: BA -> \n"))
    assert main(["chat", "--device", "cpu"]) == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert warnings == [
        "demask-hf: warning: prompts of the shipped checkpoint end with '-> ', and the last space is missing."
    ]


@pytest.mark.skipif(os.name != "posix", reason="needs pseudo-terminals")
def test_a_terminal_shows_every_pass(folders, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    keeper, terminal = os.openpty()
    shown = []

    def read():
        while part := os.read(keeper, 4096):
            shown.append(part)
            if b"the end" in part:
                return

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    os.write(keeper, b"w3 w4\n/quit\n")
    with open(terminal, closefd=False) as lines, open(terminal, "w", closefd=False) as screen:
        monkeypatch.setattr(sys, "stdin", lines)
        monkeypatch.setattr(sys, "stdout", screen)
        options = ["--strategy", "sequential", "--no-stop-at-eos", "--device", "cpu"]
        code = main(["chat", *(part for pair in folders.items() for part in pair), *options])
        screen.write("the end\n")
    reader.join(10)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", b"".join(shown).decode())
    assert code == 0
    for number in range(1, 9):
        assert f"pass {number}, {number} of 8 tokens" in text
    assert "░" in text
    assert "[8 forward passes with sequential" in text


def test_written_tokens_and_masks_are_told_apart(tokenizer):
    answer = LiveAnswer(tokenizer, None, 0.0)
    drawn = answer.text_of([5, 1, 6, 1, 7], [0, -1, 1, -1, 1], 2)
    assert drawn.plain == "w5░w6░w7\npass 2, 3 of 5 tokens"
    assert [str(span.style) for span in drawn.spans] == ["dim", "bold green", "dim", "bold green", "dim"]


def test_answers_cannot_control_the_terminal(tokenizer, monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    screen = Screen(tokenizer)
    screen.answer("\x1b[2J[red]x")
    assert "\\x1b[2J[red]x" in capsys.readouterr().out
