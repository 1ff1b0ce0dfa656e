"""The command line of transformers serves our classes."""

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

import demask_hf


PROMPT = "pairs: =07, =12, =05, =18, =03, =11 -> "
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def _answer(address, path, **body):
    request = urllib.request.Request(
        address + path, json.dumps(body).encode() if body else None, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return response.read().decode()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Return the address of a server, and the folder of its model."""
    pytest.importorskip("fastapi", reason="needs the server of transformers, pip install transformers[serving]")
    pytest.importorskip("uvicorn", reason="needs the server of transformers, pip install transformers[serving]")
    folder = tmp_path_factory.mktemp("served") / "model"
    shutil.copytree(demask_hf.TINY_DREAM, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": TEMPLATE}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder.parent / "log"
    command = [sys.executable, "-m", "demask_hf.transformers", "serve", str(folder)]
    command += ["--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output) as server:
        try:
            for _ in range(1200):
                assert server.poll() is None, log.read_text()
                try:
                    _answer(f"http://127.0.0.1:{port}", "/health")
                    break
                except (urllib.error.URLError, ConnectionError):
                    time.sleep(0.25)
            yield f"http://127.0.0.1:{port}", str(folder)
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def expected():
    """Return what `generate` answers."""
    model, tokenizer = demask_hf.load_model(demask_hf.TINY_DREAM, device="cpu")
    inputs = tokenizer(PROMPT, return_tensors="pt")
    answer = model.generate(**inputs, max_new_tokens=32)[0, inputs["input_ids"].shape[1] :]
    return tokenizer.decode(answer, skip_special_tokens=True)


def test_completions_and_chat_are_those_of_generate(served, expected):
    address, model = served
    completion = json.loads(_answer(address, "/v1/completions", model=model, prompt=PROMPT, max_tokens=32))
    assert completion["choices"][0]["text"] == expected
    messages = [{"role": "user", "content": PROMPT}]
    chat = json.loads(_answer(address, "/v1/chat/completions", model=model, messages=messages, max_tokens=32))
    assert chat["choices"][0]["message"]["content"] == expected


def test_the_chat_of_transformers_is_a_client(served, expected):
    address, model = served
    command = [sys.executable, "-m", "demask_hf.transformers", "chat", model, address]
    command += ["max_new_tokens=32", "do_sample=False", "--user", "me"]
    talk = subprocess.run(command, input=f"{PROMPT}\n!exit\n", capture_output=True, text=True, timeout=300)
    assert talk.returncode == 0, talk.stderr
    assert expected in " ".join(talk.stdout.split()), talk.stdout


def test_a_streamed_chat_ends_with_the_same_text(served, expected):
    address, model = served
    messages = [{"role": "user", "content": PROMPT}]
    text = _answer(address, "/v1/chat/completions", model=model, messages=messages, max_tokens=32, stream=True)
    events = [line[len("data: ") :] for line in text.splitlines() if line.startswith("data: ")]
    chunks = [json.loads(event) for event in events if event != "[DONE]"]
    deltas = [choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]]
    assert "".join(deltas) == expected
