"""Log-probabilities, JSON schemas and traces of a request: what they hold, alone and beside others."""

import json
import math
import sys

import pytest

from demask_hf.serve import Scheduler, ServedModel
from demask_hf.serve.answers import Wanted
from demask_hf.serve.scheduler import Job


pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("prometheus_client", reason="needs the extra serve")

from demask_hf.serve import trial  # noqa: E402
from demask_hf.serve.app import Server, create_app  # noqa: E402


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}


@pytest.fixture(scope="module")
def served(dream_with_head, tokenizer):
    with_template = type(tokenizer)(
        tokenizer_object=tokenizer._tokenizer, pad_token="<pad>", mask_token="<mask>", eos_token="<eos>"
    )
    with_template.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    return ServedModel(dream_with_head, with_template, "tiny", settings={"max_new_tokens": 8}, max_length=64)


@pytest.fixture
def spelled(make_dream, make_head, spelling):
    """Return a model whose tokens are bytes."""
    model = make_dream(vocab_size=259)
    model.set_demask_head(make_head(model))
    return ServedModel(model, spelling, "bytes", settings={"max_new_tokens": 12}, max_length=64)


@pytest.fixture(scope="module")
def make_client():
    testclient = pytest.importorskip("fastapi.testclient", reason="needs the client of fastapi's tests")
    open_ones = []

    def make(served):
        client = testclient.TestClient(create_app(Server(served, Scheduler())), raise_server_exceptions=False)
        open_ones.append(client)
        return client.__enter__()

    yield make
    for client in open_ones:
        client.__exit__(None, None, None)


@pytest.fixture(scope="module")
def client(make_client, served):
    return make_client(served)


def _chunks(response):
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    assert lines[-1] == "[DONE]", lines
    return [json.loads(line)["choices"][0] for line in lines[:-1]]


def test_a_logprob_is_that_of_the_token_in_the_step_that_wrote_it(client, served):
    body = {"prompt": "w3 w4", "logprobs": 2, "demask": {"strategy": "demask"}}
    choice = client.post("/v1/completions", json=body).json()["choices"][0]
    ids = served.tokenizer("w3 w4", return_tensors="pt")["input_ids"]
    output = served.model.generate(
        ids, max_new_tokens=8, strategy="demask", trace=True, tokenizer=served.tokenizer, return_dict_in_generate=True
    )
    found, tokens = choice["logprobs"], output.sequences[0, 2:].tolist()
    assert found["demask"]["passes"] == (output.unmask_step[0, 2:] + 1).tolist()
    for place, token in enumerate(tokens):
        seen = output.trace.passes[found["demask"]["passes"][place] - 1].candidates
        (candidate,) = [each for each in seen if each.position == 2 + place]
        assert found["token_logprobs"][place] == pytest.approx(math.log(candidate.probability), abs=1e-4)
        assert found["tokens"][place] == served.tokenizer.decode([token])
        likely = found["top_logprobs"][place]
        assert list(likely.values()) == pytest.approx([math.log(value) for _, value in candidate.likely[:2]], abs=1e-4)
        assert likely[found["tokens"][place]] == found["token_logprobs"][place]
    for offset, token in zip(found["text_offset"], found["tokens"], strict=True):
        assert choice["text"][offset:].lstrip().startswith(token)


@pytest.mark.parametrize("strategy", ["threshold", "demask"])
def test_streamed_logprobs_are_those_of_the_chat_that_is_not(client, strategy):
    body = {"messages": [{"role": "user", "content": "w3 w4"}], "logprobs": True, "top_logprobs": 3}
    body |= {"demask": {"strategy": strategy}, "temperature": 1, "seed": 3}
    whole = client.post("/v1/chat/completions", json=body).json()["choices"][0]["logprobs"]["content"]
    chunks = _chunks(client.post("/v1/chat/completions", json={**body, "stream": True}))
    streamed = [each for chunk in chunks if chunk["logprobs"] for each in chunk["logprobs"]["content"]]
    for mine, other in zip(streamed, whole, strict=True):
        assert (mine["token"], mine["bytes"], mine["demask"]) == (other["token"], other["bytes"], other["demask"])
        assert mine["logprob"] == pytest.approx(other["logprob"], abs=1e-4)
        assert bytes(mine["bytes"]).decode() == mine["token"]
        values = [each["logprob"] for each in mine["top_logprobs"]]
        assert len(values) == 3
        assert values == sorted(values, reverse=True)


