"""The endpoints, without a network; and one real process, talked to by the client of OpenAI."""

import asyncio
import http.client
import importlib.util
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

import demask_hf
from demask_hf.serve import QueueFullError, Scheduler, ServedModel


pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("prometheus_client", reason="needs the extra serve")

from demask_hf.serve.app import Server, create_app  # noqa: E402


TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
PROMPT = "pairs: =07, =12, =05, =18, =03, =11 -> "


@pytest.fixture(scope="module")
def served(dream_with_head, tokenizer):
    with_template = type(tokenizer)(
        tokenizer_object=tokenizer._tokenizer, pad_token="<pad>", mask_token="<mask>", eos_token="<eos>"
    )
    with_template.chat_template = TEMPLATE
    return ServedModel(dream_with_head, with_template, "tiny", settings={"max_new_tokens": 8}, max_length=64)


@pytest.fixture(scope="module")
def make_client(served):
    testclient = pytest.importorskip("fastapi.testclient", reason="needs the client of fastapi's tests")
    open_ones = []

    def make(scheduler=None, **options):
        server = Server(served, scheduler or Scheduler(), **options)
        client = testclient.TestClient(create_app(server), raise_server_exceptions=False)
        open_ones.append(client)
        return client.__enter__()

    yield make
    for client in open_ones:
        client.__exit__(None, None, None)


@pytest.fixture(scope="module")
def client(make_client):
    return make_client()


@pytest.fixture(scope="module")
def alone(served):
    def decode(text, **settings):
        ids = served.tokenizer(text, return_tensors="pt")["input_ids"]
        output = served.model.generate(ids, max_new_tokens=8, **settings, return_dict_in_generate=True)
        return served.tokenizer.decode(output.sequences[0, ids.shape[1] :], skip_special_tokens=True), output

    return decode


def _events(response):
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_a_completion_is_that_of_generate_and_tells_its_cost(client, alone):
    text, output = alone("w3 w4", strategy="demask")
    reply = client.post("/v1/completions", json={"prompt": "w3 w4"}).json()
    assert reply["object"] == "text_completion"
    assert reply["choices"][0]["text"] == text
    usage, passes = reply["usage"], int(output.num_forward_passes[0])
    assert usage["prompt_tokens"] == 2
    assert usage["total_tokens"] == 2 + usage["completion_tokens"]
    assert usage["demask"] == {
        "forward_passes": passes,
        "probe_passes": 0,
        "tokens_per_forward": usage["completion_tokens"] / passes,
        "strategy": "demask",
        "dependency_bound": 0.06,
        "certificate": None,
    }


def test_a_certificate_is_told_where_it_holds(client, served):
    certificate = {"dependency_bound": 0.2, "risk": "loss", "epsilon": 0.1}
    served.model.demask_head.config.certificate = certificate
    try:
        usage = client.post("/v1/completions", json={"prompt": "w3"}).json()["usage"]["demask"]
        other = {"prompt": "w3", "demask": {"dependency_bound": 0.3}}
        other = client.post("/v1/completions", json=other).json()["usage"]["demask"]
    finally:
        served.model.demask_head.config.certificate = None
    assert (usage["dependency_bound"], usage["certificate"]) == (0.2, certificate)
    assert (other["dependency_bound"], other["certificate"]) == (0.3, None)


def test_several_prompts_and_answers_have_seeds_that_follow_each_other(client, alone):
    body = {"prompt": ["w3", "w4 w5"], "n": 2, "seed": 5, "temperature": 1, "demask": {"strategy": "threshold"}}
    reply = client.post("/v1/completions", json=body).json()
    expected = [
        alone(prompt, strategy="threshold", temperature=1, seed=seed)[0]
        for prompt in body["prompt"]
        for seed in (5, 6)
    ]
    assert [choice["text"] for choice in reply["choices"]] == expected
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2, 3]
    assert reply["usage"]["prompt_tokens"] == 3


