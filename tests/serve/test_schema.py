"""What a request may ask for, and the sentence that refuses anything else."""

import json

import pytest

from demask_hf.serve.errors import RequestError
from demask_hf.serve.schema import read_object, read_request


TEXT = {"prompt": "w3"}
CHAT = {"messages": [{"role": "user", "content": "w3"}]}


def _read(body, is_chat=False):
    return read_request(body, is_chat, "tiny")


def test_fields_become_settings():
    body = {**TEXT, "model": "tiny", "max_tokens": 7, "temperature": 0.5, "top_p": 0.9, "n": 2, "seed": 3}
    body |= {"stop": "w5", "stream": True, "stream_options": {"include_usage": True}, "user": "me", "logprobs": None}
    body |= {"demask": {"strategy": "threshold", "confidence_threshold": 0.8, "block_length": 7, "drafts": True}}
    asked = _read(body)
    assert asked.prompts == ["w3"]
    assert asked.settings == {"max_new_tokens": 7, "temperature": 0.5, "top_p": 0.9, "block_length": 7}
    assert asked.strategy == {"name": "threshold", "confidence_threshold": 0.8}
    assert (asked.num_answers, asked.seed, asked.wanted.stop) == (2, 3, ("w5",))
    assert (asked.is_streamed, asked.with_usage) == (True, True)
    assert (asked.wanted.drafts, asked.wanted.trace, asked.wanted.num_likely) == (True, False, None)


def test_what_asks_for_nothing_is_accepted():
    body = {"frequency_penalty": 0.0, "presence_penalty": 0, "logit_bias": {}, "logprobs": False, "tools": []}
    asked = _read({**CHAT, **body, "response_format": {"type": "text"}, "max_completion_tokens": 4}, is_chat=True)
    assert asked.settings == {"max_new_tokens": 4}
    assert asked.strategy is None


def test_logprobs_are_a_number_in_a_completion_and_two_fields_in_a_chat():
    assert _read({**TEXT, "logprobs": 0}).wanted.num_likely == 0
    assert _read({**TEXT, "logprobs": 5}).wanted.num_likely == 5
    assert _read({**CHAT, "logprobs": True}, is_chat=True).wanted.num_likely == 0
    assert _read({**CHAT, "logprobs": True, "top_logprobs": 20}, is_chat=True).wanted.num_likely == 20
    assert _read({**CHAT, "logprobs": False, "top_logprobs": 0}, is_chat=True).wanted.num_likely is None


def test_a_schema_becomes_a_constraint():
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    named = {"name": "answer", "strict": True, "description": "An answer.", "schema": schema}
    asked = _read({**CHAT, "response_format": {"type": "json_schema", "json_schema": named}}, is_chat=True)
    assert asked.settings == {"constraint": {"json_schema": schema}}


def _format(**fields):
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "a", **fields}}}


def test_fields_of_a_strategy_may_come_without_its_name():
    assert _read({**TEXT, "demask": {"dependency_bound": 0.1}}).strategy == {"dependency_bound": 0.1}


@pytest.mark.parametrize("prompt", ["w3", ["w3", "w4"], [3, 4], [[3, 4], [5]]])
def test_prompts_are_texts_or_token_ids(prompt):
    assert _read({"prompt": prompt}).prompts == ([prompt] if prompt in ("w3", [3, 4]) else prompt)


