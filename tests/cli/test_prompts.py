"""Where prompts come from, and how they are read."""

import json
from pathlib import Path


def test_prompts_come_from_arguments_a_file_or_standard_input(generate, tmp_path):
    expected = generate("w3 w4", "w5")[1]
    assert len(expected.splitlines()) == 2
    file = tmp_path / "prompts.txt"
    file.write_text("w3 w4\n\nw5\n", encoding="utf-8")
    assert generate("--file", str(file))[1] == expected
    assert generate(stdin="w3 w4\nw5\n")[1] == expected
    assert generate("--file", "-", stdin="w3 w4\nw5\n")[1] == expected


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
    assert "warning: the tokenizer does not know some characters of 'w3 nonsense'." in err