@pytest.mark.parametrize("strategy", ["sequential", "demask"])
def test_a_streamed_chat_is_the_chat_that_is_not(client, strategy):
    body = {"messages": [{"role": "user", "content": "w3 w4"}], "n": 2, "seed": 1, "temperature": 1}
    body |= {"demask": {"strategy": strategy}}
    whole = client.post("/v1/chat/completions", json=body).json()
    assert whole["choices"][0]["message"]["role"] == "assistant"
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    response = client.post("/v1/chat/completions", json={**body, "demask": {"strategy": strategy, "drafts": True}})
    assert response.headers["content-type"].startswith("text/event-stream")
    *chunks, last = _events(response)
    assert last["choices"] == []
    assert last["usage"] == whole["usage"]
    for index, choice in enumerate(whole["choices"]):
        own = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert own[0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(each["delta"].get("content", "") for each in own) == choice["message"]["content"]
        assert own[-1]["finish_reason"] == choice["finish_reason"]
        assert own[-1]["demask"] == choice["demask"]
        drafts = [each["demask"]["draft"] for each in own[1:-1]]
        assert len(drafts) == choice["demask"]["forward_passes"]
        masks = [draft.count(None) for draft in drafts]
        assert masks == sorted(masks, reverse=True)
        assert masks[-1] == 0


def test_an_answer_ends_before_a_stop_sequence_and_no_chunk_shows_its_start(client, alone):
    text = alone("w3 w4", strategy="sequential")[0]
    stop = text.split(" ", 2)[1] + " " + text.split(" ", 2)[2][:2]
    body = {"prompt": "w3 w4", "stop": ["never", stop], "demask": {"strategy": "sequential"}}
    reply = client.post("/v1/completions", json=body).json()
    choice = reply["choices"][0]
    assert choice["text"] == text[: text.index(stop)]
    assert choice["finish_reason"] == "stop"
    assert choice["demask"]["forward_passes"] <= 8
    chunks = _events(client.post("/v1/completions", json={**body, "stream": True}))
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == choice["text"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"prompt": ""}, "`input_ids` must"),
        ({"prompt": [99]}, r"`input_ids` must hold token ids in \[0, 24\)"),
        (
            {"prompt": "w3 <mask>"},
            "`prompt` must not hold the mask token, which marks what is to be written, got one.",
        ),
        ({"prompt": "w3", "max_tokens": 64}, "`max_tokens` must leave prompt and answer at most 64 tokens, got 1 and"),
        ({"prompt": "w3", "demask": {"block_length": 3}}, "`block_length` must divide `max_new_tokens`"),
        ({"prompt": "w3", "demask": {"confidence_threshold": 3}}, "`confidence_threshold` must be a number"),
        ({"prompt": "w3", "n": 1000}, "`n` times the number of prompts must be at most 80, got more."),
        ({"prompt": "w3", "demask": {"strategy": "dawn", "block_cache": "dual"}}, "`block_cache` must be 'none'"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_in_a_sentence(client, body, message):
    response = client.post("/v1/completions", json=body)
    assert response.status_code == 400, response.text
    assert re.search(message, response.json()["error"]["message"]), response.text


def test_templates_refuse_in_a_sentence(client, served, monkeypatch):
    body = {"messages": [{"role": "user", "content": "w3"}]}
    monkeypatch.setattr(served.tokenizer, "chat_template", "{{ raise_exception('roles must alternate') }}")
    error = client.post("/v1/chat/completions", json=body).json()["error"]
    assert error["message"] == "`messages` must suit the chat template, which says: roles must alternate"
    monkeypatch.setattr(served.tokenizer, "chat_template", None)
    error = client.post("/v1/chat/completions", json=body).json()["error"]
    assert error["message"].startswith("`tokenizer` must have a chat template")


def test_other_endpoints(client):
    assert client.get("/health").json() == {"status": "ok"}
    models = client.get("/v1/models").json()
    assert [model["id"] for model in models["data"]] == ["tiny"]
    client.post("/v1/completions", json={"prompt": "w3"})
    client.post("/v1/completions", json={"prompt": "w3", "n": 0})
    lines = client.get("/metrics").text.splitlines()
    counts = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert float(counts['demask_requests_total{endpoint="/v1/completions",status="200"}']) >= 1
    assert float(counts['demask_requests_total{endpoint="/v1/completions",status="400"}']) >= 1
    assert float(counts["demask_forward_passes_total"]) >= 1
    assert float(counts["demask_tokens_total"]) >= 8
    assert counts["demask_running_rows"] == "0.0"


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nothing", 404), ("GET", "/v1/completions", 405)])
def test_errors_of_the_web_have_the_form_of_openai(client, method, path, status):
    response = client.request(method, path)
    assert response.status_code == status
    assert response.json()["error"]["message"]


def test_body_key_and_content_type(make_client):
    client = make_client(api_key="s3cret", max_body=100)
    assert client.get("/health").status_code == 200
    for path in ("/v1/models", "/metrics"):
        assert client.get(path).status_code == 401
        assert client.get(path, headers={"Authorization": "Bearer s3cre"}).status_code == 401
        assert client.get(path, headers={"Authorization": "Bearer s3cret"}).status_code == 200
    response = client.post("/v1/completions", json={"prompt": "w3"})
    assert response.status_code == 401
    assert response.json()["error"]["message"] == "The header `Authorization` must bear the API key of this server."
    key = {"Authorization": "Bearer s3cret"}
    response = client.post("/v1/completions", json={"prompt": "w3" * 100}, headers=key)
    assert response.status_code == 413
    assert response.json()["error"]["message"] == "`body` must be at most 100 bytes, got more."
    response = client.post("/v1/completions", content=b"{}", headers={**key, "Content-Type": "text/plain"})
    assert response.status_code == 415
    assert "must be application/json, got 'text/plain'" in response.json()["error"]["message"]


def test_a_full_queue_answers_429(make_client, served, monkeypatch):
    client = make_client(Scheduler(max_rows=1, max_waiting=1))
    assert client.post("/v1/completions", json={"prompt": "w3", "n": 2}).status_code == 200
    monkeypatch.setattr(Scheduler, "submit", _full)
    response = client.post("/v1/completions", json={"prompt": "w3"})
    assert response.status_code == 429
    assert response.headers["retry-after"] == "1"
    assert response.json()["error"]["code"] == "queue_full"


def _full(self, jobs):
    raise QueueFullError("1 answers wait already, of at most 1.")


def test_rows_leave_if_the_client_has_gone_before_the_stream_began(served):
    scheduler = Scheduler()
    app = create_app(Server(served, scheduler))
    body = json.dumps({"prompt": "w3", "max_tokens": 48, "stream": True, "demask": {"strategy": "sequential"}})
    messages = [{"type": "http.request", "body": body.encode()}, {"type": "http.disconnect"}]

    async def receive():
        return messages.pop(0)

    async def send(message):
        await asyncio.sleep(60)

    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "query_string": b"", "scheme": "http"}
    scope |= {"headers": [(b"content-type", b"application/json")], "asgi": {"spec_version": "2.3"}}
    asyncio.run(app(scope, receive, send))
    scheduler.close()
    assert scheduler.counts.num_row_passes < 48