def test_parts_of_a_message_are_joined():
    content = [{"type": "text", "text": "w3 "}, {"type": "text", "text": "w4"}]
    asked = _read({"messages": [{"role": "user", "content": content, "name": None}]}, is_chat=True)
    assert asked.prompts == [[{"role": "user", "content": "w3 w4"}]]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temprature": 1}, "`temprature` must be a known field, got an unknown one; nearest: temperature"),
        ({"messages": []}, "`messages` must be a known field"),
        ({"prompt": None}, "`prompt` must be a text, a list of token ids, or a list of those, got None"),
        ({"prompt": []}, "`prompt` must be a text"),
        ({"prompt": ["w3", 4]}, "`prompt` must hold texts or lists of token ids, got 4"),
        ({"prompt": [1 << 70]}, "`prompt` must hold token ids of at most 64 bits"),
        ({"max_tokens": 0}, "`max_tokens` must be an integer of at least 1, got 0"),
        ({"temperature": -1}, r"`temperature` must be a number in \[0, inf\), got -1"),
        ({"temperature": float("inf")}, "`temperature` must be a number"),
        ({"top_p": 0}, r"`top_p` must be a number in \(0, 1\], got 0"),
        ({"n": True}, "`n` must be an integer of at least 1, got True"),
        ({"seed": 1.5}, r"`seed` must be an integer in \[-2\^62, 2\^62\), got 1.5"),
        ({"user": 3}, "`user` must be a text, got 3"),
        ({"stop": [""]}, "`stop` must hold texts of 1 to 256 characters, got ''"),
        ({"stop": ["a"] * 17}, "`stop` must be a text or at most 16 texts"),
        ({"stream": "yes"}, "`stream` must be True or False, got 'yes'"),
        ({"stream_options": {"include_usage": True}}, "`stream_options` must be left out without `stream`"),
        ({"stream": True, "stream_options": 1}, "`stream_options` must be an object with `include_usage` only"),
        (
            {"stream": True, "stream_options": {"include_obfuscation": True}},
            "`stream_options` must not ask for `include_obfuscation`",
        ),
        ({"logprobs": 6}, r"`logprobs` must be an integer in \[0, 5\], got 6"),
        ({"logprobs": True}, r"`logprobs` must be an integer in \[0, 5\], got True"),
        ({"top_logprobs": 1}, "`top_logprobs` must be a known field"),
        ({"response_format": "json"}, "`response_format` must be of type text or json_schema, got 'json'"),
        ({"response_format": {"type": "json_object"}}, "`response_format` must be of type text or .* is too large"),
        ({"response_format": {"type": "json_schema"}}, "`response_format` must hold `type` and `json_schema`, an"),
        (_format(), "`response_format.json_schema.schema` must be an object, got None"),
        (_format(schema=3), "`response_format.json_schema.schema` must be an object, got 3"),
        (_format(schema={}, shape=1), "`response_format.json_schema` must hold name, .* only, got 'shape'"),
        (_format(schema={"const": "a" * 20000}), "`response_format.json_schema.schema` must be at most 16384 char"),
        ({**_format(schema={"type": "integer"}), "stop": "a"}, "`stop` must be left out with `response_format`"),
        ({"frequency_penalty": 0.5}, "`frequency_penalty` must be left out or 0, as this server does not support it"),
        ({"suffix": "w4"}, "`suffix` must be left out or ''"),
        ({"best_of": 3}, "`best_of` must be left out or 1"),
        ({"demask": 1}, "`demask` must be an object, got 1"),
        ({"demask": {"drafts": 1}}, "`demask.drafts` must be True or False, got 1"),
        ({"demask": {"drafts": True}}, "`demask.drafts` must be False without `stream`"),
        ({"demask": {"trace": True}}, "`demask.trace` must be False without `stream`"),
        ({"demask": {"strategy": {}}}, "`demask.strategy` must be a name, got {}"),
        (
            {"demask": {"strategy": "table", "table": "/etc/passwd"}},
            "`demask` must not name a file of the server, got",
        ),
        (
            {"demask": {"strategy": "edit", "inner": {"name": "table", "table": "x.json"}}},
            "`demask` must not name a file of the server, got",
        ),
        ({"demask": {"strategy": "edit", "inner": "table"}}, "`demask` must not name a file of the server, got"),
        ({"demask": {"strategy": "treshold"}}, "`demask.strategy` must be one of .*threshold.*, got 'treshold'"),
        ({"demask": {"compile": True}}, "`demask.compile` must not be set by a request, got True"),
        ({"demask": {"bound": 1}}, "`demask.bound` must be a known field, got an unknown one; "),
        (
            {"demask": {"strategy": "threshold", "dependency_bound": 0.1}},
            "`demask.dependency_bound` must be a known field",
        ),
    ],
)
def test_a_sentence_refuses_what_is_wrong_in_a_completion(fields, message):
    with pytest.raises(RequestError, match=message) as refused:
        _read({**TEXT, **fields})
    assert refused.value.status == 400
    error = refused.value.to_dict()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["message"].startswith(f"`{error['param']}` must")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": "w3"}, "`prompt` must be a known field"),
        ({"messages": "w3"}, "`messages` must be a list of at least one message, got 'w3'"),
        ({"messages": ["w3"]}, r"`messages\[0\]` must be an object with role and content, got 'w3'"),
        ({"messages": [{"role": "user", "content": "a", "name": "b"}]}, r"`messages\[0\]` must hold role and content"),
        ({"messages": [{"role": "boss", "content": "a"}]}, r"`messages\[0\].role` must be one of system, .*'boss'"),
        ({"messages": [{"role": "user"}]}, r"`messages\[0\].content` must be a text, or a list of parts"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "`messages.*` must be a text"),
        (
            {"max_tokens": 3, "max_completion_tokens": 4},
            "`max_completion_tokens` must be `max_tokens`, .* got 4 and 3",
        ),
        ({"logprobs": 2}, "`logprobs` must be True or False, got 2"),
        ({"logprobs": True, "top_logprobs": 21}, r"`top_logprobs` must be an integer in \[0, 20\], got 21"),
        ({"top_logprobs": 1}, "`top_logprobs` must be 0 without `logprobs`, got 1"),
        ({"tools": [{}]}, r"`tools` must be left out or \[\]"),
    ],
)
def test_a_sentence_refuses_what_is_wrong_in_a_chat(fields, message):
    with pytest.raises(RequestError, match=message):
        _read({**CHAT, **fields}, is_chat=True)


def test_another_model_is_not_found():
    with pytest.raises(RequestError, match="`model` must be 'tiny', the one that is served, got 'gpt'") as refused:
        _read({**TEXT, "model": "gpt"})
    assert (refused.value.status, refused.value.code) == (404, "model_not_found")


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b"[1]", b'{"a": NaN}', b'"\\ud800"', b"[" * 100_000, b"1" * 5000, b'{"a": "\\ud800"}']
)
def test_a_body_that_is_no_json_object_is_refused(body):
    with pytest.raises(RequestError, match="`body` must") as refused:
        read_object(body)
    assert len(json.dumps(refused.value.to_dict())) < 2000
