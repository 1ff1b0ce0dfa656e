"""`transformers chat` as a client of our server: what it sends, and the real one against a real server."""

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
from demask_hf.serve.errors import RequestError
from demask_hf.serve.schema import read_request
from demask_hf.serve.transformers_chat import LOADED


MESSAGES = [{"role": "user", "content": "a"}]
PROMPT = "pairs: =07, =12, =05, =18, =03, =11 -> "
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def _request(**settings):
    body = {"model": "m", "messages": MESSAGES, "stream": True, "generation_config": json.dumps(settings)}
    return read_request(body, True, "m").settings


def test_its_settings_become_ours():
    assert _request(do_sample=True, max_new_tokens=256, transformers_version="5.23.0") == {
        "max_new_tokens": 256,
        "temperature": 1.0,
    }
    assert _request(do_sample=False, temperature=0.7, top_p=None) == {"temperature": 0.0}
    asked = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 5, "block_length": 8}
    assert _request(**asked) == {"temperature": 0.7, "top_p": 0.9, "top_k": 5, "block_length": 8}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"num_beams": 4}', "`generation_config` must hold settings among .*, got 'num_beams'"),
        ("[1]", "`generation_config` must be a text that holds a JSON object"),
        ("{", "`generation_config` must be a text that holds a JSON object"),
        ({"top_k": 1}, "`generation_config` must be a text that holds a JSON object"),
        ('{"max_new_tokens": "x"}', "`max_tokens`"),
    ],
)
def test_settings_that_cannot_be_are_refused(text, message):
    with pytest.raises(RequestError, match=message):
        read_request({"messages": MESSAGES, "generation_config": text}, True, "m")


def test_the_model_is_said_to_be_loaded():
    assert json.loads(LOADED.removeprefix("data: "))["status"] == "ready"


@pytest.mark.slow
def test_the_chat_of_transformers_talks_to_our_server(tmp_path):
    pytest.importorskip("uvicorn", reason="needs the extra serve")
    pytest.importorskip("prometheus_client", reason="needs the extra serve")
    folder = tmp_path / "tiny"
    shutil.copytree(demask_hf.TINY_DREAM, folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    serve = [sys.executable, "-m", "demask_hf", "serve", str(folder), "--head", demask_hf.TINY_DEMASK]
    serve += ["--device", "cpu", "--port", address.rpartition(":")[2]]
    chat = [sys.executable, "-m", "demask_hf.transformers", "chat", "tiny", address, "max_new_tokens=32"]
    with (tmp_path / "log").open("w") as log, subprocess.Popen(serve, stdout=log, stderr=log) as server:
        try:
            for _ in range(1200):
                assert server.poll() is None, (tmp_path / "log").read_text()
                try:
                    urllib.request.urlopen(f"{address}/health", timeout=60).close()
                    break
                except (urllib.error.URLError, ConnectionError):
                    time.sleep(0.25)
            lines = f"{PROMPT}\n!exit\n"
            talk = subprocess.run([*chat, "do_sample=False"], input=lines, capture_output=True, text=True, timeout=600)
        finally:
            server.terminate()
    assert talk.returncode == 0, talk.stderr
    model, tokenizer = demask_hf.load_model(demask_hf.TINY_DREAM, demask_hf.TINY_DEMASK, device="cpu")
    ids = tokenizer(PROMPT, return_tensors="pt")
    answer = model.generate(**ids, max_new_tokens=32)[0, ids["input_ids"].shape[1] :]
    assert tokenizer.decode(answer, skip_special_tokens=True) in " ".join(talk.stdout.split()), talk.stdout