def test_logprobs_end_with_the_text(client):
    body = {"prompt": "w3 w4", "logprobs": 0, "demask": {"strategy": "sequential"}}
    whole = client.post("/v1/completions", json=body).json()["choices"][0]
    tokens = whole["logprobs"]["tokens"]
    # The last token that has not occurred before.
    number = max(tokens.index(token) for token in tokens)
    stop = f" {tokens[number]}"
    found = client.post("/v1/completions", json={**body, "stop": stop}).json()["choices"][0]
    assert found["text"] == whole["text"][: whole["text"].index(stop)]
    assert found["logprobs"]["tokens"] == whole["logprobs"]["tokens"][:number]
    assert found["logprobs"]["top_logprobs"] == [
        {token: value}
        for token, value in zip(found["logprobs"]["tokens"], found["logprobs"]["token_logprobs"], strict=True)
    ]


@pytest.mark.parametrize("strategy", ["wino", "freedave"])
def test_strategies_that_do_not_write_step_by_step_have_no_logprobs(client, strategy):
    body = {"prompt": "w3 w4", "demask": {"strategy": strategy}, "logprobs": 0}
    response = client.post("/v1/completions", json=body)
    assert response.status_code == 400
    sentence = f"`logprobs` must be left out with strategy '{strategy}', which drafts or changes what it wrote."
    assert response.json()["error"]["message"] == sentence


def test_text_that_may_be_taken_back_is_streamed_at_the_end(client):
    body = {"prompt": "w3 w4", "demask": {"strategy": "wino"}}
    text = client.post("/v1/completions", json=body).json()["choices"][0]["text"]
    chunks = _chunks(client.post("/v1/completions", json={**body, "stream": True}))
    assert [chunk["text"] for chunk in chunks] == [text]


def _together(served, rows):
    """Return the answers of rows that run at once, and whether they shared a pass."""
    scheduler, found, errors = Scheduler(max_rows=len(rows)), {}, []
    jobs = [Job(lambda ask, key=key, row=row: found.update({key: row.run(ask)}), errors.append) for key, row in rows]
    scheduler.submit(jobs)
    scheduler.close()
    assert errors == [None] * len(rows)
    return found, scheduler.counts.num_row_passes > scheduler.counts.num_forward_passes


def test_chances_of_a_row_beside_others_are_those_of_the_row_alone(served):
    def row(number):
        settings = {"max_new_tokens": 8, "seed": number, "temperature": 1.0}
        name = ["threshold", "demask", "sequential"][number % 3]
        return served.row([3 + number] * (1 + number), {"name": name}, settings, Wanted(num_likely=2))

    beside, is_shared = _together(served, [(number, row(number)) for number in range(6)])
    assert is_shared
    for number in range(6):
        alone, _ = _together(served, [(number, row(number))])
        assert [each.text for each in beside[number].chances] == [each.text for each in alone[number].chances]
        for mine, other in zip(beside[number].chances, alone[number].chances, strict=True):
            assert mine.logprob == pytest.approx(other.logprob, abs=1e-4)


def test_constrained_rows_beside_others_are_the_rows_alone(spelled):
    pytest.importorskip("outlines_core")

    def row(number):
        settings = {"max_new_tokens": 12, "seed": number, "temperature": 1.0}
        if number % 2:
            settings["constraint"] = {"json_schema": SCHEMA}
        return spelled.row([70 + number] * (1 + number), {"name": "threshold"}, settings)

    beside, is_shared = _together(spelled, [(number, row(number)) for number in range(6)])
    assert is_shared
    for number in range(6):
        assert beside[number] == _together(spelled, [(number, row(number))])[0][number]
        if number % 2:
            assert isinstance(json.loads(beside[number].text)["n"], int)


