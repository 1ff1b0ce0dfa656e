import json

import pytest

from demask_hf.training.prompts import TokenizedPrompt, read_prompts


TEMPLATE = (
    "{% for message in messages %}{{ message['role'] == 'user' and 'w3' or 'w4' }} {{ message['content'] }} w5\n"
    "{% endfor %}{% if add_generation_prompt %}w4 {% endif %}"
)


@pytest.fixture
def write(tmp_path):
    """Return a function that writes lines to a file and returns its path."""

    def write(*lines):
        file = tmp_path / "data.jsonl"
        file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
        return file

    return write


@pytest.fixture
def chat_tokenizer(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", TEMPLATE)
    return tokenizer


def test_json_lines_are_read_in_order_and_empty_lines_skipped(write, tokenizer):
    file = write({"prompt": "w3 w4", "answer": "w5"}, "", {"prompt": "w6", "answer": "w7 w8"})
    assert read_prompts(file, tokenizer) == [TokenizedPrompt((3, 4), (5,)), TokenizedPrompt((6,), (7, 8))]


def test_a_chat_template_is_used_where_there_is_one(write, chat_tokenizer):
    file = write({"prompt": "w7", "answer": "w8"})
    assert read_prompts(file, chat_tokenizer) == [TokenizedPrompt((3, 7, 5, 4), (8, 5))]
    plain = read_prompts(file, chat_tokenizer, use_chat_template=False)
    assert plain == [TokenizedPrompt((7,), (8,))]


def test_messages_keep_all_turns_before_the_answer(write, chat_tokenizer):
    turns = [("user", "w7"), ("assistant", "w8"), ("user", "w9"), ("assistant", "w10")]
    file = write({"messages": [{"role": role, "content": content} for role, content in turns]})
    assert read_prompts(file, chat_tokenizer) == [TokenizedPrompt((3, 7, 5, 4, 8, 5, 3, 9, 5, 4), (10, 5))]


def test_a_saved_dataset_gives_the_same_prompts(write, tokenizer, tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = [{"prompt": "w3", "answer": "w5"}, {"prompt": "w6", "answer": "w7"}]
    table = datasets.Dataset.from_list(rows)
    table.save_to_disk(str(tmp_path / "plain"))
    datasets.DatasetDict({"train": table, "test": table.select([1])}).save_to_disk(str(tmp_path / "splits"))
    expected = read_prompts(write(*rows), tokenizer)
    assert read_prompts(tmp_path / "plain", tokenizer) == expected
    assert read_prompts(tmp_path / "splits", tokenizer) == expected
    assert read_prompts(tmp_path / "splits", tokenizer, split="test") == expected[1:]
    with pytest.raises(ValueError, match=r"`split` must be one of train, test, got 'dev'\."):
        read_prompts(tmp_path / "splits", tokenizer, split="dev")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"line 2 of '.*data\.jsonl' must be a JSON object \(Expecting"),
        ("[1]", r"line 2 of '.*' must be a JSON object, got list\."),
        ({"prompt": "w3"}, r"line 2 of '.*' must have a text `answer` of at least one character, got None\."),
        (
            {"prompt": "", "answer": "w3"},
            r"line 2 of '.*' must have a text `prompt` of at least one character, got ''\.",
        ),
        ({"messages": []}, r"line 2 of '.*' must have at least two `messages`"),
        (
            {"messages": [{"role": "assistant", "content": "w3"}, {"role": "user", "content": "w4"}]},
            r"line 2 of '.*' must end with a message of the assistant, got 'user'\.",
        ),
        (
            {"messages": [{"role": "user", "content": "w3"}, {"role": "assistant", "content": "w4"}]},
            r"line 2 of '.*' must have `prompt` and `answer` where no chat template is used, got `messages`\.",
        ),
    ],
)
def test_a_broken_record_is_named_by_its_line(write, tokenizer, line, message):
    file = write({"prompt": "w3", "answer": "w4"}, line)
    with pytest.raises(ValueError, match=message):
        read_prompts(file, tokenizer)


def test_no_records_missing_files_and_missing_templates_are_refused(write, tokenizer, tmp_path):
    with pytest.raises(ValueError, match=r"`data` must hold at least one record, got none in "):
        read_prompts(write(""), tokenizer)
    with pytest.raises(
        OSError, match=r"`data` must be a file, a folder or a dataset of the Hub, got '.*', which does not exist\."
    ):
        read_prompts(tmp_path / "none.jsonl", tokenizer)
    with pytest.raises(ValueError, match=r"`use_chat_template` must be False for a tokenizer without"):
        read_prompts(write({"prompt": "w3", "answer": "w4"}), tokenizer, use_chat_template=True)