def test_a_client_that_reads_slowly_misses_drafts_but_no_text(client, monkeypatch):
    monkeypatch.setattr("demask_hf.serve.decoding.MAX_UNREAD", -1)
    body = {"prompt": "w3 w4", "demask": {"strategy": "sequential"}}
    text = client.post("/v1/completions", json=body).json()["choices"][0]["text"]
    body = {**body, "stream": True, "demask": {"strategy": "sequential", "drafts": True}}
    chunks = [chunk["choices"][0] for chunk in _events(client.post("/v1/completions", json=body))]
    assert "".join(chunk["text"] for chunk in chunks) == text
    assert not any("draft" in chunk.get("demask", {}) for chunk in chunks)


def test_an_error_inside_is_not_shown(client, monkeypatch):
    def fail(self, ask):
        raise RuntimeError("a secret path")

    monkeypatch.setattr("demask_hf.serve.rows.Row.run", fail)
    response = client.post("/v1/completions", json={"prompt": "w3"})
    assert response.status_code == 500
    assert "secret" not in response.text
    text = client.post("/v1/completions", json={"prompt": "w3", "stream": True}).text
    assert "secret" not in text
    assert "[DONE]" not in text
    assert json.loads(text.removeprefix("data: "))["error"]["code"] == "internal_error"


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    """Return a server of the shipped checkpoint in a process of its own, its address, and its log."""
    folder = tmp_path_factory.mktemp("serve") / "shipped"
    shutil.copytree(demask_hf.TINY_DREAM, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": template}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder.parent / "log"
    command = [sys.executable, "-m", "demask_hf", "serve", str(folder), "--head", demask_hf.TINY_DEMASK]
    command += ["--device", "cpu", "--port", str(port), "--name", "shipped"]
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output) as server:
        address = f"http://127.0.0.1:{port}"
        try:
            for _ in range(1200):
                assert server.poll() is None, log.read_text()
                try:
                    urllib.request.urlopen(f"{address}/health", timeout=5).close()
                    break
                except OSError:
                    time.sleep(0.1)
            yield server, address, log
        finally:
            server.kill()