def test_answers_follow_a_schema_streamed_or_not(make_client, spelled):
    pytest.importorskip("outlines_core")
    client = make_client(spelled)
    body = {"prompt": "Hi", "response_format": FORMAT, "logprobs": 0, "n": 2, "temperature": 1, "seed": 1}
    reply = client.post("/v1/completions", json=body).json()
    for choice in reply["choices"]:
        assert isinstance(json.loads(choice["text"])["n"], int)
        assert len(choice["logprobs"]["tokens"]) == len(choice["text"])
    chunks = _chunks(client.post("/v1/completions", json={**body, "stream": True, "n": 1}))
    assert "".join(chunk["text"] for chunk in chunks) == reply["choices"][0]["text"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_tokens": 4}, "`response_format` must have a match within `max_new_tokens` (4), got one whose shortest"),
        ({"demask": {"block_cache": "dual"}}, "`block_cache` must be 'none' with `response_format`"),
        ({"schema": {"type": "color"}}, "`response_format` must hold a supported JSON schema, got"),
        ({"schema": {"$ref": "http://127.0.0.1/x"}}, "`response_format` must hold a supported JSON schema, got"),
        ({"schema": {"type": "string", "maxLength": 12}}, "`response_format` must hold a schema that is compiled"),
        ({"demask": {"strategy": "lossless"}}, "`response_format` must be None for strategy 'lossless'"),
    ],
)
def test_what_cannot_be_constrained_is_refused_in_a_sentence(make_client, spelled, monkeypatch, fields, message):
    pytest.importorskip("outlines_core")
    monkeypatch.setattr(trial, "MAX_TRANSITIONS", 1000)
    schema = fields.pop("schema", SCHEMA)
    named = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    response = make_client(spelled).post("/v1/completions", json={"prompt": "Hi", "response_format": named, **fields})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["message"].startswith(message), response.text


def test_a_schema_that_takes_too_long_is_refused(monkeypatch):
    pytest.importorskip("outlines_core")
    monkeypatch.setattr(trial, "MAX_SECONDS", 0.01)
    with pytest.raises(ValueError, match="`response_format` must hold a schema that is compiled with little time"):
        trial.check_schema({"type": "string", "maxLength": 99_999}, 259)


def test_schemas_need_their_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "outlines_core", None)
    with pytest.raises(ImportError, match="`response_format` needs the package outlines-core on the server"):
        trial.check_schema({}, 259)


@pytest.mark.parametrize("strategy", ["demask", "threshold", "wino", "freedave"])
def test_a_streamed_trace_is_that_of_generate(client, served, strategy):
    body = {"prompt": "w3 w4", "stream": True, "demask": {"strategy": strategy, "trace": True}}
    *chunks, last = _chunks(client.post("/v1/completions", json=body))
    parts = [chunk["demask"]["trace"] for chunk in chunks if "demask" in chunk]
    closing = last["demask"]["trace"]
    opening, frames = parts[0], [part["frame"] for part in parts[1:]]
    ids = served.tokenizer("w3 w4", return_tensors="pt")["input_ids"]
    output = served.model.generate(
        ids, max_new_tokens=8, strategy=strategy, trace=True, tokenizer=served.tokenizer, return_dict_in_generate=True
    )
    expected = output.trace.to_dict()
    found = {**opening, "frames": [*opening["frames"], *frames, closing["frame"]], "final": closing["final"]}
    # How many steps there were is not known at the start, and so the name differs.
    for each in (found, expected):
        del each["traceId"], each["generation"]["totalSteps"]
    assert json.loads(json.dumps(expected)) == found


def test_a_client_that_does_not_read_its_trace_is_cut_off(client, monkeypatch):
    monkeypatch.setattr("demask_hf.serve.decoding.MAX_UNREAD", -1)
    body = {"prompt": "w3 w4", "stream": True, "demask": {"trace": True}}
    error = json.loads(client.post("/v1/completions", json=body).text.removeprefix("data: "))["error"]
    assert error["message"].startswith("`demask.trace` must be read as it is sent")
