"""Files are whole or not there; facts that differ are refused by name; a cut line does not count."""

import errno
import json
import os

import pytest

from demask_hf import files


def test_an_error_leaves_the_file_as_it_was(tmp_path):
    file = tmp_path / "facts.json"
    files.write_json(file, {"seed": 1})

    def write_half():
        with files.replacing(file) as temporary:
            temporary.write_text("{")
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        write_half()
    assert files.read_json(file) == {"seed": 1}
    assert list(tmp_path.iterdir()) == [file]


def test_what_a_killed_process_left_is_replaced(tmp_path):
    (tmp_path / "text.part").write_text("hal")
    files.write_text(tmp_path / "text", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["text"]
    assert (tmp_path / "text").read_text() == "whole"


def test_facts_are_kept_and_compared(tmp_path):
    file = tmp_path / "new" / "run.json"
    files.keep_facts(file, {"model": "a", "sizes": (1, 2)}, "run")
    files.keep_facts(file, {"model": "a", "sizes": (1, 2)}, "run")
    assert files.read_json(file) == {"model": "a", "sizes": [1, 2]}


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"model": "b", "seed": 1}, "with model 'a' instead of 'b'"),
        ({"model": "a"}, "with seed 1 instead of None"),
        ({"model": "a", "seed": 1, "top_p": 0.9}, "with top_p None instead of 0.9"),
    ],
)
def test_other_facts_are_refused_by_name(tmp_path, facts, message):
    files.keep_facts(tmp_path / "run.json", {"model": "a", "seed": 1}, "run")
    with pytest.raises(ValueError, match=f"`out` must be a new folder or one of the same run, got .* {message}"):
        files.keep_facts(tmp_path / "run.json", facts, "run")


def test_lines_are_added_after_the_last_whole_one(tmp_path):
    file = tmp_path / "new" / "records.jsonl"
    assert files.kept_lines(file) == []
    files.append_lines(file, [{"prompt": "a"}, {"prompt": "b"}])
    with open(file, "a") as stream:
        stream.write('{"prompt": "c')
    assert files.kept_lines(file) == [{"prompt": "a"}, {"prompt": "b"}]
    files.append_lines(file, [{"prompt": "d"}])
    assert [record["prompt"] for record in files.kept_lines(file)] == ["a", "b", "d"]
    assert [json.loads(line)["prompt"] for line in file.read_text().splitlines()] == ["a", "b", "d"]


def test_a_broken_line_is_named(tmp_path):
    lines = ['{"a": 1}', "", "{"]
    parsed = files.parsed_lines(lines, tmp_path / "x.jsonl")
    assert next(parsed) == ("line 1", {"a": 1})
    with pytest.raises(ValueError, match=r"line 3 of '.*x\.jsonl' must be a JSON object"):
        next(parsed)


def test_nested_facts_are_named(tmp_path):
    files.keep_facts(tmp_path / "run.json", {"weights": {"model": "a", "head": "b"}}, "run")
    with pytest.raises(ValueError, match=r"with weights\.head 'b' instead of 'c'\."):
        files.keep_facts(tmp_path / "run.json", {"weights": {"model": "a", "head": "c"}}, "run")
    with pytest.raises(ValueError, match=r"with weights\.head 'b' instead of None\."):
        files.keep_facts(tmp_path / "run.json", {"weights": {"model": "a"}}, "run")


def test_results_without_their_facts_are_refused(tmp_path):
    files.append_lines(tmp_path / "test" / "x.jsonl", [{"a": 1}])
    message = r"`out` must be a new folder or one of the same run, got .* with test/x\.jsonl but without run\.json"
    with pytest.raises(ValueError, match=message):
        files.keep_facts(tmp_path / "run.json", {"model": "a"}, "run", ["*.jsonl", "*/*.jsonl"])
    assert not (tmp_path / "run.json").exists()


@pytest.mark.parametrize(("text", "message"), [("{", "JSON object"), ("[1]", "JSON object, got list"), ("", "object")])
def test_broken_facts_are_named(tmp_path, text, message):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ValueError, match=rf"'.*run\.json' must hold a {message}" if text else "must hold a JSON"):
        files.keep_facts(tmp_path / "run.json", {"model": "a"}, "run")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EFBIG, "the file is larger than this process may write"),
        (errno.EROFS, os.strerror(errno.EROFS)),
    ],
)
@pytest.mark.parametrize("write", [files.write_text, lambda file, text: files.append_lines(file, [{"text": text}])])
def test_a_disk_that_refuses_is_one_sentence_and_leaves_what_was_there(tmp_path, monkeypatch, code, reason, write):
    file = tmp_path / "x.jsonl"
    write(file, "before")
    before = file.read_bytes()

    def refuse(descriptor):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(files.WriteError) as error:
        write(file, "after")
    assert str(error.value) == (
        f"{reason}: x.jsonl was not written to {str(tmp_path)!r}; what was complete is kept, and the same command, "
        "run again, resumes."
    )
    assert file.read_bytes().startswith(before)
    assert [path.name for path in tmp_path.iterdir()] == ["x.jsonl"]