def _counted(address, line):
    """Wait until the metrics hold a line, and return whether they do."""
    for _ in range(100):
        with urllib.request.urlopen(f"{address}/metrics", timeout=10) as response:
            if line in response.read().decode().splitlines():
                return True
        time.sleep(0.02)
    return False


def test_the_client_of_openai_streams_and_waits_and_a_signal_lets_answers_finish(process):
    openai = pytest.importorskip("openai", reason="needs the client of OpenAI")
    server, address, log = process
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=60)
    model, tokenizer = demask_hf.load_model(demask_hf.TINY_DREAM, head=demask_hf.TINY_DEMASK, device="cpu")
    inputs = tokenizer(PROMPT, return_tensors="pt")
    expected = tokenizer.decode(model.generate(**inputs)[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

    assert [each.id for each in client.models.list()] == ["shipped"]
    completion = client.completions.create(model="shipped", prompt=PROMPT)
    assert completion.choices[0].text == expected
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage.model_extra["demask"]["tokens_per_forward"] > 1
    messages = [{"role": "user", "content": PROMPT}]
    chat = client.chat.completions.create(model="shipped", messages=messages, extra_body={"demask": {"top_k": 50}})
    assert chat.choices[0].message.content == expected
    stream = client.chat.completions.create(
        model="shipped", messages=messages, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == expected
    assert chunks[-1].usage.total_tokens == chat.usage.total_tokens

    chances = client.chat.completions.create(model="shipped", messages=messages, logprobs=True, top_logprobs=2)
    content = chances.choices[0].logprobs.content
    assert "".join(each.token for each in content) == expected
    assert all(each.logprob <= 0 and len(each.top_logprobs) == 2 for each in content)
    parts = client.completions.create(model="shipped", prompt=PROMPT, logprobs=1, stream=True)
    parts = [chunk.choices[0].logprobs for chunk in parts if chunk.choices[0].logprobs]
    assert [token for part in parts for token in part.tokens] == [each.token for each in content]

    with pytest.raises(openai.BadRequestError, match="`response_format` must be of type text or json_schema"):
        client.chat.completions.create(model="shipped", messages=messages, response_format={"type": "json_object"})
    if importlib.util.find_spec("outlines_core"):
        schema = {"name": "pair", "schema": {"type": "integer", "minimum": 1}}
        kind = {"type": "json_schema", "json_schema": schema}
        follows = client.chat.completions.create(model="shipped", messages=messages, response_format=kind)
        assert isinstance(json.loads(follows.choices[0].message.content), int)
    with pytest.raises(openai.NotFoundError, match="the one that is served"):
        client.completions.create(model="other", prompt=PROMPT)

    # A client that leaves in the middle of its answer, and one that is still waiting when the signal comes.
    slow = {"model": "shipped", "prompt": PROMPT, "max_tokens": 96, "stream": True}
    slow |= {"extra_body": {"demask": {"strategy": "sequential", "stop_at_eos": False, "drafts": True}}}
    leaving = client.completions.create(**slow)
    next(iter(leaving))
    leaving.close()
    plain = http.client.HTTPConnection(address.removeprefix("http://"), timeout=30)
    body = {"prompt": PROMPT, "max_tokens": 256, **slow["extra_body"]}
    body["demask"] = {**body["demask"], "drafts": False}
    plain.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    assert _counted(address, "demask_running_rows 1.0"), "the row of the stream that was closed still runs"
    plain.close()
    assert _counted(address, "demask_running_rows 0.0"), "the row of the client that left still runs"
    waiting = client.completions.create(**slow)
    chunks = iter(waiting)
    next(chunks)
    server.send_signal(signal.SIGTERM)
    rest = list(chunks)
    assert rest[-1].choices[0].finish_reason == "length"
    assert rest[-1].choices[0].model_extra["demask"]["forward_passes"] == 96
    assert server.wait(timeout=30) in (0, -signal.SIGTERM)
    assert "Traceback" not in log.read_text()
